use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pipeline_core::{EnvValue, Redactor};
use sha2::{Digest, Sha256};

use crate::health::{HealthCheck, HealthWindow, HttpCheck};

/// How to prepare and run an application, whatever the release.
///
/// `{port}`, `{release_dir}` and `{shared_dir}` are replaced in the arguments of commands
/// (`{port}` only in the serve command's), the latter two in the values of variables as well.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LocalApp {
    /// Commands that make a copied release ready, in order. Default: none.
    pub prepare: Vec<AppCommand>,
    /// The long-running command. It must listen on `127.0.0.1` and the port it is given, and
    /// end when it gets `SIGTERM`.
    pub serve: AppCommand,
    /// State that outlives releases. Default: none.
    pub shared: Vec<SharedPath>,
    /// How a release shows that it is well. Default: `GET /`.
    pub health: Arc<dyn HealthCheck>,
    /// How long a release may take to become healthy.
    pub window: HealthWindow,
    /// How many former releases to keep besides the live one. Default: 3; at least 1.
    pub keep: usize,
    /// How long a former release may finish its connections. Default: 30 s.
    pub drain: Duration,
    /// How long a process may take to end after `SIGTERM`, before `SIGKILL`. Default: 10 s.
    pub stop_grace: Duration,
    /// Names that are not copied, at any depth. Default: `.git`.
    pub skip: Vec<String>,
    env: BTreeMap<String, EnvValue>,
}

impl LocalApp {
    /// An application that is run with `serve`.
    #[must_use]
    pub fn new(serve: AppCommand) -> Self {
        Self {
            prepare: Vec::new(),
            serve,
            shared: Vec::new(),
            health: Arc::new(HttpCheck::new("/")),
            window: HealthWindow::default(),
            keep: 3,
            drain: Duration::from_secs(30),
            stop_grace: Duration::from_secs(10),
            skip: vec![".git".to_owned()],
            env: BTreeMap::new(),
        }
    }

    /// Adds a command that makes a copied release ready.
    #[must_use]
    pub fn with_prepare(mut self, command: AppCommand) -> Self {
        self.prepare.push(command);
        self
    }

    /// Adds a variable to the environment of all its commands.
    ///
    /// The value of a secret is shown nowhere. It is kept in the target's folder, in a file
    /// that only its owner can read, because a restart of the release needs it.
    #[must_use]
    pub fn with_env(mut self, name: impl Into<String>, value: impl Into<EnvValue>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Adds state that outlives releases.
    #[must_use]
    pub fn with_shared(mut self, path: SharedPath) -> Self {
        self.shared.push(path);
        self
    }

    /// Sets how a release shows that it is well.
    #[must_use]
    pub fn with_health(mut self, check: impl HealthCheck + 'static) -> Self {
        self.health = Arc::new(check);
        self
    }

    /// Sets how long a release may take to become healthy.
    #[must_use]
    pub fn with_window(mut self, window: HealthWindow) -> Self {
        self.window = window;
        self
    }

    /// Sets how many former releases to keep.
    #[must_use]
    pub fn with_keep(mut self, count: usize) -> Self {
        self.keep = count;
        self
    }

    /// Sets how long a former release may finish its connections.
    #[must_use]
    pub fn with_drain(mut self, limit: Duration) -> Self {
        self.drain = limit;
        self
    }

    /// Sets how long a process may take to end after `SIGTERM`.
    #[must_use]
    pub fn with_stop_grace(mut self, limit: Duration) -> Self {
        self.stop_grace = limit;
        self
    }

    /// Adds a name that is not copied, at any depth.
    #[must_use]
    pub fn with_skip(mut self, name: impl Into<String>) -> Self {
        self.skip.push(name.into());
        self
    }

    /// The environment, secrets in the clear.
    pub(super) fn exposed_env(&self) -> BTreeMap<String, String> {
        let pairs = self.env.iter();
        pairs
            .map(|(name, value)| (name.clone(), value.expose().to_owned()))
            .collect()
    }

    /// Takes the values of secrets out of texts.
    pub(super) fn redactor(&self) -> Redactor {
        Redactor::new(self.env.values().filter_map(|value| match value {
            EnvValue::Secret(secret) => Some(secret),
            _ => None,
        }))
    }

    /// A hash of everything that changes what runs: two releases with the same digest and
    /// the same hash are the same deployment. `root` counts because commands name it.
    pub(super) fn fingerprint(&self, root: &Path) -> String {
        let mut hash = Sha256::new();
        // Lengths keep neighbours apart.
        let mut add = |text: &str| {
            hash.update(text.len().to_le_bytes());
            hash.update(text.as_bytes());
        };
        add(&root.to_string_lossy());
        for command in self.prepare.iter().chain([&self.serve]) {
            add("command");
            add(&command.name);
            add(&command.program);
            command.args.iter().for_each(|arg| add(arg));
            add("command env");
            for (name, value) in &command.env {
                add(name);
                add(value);
            }
        }
        add("env");
        for (name, value) in self.exposed_env() {
            add(&name);
            add(&value);
        }
        add("shared");
        for shared in &self.shared {
            add(&shared.path.to_string_lossy());
        }
        let digest = hash.finalize();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A command of an application.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AppCommand {
    /// What people call it, for example `migrate`.
    pub name: String,
    /// The program: an absolute path, a name that is looked up in `PATH`, or a path relative
    /// to the release's folder when it holds a slash.
    pub program: String,
    /// Its arguments. They are visible to every user of the machine: no secrets.
    pub args: Vec<String>,
    /// Variables of this command alone; they win over the application's. No secrets.
    pub env: BTreeMap<String, String>,
    /// The folder to run in, relative to the release's. Default: the release's folder.
    pub folder: PathBuf,
    /// How long it may run; does not apply to the serve command. Default: 10 min.
    pub limit: Duration,
}

impl AppCommand {
    /// A command without arguments.
    #[must_use]
    pub fn new(name: impl Into<String>, program: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            args: Vec::new(),
            env: BTreeMap::new(),
            folder: PathBuf::new(),
            limit: Duration::from_secs(600),
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn with_arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn with_args<I>(mut self, args: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds a variable of this command alone.
    #[must_use]
    pub fn with_env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Sets the folder to run in, relative to the release's.
    #[must_use]
    pub fn with_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = folder.into();
        self
    }

    /// Sets how long it may run.
    #[must_use]
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }
}

impl fmt::Display for AppCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.program)?;
        for arg in &self.args {
            if arg.is_empty() || arg.contains(|c: char| c.is_whitespace() || "\"'\\$".contains(c)) {
                write!(f, " {arg:?}")?;
            } else {
                write!(f, " {arg}")?;
            }
        }
        Ok(())
    }
}

