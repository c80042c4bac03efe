//! What a project answers about its own settings.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use thiserror::Error;

use super::project::DjangoProject;
use super::python_command::PythonCommand;

/// Goes before the answer, since settings modules print things as well.
const MARK: &str = "pipeline-settings:";

/// Only plain values are asked for, so that no settings object can break the answer.
const QUESTION: &str = r#"
import json
import os
import django
from django.conf import settings
def text(value):
    return str(value) if value not in (None, "") else None
print("\npipeline-settings:" + json.dumps({
    "django": django.get_version(),
    "folder": os.getcwd(),
    "settings": settings.SETTINGS_MODULE,
    "debug": bool(settings.DEBUG),
    "allowed_hosts": [str(host) for host in settings.ALLOWED_HOSTS],
    "static_root": text(settings.STATIC_ROOT),
    "static_url": text(settings.STATIC_URL),
    "media_root": text(settings.MEDIA_ROOT),
    "installed_apps": [str(app) for app in settings.INSTALLED_APPS],
    "middleware": [str(name) for name in settings.MIDDLEWARE or ()],
    "databases": {
        str(alias): {"engine": text(entry.get("ENGINE")), "name": text(entry.get("NAME"))}
        for alias, entry in settings.DATABASES.items()
    },
}))
"#;

/// The settings that matter for a release, as the project's own Python sees them.
///
/// Reading settings from source is guesswork; this is the project's answer to
/// [`DjangoProject::ask_settings`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct SiteSettings {
    /// The version of Django that answered.
    pub django: String,
    /// The folder that the answer was given in: the project's app folder. Paths below it are
    /// different in another checkout or release.
    pub folder: PathBuf,
    /// The settings module that answered.
    pub settings: Option<String>,
    /// Whether `DEBUG` is on.
    pub debug: bool,
    /// `ALLOWED_HOSTS`.
    pub allowed_hosts: Vec<String>,
    /// `STATIC_ROOT`, if set.
    pub static_root: Option<PathBuf>,
    /// `STATIC_URL`, if set.
    pub static_url: Option<String>,
    /// `MEDIA_ROOT`, where uploads go, if set.
    pub media_root: Option<PathBuf>,
    /// `INSTALLED_APPS`.
    pub installed_apps: Vec<String>,
    /// `MIDDLEWARE`.
    pub middleware: Vec<String>,
    /// `DATABASES` by alias.
    pub databases: BTreeMap<String, Database>,
}

/// One entry of `DATABASES`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Database {
    /// The backend's module.
    pub engine: Option<String>,
    /// The database's name; for SQLite the file.
    pub name: Option<String>,
}

/// What a release has to do about static files.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StaticFiles {
    /// Run collectstatic.
    Collect,
    /// Skip it: the project sets no `STATIC_ROOT`.
    NoStaticRoot,
    /// Skip it: without `django.contrib.staticfiles` there is no such command.
    NoStaticfilesApp,
}

/// Why an answer could not be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SiteSettingsError {
    /// The output has no answer in it.
    #[error("the project printed no settings; its own error is in the output of the command")]
    NoAnswer,
    /// The answer is not what was asked for.
    #[error("the project's answer about its settings does not parse")]
    Malformed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl DjangoProject {
    /// Asks the project for its settings: run this where the project's packages are installed,
    /// with the variables of the release, and give the standard output to
    /// [`SiteSettings::parse`]. It goes through `manage.py`, so whatever that loads first
    /// (an `.env` file, say) is loaded here too. The database is not touched.
    #[must_use]
    pub fn ask_settings(&self) -> PythonCommand {
        self.manage(["shell", "-v", "0", "-c", QUESTION])
    }
}

