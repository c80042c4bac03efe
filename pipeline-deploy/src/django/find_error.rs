//! Why a folder could not be understood as a Django project.

use std::fmt;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why [`DjangoProject::find`](super::DjangoProject::find) gave up. Each message names what was
/// looked for and the option that settles the question.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FindError {
    /// The project's folder is missing or is no folder.
    #[error("project folder {} is not a folder", root.display())]
    NoRoot {
        /// The folder.
        root: PathBuf,
    },
    /// No `manage.py` in any of the usual places.
    #[error("no Django manage.py in {}: looked there and one folder down{}", root.display(), Deeper(deeper))]
    NoManagePy {
        /// The project's folder.
        root: PathBuf,
        /// Folders further down that have one.
        deeper: Vec<PathBuf>,
    },
    /// More than one folder has a `manage.py`, and none of them is the project's own folder.
    #[error("{} holds several Django projects: {}; choose one with --app-dir", root.display(), Folders(candidates))]
    SeveralManagePy {
        /// The project's folder.
        root: PathBuf,
        /// The folders that have one.
        candidates: Vec<PathBuf>,
    },
    /// The given folder has no `manage.py`.
    #[error("no Django manage.py in the given app folder {}", app_dir.display())]
    NoManagePyInAppDir {
        /// The folder as given.
        app_dir: PathBuf,
    },
    /// A given path leaves the project.
    #[error("{} is outside the project", path.display())]
    Outside {
        /// The path as given.
        path: PathBuf,
    },
    /// The given requirements file does not exist.
    #[error("requirements file {} does not exist in the project", path.display())]
    NoSuchRequirements {
        /// The file as given.
        path: PathBuf,
    },
    /// No requirements file in any of the usual places.
    #[error(
        "no requirements file: looked for {}; name it with --requirements",
        Folders(looked)
    )]
    NoRequirements {
        /// The files that do not exist.
        looked: Vec<PathBuf>,
    },
    /// The project pins its dependencies in a form that pip does not install from.
    #[error(
        "no requirements file, only {}, which is not supported; write one with `{export}` \
         or name one with --requirements",
        found.display()
    )]
    UnsupportedDependencies {
        /// The file that was found instead.
        found: PathBuf,
        /// A command that writes a requirements file from it.
        export: &'static str,
    },
    /// Nothing says which settings module to use.
    #[error(
        "cannot tell the settings module: {} sets no constant DJANGO_SETTINGS_MODULE and \
         neither do the pytest configuration and wsgi.py; give it as DJANGO_SETTINGS_MODULE",
        manage_py.display()
    )]
    NoSettings {
        /// The project's `manage.py`.
        manage_py: PathBuf,
    },
    /// No WSGI application in any of the usual places.
    #[error(
        "no WSGI application: looked for {}; name it with --wsgi MODULE",
        Folders(looked)
    )]
    NoWsgi {
        /// The files that do not exist.
        looked: Vec<PathBuf>,
    },
    /// More than one WSGI application, and the settings name none of them.
    #[error(
        "several WSGI applications: {}; choose one with --wsgi MODULE",
        Folders(candidates)
    )]
    SeveralWsgi {
        /// The files.
        candidates: Vec<PathBuf>,
    },
    /// The given WSGI module is not a name that Python can import.
    #[error(
        "{given:?} is not a WSGI application; write MODULE or MODULE:NAME, for example shop.wsgi"
    )]
    BadWsgi {
        /// The name as given.
        given: String,
    },
    /// A file is there and cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

struct Folders<'a>(&'a [PathBuf]);

impl fmt::Display for Folders<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, folder) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{}", shown(folder).display())?;
        }
        Ok(())
    }
}

struct Deeper<'a>(&'a [PathBuf]);

impl fmt::Display for Deeper<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("; name the folder with --app-dir"),
            [one] => write!(
                f,
                "; {0} has one, name it with --app-dir {0}",
                one.display()
            ),
            several => write!(f, "; choose one with --app-dir: {}", Folders(several)),
        }
    }
}

fn shown(path: &Path) -> &Path {
    if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    }
}
