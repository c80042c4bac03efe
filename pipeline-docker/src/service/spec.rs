//! [`ServiceSpec`]: what a service is made of.

use std::collections::BTreeMap;
use std::time::Duration;

use pipeline_core::EnvValue;

use super::{Readiness, ServiceError};
use crate::container::{Limits, PullPolicy};
use crate::engine::Engine;

/// How long a service may take to be ready, unless told otherwise.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// What a service is made of.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServiceSpec {
    /// Its name: the job and the other services reach it by this name.
    pub name: String,
    /// The image.
    pub image: String,
    /// When the engine pulls the image; [`PullPolicy::Missing`] by default.
    pub pull: PullPolicy,
    /// More names on the network.
    pub aliases: Vec<String>,
    /// Variables over those of the image. Secret values, [`EnvValue::Secret`], are masked in
    /// everything that leaves a run, such as the service's last lines.
    pub env: BTreeMap<String, EnvValue>,
    /// The command, for the image's entry point; the image's own by default.
    pub command: Option<Vec<String>>,
    /// Who runs it; the image's user by default.
    pub user: Option<String>,
    /// Bytes of `/dev/shm`; the engine's default is 64 MiB, which browsers fill.
    pub shm_size: Option<u64>,
    /// Folders in memory with the options of their mount, such as `size=64m`.
    pub tmpfs: BTreeMap<String, String>,
    /// What it may use of the machine; everything by default.
    pub limits: Limits,
    /// What has to be true before the job begins, all of it, checked in this order. Nothing by
    /// default, which only waits for the start.
    pub ready: Vec<Readiness>,
    /// How long it may take to be ready; a minute by default.
    pub timeout: Duration,
}

impl ServiceSpec {
    /// A service that is called `name`.
    #[must_use]
    pub fn new(name: impl Into<String>, image: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            image: image.into(),
            pull: PullPolicy::default(),
            aliases: Vec::new(),
            env: BTreeMap::new(),
            command: None,
            user: None,
            shm_size: None,
            tmpfs: BTreeMap::new(),
            limits: Limits::default(),
            ready: Vec::new(),
            timeout: READY_TIMEOUT,
        }
    }

    /// Sets when the image is pulled.
    #[must_use]
    pub fn with_pull(mut self, policy: PullPolicy) -> Self {
        self.pull = policy;
        self
    }

    /// Adds a name on the network.
    #[must_use]
    pub fn with_alias(mut self, alias: impl Into<String>) -> Self {
        self.aliases.push(alias.into());
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn with_env(mut self, name: impl Into<String>, value: impl Into<EnvValue>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Sets the command.
    #[must_use]
    pub fn with_command<W: Into<String>>(mut self, words: impl IntoIterator<Item = W>) -> Self {
        self.command = Some(words.into_iter().map(Into::into).collect());
        self
    }

    /// Sets who runs it.
    #[must_use]
    pub fn with_user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Sets the bytes of `/dev/shm`.
    #[must_use]
    pub fn with_shm_size(mut self, bytes: u64) -> Self {
        self.shm_size = Some(bytes);
        self
    }

    /// Adds a folder in memory.
    #[must_use]
    pub fn with_tmpfs(mut self, path: impl Into<String>, options: impl Into<String>) -> Self {
        self.tmpfs.insert(path.into(), options.into());
        self
    }

    /// Sets what it may use of the machine.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Adds something that has to be true before the job begins.
    #[must_use]
    pub fn with_ready(mut self, readiness: Readiness) -> Self {
        self.ready.push(readiness);
        self
    }

    /// Sets how long it may take to be ready.
    #[must_use]
    pub fn with_timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }

    /// Refuses what would only run into the time limit.
    pub(crate) fn check(&self, engine: &Engine) -> Result<(), ServiceError> {
        let connects =
            |ready: &&Readiness| matches!(ready, Readiness::Tcp { .. } | Readiness::Http(_));
        match self.ready.iter().find(connects) {
            Some(ready) if engine.hides_its_networks() => Err(ServiceError::OutOfReach {
                service: self.name.clone(),
                wanted: ready.to_string(),
                engine: engine.address().to_string(),
            }),
            _ => Ok(()),
        }
    }
}
