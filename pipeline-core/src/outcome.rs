//! How steps, jobs and runs end.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::executor::ExitStatus;

/// How a step, a job or a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// It did what it should.
    Succeeded,
    /// Its work said no: a test failed, a command exited non-zero.
    Failed,
    /// It failed and was declared not to block.
    FailedAllowed,
    /// It did not run, by condition or because something before it failed.
    Skipped,
    /// Somebody stopped it.
    Cancelled,
    /// It took too long, or was silent for too long.
    TimedOut,
    /// It could not be run: the place, the store or the network is to blame.
    Errored,
}

impl Outcome {
    /// Whether what depends on it may go on.
    #[must_use]
    pub fn lets_pass(self) -> bool {
        matches!(self, Self::Succeeded | Self::FailedAllowed)
    }

    /// The worse of two, for the verdict over several.
    #[must_use]
    pub(crate) fn worse(self, other: Self) -> Self {
        let rank = |outcome| match outcome {
            Self::Succeeded | Self::FailedAllowed | Self::Skipped => 0,
            Self::Failed => 1,
            Self::TimedOut => 2,
            Self::Errored => 3,
            Self::Cancelled => 4,
        };
        if rank(other) > rank(self) {
            other
        } else {
            self
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::FailedAllowed => "failed (not blocking)",
            Self::Skipped => "skipped",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed out",
            Self::Errored => "could not run",
        })
    }
}

/// What is recorded of a failure; already redacted when it is in an event.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FailureReport {
    /// What failed and why, with its causes.
    pub message: String,
    /// How the command ended, when it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<ExitStatus>,
    /// The last lines of output.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tail: Vec<String>,
    /// A line for a shell that runs the failed command again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reproduce: Option<String>,
    /// What a program wants to know about it; the step's crate says what.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub detail: serde_json::Value,
}
