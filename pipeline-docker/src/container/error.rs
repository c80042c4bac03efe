//! What can go wrong with the container of a job.

use std::sync::Arc;

use pipeline_core::ExecutorError;

use crate::engine::EngineError;
use crate::service::ServiceError;

/// Why a job's container could not be had or used. It is the source of an [`ExecutorError`].
///
/// A command's exit code is an answer, not an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContainerError {
    /// The image has no shell, and steps are run by one.
    #[error(
        "the image {image} has no /bin/sh, which running steps in it needs; use an image with a shell, or add one (busybox-static is enough)"
    )]
    NoShell {
        /// The image.
        image: String,
    },
    /// The engine's machine cannot run the image's programs.
    #[error(
        "the engine at {engine} ({platform}) cannot run /bin/sh of the image {image}{}: exec format error; use an image for its platform, or teach its machine the other one (binfmt_misc)", built_for(.image_platform.as_deref())
    )]
    OtherPlatform {
        /// The image.
        image: String,
        /// What it says it is for.
        image_platform: Option<String>,
        /// The engine.
        engine: String,
        /// What that runs.
        platform: String,
    },
    /// Nobody wants the container any more.
    #[error("it was cancelled")]
    Cancelled,
    /// The container ended before it was ready.
    #[error("the container of the image {image} ended before it was ready: {said}")]
    NotReady {
        /// The image.
        image: String,
        /// What it printed.
        said: String,
    },
    /// The engine does not see this machine's files.
    #[error(
        "the engine at {engine} does not see the job folder {folder} of this machine; have it copied with JobFolder::Copied"
    )]
    NotShared {
        /// The engine.
        engine: String,
        /// The folder.
        folder: String,
    },
    /// A path to mount is not there.
    #[error("{path} of a mount does not exist on the machine of the engine at {engine}")]
    NoMount {
        /// The path.
        path: String,
        /// The engine.
        engine: String,
    },
    /// Services need a network of their own.
    #[error("a job with services is put on a private network; do not choose another one")]
    NetworkAndServices,
    /// Two services have one name.
    #[error("two services are called {name}; names and aliases are unique, and `job` is the job")]
    ServiceName {
        /// The name.
        name: String,
    },
    /// The engine takes texts only.
    #[error("{word:?} is no UTF-8 text, which a command in a container has to be")]
    NotText {
        /// The argument or path.
        word: String,
    },
    /// The engine did not begin a command, and said no more.
    #[error("`{program}` was not begun in the container: {said}")]
    NotBegun {
        /// The program.
        program: String,
        /// What the engine said.
        said: String,
    },
    /// The whole container was ended for want of memory.
    #[error("the container of the image {image} ran out of memory while {doing}{}", limit_text(*.limit))]
    OutOfMemory {
        /// The image.
        image: String,
        /// What was going on.
        doing: String,
        /// The limit in bytes.
        limit: Option<u64>,
    },
    /// The container ended, though nobody told it to.
    #[error(
        "the container of the image {image} ended with code {code} while {doing}; something killed its first process, or the engine was stopped"
    )]
    Ended {
        /// The image.
        image: String,
        /// What was going on.
        doing: String,
        /// The exit code of its first process.
        code: i64,
    },
    /// Somebody removed the container.
    #[error("the container of the image {image} was removed by somebody else while {doing}")]
    Removed {
        /// The image.
        image: String,
        /// What was going on.
        doing: String,
    },
    /// The connection to the engine broke.
    #[error("the engine was lost while {doing}")]
    EngineLost {
        /// What was going on.
        doing: String,
        /// Why.
        #[source]
        source: EngineError,
    },
    /// A service of the job failed.
    #[error(transparent)]
    Service(Arc<ServiceError>),
}

fn built_for(platform: Option<&str>) -> String {
    platform.map_or_else(String::new, |platform| format!(" ({platform})"))
}

fn limit_text(limit: Option<u64>) -> String {
    limit.map_or_else(String::new, |bytes| {
        format!(" (the limit is {} MiB)", bytes >> 20)
    })
}

impl From<ContainerError> for ExecutorError {
    fn from(error: ContainerError) -> Self {
        let doing = match &error {
            ContainerError::NoShell { .. }
            | ContainerError::OtherPlatform { .. }
            | ContainerError::Cancelled
            | ContainerError::NotReady { .. }
            | ContainerError::NotShared { .. }
            | ContainerError::NoMount { .. }
            | ContainerError::NetworkAndServices
            | ContainerError::ServiceName { .. } => "could not make the job's container",
            ContainerError::NotText { .. } | ContainerError::NotBegun { .. } => {
                "could not start a command in the job's container"
            }
            ContainerError::Service(_) => "a service of the job failed",
            _ => "the job's container is gone",
        };
        Self::environment(doing, error)
    }
}
