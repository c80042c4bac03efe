//! A Django project on disk.

use std::path::{Path, PathBuf};

use super::find_error::FindError;
use super::locate::{self, SETTINGS_VARIABLE};
use super::pytest_config::PytestConfig;
use super::python_command::PythonCommand;
use super::requirements::{Requirements, RequirementsError};
use super::wsgi::WsgiApplication;

/// What a person says about a project instead of having it found.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct FindOptions {
    /// The folder with `manage.py`, relative to the project. Default: looked for.
    pub app_dir: Option<PathBuf>,
    /// The requirements file, relative to the project or to the app folder. Default: looked for.
    pub requirements: Option<PathBuf>,
    /// The WSGI application, `MODULE` or `MODULE:NAME`. Default: looked for.
    pub wsgi: Option<String>,
    /// The settings module for every command. Default: looked for.
    pub settings: Option<String>,
}

impl FindOptions {
    /// Names the folder with `manage.py`.
    #[must_use]
    pub fn with_app_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.app_dir = Some(dir.into());
        self
    }

    /// Names the requirements file; it must exist then.
    #[must_use]
    pub fn with_requirements(mut self, file: impl Into<PathBuf>) -> Self {
        self.requirements = Some(file.into());
        self
    }

    /// Names the WSGI application.
    #[must_use]
    pub fn with_wsgi(mut self, application: impl Into<String>) -> Self {
        self.wsgi = Some(application.into());
        self
    }

    /// Names the settings module.
    #[must_use]
    pub fn with_settings(mut self, module: impl Into<String>) -> Self {
        self.settings = Some(module.into());
        self
    }
}

/// A Django project: where its parts are and how its commands are called.
///
/// Found by reading files, never by running them; what cannot be known that way is asked of
/// the project itself, see [`ask_settings`](Self::ask_settings). All paths but
/// [`root`](Self::root) are relative to it, so they hold in a checkout and in a release alike.
///
/// | part | where it is looked for |
/// |---|---|
/// | `manage.py` | the root, then the folders one level down, of which only one may have it |
/// | settings | a constant in `manage.py`; else the pytest configuration; else `wsgi.py` |
/// | WSGI application | `WSGI_APPLICATION` in the settings and what they import with `*`; else `wsgi.py` beside the settings or above them; else the only `*/wsgi.py` |
/// | requirements | `requirements.txt`, then the customary files in `requirements/`; the app folder before the root |
#[derive(Debug, Clone)]
pub struct DjangoProject {
    root: PathBuf,
    app_dir: PathBuf,
    settings: String,
    deploy_settings: String,
    wsgi: WsgiApplication,
    requirements: PathBuf,
    pytest: Option<PytestConfig>,
}

impl DjangoProject {
    /// Finds the parts of the project at `root`.
    ///
    /// # Errors
    /// When a part is missing or there is more than one; the message names what was looked for
    /// and the option that settles it.
    pub fn find(root: &Path, options: &FindOptions) -> Result<Self, FindError> {
        let app_dir = locate::app_dir(root, options.app_dir.as_deref())?;
        let requirements = locate::requirements(root, &app_dir, options.requirements.as_deref())?;
        let given_wsgi = options
            .wsgi
            .as_deref()
            .map(WsgiApplication::parse)
            .transpose()?;
        let pytest = PytestConfig::find(root, &app_dir).or_else(|| {
            let at_root = !app_dir.as_os_str().is_empty();
            at_root.then(|| PytestConfig::find(root, Path::new("")))?
        });

        let manage_py = app_dir.join("manage.py");
        let mut settings = options.settings.clone();
        if settings.is_none() {
            settings = locate::settings_in(root, &manage_py)?;
        }
        if settings.is_none() {
            settings = pytest
                .as_ref()
                .and_then(|config| config.settings().map(str::to_owned));
        }
        let wsgi = match given_wsgi {
            Some(wsgi) => wsgi,
            None => Self::find_wsgi(root, &app_dir, settings.as_deref())?,
        };
        // A wsgi.py of its own mind is how split settings say which are for production.
        let in_wsgi = match locate::module_file(root, &app_dir, wsgi.module()) {
            Some(file) if options.settings.is_none() => locate::settings_in(root, &file)?,
            _ => None,
        };
        let settings = settings
            .or_else(|| in_wsgi.clone())
            .ok_or(FindError::NoSettings { manage_py })?;
        Ok(Self {
            root: root.to_owned(),
            app_dir,
            deploy_settings: in_wsgi.unwrap_or_else(|| settings.clone()),
            settings,
            wsgi,
            requirements,
            pytest,
        })
    }

