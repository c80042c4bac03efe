use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    time::Duration,
};

use super::quote;
use crate::secret::Secret;

/// A command without output for this long is ended, unless told otherwise.
/// The figure is CircleCI's.
const NO_OUTPUT_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// The value of an environment variable.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum EnvValue {
    /// May be shown.
    Plain(String),
    /// Is never shown.
    Secret(Secret),
}

impl EnvValue {
    /// The value itself, for the child process.
    #[must_use]
    pub fn expose(&self) -> &str {
        match self {
            Self::Plain(value) => value,
            Self::Secret(secret) => secret.expose(),
        }
    }

    /// The secret, if it is one.
    #[must_use]
    pub fn secret(&self) -> Option<&Secret> {
        match self {
            Self::Plain(_) => None,
            Self::Secret(secret) => Some(secret),
        }
    }
}

impl<T: Into<String>> From<T> for EnvValue {
    fn from(value: T) -> Self {
        Self::Plain(value.into())
    }
}

/// What a command reads.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Stdin {
    /// Nothing: the first read meets the end of file. The default.
    #[default]
    Null,
    /// These bytes, then the end of file.
    Bytes(Vec<u8>),
}

/// A command: a program with arguments, never a line that some shell cuts up.
/// For a shell say so, with [`CommandSpec::shell`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CommandSpec {
    /// The program: a name looked up in `PATH`, or a path.
    pub program: OsString,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Variables over those of the environment.
    pub env: BTreeMap<String, EnvValue>,
    /// Directory, relative to the job folder; the job folder by default.
    pub cwd: PathBuf,
    /// What it reads.
    pub stdin: Stdin,
    /// It is ended when it has written nothing for this long; 10 minutes by
    /// default, `None` for never.
    pub no_output_timeout: Option<Duration>,
}

impl CommandSpec {
    /// A command without arguments.
    #[must_use]
    pub fn new(program: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: BTreeMap::new(),
            cwd: PathBuf::new(),
            stdin: Stdin::Null,
            no_output_timeout: Some(NO_OUTPUT_TIMEOUT),
        }
    }

    /// A script for `bash -eo pipefail`, which is what hosted CI runs: the
    /// first failing command ends it, also inside a pipe.
    #[must_use]
    pub fn shell(script: impl Into<OsString>) -> Self {
        Self::new("bash")
            .args(["-eo", "pipefail", "-c"])
            .arg(script.into())
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<EnvValue>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Sets a variable that is never shown. Register the secret with the run
    /// too, so that output is masked.
    #[must_use]
    pub fn secret_env(mut self, name: impl Into<String>, secret: Secret) -> Self {
        self.env.insert(name.into(), EnvValue::Secret(secret));
        self
    }

    /// Sets the directory, relative to the job folder.
    #[must_use]
    pub fn cwd(mut self, directory: impl Into<PathBuf>) -> Self {
        self.cwd = directory.into();
        self
    }

    /// Feeds bytes to the command.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Stdin::Bytes(bytes.into());
        self
    }

    /// Sets how long the command may be silent; `None` for ever.
    #[must_use]
    pub fn no_output_timeout(mut self, limit: Option<Duration>) -> Self {
        self.no_output_timeout = limit;
        self
    }

    /// The command as one line that a POSIX shell reads back as it was meant.
    #[must_use]
    pub fn display_line(&self) -> String {
        std::iter::once(&self.program)
            .chain(&self.args)
            .map(|word| quote(word))
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// A line to paste into a shell that runs the command again: directory,
    /// variables (secret ones by name), program and arguments.
    #[must_use]
    pub fn reproduce_line(&self, root: &Path, env: &BTreeMap<String, EnvValue>) -> String {
        let mut line = format!("cd {} &&", quote(root.join(&self.cwd).as_os_str()));
        let mut all = env.clone();
        all.extend(self.env.clone());
        for (name, value) in &all {
            line.push(' ');
            line.push_str(name);
            line.push('=');
            match value {
                EnvValue::Plain(value) => line.push_str(&quote(OsStr::new(value))),
                // The reader has to put it there; it is not ours to print.
                EnvValue::Secret(_) => line.push_str(&format!("\"${name}\"")),
            }
        }
        line.push(' ');
        line.push_str(&self.display_line());
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reproduce_line_is_quoted_and_names_secrets_only() {
        let command = CommandSpec::new("python")
            .args(["-m", "pytest", "-k", "a b"])
            .env("MODE", "it's")
            .secret_env("TOKEN", Secret::new("s3cr3t-value"))
            .cwd("site");
        let line = command.reproduce_line(Path::new("/srv"), &BTreeMap::new());
        assert_eq!(
            line,
            r#"cd /srv/site && MODE='it'\''s' TOKEN="$TOKEN" python -m pytest -k 'a b'"#
        );
    }
}
