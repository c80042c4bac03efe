//! What to run, and what is running.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The name of a release: part of folder names, so of a narrow alphabet.
///
/// 1 to 128 characters of `A-Z a-z 0-9 . _ -`, the first a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReleaseId(String);

/// A text that cannot name a release.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "`{text}` cannot name a release: use 1 to 128 letters, digits, `.`, `_` or `-`, \
     the first a letter or digit"
)]
pub struct InvalidReleaseId {
    text: String,
}

impl ReleaseId {
    /// Checks `text` and takes it as a name.
    ///
    /// # Errors
    /// [`InvalidReleaseId`] when a character or the length is out of the alphabet.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidReleaseId> {
        let text = text.into();
        let starts_well = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        let all_well = text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
        if starts_well && all_well && text.len() <= 128 {
            Ok(Self(text))
        } else {
            Err(InvalidReleaseId { text })
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ReleaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ReleaseId {
    type Err = InvalidReleaseId;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl TryFrom<String> for ReleaseId {
    type Error = InvalidReleaseId;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(text)
    }
}

impl From<ReleaseId> for String {
    fn from(id: ReleaseId) -> Self {
        id.0
    }
}

/// What to run.
///
/// Two releases with the same [`digest`](Self::digest) hold the same thing: a target that
/// already serves that digest has nothing to do. [`sequence`](Self::sequence) orders
/// releases in time, so that a slow, older run cannot overwrite a newer one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Release {
    /// Its name, unique among the releases of a target.
    pub id: ReleaseId,
    /// What it holds, by content, for example the digest of its image.
    pub digest: String,
    /// The commit it was made from, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Its place in time, for example the build number; larger is newer. Without a number a
    /// release is never refused as too old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// The folder that holds its files, for targets that take files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<PathBuf>,
}

impl Release {
    /// A release without revision, sequence number and files.
    #[must_use]
    pub fn new(id: ReleaseId, digest: impl Into<String>) -> Self {
        Self {
            id,
            digest: digest.into(),
            revision: None,
            sequence: None,
            source: None,
        }
    }

    /// Sets the commit it was made from.
    #[must_use]
    pub fn with_revision(mut self, revision: impl Into<String>) -> Self {
        self.revision = Some(revision.into());
        self
    }

    /// Sets its place in time.
    #[must_use]
    pub fn with_sequence(mut self, sequence: u64) -> Self {
        self.sequence = Some(sequence);
        self
    }

    /// Sets the folder that holds its files.
    #[must_use]
    pub fn with_source(mut self, folder: impl Into<PathBuf>) -> Self {
        self.source = Some(folder.into());
        self
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.id, self.digest)
    }
}

/// A release on a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Deployment {
    /// What runs.
    pub release: Release,
    /// Where it answers, for example `http://127.0.0.1:20431/`.
    pub address: String,
    /// How it is.
    pub status: DeploymentStatus,
}

impl Deployment {
    /// A release at an address.
    #[must_use]
    pub fn new(release: Release, address: impl Into<String>, status: DeploymentStatus) -> Self {
        Self {
            release,
            address: address.into(),
            status,
        }
    }
}

/// The state of a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum DeploymentStatus {
    /// It is being started and takes no traffic yet.
    Starting,
    /// It takes the traffic.
    Live,
    /// It takes the traffic, but is not healthy.
    Unhealthy,
    /// It should take the traffic, but its process ended and is being started again.
    Restarting,
    /// It takes no new traffic and finishes what it had begun.
    Draining,
    /// It is the target's release, but nothing runs.
    Stopped,
}

impl fmt::Display for DeploymentStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Live => "live",
            Self::Unhealthy => "unhealthy",
            Self::Restarting => "restarting",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_safe_folder_names() {
        for good in ["1", "r42", "20261121-4f2c1e7", "a.b_c-d"] {
            assert_eq!(ReleaseId::new(good).unwrap().as_str(), good);
        }
        let long = "x".repeat(129);
        for bad in [
            "", ".", "..", ".hidden", "-flag", "a/b", "a b", "é", "a\0", &long,
        ] {
            assert!(ReleaseId::new(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_stored_id_is_checked_again() {
        assert!(serde_json::from_str::<ReleaseId>("\"../../etc\"").is_err());
    }
}
