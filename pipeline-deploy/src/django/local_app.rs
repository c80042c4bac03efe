//! A Django project as an application of the local target.

use std::num::NonZeroU16;
use std::path::{Path, PathBuf};

use super::project::DjangoProject;
use super::python_command::PythonCommand;
use super::requirements::Requirements;
use super::site_settings::{SiteSettings, StaticFiles};
use super::tool::Tool;
use crate::health::HttpCheck;
use crate::local::{AppCommand, LocalApp, SharedPath};

impl DjangoProject {
    /// What the local target has to do for a release of this project.
    ///
    /// Each release migrates the database, collects static files if the settings ask for it
    /// (see [`SiteSettings::static_files`]) and is served by gunicorn. SQLite files and uploads
    /// that the settings place inside the project are shared between releases; anything outside
    /// it is shared by nature. Health is a `GET` of `health_path`.
    ///
    /// `python` is a program as [`AppCommand`] takes it. It must have the project's packages,
    /// and keep them for as long as the release runs: an environment that a later release
    /// changes in place is pulled from under the old one.
    #[must_use]
    pub fn local_app(
        &self,
        python: &str,
        site: &SiteSettings,
        requirements: &Requirements,
        workers: NonZeroU16,
        health_path: &str,
    ) -> LocalApp {
        let mut serve = self.serve("127.0.0.1:{port}", workers);
        let gunicorn = Tool::Gunicorn.distribution();
        if !requirements.lists(gunicorn) || requirements.range(gunicorn).is_from("25.1") {
            // Its place is fixed in the home folder, where every release would take it from
            // the one before. Older versions neither have it nor know the option.
            serve = serve.arg("--no-control-socket");
        }
        let mut app = LocalApp::new(app_command("serve", python, &serve))
            .with_prepare(app_command("migrate", python, &self.migrate()));
        if site.static_files() == StaticFiles::Collect {
            app = app.with_prepare(app_command("collectstatic", python, &self.collectstatic()));
        }
        for file in self.shared_files(site) {
            app = app.with_shared(SharedPath::file(file));
        }
        if let Some(uploads) = site
            .media_root
            .as_deref()
            .and_then(|path| self.within(site, path))
        {
            app = app.with_shared(SharedPath::folder(uploads));
        }
        app.with_health(HttpCheck::new(health_path))
    }

    /// The SQLite files inside the project, relative to it.
    fn shared_files(&self, site: &SiteSettings) -> Vec<PathBuf> {
        let files = site.sqlite_files();
        let mut shared: Vec<PathBuf> = files
            .iter()
            .filter_map(|(_, file)| self.within(site, file))
            .collect();
        // Two aliases may name one file.
        shared.sort();
        shared.dedup();
        shared
    }

    /// A path of the settings relative to the project, if it is inside and not all of it.
    fn within(&self, site: &SiteSettings, path: &Path) -> Option<PathBuf> {
        let depth = self.app_dir().components().count();
        let root = site.folder.ancestors().nth(depth)?;
        let relative = path.strip_prefix(root).ok()?;
        (!relative.as_os_str().is_empty()).then(|| relative.to_owned())
    }
}

fn app_command(name: &str, python: &str, command: &PythonCommand) -> AppCommand {
    let ready = AppCommand::new(name, python)
        .with_args(command.args())
        .with_folder(command.dir());
    let variables = command.envs().iter();
    variables.fold(ready, |ready, (name, value)| ready.with_env(name, value))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::django::FindOptions;

    fn app(requirements: &str, changes: &serde_json::Value) -> LocalApp {
        let dir = tempfile::tempdir().unwrap();
        let manage = "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop.settings')";
        for (name, text) in [
            ("src/manage.py", manage),
            ("src/shop/wsgi.py", ""),
            ("requirements.txt", requirements),
        ] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let mut answer = json!({
            "django": "5.2.19", "folder": "/job/checkout/src", "settings": "shop.settings",
            "debug": false, "allowed_hosts": [], "static_root": "/job/checkout/static",
            "static_url": "/static/", "media_root": null,
            "installed_apps": ["django.contrib.staticfiles"], "middleware": [], "databases": {},
        });
        let all = answer.as_object_mut().unwrap();
        all.extend(changes.as_object().unwrap().clone());
        let site = SiteSettings::parse(&format!("pipeline-settings:{answer}")).unwrap();
        let project = DjangoProject::find(dir.path(), &FindOptions::default()).unwrap();
        let requirements = project.read_requirements().unwrap();
        project.local_app(
            "/venv/bin/python",
            &site,
            &requirements,
            NonZeroU16::MIN,
            "/healthz",
        )
    }

    #[test]
    fn it_migrates_collects_and_serves() {
        let app = app("Django\n", &json!({}));
        let prepare: Vec<_> = app.prepare.iter().map(ToString::to_string).collect();
        assert_eq!(
            prepare,
            [
                "/venv/bin/python manage.py migrate --noinput",
                "/venv/bin/python manage.py collectstatic --noinput"
            ]
        );
        assert_eq!(
            app.serve.to_string(),
            "/venv/bin/python -m gunicorn --bind 127.0.0.1:{port} --workers 1 \
             shop.wsgi:application --no-control-socket"
        );
        assert_eq!(app.serve.folder, Path::new("src"));
        assert_eq!(app.serve.env["DJANGO_SETTINGS_MODULE"], "shop.settings");
        assert!(app.shared.is_empty());
    }

    #[test]
    fn what_the_project_does_not_have_is_left_out() {
        let app = app("Django\ngunicorn==20.1.0\n", &json!({"static_root": null}));
        assert_eq!(app.prepare.len(), 1);
        assert!(!app.serve.to_string().contains("control-socket"));
    }

    #[test]
    fn state_inside_the_project_is_shared() {
        let sqlite = "django.db.backends.sqlite3";
        let app = app(
            "Django\n",
            &json!({
                "media_root": "/job/checkout/media",
                "databases": {
                    "default": {"engine": sqlite, "name": "db.sqlite3"},
                    "again": {"engine": sqlite, "name": "/job/checkout/src/db.sqlite3"},
                    "root": {"engine": sqlite, "name": "/job/checkout/data/root.db"},
                    "outside": {"engine": sqlite, "name": "/var/lib/x.db"},
                },
            }),
        );
        assert_eq!(
            app.shared,
            [
                SharedPath::file("data/root.db"),
                SharedPath::file("src/db.sqlite3"),
                SharedPath::folder("media")
            ]
        );
        assert!(app_with_media("/job/checkout").shared.is_empty());
    }

    fn app_with_media(path: &str) -> LocalApp {
        app("Django\n", &json!({"media_root": path}))
    }
}
