//! Where commands run: executors provision an environment per job, the
//! environment spawns processes.

mod command;
mod local;
mod shell;
mod sweep;
#[cfg(feature = "testing")]
pub mod testing;

use std::{
    collections::BTreeMap,
    fmt::{Debug, Display},
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use command::{CommandSpec, EnvValue, Stdin};
pub use local::LocalExecutor;
pub use shell::quote;
pub use sweep::{SCOPE_VARIABLE, Scope, Survivors};

use crate::{cancel::CancelToken, event::EventSink, secret::Secret};

/// Provisions one [`Environment`] per job.
///
/// # Contract
/// Two environments never share state that the request did not name. What
/// `provision` has made by the time it fails or is dropped is removed again,
/// at the latest when the same executor is next used.
///
/// A wrapper passes on every method, [`secrets`](Self::secrets) too.
#[async_trait]
pub trait Executor: Debug + Display + Send + Sync + 'static {
    /// Makes the place where one job's commands run.
    ///
    /// # Errors
    /// [`ExecutorError`] when the place cannot be made; the message names what
    /// is missing.
    ///
    /// # Cancellation
    /// When [`EnvironmentRequest::cancel`] is thrown, what was made so far is
    /// removed and any error is returned; the runner waits for that, a minute
    /// at most. Dropping the future may leave a half-made environment
    /// that the next `provision` of the same folder cleans up.
    async fn provision(
        &self,
        request: &EnvironmentRequest,
    ) -> Result<Box<dyn Environment>, ExecutorError>;

    /// Secrets of its own configuration, such as the password of a service. A
    /// run masks them in everything that leaves it. None by default.
    fn secrets(&self) -> Vec<Secret> {
        Vec::new()
    }
}

/// What an [`Executor`] is asked for.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EnvironmentRequest {
    /// Processes of this environment are marked with it; see [`Scope`].
    pub scope: Scope,
    /// The job's name, for labels and messages.
    pub job: String,
    /// The job's folder on this machine. It exists.
    pub folder: PathBuf,
    /// Variables for every command of the job.
    pub env: BTreeMap<String, EnvValue>,
    /// Where the executor reports pulls, timings and warnings.
    pub events: EventSink,
    /// Thrown when nobody wants the environment any more; see
    /// [`Executor::provision`]. By default nothing throws it.
    pub cancel: CancelToken,
}

impl EnvironmentRequest {
    /// A request without variables.
    #[must_use]
    pub fn new(scope: Scope, job: impl Into<String>, folder: PathBuf, events: EventSink) -> Self {
        Self {
            scope,
            job: job.into(),
            folder,
            env: BTreeMap::new(),
            events,
            cancel: CancelToken::new(),
        }
    }
}

/// One job's place: spawns processes and moves files in and out.
///
/// # Contract
/// After [`shutdown`](Self::shutdown) nothing that was spawned here runs any
/// more, or the returned report names what could not be ended.
#[async_trait]
pub trait Environment: Debug + Display + Send + Sync {
    /// The job folder as commands inside see it; the default directory.
    fn root(&self) -> &Path;

    /// The job folder on this machine, when the environment shares it: what one
    /// side writes, the other sees at once.
    fn host_root(&self) -> Option<&Path>;

    /// What is known about the place, for the log.
    fn facts(&self) -> &EnvironmentFacts;

    /// Starts a command. Its exit status is a value of the [`Process`].
    ///
    /// # Errors
    /// The program is missing or cannot be executed, or the environment is
    /// gone.
    async fn spawn(&self, command: &CommandSpec) -> Result<Box<dyn Process>, ExecutorError>;

    /// Copies a file or folder of this machine to `inside`, a path relative to
    /// [`root`](Self::root) or absolute.
    ///
    /// # Errors
    /// Either side cannot be read or written.
    async fn copy_in(&self, host: &Path, inside: &Path) -> Result<(), ExecutorError>;

    /// Copies a file or folder of the environment to this machine.
    ///
    /// # Errors
    /// Either side cannot be read or written.
    async fn copy_out(&self, inside: &Path, host: &Path) -> Result<(), ExecutorError>;

    /// Makes the job folder on this machine what it is inside. Does nothing
    /// where it is shared, which is the default.
    ///
    /// # Errors
    /// Either side cannot be read or written; this machine's is as it was.
    async fn bring_out(&self) -> Result<(), ExecutorError> {
        Ok(())
    }

    /// Makes the job folder inside what it is on this machine. Does nothing
    /// where it is shared, which is the default.
    ///
    /// # Errors
    /// Either side cannot be read or written; what is inside is lost then.
    async fn bring_in(&self) -> Result<(), ExecutorError> {
        Ok(())
    }

