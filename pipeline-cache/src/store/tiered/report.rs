use std::fmt;

use thiserror::Error;

use crate::key::CacheKey;
use crate::store::StoreError;

/// One of the two stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tier {
    /// The one that is asked first.
    Near,
    /// The one behind it.
    Far,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Near => "near",
            Self::Far => "far",
        })
    }
}

/// Something that one store could not do and that the other made up for, or that can wait.
#[derive(Debug, Error)]
#[error("the {tier} store could not {action} {key}")]
#[non_exhaustive]
pub struct TierProblem {
    /// Which store.
    pub tier: Tier,
    /// What it was asked to do, for example `store`.
    pub action: &'static str,
    /// The key, or the prefix of a list.
    pub key: String,
    /// What it said.
    #[source]
    pub error: StoreError,
}

/// What happened behind the calls since the last drain.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct DrainReport {
    /// Keys that were brought to the far store.
    pub stored: Vec<CacheKey>,
    /// Keys that the far store had already.
    pub kept: Vec<CacheKey>,
    /// What did not work, in order.
    pub problems: Vec<TierProblem>,
}
