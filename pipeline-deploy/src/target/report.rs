use std::fmt;

use serde::{Deserialize, Serialize};

use crate::health::Health;
use crate::release::{Deployment, ReleaseId};

/// How a deploy ended. `Display` prints it for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum DeployReport {
    /// The release is live and was seen healthy at its public address.
    Live {
        /// What is live.
        deployment: Deployment,
        /// What was live before.
        previous: Option<Deployment>,
        /// What went wrong after the switch without harm to the traffic.
        warnings: Vec<String>,
    },
    /// Nothing was to be done.
    Unchanged {
        /// What is live, as before.
        deployment: Deployment,
        /// Why nothing was to be done.
        why: String,
    },
    /// The release was not fit; what was live before still is.
    RolledBack {
        /// What was wrong with it.
        why: Failure,
        /// What is live; `None` when nothing was.
        previous: Option<Deployment>,
    },
    /// The release was not fit, and what was live before is not any more.
    RollbackFailed {
        /// What was wrong with the release.
        why: Failure,
        /// What was wrong with the way back.
        roll_back: Failure,
    },
    /// Nothing was tried.
    Refused {
        /// Why not.
        why: Refusal,
    },
}

impl DeployReport {
    /// Whether the wanted release is live.
    #[must_use]
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Live { .. } | Self::Unchanged { .. })
    }

    /// What serves now, as far as this deploy knows.
    #[must_use]
    pub fn live(&self) -> Option<&Deployment> {
        match self {
            Self::Live { deployment, .. } | Self::Unchanged { deployment, .. } => Some(deployment),
            Self::RolledBack { previous, .. } => previous.as_ref(),
            Self::RollbackFailed { .. } | Self::Refused { .. } => None,
        }
    }
}

impl fmt::Display for DeployReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Live { deployment, .. } => {
                write!(
                    f,
                    "{} is live at {}",
                    deployment.release, deployment.address
                )
            }
            Self::Unchanged { why, .. } => write!(f, "nothing to deploy: {why}"),
            Self::RolledBack {
                why,
                previous: Some(previous),
            } => write!(
                f,
                "{why}\nrolled back: release {} still serves {}",
                previous.release.id, previous.address
            ),
            Self::RolledBack {
                why,
                previous: None,
            } => write!(f, "{why}\nnothing was live before, so nothing is live now"),
            Self::RollbackFailed { why, roll_back } => {
                write!(f, "{why}\nthe way back failed too: {roll_back}")
            }
            Self::Refused { why } => write!(f, "not deployed: {why}"),
        }
    }
}

/// What is wrong with a release. `Display` prints everything that is known, on several lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Failure {
    /// Where it showed.
    pub stage: FailureStage,
    /// What happened, in one line.
    pub what: String,
    /// The last answer of the health check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// What to do about it, when the cause was recognised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
    /// The last lines of the log that tells more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log_tail: Vec<String>,
    /// The whole log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
}

/// Where a release showed to be unfit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum FailureStage {
    /// A preparation command failed.
    Prepare {
        /// Its name.
        command: String,
        /// Its exit code; `None` when it was ended by a signal or could not be started.
        exit_code: Option<i32>,
    },
    /// It could not be started, or ended before it was healthy.
    Start,
    /// It did not become healthy.
    Health,
    /// It was healthy, but not at the public address.
    Verify,
    /// What was live before could not be made live again.
    RollBack,
}

impl Failure {
    /// A failure without further knowledge.
    #[must_use]
    pub fn new(stage: FailureStage, what: impl Into<String>) -> Self {
        Self {
            stage,
            what: what.into(),
            health: None,
            cure: None,
            log_tail: Vec::new(),
            log: None,
        }
    }

    /// Adds the last answer of the health check, and its cure unless there is one already.
    #[must_use]
    pub fn with_health(mut self, health: Health) -> Self {
        if self.cure.is_none() {
            self.cure = health.cure().map(ToOwned::to_owned);
        }
        self.health = Some(health);
        self
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn with_cure(mut self, cure: impl Into<String>) -> Self {
        self.cure = Some(cure.into());
        self
    }

    /// Adds the log that tells more, and its last lines.
    #[must_use]
    pub fn with_log(mut self, log: impl Into<String>, tail: Vec<String>) -> Self {
        self.log = Some(log.into());
        self.log_tail = tail;
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(cure) = &self.cure {
            write!(f, "\n  cure: {cure}")?;
        }
        if let Some(answer) = self.health.as_ref().and_then(Health::answer) {
            write!(f, "\n  last answer: {answer}")?;
        }
        if !self.log_tail.is_empty() {
            f.write_str("\n  last lines of its log:")?;
            for line in &self.log_tail {
                write!(f, "\n  | {line}")?;
            }
        }
        if let Some(log) = &self.log {
            write!(f, "\n  whole log: {log}")?;
        }
        Ok(())
    }
}

/// Why a deploy was not tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "refusal", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Refusal {
    /// Another deploy to this target runs.
    Busy {
        /// Who runs it.
        holder: LockHolder,
    },
    /// A newer release is live.
    Older {
        /// The live release.
        live: ReleaseId,
        /// Its sequence number.
        live_sequence: u64,
        /// The sequence number of the refused one.
        sequence: u64,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy { holder } => write!(f, "another deploy is running ({holder})"),
            Self::Older {
                live,
                live_sequence,
                sequence,
            } => write!(
                f,
                "release {live} with sequence number {live_sequence} is newer than number {sequence}"
            ),
        }
    }
}

/// Who deploys to a target at the moment, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LockHolder {
    /// Its process.
    #[serde(default)]
    pub pid: Option<u32>,
    /// What it deploys.
    #[serde(default)]
    pub release: Option<ReleaseId>,
}

impl LockHolder {
    /// A holder of which nothing may be known.
    #[must_use]
    pub fn new(pid: Option<u32>, release: Option<ReleaseId>) -> Self {
        Self { pid, release }
    }
}

impl fmt::Display for LockHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.release, self.pid) {
            (Some(release), Some(pid)) => write!(f, "of release {release}, by process {pid}"),
            (Some(release), None) => write!(f, "of release {release}"),
            (None, Some(pid)) => write!(f, "by process {pid}"),
            (None, None) => f.write_str("by an unknown process"),
        }
    }
}