    fn find_wsgi(
        root: &Path,
        app_dir: &Path,
        settings: Option<&str>,
    ) -> Result<WsgiApplication, FindError> {
        if let Some(settings) = settings
            && let Some(name) = locate::wsgi_setting(root, app_dir, settings)?
            && let Some(wsgi) = WsgiApplication::from_setting(&name)
            && locate::module_file(root, app_dir, wsgi.module()).is_some()
        {
            return Ok(wsgi);
        }
        let module = locate::wsgi_by_custom(root, app_dir, settings)?;
        WsgiApplication::parse(&module)
    }

    /// The project's folder, as given.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder with `manage.py`; empty when it is the root.
    #[must_use]
    pub fn app_dir(&self) -> &Path {
        &self.app_dir
    }

    /// The settings module that `manage.py` uses, for development and tests.
    #[must_use]
    pub fn settings(&self) -> &str {
        &self.settings
    }

    /// The settings module that the WSGI application uses, for everything about a release:
    /// migrations and static files must see the settings that the site will run with.
    #[must_use]
    pub fn deploy_settings(&self) -> &str {
        &self.deploy_settings
    }

    /// The WSGI application. Displays as gunicorn wants it.
    #[must_use]
    pub fn wsgi(&self) -> &WsgiApplication {
        &self.wsgi
    }

    /// The requirements file.
    #[must_use]
    pub fn requirements(&self) -> &Path {
        &self.requirements
    }

    /// The pytest configuration that applies to the app folder.
    #[must_use]
    pub fn pytest(&self) -> Option<&PytestConfig> {
        self.pytest.as_ref()
    }

    /// Reads the requirements file.
    ///
    /// # Errors
    /// As [`Requirements::read`].
    pub fn read_requirements(&self) -> Result<Requirements, RequirementsError> {
        Requirements::read(&self.root, &self.requirements)
    }

    /// `manage.py` with the settings of a release.
    #[must_use]
    pub fn manage<A: Into<String>>(&self, args: impl IntoIterator<Item = A>) -> PythonCommand {
        args.into_iter()
            .fold(
                PythonCommand::new(&self.app_dir, ["manage.py"]),
                PythonCommand::arg,
            )
            .env(SETTINGS_VARIABLE, &self.deploy_settings)
    }

    /// Brings the database up to date.
    #[must_use]
    pub fn migrate(&self) -> PythonCommand {
        self.manage(["migrate", "--noinput"])
    }

    /// Copies static files to `STATIC_ROOT`. Fails in a project without one: ask
    /// [`SiteSettings::static_files`](super::SiteSettings::static_files) first.
    #[must_use]
    pub fn collectstatic(&self) -> PythonCommand {
        self.manage(["collectstatic", "--noinput"])
    }

