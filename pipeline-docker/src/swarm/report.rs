//! What a job has done.

use std::time::Duration;

use pipeline_core::ExitStatus;
use serde::{Deserialize, Serialize};

use crate::oci::Digest;
use crate::reference::ImageReference;

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SwarmReport {
    /// The image that ran, pinned to its digest if its registry told one.
    pub image: ImageReference,
    /// The digest of the image, if the job named it or the registry told it. Without it, each node
    /// ran what it had under this name.
    pub digest: Option<Digest>,
    /// How many tasks there should have been.
    pub completions: u32,
    /// The tasks that ran, by their index. Once a task has failed no further one is started, and
    /// those that run already are waited for.
    pub tasks: Vec<TaskReport>,
    /// How long it took.
    pub duration: Duration,
}

impl SwarmReport {
    /// Whether every task ran and ended with exit code 0.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        u32::try_from(self.tasks.len()) == Ok(self.completions)
            && self.tasks.iter().all(|task| task.exit.success())
    }

    /// The tasks that did not end with exit code 0.
    pub fn failed(&self) -> impl Iterator<Item = &TaskReport> {
        self.tasks.iter().filter(|task| !task.exit.success())
    }
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TaskReport {
    /// Which one, counted from 0.
    pub index: u32,
    /// The name of the node that ran it.
    pub node: String,
    /// The node's id.
    pub node_id: String,
    /// How it ended. A signal shows as 128 and its number. Want of memory is told apart where the
    /// task ran on the engine that was asked; elsewhere it is exit code 137.
    pub exit: ExitStatus,
    /// What the swarm says of a task that failed, with the job's secrets masked.
    pub error: Option<String>,
    /// How long it took, with waiting for a node and pulling the image.
    pub duration: Duration,
}
