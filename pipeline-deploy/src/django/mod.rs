//! What a delivery has to know about a Django project.
//!
//! [`DjangoProject::find`] reads a checkout and tells where its parts are; it runs nothing.
//! [`Requirements`] reads what pip will read, [`missing_tools`] names what has to be added, and
//! [`DjangoProject::test_command`] chooses how the tests run. What only the running project
//! knows (`STATIC_ROOT`, hosts, databases) it is asked: [`DjangoProject::ask_settings`] is the
//! command and [`SiteSettings::parse`] reads the answer.
//!
//! [`DjangoProject::local_app`] puts all of it together for the
//! [local target](crate::local).
//!
//! Python source is split into tokens and only constants are believed, so what is computed
//! counts as unknown instead of being guessed.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let root = dir.path();
//! # std::fs::create_dir(root.join("shop"))?;
//! # std::fs::write(root.join("requirements.txt"), "Django==5.2.19\n")?;
//! # std::fs::write(root.join("manage.py"), "import os\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop.settings')\n")?;
//! # std::fs::write(root.join("shop/settings.py"), "WSGI_APPLICATION = 'shop.wsgi.application'\n")?;
//! # std::fs::write(root.join("shop/wsgi.py"), "")?;
//! use pipeline_deploy::django::{DjangoProject, FindOptions, Tool, missing_tools};
//!
//! let project = DjangoProject::find(root, &FindOptions::default())?;
//! assert_eq!(project.wsgi().to_string(), "shop.wsgi:application");
//!
//! let requirements = project.read_requirements()?;
//! let tests = project.test_command(&requirements)?;
//! assert!(tests.command().to_string().ends_with("python manage.py test --noinput"));
//!
//! let added = missing_tools(&requirements, &[Tool::Gunicorn]);
//! assert_eq!(added[0].to_string(), "gunicorn==27.0.1");
//! # Ok(())
//! # }
//! ```

mod find_error;
#[cfg(unix)]
mod local_app;
mod locate;
mod project;
mod pytest_config;
mod python_command;
mod python_source;
mod requirement;
mod requirement_lines;
mod requirements;
mod site_settings;
mod test_command;
mod text;
mod tool;
mod unittest_report;
mod version;
mod wsgi;

pub use find_error::FindError;
pub use project::{DjangoProject, FindOptions};
pub use pytest_config::PytestConfig;
pub use python_command::PythonCommand;
pub use requirement::Requirement;
pub use requirements::{Requirements, RequirementsError};
pub use site_settings::{Database, SiteSettings, SiteSettingsError, StaticFiles};
pub use test_command::{TestCommand, TestRunner};
pub use text::{DecodeError, TextEncoding};
pub use tool::{Tool, ToolPin, missing_tools};
pub use unittest_report::{FailureKind, UnittestFailure, UnittestReport};
pub use wsgi::WsgiApplication;
