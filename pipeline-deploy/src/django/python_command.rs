//! A command for the project's own Python.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use pipeline_core::CommandSpec;

/// Arguments for a Python interpreter, with the folder and the variables they need.
///
/// The folder is relative to the project, so that the same command runs in a checkout and in
/// a release. Displays as a line for a POSIX shell that does the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PythonCommand {
    args: Vec<String>,
    dir: PathBuf,
    env: Vec<(String, String)>,
}

impl PythonCommand {
    pub(super) fn new<A: Into<String>>(dir: &Path, args: impl IntoIterator<Item = A>) -> Self {
        Self {
            args: args.into_iter().map(Into::into).collect(),
            dir: dir.to_owned(),
            env: Vec::new(),
        }
    }

    pub(super) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(super) fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// The arguments that follow the interpreter.
    #[must_use]
    pub fn args(&self) -> &[String] {
        &self.args
    }

    /// The folder to run in, relative to the project; empty for the project's own.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The command for an executor: this interpreter, with the project in `project`, both as
    /// paths that hold where the command runs (the project relative to the job folder).
    #[must_use]
    pub fn spec(&self, python: impl Into<OsString>, project: &Path) -> CommandSpec {
        let spec = CommandSpec::new(python)
            .args(&self.args)
            .cwd(project.join(&self.dir));
        self.env
            .iter()
            .fold(spec, |spec, (name, value)| spec.env(name, value))
    }

    /// Variables to set on top of the caller's.
    #[must_use]
    pub fn envs(&self) -> &[(String, String)] {
        &self.env
    }
}

impl fmt::Display for PythonCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.dir.as_os_str().is_empty() {
            write!(f, "cd {} && ", Quoted(&self.dir.display().to_string()))?;
        }
        for (name, value) in &self.env {
            write!(f, "{name}={} ", Quoted(value))?;
        }
        f.write_str("python")?;
        self.args
            .iter()
            .try_for_each(|arg| write!(f, " {}", Quoted(arg)))
    }
}

struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@+%".contains(c);
        if !self.0.is_empty() && self.0.chars().all(plain) {
            f.write_str(self.0)
        } else {
            write!(f, "'{}'", self.0.replace('\'', r"'\''"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn becomes_a_command_for_an_executor() {
        let command = PythonCommand::new("src".as_ref(), ["manage.py", "migrate"]).env("A", "b");
        let spec = command.spec("/venv/bin/python", "checkout".as_ref());
        assert_eq!(spec.display_line(), "/venv/bin/python manage.py migrate");
        assert_eq!(spec.cwd, Path::new("checkout/src"));
        assert_eq!(spec.env["A"].expose(), "b");
    }

    #[test]
    fn displays_as_a_shell_line() {
        let command = PythonCommand::new("my src".as_ref(), ["-c", "print('a')"]).env("A", "b c");
        assert_eq!(
            command.to_string(),
            r"cd 'my src' && A='b c' python -c 'print('\''a'\'')'"
        );
        let command = PythonCommand::new("".as_ref(), ["manage.py", "test"]);
        assert_eq!(command.to_string(), "python manage.py test");
    }
}