    /// Ends every process of the environment and removes what belongs to it
    /// alone. Where the job folder is a copy, it is brought back first.
    /// Calling it twice is harmless.
    ///
    /// # Errors
    /// [`ExecutorError::Copy`]: the job's files could not be brought back, so
    /// the job counts as errored. Others: the environment could not be torn
    /// down; what is left is named.
    async fn shutdown(&self) -> Result<Survivors, ExecutorError>;
}

/// A running command.
///
/// Dropping it kills the process and its group.
#[async_trait]
pub trait Process: Debug + Send {
    /// The next piece of output, in order within each stream; `None` when both
    /// streams have ended. Dropping the future loses nothing.
    async fn output(&mut self) -> Option<OutputChunk>;

    /// Waits for the end. Output that nobody reads may block the process, so
    /// drain [`output`](Self::output) first or at the same time.
    ///
    /// # Errors
    /// The status could not be learnt.
    async fn wait(&mut self) -> Result<ExitStatus, ExecutorError>;

    /// Asks the process group to end, waits for `grace`, then kills it.
    ///
    /// # Errors
    /// The status could not be learnt.
    async fn terminate(&mut self, grace: Duration) -> Result<ExitStatus, ExecutorError>;
}

/// Which of the two output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A piece of output, cut wherever the pipe cut it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputChunk {
    /// Where it came from.
    pub stream: Stream,
    /// The bytes as they came.
    pub bytes: Vec<u8>,
}

/// How a command ended. A value, never an error: whether a status is a failure
/// is for the step to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ExitStatus {
    /// It exited by itself with this code.
    Exited(i32),
    /// A signal ended it. Exit code 137 and signal 9 are different things.
    Signaled {
        /// The signal's number.
        signal: i32,
        /// Whether a core file was written.
        core_dumped: bool,
    },
    /// The system ended it because the memory that its environment may use was
    /// full. Only an environment with a limit of its own can tell; elsewhere
    /// it is a plain signal 9.
    OutOfMemory,
}

impl ExitStatus {
    /// Exit code 0.
    #[must_use]
    pub fn success(self) -> bool {
        self == Self::Exited(0)
    }
}

impl Display for ExitStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit code {code}"),
            Self::Signaled {
                signal,
                core_dumped: false,
            } => write!(f, "ended by signal {signal}"),
            Self::Signaled {
                signal,
                core_dumped: true,
            } => {
                write!(f, "ended by signal {signal}, core dumped")
            }
            Self::OutOfMemory => {
                f.write_str("was ended because the memory limit of its environment was reached")
            }
        }
    }
}

/// What is known about an environment; printed when it is provisioned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EnvironmentFacts {
    /// Name and version of the executor.
    pub executor: String,
    /// Operating system and kernel, as far as they can be read.
    pub system: String,
    /// Digest of the image, for containers.
    pub image: Option<String>,
    /// Platform that commands are run for, in the words of images (`linux/arm64/v8`), where it may
    /// be another one than the coordinator's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// How processes that escape their group are caught.
    pub kill_boundary: String,
}

impl EnvironmentFacts {
    /// Facts without an image.
    #[must_use]
    pub fn new(
        executor: impl Into<String>,
        system: impl Into<String>,
        kill_boundary: impl Into<String>,
    ) -> Self {
        Self {
            executor: executor.into(),
            system: system.into(),
            image: None,
            platform: None,
            kill_boundary: kill_boundary.into(),
        }
    }
}

/// Why an environment or a process could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecutorError {
    /// No such program.
    #[error("`{program}` was not found in {searched}; install it or give its full path")]
    ProgramNotFound {
        /// The program.
        program: String,
        /// Where it was looked for.
        searched: String,
    },
    /// The program exists and cannot be run.
    #[error("`{program}` cannot be executed in {directory}")]
    NotExecutable {
        /// The program.
        program: String,
        /// The working directory.
        directory: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The working directory does not exist.
    #[error("the working directory {0} does not exist")]
    NoWorkingDirectory(PathBuf),
    /// Arguments and variables are larger than the system takes.
    #[error(
        "the arguments and variables of `{0}` are too large for one process; pass large values in a file"
    )]
    TooLarge(String),
    /// A file could not be moved in or out.
    #[error("could not copy {from} to {to}")]
    Copy {
        /// Source.
        from: PathBuf,
        /// Destination.
        to: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The environment could not be made, used or removed.
    #[error("{doing}")]
    Environment {
        /// What was being done.
        doing: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl ExecutorError {
    /// An error of an environment, with what was being done.
    pub fn environment(
        doing: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Environment {
            doing: doing.into(),
            source: source.into(),
        }
    }
}
