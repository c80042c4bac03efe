use serde::Serialize;

use super::miss::nearest;
use super::{Cache, CacheError, Miss, MissedCandidate};
use crate::key::{CacheKey, RenderedKey};
use crate::store::EntryMetadata;

/// Which entry a key finds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum MatchPolicy {
    /// The entry of exactly this key; else the newest whose key starts with it.
    #[default]
    ExactThenNewestPrefix,
    /// The newest entry whose key starts with it, even when an older one has exactly this key:
    /// what `CircleCI` does.
    NewestPrefix,
}

/// An entry that a key found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Match {
    /// The key asked for.
    pub candidate: CacheKey,
    /// Which of the keys that is, from 0.
    pub position: usize,
    /// The entry found.
    pub entry: EntryMetadata,
}

impl Match {
    /// Whether the entry has exactly the first key asked for. Later keys are second best.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.position == 0 && self.candidate == self.entry.key
    }
}

impl Cache {
    /// Finds what a restore would take, without fetching it: keys in order, the first one with a
    /// match wins.
    ///
    /// # Errors
    /// The store failed.
    pub async fn lookup(
        &self,
        keys: &[CacheKey],
        policy: MatchPolicy,
    ) -> Result<Option<Match>, CacheError> {
        for (position, key) in keys.iter().enumerate() {
            if let Some(entry) = self.matches(key, policy).await?.into_iter().next() {
                return Ok(Some(Match {
                    candidate: key.clone(),
                    position,
                    entry,
                }));
            }
        }
        Ok(None)
    }

    /// Says what a restore would take, or why it would take nothing: the nearest entry and the key
    /// inputs that differ from it.
    ///
    /// # Errors
    /// The store failed, or no key was given.
    pub async fn explain(
        &self,
        keys: &[RenderedKey],
        policy: MatchPolicy,
    ) -> Result<Result<Match, Miss>, CacheError> {
        let first = keys.first().ok_or(CacheError::NoKey)?;
        let plain: Vec<CacheKey> = keys.iter().map(|key| key.key().clone()).collect();
        if let Some(found) = self.lookup(&plain, policy).await? {
            return Ok(Ok(found));
        }
        let nearest = nearest(first, self.entries("").await?);
        let candidates = plain
            .into_iter()
            .map(|key| MissedCandidate { key, matched: 0 })
            .collect();
        Ok(Err(Miss {
            candidates,
            rejected: Vec::new(),
            nearest,
        }))
    }

    /// Entries by prefix, without the chunks that they share.
    pub(super) async fn entries(&self, prefix: &str) -> Result<Vec<EntryMetadata>, CacheError> {
        let mut found = self.store.list(prefix).await?;
        found.retain(|entry| !entry.is_shared_part());
        Ok(found)
    }

    /// All matches of one key, best first.
    pub(super) async fn matches(
        &self,
        key: &CacheKey,
        policy: MatchPolicy,
    ) -> Result<Vec<EntryMetadata>, CacheError> {
        let mut found = self.entries(key.as_str()).await?;
        found.sort_by(|a, b| {
            let exact = |entry: &EntryMetadata| {
                policy == MatchPolicy::ExactThenNewestPrefix && entry.key == *key
            };
            // Newest first; between equal times the greater key, so that the answer is one.
            (exact(b), b.created, &b.key).cmp(&(exact(a), a.created, &a.key))
        });
        Ok(found)
    }
}
