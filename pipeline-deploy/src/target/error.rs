use std::error::Error as StdError;

use thiserror::Error;

use crate::release::ReleaseId;

type Source = Box<dyn StdError + Send + Sync>;

/// Why a target could not find out or could not act.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DeployError {
    /// The target's configuration or the release cannot be deployed as it is.
    #[error("cannot deploy {release} to {target}: {reason}")]
    Invalid {
        /// The target.
        target: String,
        /// The release.
        release: ReleaseId,
        /// What is wrong, and what to change.
        reason: String,
    },
    /// A file or folder of the target could not be read or written.
    #[error("cannot {doing} {path}")]
    Files {
        /// What was being done, as a verb: `read`, `write`, `copy`.
        doing: &'static str,
        /// The file or folder.
        path: String,
        /// The system's answer.
        #[source]
        source: Source,
    },
    /// The target does not answer, or answers what cannot be understood.
    #[error("{target} cannot be asked to {doing}: {reason}")]
    Unreachable {
        /// The target.
        target: String,
        /// What was asked for.
        doing: &'static str,
        /// What happened, and what to do.
        reason: String,
        /// The cause, when it is an error of its own.
        #[source]
        source: Option<Source>,
    },
    /// The target answers and says no.
    #[error("{target} refused to {doing}: {reason}")]
    Refused {
        /// The target.
        target: String,
        /// What was asked for.
        doing: &'static str,
        /// Its words.
        reason: String,
    },
}

/// The kinds of [`DeployError`], for decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeployErrorKind {
    /// Change the configuration or the release.
    Invalid,
    /// Look at the disk.
    Files,
    /// Look at the target; trying again may help.
    Unreachable,
    /// The target said no; trying again will not help.
    Refused,
}

impl DeployError {
    /// The kind, for decisions.
    #[must_use]
    pub fn kind(&self) -> DeployErrorKind {
        match self {
            Self::Invalid { .. } => DeployErrorKind::Invalid,
            Self::Files { .. } => DeployErrorKind::Files,
            Self::Unreachable { .. } => DeployErrorKind::Unreachable,
            Self::Refused { .. } => DeployErrorKind::Refused,
        }
    }

    /// Whether the same call may succeed later without a change of ours.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.kind() == DeployErrorKind::Unreachable
    }

    /// A file or folder that could not be read or written; `doing` is a verb.
    #[must_use]
    pub fn files(doing: &'static str, path: &std::path::Path, source: impl Into<Source>) -> Self {
        Self::Files {
            doing,
            path: path.display().to_string(),
            source: source.into(),
        }
    }
}
