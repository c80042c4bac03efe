//! What can go wrong with a job on a swarm.

use std::time::Duration;

use crate::engine::EngineError;

/// Why it is not known how a job ended, or why it could not run.
///
/// A task's exit code is an answer, not an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SwarmError {
    /// The job cannot be run by any swarm.
    #[error("the swarm job {job} cannot be run: {why}")]
    Invalid {
        /// The job.
        job: String,
        /// Why.
        why: String,
    },
    /// The engine does not manage a swarm.
    #[error("the engine at {address} {state}; {cure}")]
    NotManager {
        /// The engine.
        address: String,
        /// What it is instead.
        state: String,
        /// What to do.
        cure: String,
    },
    /// No node has a way to the image.
    #[error(
        "the node {node} cannot get the image {image} ({said}); push it to a registry that every node reaches, and give credentials for it if it needs some{}",
        registry_text(.registry.as_deref())
    )]
    MissingImage {
        /// The image.
        image: String,
        /// The node.
        node: String,
        /// What the node said.
        said: String,
        /// What the registry said when it was asked for the digest, if it did not tell it.
        registry: Option<String>,
    },
    /// No node may run the task.
    #[error(
        "no node of the swarm suits task {task} of the job {job} after {}s: {said}; look at its constraints and reservations, and at `docker node ls`",
        .waited.as_secs()
    )]
    NoSuitableNode {
        /// The job.
        job: String,
        /// The task.
        task: u32,
        /// What the swarm said.
        said: String,
        /// How long it waited.
        waited: Duration,
    },
    /// A node did not start the task.
    #[error("the node {node} could not start task {task} of the job {job}: {said}")]
    NotStarted {
        /// The job.
        job: String,
        /// The task.
        task: u32,
        /// The node.
        node: String,
        /// What the node said.
        said: String,
    },
    /// The task ended and nobody knows how.
    #[error("task {task} of the job {job} was lost: {what}")]
    Lost {
        /// The job.
        job: String,
        /// The task.
        task: u32,
        /// What has become of it.
        what: String,
    },
    /// The job's own limit has passed. Its tasks were stopped.
    #[error("the swarm job {job} took longer than {}s", .limit.as_secs())]
    Deadline {
        /// The job.
        job: String,
        /// The limit.
        limit: Duration,
    },
    /// It was cancelled. Its tasks were stopped.
    #[error("the swarm job {job} was cancelled")]
    Cancelled {
        /// The job.
        job: String,
    },
    /// The engine said no.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

fn registry_text(said: Option<&str>) -> String {
    said.map_or_else(String::new, |said| format!(" (of the registry: {said})"))
}

impl SwarmError {
    /// Whether the same job may run later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Engine(error) => error.is_retryable(),
            Self::NoSuitableNode { .. } | Self::Lost { .. } => true,
            _ => false,
        }
    }
}
