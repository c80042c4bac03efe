//! What a job tells while it runs.

use std::fmt;

use async_trait::async_trait;
use pipeline_core::Stream;
use serde::{Deserialize, Serialize};

use crate::reference::ImageReference;

/// Hears what happens.
///
/// # Contract
/// Events of one task come in order. The job waits while an event is handled, which is what slows a
/// flood of output down.
#[async_trait]
pub trait SwarmObserver: fmt::Debug + Send + Sync {
    /// Something has happened.
    async fn event(&self, event: SwarmEvent);
}

/// Hears nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

#[async_trait]
impl SwarmObserver for Unobserved {
    async fn event(&self, _event: SwarmEvent) {}
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SwarmEvent {
    /// The image that will run; with a digest if its registry told one.
    Image {
        /// Its name.
        image: ImageReference,
    },
    /// What a killed program had left is gone.
    Reaped {
        /// Names of services.
        services: Vec<String>,
        /// Names of secrets.
        secrets: Vec<String>,
    },
    /// A task has got into another state.
    Task {
        /// Which, counted from 0.
        index: u32,
        /// The state.
        state: TaskState,
        /// The node's name, once there is one.
        node: Option<String>,
        /// What the swarm says about it, with the job's secrets masked.
        message: String,
    },
    /// A task wrote something. Engines hand on whole lines; the end of a line may lie in the next
    /// event all the same.
    Output {
        /// Which task.
        index: u32,
        /// Where to.
        stream: Stream,
        /// The bytes, with whatever secrets the task prints.
        bytes: Vec<u8>,
    },
    /// Something to look at.
    Warning {
        /// What.
        message: String,
    },
}

/// The state of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TaskState {
    /// Waiting for a node.
    Pending,
    /// A node has it and gets ready, which may mean pulling the image.
    Preparing,
    /// It runs.
    Running,
    /// It ended with exit code 0.
    Complete,
    /// It ended with another exit code, or could not be started.
    Failed,
    /// A node cannot run it.
    Rejected,
    /// The swarm has stopped it, or knows no more of it.
    Gone,
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "pending",
            Self::Preparing => "preparing",
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Gone => "gone",
        })
    }
}
