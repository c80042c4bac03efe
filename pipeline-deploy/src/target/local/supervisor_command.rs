use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Stdio;

use tokio::process::{Child, Command};

use super::folders::Folders;

pub(super) const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// How to start the supervisor: the embedding program in a hidden role.
///
/// The target's folder is added as the last argument; the program must then await
/// [`supervise`](super::supervise) with it on a tokio runtime with time and I/O enabled, and
/// end. It is started without a terminal, in the folder `/`, with only `PATH` set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SupervisorCommand {
    program: OsString,
    args: Vec<OsString>,
}

impl SupervisorCommand {
    /// Starts `program`, usually what [`std::env::current_exe`] says.
    #[must_use]
    pub fn new(program: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
        }
    }

    /// Adds an argument before the target's folder, usually a hidden subcommand.
    #[must_use]
    pub fn with_arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Starts it, with its output in the target's supervisor log.
    pub(super) fn launch(&self, folders: &Folders) -> io::Result<Child> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(folders.supervisor_log())?;
        Command::new(&self.program)
            .args(&self.args)
            .arg(folders.root())
            .env_clear()
            .env("PATH", DEFAULT_PATH)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(false)
            .spawn()
    }
}
