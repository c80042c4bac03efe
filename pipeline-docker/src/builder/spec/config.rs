//! [`ConfigSpec`]: how a container of the image runs.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How a container runs. What is left out is taken from the base.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ConfigSpec {
    /// Environment, in order; replaces the base's variables of the same name.
    pub env: Vec<(String, String)>,
    /// The program that always runs. Setting it drops the base's command, as a Dockerfile does.
    pub entrypoint: Option<Vec<String>>,
    /// The command, or the entry point's arguments.
    pub cmd: Option<Vec<String>>,
    /// User, `user:group`, names or numbers.
    pub user: Option<String>,
    /// The working folder.
    pub workdir: Option<String>,
    /// Ports such as `8000` or `8000/udp`, added to the base's.
    pub ports: Vec<String>,
    /// Volumes, added to the base's.
    pub volumes: Vec<String>,
    /// Labels, added to the base's.
    pub labels: BTreeMap<String, String>,
    /// The signal that asks the program to stop.
    pub stop_signal: Option<String>,
    /// How the engine finds out whether the program is well.
    pub healthcheck: Option<HealthcheckSpec>,
}

impl ConfigSpec {
    /// Sets an environment variable.
    #[must_use]
    pub fn with_env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Sets the entry point.
    #[must_use]
    pub fn with_entrypoint<I>(mut self, words: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.entrypoint = Some(words.into_iter().map(Into::into).collect());
        self
    }

    /// Sets the command.
    #[must_use]
    pub fn with_cmd<I>(mut self, words: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.cmd = Some(words.into_iter().map(Into::into).collect());
        self
    }

    /// Sets the user.
    #[must_use]
    pub fn with_user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Sets the working folder.
    #[must_use]
    pub fn with_workdir(mut self, path: impl Into<String>) -> Self {
        self.workdir = Some(path.into());
        self
    }

    /// Adds a port, TCP unless it says `/udp`.
    #[must_use]
    pub fn with_port(mut self, port: impl Into<String>) -> Self {
        self.ports.push(port.into());
        self
    }

    /// Adds a label.
    #[must_use]
    pub fn with_label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// Sets the signal that asks the program to stop.
    #[must_use]
    pub fn with_stop_signal(mut self, signal: impl Into<String>) -> Self {
        self.stop_signal = Some(signal.into());
        self
    }

    /// Sets the health check.
    #[must_use]
    pub fn with_healthcheck(mut self, check: HealthcheckSpec) -> Self {
        self.healthcheck = Some(check);
        self
    }
}

/// A health check run by the engine. Times of zero mean the engine's defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HealthcheckSpec {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Time between two probes; the engine's default is 30 s.
    pub interval: Duration,
    /// Time one probe may take; the engine's default is 30 s.
    pub timeout: Duration,
    /// Time in which failures do not count; the engine's default is 0.
    pub start_period: Duration,
    /// How many failures in a row make it unhealthy; the engine's default is 3.
    pub retries: u32,
}

impl HealthcheckSpec {
    /// A check with the engine's default times.
    #[must_use]
    pub fn new<I>(command: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Self {
            command: command.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    /// Sets the time between two probes.
    #[must_use]
    pub const fn with_interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Sets the time one probe may take.
    #[must_use]
    pub const fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the time in which failures do not count.
    #[must_use]
    pub const fn with_start_period(mut self, period: Duration) -> Self {
        self.start_period = period;
        self
    }

    /// Sets how many failures in a row make it unhealthy.
    #[must_use]
    pub const fn with_retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }
}