    /// Serves the site with gunicorn on an address such as `127.0.0.1:8000` or `unix:/run/s`.
    #[must_use]
    pub fn serve(&self, address: &str, workers: std::num::NonZeroU16) -> PythonCommand {
        PythonCommand::new(
            &self.app_dir,
            ["-m", "gunicorn", "--bind", address, "--workers"],
        )
        .arg(workers.to_string())
        .arg(self.wsgi.to_string())
        .env(SETTINGS_VARIABLE, &self.deploy_settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANAGE: &str = "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop.settings')";
    const WSGI: (&str, &str) = ("shop/wsgi.py", "application = None");
    const REQUIREMENTS: (&str, &str) = ("requirements.txt", "Django\n");

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        dir
    }

    fn find(files: &[(&str, &str)], options: &FindOptions) -> Result<DjangoProject, FindError> {
        DjangoProject::find(tree(files).path(), options)
    }

    fn found(files: &[(&str, &str)]) -> DjangoProject {
        find(files, &FindOptions::default()).unwrap()
    }

    fn message(files: &[(&str, &str)], options: &FindOptions) -> String {
        find(files, options).unwrap_err().to_string()
    }

    #[test]
    fn a_flat_project() {
        let project = found(&[
            ("manage.py", MANAGE),
            (
                "shop/settings.py",
                "WSGI_APPLICATION = 'shop.wsgi.application'\n",
            ),
            WSGI,
            REQUIREMENTS,
        ]);
        assert_eq!(project.app_dir(), Path::new(""));
        assert_eq!(project.settings(), "shop.settings");
        assert_eq!(project.deploy_settings(), "shop.settings");
        assert_eq!(project.wsgi().to_string(), "shop.wsgi:application");
        assert_eq!(project.requirements(), Path::new("requirements.txt"));
        assert_eq!(
            project.migrate().to_string(),
            "DJANGO_SETTINGS_MODULE=shop.settings python manage.py migrate --noinput"
        );
    }

    #[test]
    fn one_folder_down_and_its_own_requirements_first() {
        let files = [
            ("src/manage.py", MANAGE),
            ("src/shop/wsgi.py", ""),
            ("requirements.txt", "a\n"),
            ("docs/manage.py", "print('not of Django')"),
            ("venv/pyvenv.cfg", ""),
            ("venv/manage.py", MANAGE),
        ];
        let project = found(&files);
        assert_eq!(project.app_dir(), Path::new("src"));
        assert_eq!(project.requirements(), Path::new("requirements.txt"));
        assert_eq!(project.wsgi().module(), "shop.wsgi");
        let with_own = [&files[..], &[("src/requirements.txt", "b\n")]].concat();
        assert_eq!(
            found(&with_own).requirements(),
            Path::new("src/requirements.txt")
        );
    }

    #[test]
    fn several_projects_need_a_choice() {
        let files = [
            ("a/manage.py", MANAGE),
            ("b/manage.py", MANAGE),
            ("a/shop/wsgi.py", ""),
            ("b/shop/wsgi.py", ""),
            REQUIREMENTS,
        ];
        let text = message(&files, &FindOptions::default());
        assert!(
            text.contains("a, b") && text.contains("--app-dir"),
            "{text}"
        );
        let project = find(&files, &FindOptions::default().with_app_dir("./b/")).unwrap();
        assert_eq!(project.app_dir(), Path::new("b"));
        let text = message(&files, &FindOptions::default().with_app_dir("c"));
        assert!(text.contains("app folder c"), "{text}");
        let outside = FindOptions::default().with_app_dir("../x");
        assert!(matches!(
            find(&files, &outside),
            Err(FindError::Outside { .. })
        ));
    }

    #[test]
    fn a_project_further_down_is_mentioned() {
        let text = message(
            &[("apps/web/manage.py", MANAGE), REQUIREMENTS],
            &FindOptions::default(),
        );
        assert!(text.contains("--app-dir apps/web"), "{text}");
        let text = message(&[REQUIREMENTS], &FindOptions::default());
        assert!(text.contains("no Django manage.py"), "{text}");
        let missing = tree(&[]).path().join("missing");
        let error = DjangoProject::find(&missing, &FindOptions::default());
        assert!(matches!(error, Err(FindError::NoRoot { .. })));
    }

    #[test]
    fn split_settings() {
        let project = found(&[
            (
                "manage.py",
                "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'config.settings.dev')",
            ),
            ("config/settings/__init__.py", ""),
            (
                "config/settings/base.py",
                "WSGI_APPLICATION = 'config.wsgi.app'\n",
            ),
            ("config/settings/dev.py", "from .base import *\n"),
            (
                "config/wsgi.py",
                "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'config.settings.prod')",
            ),
            ("requirements/base.txt", "Django\n"),
            ("requirements/dev.txt", "-r base.txt\n"),
        ]);
        assert_eq!(project.settings(), "config.settings.dev");
        assert_eq!(project.deploy_settings(), "config.settings.prod");
        assert_eq!(project.wsgi().to_string(), "config.wsgi:app");
        assert_eq!(project.requirements(), Path::new("requirements/base.txt"));
        assert!(
            project
                .serve("127.0.0.1:1", std::num::NonZeroU16::MIN)
                .to_string()
                .contains("config.settings.prod")
        );
    }

    #[test]
    fn settings_come_from_elsewhere_when_manage_py_computes_them() {
        let computed = "os.environ.setdefault('DJANGO_SETTINGS_MODULE', f'shop.{mode}')\nexecute_from_command_line()";
        let files = [("manage.py", computed), WSGI, REQUIREMENTS];
        let text = message(&files, &FindOptions::default());
        assert!(
            text.contains("manage.py") && text.contains("DJANGO_SETTINGS_MODULE"),
            "{text}"
        );
        let given = find(&files, &FindOptions::default().with_settings("shop.prod")).unwrap();
        assert_eq!(
            (given.settings(), given.deploy_settings()),
            ("shop.prod", "shop.prod")
        );
        let with_config = [
            &files[..],
            &[(
                "pytest.ini",
                "[pytest]\nDJANGO_SETTINGS_MODULE = shop.test\n",
            )],
        ]
        .concat();
        assert_eq!(found(&with_config).settings(), "shop.test");
        let files = [
            ("manage.py", computed),
            ("shop/wsgi.py", MANAGE),
            REQUIREMENTS,
        ];
        assert_eq!(found(&files).settings(), "shop.settings");
    }

    #[test]
    fn wsgi_must_be_one() {
        let none = [("manage.py", MANAGE), REQUIREMENTS];
        let text = message(&none, &FindOptions::default());
        assert!(
            text.contains("shop/wsgi.py") && text.contains("--wsgi"),
            "{text}"
        );
        let given = find(&none, &FindOptions::default().with_wsgi("x.wsgi:app")).unwrap();
        assert_eq!(given.wsgi().to_string(), "x.wsgi:app");
        let two = [
            ("manage.py", MANAGE),
            ("a/wsgi.py", ""),
            ("b/wsgi.py", ""),
            REQUIREMENTS,
        ];
        let text = message(&two, &FindOptions::default());
        assert!(text.contains("a/wsgi.py, b/wsgi.py"), "{text}");
        let text = message(&none, &FindOptions::default().with_wsgi("a b"));
        assert!(text.contains("\"a b\""), "{text}");
    }

    #[test]
    fn a_requirements_file_must_exist() {
        let files = [("manage.py", MANAGE), WSGI];
        let text = message(&files, &FindOptions::default());
        assert!(
            text.contains("requirements.txt") && text.contains("--requirements"),
            "{text}"
        );
        let given = FindOptions::default().with_requirements("reqs/prod.txt");
        let text = message(&[&files[..], &[REQUIREMENTS]].concat(), &given);
        assert!(text.contains("reqs/prod.txt does not exist"), "{text}");
        for (name, text) in [
            ("poetry.lock", ""),
            ("Pipfile", ""),
            ("uv.lock", ""),
            ("pyproject.toml", "[project]\ndependencies = ['django']\n"),
        ] {
            let error = message(
                &[&files[..], &[(name, text)]].concat(),
                &FindOptions::default(),
            );
            assert!(
                error.contains(name) && error.contains("not supported"),
                "{error}"
            );
        }
        let tools_only = ("pyproject.toml", "[tool.black]\nline-length = 99\n");
        let error = find(
            &[&files[..], &[tools_only]].concat(),
            &FindOptions::default(),
        );
        assert!(matches!(error, Err(FindError::NoRequirements { .. })));
    }
}
