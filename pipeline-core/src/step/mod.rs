//! Steps: one unit of work each, with a typed output.

mod command;
mod context;
mod erased;
mod func;
mod options;
mod recording;

use std::fmt::Debug;

use async_trait::async_trait;

pub use command::{CommandStep, sh};
pub use context::{CommandOutcome, StepContext};
pub(crate) use context::{ContextParts, StepNotes};
pub use erased::ErasedStep;
pub use func::{StepFn, step_fn};
pub use options::{RetryPolicy, StepOptions, When};
pub use recording::{Recorder, StepRecording};

use crate::{
    executor::{ExecutorError, ExitStatus},
    outcome::FailureReport,
    value::{InputRef, StepOutput},
};

/// One unit of work.
///
/// # Contract
/// `run` may be called again after a failure (retry) and must start over.
/// Blocking work belongs on a blocking thread. Files go below
/// [`StepContext::job_dir`] or [`StepContext::artifact_dir`].
///
/// # Errors
/// [`StepError::Failed`] when the work says no, [`StepError::Errored`] when it
/// could not be found out.
///
/// # Cancellation
/// [`StepContext::cancel`] is thrown first; a step that has not returned after
/// its grace period is dropped. What dropping leaves behind is for each step
/// to say; processes started through [`StepContext::exec`] are killed.
#[async_trait]
pub trait Step: Debug + Send + Sync + 'static {
    /// What it produces; `()` for nothing.
    type Output: StepOutput;

    /// The steps whose values this one reads, one entry for each [`Input`]
    /// that is an output: see [`Input::edge`].
    ///
    /// [`Input`]: crate::Input
    /// [`Input::edge`]: crate::Input::edge
    fn inputs(&self) -> Vec<InputRef>;

    /// Does the work.
    async fn run(&self, cx: &StepContext) -> Result<Self::Output, StepError>;
}

/// Why a step has no value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// The work said no. Not a fault of the pipeline.
    #[error("{}", .0.message)]
    Failed(Box<FailureReport>),
    /// It could not be found out: the place, the store, the network.
    #[error("{doing}")]
    Errored {
        /// What was being done.
        doing: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The step was asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// A time limit passed.
    #[error("{what}")]
    TimedOut {
        /// Which limit, as a sentence.
        what: String,
        /// What is known about the command, when it was one.
        report: Box<FailureReport>,
    },
}

impl StepError {
    /// The work said no.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed(Box::new(FailureReport {
            message: message.into(),
            ..FailureReport::default()
        }))
    }

    /// A command ended in a way that counts as a failure.
    pub(crate) fn exited(report: FailureReport, exit: ExitStatus) -> Self {
        Self::Failed(Box::new(FailureReport {
            exit: Some(exit),
            ..report
        }))
    }

    /// It could not be found out.
    pub fn errored(
        doing: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Errored {
            doing: doing.into(),
            source: source.into(),
        }
    }

    /// Adds data for programs to a failure; changes nothing on other errors.
    #[must_use]
    pub fn with_detail(mut self, detail: serde_json::Value) -> Self {
        if let Self::Failed(report) = &mut self {
            report.detail = detail;
        }
        self
    }

    /// Adds last lines of output to a failure; changes nothing on other errors.
    #[must_use]
    pub fn with_tail(mut self, tail: impl IntoIterator<Item = String>) -> Self {
        if let Self::Failed(report) = &mut self {
            report.tail = tail.into_iter().collect();
        }
        self
    }

    /// Adds the command that shows the failure again; changes nothing on other
    /// errors.
    #[must_use]
    pub fn with_reproduce(mut self, line: impl Into<String>) -> Self {
        if let Self::Failed(report) = &mut self {
            report.reproduce = Some(line.into());
        }
        self
    }

    /// What is recorded of it, with the whole chain of causes.
    #[must_use]
    pub fn report(&self) -> FailureReport {
        match self {
            Self::Failed(report) => (**report).clone(),
            Self::TimedOut { what, report } => FailureReport {
                message: what.clone(),
                ..(**report).clone()
            },
            other => FailureReport {
                message: error_chain(other),
                ..FailureReport::default()
            },
        }
    }
}

impl From<ExecutorError> for StepError {
    fn from(error: ExecutorError) -> Self {
        Self::errored("could not run the command", error)
    }
}

/// An error with its causes on one line, `: ` between them.
#[must_use]
pub fn error_chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
