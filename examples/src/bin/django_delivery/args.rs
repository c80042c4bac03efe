//! The command line. Other programs call it: names and exit codes stay as they are.

use std::{convert::Infallible, ffi::OsStr, num::NonZeroUsize, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use pipeline_core::{Secret, executor::quote, source::without_credentials};

use crate::{Exit, Stop};

/// Takes a Django site from a commit to a live, health-checked release.
#[derive(Debug, Parser)]
#[command(
    name = "django_delivery",
    version,
    args_conflicts_with_subcommands = false
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) options: Options,
}

/// What to do; `run` when nothing is said.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the pipeline. This is what happens without a command.
    Run,
    /// Show what would run, and why the rest would not.
    Plan,
    /// End the site that an earlier run deployed.
    Stop,
    /// Run again what did not succeed in an earlier run.
    Resume {
        /// Identity of the run, as its first line and its folder say.
        run: String,
    },
    /// Holds the address of the deployed site; started by a run, not by people.
    #[command(hide = true)]
    Supervise {
        /// Folder of the deploy target.
        dir: PathBuf,
    },
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// A git repository or a plain folder with a Django project; the sample site by default.
    #[arg(long, global = true, value_name = "PATH|URL")]
    pub(crate) source: Option<String>,
    /// Branch, tag or commit to build; the repository's default branch by default.
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) branch: Option<String>,
    /// Branch that is packed and deployed; the branch being built by default.
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) release_branch: Option<String>,
    /// Folder with manage.py, relative to the project; found by default.
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) app_dir: Option<PathBuf>,
    /// Requirements file, relative to the project; found by default.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) requirements: Option<PathBuf>,
    /// Where runs, caches, images and the deployed site are kept.
    #[arg(long, global = true, value_name = "DIR", default_value = ".pipeline")]
    pub(crate) data_dir: PathBuf,
    /// Shell command that runs the tests; chosen by what the project uses by default.
    #[arg(long, global = true, value_name = "CMD")]
    pub(crate) test_command: Option<String>,
    /// Shell command of the lint step; flake8 by default.
    #[arg(long, global = true, value_name = "CMD")]
    pub(crate) lint_command: Option<String>,
    /// Variable for every command and for the deployed site.
    #[arg(long = "env", global = true, value_name = "K=V", value_parser = pair)]
    pub(crate) env: Vec<(String, String)>,
    /// Variable whose value is never shown.
    #[arg(long = "secret", global = true, value_name = "K=V", value_parser = unchecked)]
    pub(crate) secrets: Vec<Secret>,
    /// Name of the image; the project's name by default.
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) image: Option<String>,
    /// Registry that the image is pushed to; none by default.
    #[arg(long, global = true, value_name = "HOST[:PORT]")]
    pub(crate) registry: Option<String>,
    /// Base of the image: a root file system folder, an OCI layout, or a registry reference;
    /// made from Debian packages by default.
    #[arg(long, global = true, value_name = "REF|DIR")]
    pub(crate) base: Option<String>,
    /// Where the release goes.
    #[arg(long, global = true, value_enum, default_value_t = Deploy::Local)]
    pub(crate) deploy: Deploy,
    /// WSGI application, MODULE or MODULE:NAME; found in the project by default.
    #[arg(long, global = true, value_name = "MODULE")]
    pub(crate) wsgi: Option<String>,
    /// Path that a healthy site answers with 2xx or 3xx.
    #[arg(long, global = true, value_name = "PATH", default_value = "/", value_parser = url_path)]
    pub(crate) health_path: String,
    /// Break the delivery on purpose, to see what happens.
    #[arg(long = "break", global = true, value_enum, value_name = "WHAT")]
    pub(crate) break_at: Option<Break>,
    /// How progress is shown.
    #[arg(long, global = true, value_enum, default_value_t = ReporterKind::Auto)]
    pub(crate) reporter: ReporterKind,
    /// Jobs at the same time; the number of cores by default.
    #[arg(long, global = true, value_name = "N")]
    pub(crate) jobs: Option<NonZeroUsize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Deploy {
    Local,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Break {
    /// Add a test that fails.
    Tests,
    /// Make a release that never becomes healthy.
    Health,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReporterKind {
    /// Coloured on a terminal, plain elsewhere.
    Auto,
    /// Text without colour.
    Plain,
    /// Events as JSON lines on standard output.
    Json,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    let valid = !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !valid {
        return Err("the name may hold letters, digits and underscores only".into());
    }
    if value.contains('\0') {
        return Err("the value holds a NUL byte".into());
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// Takes everything: the parser's own message would show the value.
fn unchecked(text: &str) -> Result<Secret, Infallible> {
    Ok(Secret::new(text))
}

impl Options {
    /// The secret variables.
    pub(crate) fn secret_variables(&self) -> Result<Vec<(String, Secret)>, Stop> {
        self.secrets
            .iter()
            .map(|secret| match pair(secret.expose()) {
                Ok((name, value)) => Ok((name, Secret::new(value))),
                Err(why) => Err(Stop(
                    Exit::Plan,
                    format!("--secret: expected NAME=VALUE; {why} (the value is not shown)"),
                )),
            })
            .collect()
    }

    /// The options as words for a shell; secrets by the name of a variable.
    pub(crate) fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let mut add = |flag: &str, value: &str| {
            words.push(format!("{flag} {}", quote(OsStr::new(value))));
        };
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let source = self.source.as_deref().map(without_credentials);
        for (flag, value) in [
            ("--source", source),
            ("--branch", self.branch.clone()),
            ("--release-branch", self.release_branch.clone()),
            ("--app-dir", path(&self.app_dir)),
            ("--requirements", path(&self.requirements)),
            ("--data-dir", Some(self.data_dir.display().to_string())),
            ("--test-command", self.test_command.clone()),
            ("--lint-command", self.lint_command.clone()),
            ("--image", self.image.clone()),
            ("--registry", self.registry.clone()),
            ("--base", self.base.clone()),
            ("--wsgi", self.wsgi.clone()),
            ("--health-path", Some(self.health_path.clone())),
            ("--jobs", self.jobs.map(|jobs| jobs.to_string())),
            ("--deploy", name_of(Some(self.deploy))),
            ("--break", name_of(self.break_at)),
            ("--reporter", name_of(Some(self.reporter))),
        ] {
            if let Some(value) = value {
                add(flag, &value);
            }
        }
        for (name, value) in &self.env {
            add("--env", &format!("{name}={value}"));
        }
        for secret in &self.secrets {
            let name = secret.expose().split('=').next().unwrap_or_default();
            words.push(format!("--secret {name}=\"${name}\""));
        }
        words
    }
}

fn name_of<T: ValueEnum>(value: Option<T>) -> Option<String> {
    Some(value?.to_possible_value()?.get_name().to_owned())
}

fn url_path(text: &str) -> Result<String, String> {
    let clean = text.bytes().all(|byte| byte.is_ascii_graphic());
    if text.starts_with('/') && clean {
        Ok(text.to_owned())
    } else {
        Err("expected a path that starts with a slash, without spaces".into())
    }
}
