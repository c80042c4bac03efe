use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::miss::nearest;
use super::{Cache, CacheError, MatchPolicy, Miss, MissedCandidate, Rejected};
use crate::archive::{ArchiveError, UnpackOptions, UnpackSummary, unpack};
use crate::key::{CacheKey, RenderedKey};
use crate::store::{
    CacheStoreExt as _, EntryMetadata, StoreError, StoreErrorKind, StoredEntry, run_blocking,
};

/// How to restore.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestoreOptions {
    /// Which entry a key finds. Default: exact, then newest prefix.
    pub policy: MatchPolicy,
    /// How to unpack.
    pub unpack: UnpackOptions,
}

impl RestoreOptions {
    /// Default options, with the folder that relative paths start from.
    #[must_use]
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Self {
            unpack: UnpackOptions::default().with_working_folder(folder),
            ..Self::default()
        }
    }

    /// Sets the policy.
    #[must_use]
    pub fn with_policy(mut self, policy: MatchPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Sets how to unpack.
    #[must_use]
    pub fn with_unpack(mut self, unpack: UnpackOptions) -> Self {
        self.unpack = unpack;
        self
    }
}

/// What a restore did.
#[derive(Debug)]
#[non_exhaustive]
pub enum Restored {
    /// The entry of exactly a key that was asked for.
    Exact(RestoredEntry),
    /// An entry whose key starts with one that was asked for.
    Prefix(RestoredEntry),
    /// Nothing; the destination is untouched.
    Miss(Miss),
}

/// A restored entry.
#[derive(Debug)]
#[non_exhaustive]
pub struct RestoredEntry {
    /// The entry.
    pub metadata: EntryMetadata,
    /// The key that found it.
    pub candidate: CacheKey,
    /// Time until the store had the payload ready.
    pub fetch_time: Duration,
    /// Entries and times.
    pub unpacked: UnpackSummary,
    /// Better matches that were damaged or unsafe.
    pub rejected: Vec<Rejected>,
}

/// How many entries are tried for one key. A store full of damage is not read to its end.
const MAX_TRIES: usize = 8;

impl Cache {
    /// Restores the first entry that a key finds, keys in order. The payload's digest is compared
    /// before anything outside of staging is touched; then each declared path is swapped in.
    ///
    /// A damaged or unsafe entry is quarantined, so that the next save replaces it, and the next
    /// match is tried.
    ///
    /// # Errors
    /// The store or the destination failed. The destination is then as it was. That nothing was
    /// found, or nothing usable, is an answer: [`Restored::Miss`].
    ///
    /// # Cancellation
    /// Dropping the future stops unpacking soon, removes staging and leaves the destination as it
    /// was, unless the swap was already done.
    pub async fn restore<K: Into<RenderedKey>>(
        &self,
        keys: impl IntoIterator<Item = K>,
        options: RestoreOptions,
    ) -> Result<Restored, CacheError> {
        let keys: Vec<RenderedKey> = keys.into_iter().map(Into::into).collect();
        let Some(first) = keys.first() else {
            return Err(CacheError::NoKey);
        };
        let mut candidates = Vec::new();
        let mut rejected: Vec<Rejected> = Vec::new();
        for key in &keys {
            let matches = self.candidates(key.key(), options.policy).await?;
            let matched = matches.len();
            for found in matches.into_iter().take(MAX_TRIES) {
                if rejected.iter().any(|known| known.key == found) {
                    continue;
                }
                match self.try_entry(&found, &options).await {
                    Ok(Some((metadata, fetch_time, unpacked))) => {
                        let entry = RestoredEntry {
                            metadata,
                            candidate: key.key().clone(),
                            fetch_time,
                            unpacked,
                            rejected,
                        };
                        return Ok(if entry.metadata.key == entry.candidate {
                            Restored::Exact(entry)
                        } else {
                            Restored::Prefix(entry)
                        });
                    }
                    Ok(None) => {}
                    Err(error) if is_entrys_fault(&error) => {
                        rejected.push(Rejected { key: found, error });
                    }
                    Err(error) => return Err(error),
                }
            }
            candidates.push(MissedCandidate {
                key: key.key().clone(),
                matched,
            });
        }
        let nearest = nearest(first, self.store.list("").await?);
        Ok(Restored::Miss(Miss {
            candidates,
            rejected,
            nearest,
        }))
    }

    /// Keys of entries to try for one key, best first. The exact key is tried without listing.
    async fn candidates(
        &self,
        key: &CacheKey,
        policy: MatchPolicy,
    ) -> Result<Vec<CacheKey>, CacheError> {
        let mut found: Vec<CacheKey> = self
            .matches(key, policy)
            .await?
            .into_iter()
            .map(|entry| entry.key)
            .collect();
        // A damaged description is not listed, but it should be reported, not passed over.
        if policy == MatchPolicy::ExactThenNewestPrefix && found.first() != Some(key) {
            found.insert(0, key.clone());
        }
        Ok(found)
    }

    async fn try_entry(
        &self,
        key: &CacheKey,
        options: &RestoreOptions,
    ) -> Result<Option<(EntryMetadata, Duration, UnpackSummary)>, CacheError> {
        let started = Instant::now();
        let Some(entry) = self.store.get(key).await? else {
            return Ok(None);
        };
        let fetch_time = started.elapsed();
        let metadata = entry.metadata.clone();
        let options = options.unpack.clone();
        let result: Result<UnpackSummary, CacheError> =
            run_blocking(move |abandoned| unpack_entry(&entry, &options, &|| abandoned.is_set()))
                .await;
        match result {
            Ok(summary) => Ok(Some((metadata, fetch_time, summary))),
            Err(error) => {
                if is_entrys_fault(&error) {
                    // A store that cannot be written is no reason to lose the real error.
                    let _ = self.store.quarantine(&metadata, &error.to_string()).await;
                }
                Err(error)
            }
        }
    }
}

fn unpack_entry(
    entry: &StoredEntry,
    options: &UnpackOptions,
    cancelled: &(dyn Fn() -> bool + Sync),
) -> Result<UnpackSummary, CacheError> {
    unpack(entry, options, cancelled).map_err(|error| match error {
        ArchiveError::Cancelled => CacheError::Store(StoreError::Cancelled),
        other => CacheError::Archive(other),
    })
}

fn is_entrys_fault(error: &CacheError) -> bool {
    match error {
        CacheError::Archive(error) => error.is_entrys_fault(),
        CacheError::Store(error) => error.kind() == StoreErrorKind::Damaged,
        CacheError::File { .. } | CacheError::NoKey => false,
    }
}