impl SiteSettings {
    /// Reads the answer out of the command's standard output.
    ///
    /// # Errors
    /// When there is no answer, or it is not readable.
    pub fn parse(stdout: &str) -> Result<Self, SiteSettingsError> {
        let answer = stdout
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix(MARK))
            .ok_or(SiteSettingsError::NoAnswer)?;
        serde_json::from_str(answer).map_err(|error| SiteSettingsError::Malformed(error.into()))
    }

    /// Whether static files are to be collected.
    #[must_use]
    pub fn static_files(&self) -> StaticFiles {
        if !self
            .installed_apps
            .iter()
            .any(|app| app.starts_with("django.contrib.staticfiles"))
        {
            StaticFiles::NoStaticfilesApp
        } else if self.static_root.is_none() {
            StaticFiles::NoStaticRoot
        } else {
            StaticFiles::Collect
        }
    }

    /// Whether the site itself serves static files when `DEBUG` is off (WhiteNoise); otherwise
    /// a web server in front has to.
    #[must_use]
    pub fn serves_static_files(&self) -> bool {
        self.middleware
            .iter()
            .any(|name| name.to_ascii_lowercase().contains("whitenoise"))
    }

    /// Whether a request for this host name, given without a port, gets past `ALLOWED_HOSTS`,
    /// by Django's rules: `*`, `.example.org` with all names below it, exact names; and with
    /// `DEBUG` on and nothing listed, this machine.
    #[must_use]
    pub fn accepts_host(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        if self.debug && self.allowed_hosts.is_empty() {
            return host == "localhost"
                || host.ends_with(".localhost")
                || host == "127.0.0.1"
                || host == "[::1]";
        }
        self.allowed_hosts.iter().any(|pattern| {
            let pattern = pattern.to_ascii_lowercase();
            match pattern.strip_prefix('.') {
                Some(domain) => host == domain || host.ends_with(&pattern),
                None => pattern == "*" || pattern == host,
            }
        })
    }

    /// Why a request was answered with 400, when it is because of its host name.
    ///
    /// With `DEBUG` off Django says nothing: neither in the answer nor, by default, in the log.
    #[must_use]
    pub fn explain_bad_request(&self, status: u16, host: &str) -> Option<String> {
        (status == 400 && !self.accepts_host(host)).then(|| {
            format!(
                "DisallowedHost: the site does not answer to {host:?}; ALLOWED_HOSTS is [{}]",
                self.allowed_hosts.join(", ")
            )
        })
    }

    /// A host name for the `Host` header of a health check: the first of `wanted` that the site
    /// accepts, else the first exact name it lists. Nothing when it accepts no host at all.
    #[must_use]
    pub fn host_for_health_check<'a>(&'a self, wanted: &[&'a str]) -> Option<&'a str> {
        let exact = |pattern: &&String| !pattern.starts_with('.') && !pattern.is_empty();
        wanted
            .iter()
            .copied()
            .find(|host| self.accepts_host(host))
            .or_else(|| self.allowed_hosts.iter().find(exact).map(String::as_str))
            .or_else(|| Some(self.allowed_hosts.first()?.trim_start_matches('.')))
    }

    /// The files of SQLite databases, with their alias. A relative name means a file in
    /// [`folder`](Self::folder). Databases in memory have none.
    ///
    /// A file inside the release would start empty in every release: keep it in a folder that
    /// releases share and link to it. SQLite follows the link, its journals lie beside the
    /// real file.
    #[must_use]
    pub fn sqlite_files(&self) -> Vec<(&str, PathBuf)> {
        self.databases
            .iter()
            .filter(|(_, database)| {
                // sqlite3, and backends built on it such as that of GeoDjango.
                database.engine.as_deref().is_some_and(|engine| {
                    engine.contains("sqlite") || engine.contains("spatialite")
                })
            })
            .filter_map(|(alias, database)| {
                let name = database.name.as_deref()?;
                let file = match name.strip_prefix("file:") {
                    Some(uri) => {
                        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
                        let path = path.strip_prefix("//").unwrap_or(path);
                        (!query.contains("mode=memory")).then_some(path)?
                    }
                    None => name,
                };
                let in_memory = file.is_empty() || file == ":memory:";
                (!in_memory).then(|| (alias.as_str(), self.folder.join(file)))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(changes: &serde_json::Value) -> SiteSettings {
        let mut all = json!({
            "django": "5.2.19", "folder": "/app", "settings": "shop.settings", "debug": false,
            "allowed_hosts": [], "static_root": null, "static_url": "/static/",
            "media_root": null, "installed_apps": ["django.contrib.staticfiles"],
            "middleware": [], "databases": {},
        });
        all.as_object_mut()
            .unwrap()
            .extend(changes.as_object().unwrap().clone());
        SiteSettings::parse(&format!("loading .env\n\n{MARK}{all}\nbye\n")).unwrap()
    }

    #[test]
    fn static_files_need_the_app_and_a_folder() {
        assert_eq!(answer(&json!({})).static_files(), StaticFiles::NoStaticRoot);
        assert_eq!(
            answer(&json!({"static_root": "/s"})).static_files(),
            StaticFiles::Collect
        );
        assert_eq!(
            answer(&json!({"static_root": "/s", "installed_apps": []})).static_files(),
            StaticFiles::NoStaticfilesApp
        );
        let middleware = json!({"middleware": ["whitenoise.middleware.WhiteNoiseMiddleware"]});
        assert!(answer(&middleware).serves_static_files());
    }

    #[test]
    fn hosts_by_djangos_rules() {
        let site = answer(&json!({"allowed_hosts": ["Shop.example", ".shop.test"]}));
        for (host, accepted) in [
            ("shop.example", true),
            ("www.shop.example", false),
            ("SHOP.test", true),
            ("a.b.shop.test", true),
            ("notshop.test", false),
            ("localhost", false),
        ] {
            assert_eq!(site.accepts_host(host), accepted, "{host}");
        }
        assert_eq!(
            site.host_for_health_check(&["127.0.0.1"]),
            Some("Shop.example")
        );
        assert_eq!(
            site.host_for_health_check(&["x.shop.test"]),
            Some("x.shop.test")
        );
        assert!(answer(&json!({"allowed_hosts": ["*"]})).accepts_host("any"));
        let debug = answer(&json!({"debug": true}));
        assert!(debug.accepts_host("localhost") && !debug.accepts_host("shop.example"));
        assert_eq!(
            site.explain_bad_request(400, "127.0.0.1").unwrap(),
            "DisallowedHost: the site does not answer to \"127.0.0.1\"; \
             ALLOWED_HOSTS is [Shop.example, .shop.test]"
        );
        assert_eq!(site.explain_bad_request(400, "shop.test"), None);
        assert_eq!(site.explain_bad_request(500, "127.0.0.1"), None);
        let none = answer(&json!({}));
        assert!(!none.accepts_host("localhost"));
        assert_eq!(none.host_for_health_check(&["127.0.0.1"]), None);
        let domain = answer(&json!({"allowed_hosts": [".shop.test"]}));
        assert_eq!(
            domain.host_for_health_check(&["127.0.0.1"]),
            Some("shop.test")
        );
    }

    #[test]
    fn sqlite_files_are_told_from_other_databases() {
        let sqlite = "django.db.backends.sqlite3";
        let site = answer(&json!({"databases": {
            "a": {"engine": sqlite, "name": "db.sqlite3"},
            "b": {"engine": sqlite, "name": "/srv/db.sqlite3"},
            "c": {"engine": sqlite, "name": ":memory:"},
            "d": {"engine": sqlite, "name": "file:x?mode=memory&cache=shared"},
            "e": {"engine": sqlite, "name": "file:y.db?mode=rwc"},
            "f": {"engine": "django.db.backends.postgresql", "name": "shop"},
            "g": {"engine": "django.contrib.gis.db.backends.spatialite", "name": "geo.db"},
            "h": {"engine": sqlite, "name": null},
        }}));
        let files = site.sqlite_files();
        let files: Vec<_> = files
            .iter()
            .map(|(a, f)| (*a, f.to_str().unwrap()))
            .collect();
        assert_eq!(
            files,
            [
                ("a", "/app/db.sqlite3"),
                ("b", "/srv/db.sqlite3"),
                ("e", "/app/y.db"),
                ("g", "/app/geo.db")
            ]
        );
    }

    #[test]
    fn an_answer_must_be_there_and_whole() {
        assert!(matches!(
            SiteSettings::parse("Traceback"),
            Err(SiteSettingsError::NoAnswer)
        ));
        let cut = format!("{MARK}{{\"django\":");
        assert!(matches!(
            SiteSettings::parse(&cut),
            Err(SiteSettingsError::Malformed(_))
        ));
    }

    #[test]
    fn the_question_prints_the_mark_that_is_looked_for() {
        assert!(QUESTION.contains(MARK));
    }
}
