//! [`SwarmJob`]: what is run.

use std::collections::BTreeMap;
use std::time::Duration;

use pipeline_core::{Scope, Secret};

use super::SwarmError;
use crate::container::Limits;
use crate::reference::ImageReference;

/// How long a task that is told to stop may take before it is killed.
const GRACE: Duration = Duration::from_secs(10);
/// How long a task waits for a node that suits it.
const PLACEMENT: Duration = Duration::from_secs(60);

/// A command that some nodes of a swarm run a number of times, each time once.
///
/// Everything but the secrets is readable for whoever may ask the swarm's managers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SwarmJob {
    /// What it is called, in names and labels of what is made for it.
    pub name: String,
    /// The image; one without tag and digest is `latest`. It is pinned to the digest that its
    /// registry tells, so that every node runs the same.
    pub image: ImageReference,
    /// Replaces the image's entry point; empty for the image's own, which is the default.
    pub entrypoint: Vec<String>,
    /// What the entry point is given; empty for the image's own command, which is the default.
    pub command: Vec<String>,
    /// Variables. Secrets do not belong here: managers show them.
    pub env: BTreeMap<String, String>,
    /// Files below `/run/secrets` by name, kept by the swarm and held in memory on the nodes.
    pub secrets: BTreeMap<String, Secret>,
    /// Who runs it, as `user`, `uid` or `uid:gid`; the image's user by default.
    pub user: Option<String>,
    /// How many tasks there are; 1 by default.
    pub completions: u32,
    /// How many run at the same time; 1 by default.
    pub parallelism: u32,
    /// Which nodes suit, such as `node.role==worker`; all of these must be met.
    pub constraints: Vec<String>,
    /// What each task may use at most; everything by default. Processes are limited by engines from
    /// API 1.41 on.
    pub limits: Limits,
    /// Bytes of memory that a node must have left for a task; none by default.
    pub reserved_memory: Option<u64>,
    /// Processors that a node must have left for a task; none by default.
    pub reserved_cpus: Option<f64>,
    /// Networks of the swarm, by name; none by default.
    pub networks: Vec<String>,
    /// How long the whole job may take; without end by default.
    pub deadline: Option<Duration>,
    /// How long a task may wait for a node that suits it; a minute by default. Nodes may be busy
    /// with other tasks, or be about to join.
    pub placement_limit: Duration,
    /// How long a task that is told to stop may take before it is killed; 10 s by default.
    pub grace: Duration,
    /// More labels of the services. Those of this crate, `pipeline.…`, stay as they are.
    pub labels: BTreeMap<String, String>,
    /// What it belongs to, for the label `pipeline.scope`.
    pub scope: Scope,
}

impl SwarmJob {
    /// One task of this image.
    #[must_use]
    pub fn new(name: impl Into<String>, image: ImageReference) -> Self {
        Self {
            name: name.into(),
            image,
            entrypoint: Vec::new(),
            command: Vec::new(),
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            user: None,
            completions: 1,
            parallelism: 1,
            constraints: Vec::new(),
            limits: Limits::default(),
            reserved_memory: None,
            reserved_cpus: None,
            networks: Vec::new(),
            deadline: None,
            placement_limit: PLACEMENT,
            grace: GRACE,
            labels: BTreeMap::new(),
            scope: Scope::new("swarm"),
        }
    }

    /// Sets the entry point.
    #[must_use]
    pub fn with_entrypoint<T: Into<String>>(mut self, words: impl IntoIterator<Item = T>) -> Self {
        self.entrypoint = words.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the command.
    #[must_use]
    pub fn with_command<T: Into<String>>(mut self, words: impl IntoIterator<Item = T>) -> Self {
        self.command = words.into_iter().map(Into::into).collect();
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn with_env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Puts a secret into the file `/run/secrets/NAME`.
    #[must_use]
    pub fn with_secret(mut self, name: impl Into<String>, secret: Secret) -> Self {
        self.secrets.insert(name.into(), secret);
        self
    }

    /// Sets who runs the command.
    #[must_use]
    pub fn with_user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Sets the number of tasks.
    #[must_use]
    pub fn with_completions(mut self, count: u32) -> Self {
        self.completions = count;
        self
    }

    /// Sets how many tasks run at the same time.
    #[must_use]
    pub fn with_parallelism(mut self, count: u32) -> Self {
        self.parallelism = count;
        self
    }

    /// Adds a constraint.
    #[must_use]
    pub fn with_constraint(mut self, constraint: impl Into<String>) -> Self {
        self.constraints.push(constraint.into());
        self
    }

    /// Sets what a task may use at most.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets the bytes of memory that a node must have left.
    #[must_use]
    pub fn with_reserved_memory(mut self, bytes: u64) -> Self {
        self.reserved_memory = Some(bytes);
        self
    }

    /// Sets the processors that a node must have left.
    #[must_use]
    pub fn with_reserved_cpus(mut self, cpus: f64) -> Self {
        self.reserved_cpus = Some(cpus);
        self
    }

    /// Adds a network of the swarm.
    #[must_use]
    pub fn with_network(mut self, name: impl Into<String>) -> Self {
        self.networks.push(name.into());
        self
    }

    /// Sets how long the whole job may take.
    #[must_use]
    pub fn with_deadline(mut self, limit: Duration) -> Self {
        self.deadline = Some(limit);
        self
    }

    /// Sets how long a task may wait for a node that suits it.
    #[must_use]
    pub fn with_placement_limit(mut self, limit: Duration) -> Self {
        self.placement_limit = limit;
        self
    }

    /// Sets how long a task that is told to stop may take.
    #[must_use]
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Adds a label.
    #[must_use]
    pub fn with_label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(name.into(), value.into());
        self
    }

    /// Sets what it belongs to.
    #[must_use]
    pub fn with_scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    pub(super) fn check(&self) -> Result<(), SwarmError> {
        let refuse = |why: &str| {
            Err(SwarmError::Invalid {
                job: self.name.clone(),
                why: why.to_owned(),
            })
        };
        if self.completions == 0 || self.parallelism == 0 {
            return refuse("at least one task, and one at a time, have to run");
        }
        // The name is a file name on the nodes.
        if self
            .secrets
            .keys()
            .any(|name| name.is_empty() || name.contains('/') || name == "." || name == "..")
        {
            return refuse("the name of a secret is a plain file name");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> SwarmJob {
        SwarmJob::new("x", "localhost:5000/x:1".parse().unwrap())
    }

    #[test]
    fn what_cannot_run_is_refused() {
        assert!(job().check().is_ok());
        assert!(job().with_completions(0).check().is_err());
        assert!(job().with_parallelism(0).check().is_err());
        let secret = || Secret::new("a word");
        assert!(job().with_secret("../x", secret()).check().is_err());
        assert!(job().with_secret("token", secret()).check().is_ok());
    }

    #[test]
    fn secrets_are_not_shown() {
        let job = job().with_secret("token", Secret::new("rather secret"));
        assert!(!format!("{job:?}").contains("rather"), "{job:?}");
    }
}