/// A path of the application that is the same in every release.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SharedPath {
    /// Relative to the release's folder, and at the same place below `shared/`.
    pub path: PathBuf,
    /// What it is.
    pub kind: SharedKind,
}

/// What a [`SharedPath`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SharedKind {
    /// A file, for example a database; it may not exist yet, the application makes it.
    File,
    /// A folder; it is made when it does not exist.
    Folder,
}

impl SharedPath {
    /// A file, for example `db.sqlite3`.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            kind: SharedKind::File,
        }
    }

    /// A folder, for example `media`.
    #[must_use]
    pub fn folder(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            kind: SharedKind::Folder,
        }
    }
}

#[cfg(test)]
mod tests {
    use pipeline_core::Secret;

    use super::*;

    fn app() -> LocalApp {
        LocalApp::new(AppCommand::new("serve", "gunicorn").with_arg("site.wsgi"))
            .with_env("DEBUG", "0")
            .with_env("KEY", EnvValue::Secret(Secret::new("hunter22")))
    }

    #[test]
    fn secrets_are_not_printed_and_are_taken_out_of_texts() {
        assert!(!format!("{:?}", app()).contains("hunter22"));
        assert!(!app().redactor().redact("a hunter22 b").contains("hunter22"));
    }

    #[test]
    fn the_fingerprint_follows_what_runs_and_nothing_else() {
        let same = app().with_keep(9).with_drain(Duration::ZERO);
        assert_eq!(
            app().fingerprint(Path::new("/a")),
            same.fingerprint(Path::new("/a"))
        );
        assert_ne!(
            app().fingerprint(Path::new("/a")),
            app().fingerprint(Path::new("/b"))
        );
        let others = [
            app().with_env("DEBUG", "1"),
            app().with_env("KEY", "other"),
            app().with_prepare(AppCommand::new("migrate", "python")),
            app().with_shared(SharedPath::file("db.sqlite3")),
            LocalApp::new(AppCommand::new("serve", "gunicorn")),
        ];
        for other in others {
            assert_ne!(
                app().fingerprint(Path::new("/a")),
                other.fingerprint(Path::new("/a")),
                "{other:?}"
            );
        }
    }
}
