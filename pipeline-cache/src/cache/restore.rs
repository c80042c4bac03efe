use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::miss::nearest;
use super::{Cache, CacheError, MatchPolicy, Miss, MissedCandidate, Rejected};
use crate::archive::{ArchiveError, StatCache, UnpackOptions, UnpackSummary, unpack_onto};
use crate::key::{CacheKey, RenderedKey};
use crate::store::{
    CacheStoreExt as _, EntryMetadata, Sha256Digest, StoreError, StoreErrorKind, StoredEntry,
    run_blocking,
};

/// How to restore.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestoreOptions {
    /// Which entry a key finds. Default: exact, then newest prefix.
    pub policy: MatchPolicy,
    /// How to unpack.
    pub unpack: UnpackOptions,
    /// Take only an entry with this digest; another one counts as none. Default: any.
    pub digest: Option<Sha256Digest>,
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

    /// Sets the digest of the entry to take.
    #[must_use]
    pub fn with_digest(mut self, digest: Sha256Digest) -> Self {
        self.digest = Some(digest);
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
    /// The entry of exactly the first key that was asked for: all there is to restore.
    Exact(RestoredEntry),
    /// An entry whose key starts with one that was asked for, or the entry of a later key: what it
    /// holds may be of another day.
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
    /// Which of the keys that is, from 0.
    pub position: usize,
    /// Time until the store had the payload ready.
    pub fetch_time: Duration,
    /// Entries and times.
    pub unpacked: UnpackSummary,
    /// Better matches that were damaged, unsafe, or not for this reader.
    pub rejected: Vec<Rejected>,
}

/// How many unusable entries are tried for one key. A store full of damage is not read to its end.
/// What nobody trusts costs only its description, and does not count: else a few untrusted entries
/// would hide the trusted one behind them.
const MAX_TRIES: usize = 8;

type Unpacked = (EntryMetadata, Duration, UnpackSummary);

impl Cache {
    /// Restores the first entry that a key finds, keys in order. The payload's digest is compared
    /// before anything outside of staging is touched; then each declared path is swapped in.
    ///
    /// A damaged or unsafe entry is quarantined, so that the next save replaces it, and the next
    /// match is tried. One that only these options refuse, by limits or set-id bits, is passed over
    /// too, but stays.
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
        for (position, key) in keys.iter().enumerate() {
            let candidate = key.key().clone();
            let found = self.try_key(&candidate, &options, &mut rejected).await?;
            let (metadata, fetch_time, unpacked) = match found {
                Ok(found) => found,
                Err(matched) => {
                    let key = candidate;
                    candidates.push(MissedCandidate { key, matched });
                    continue;
                }
            };
            let is_exact = position == 0 && metadata.key == candidate;
            let entry = RestoredEntry {
                metadata,
                candidate,
                position,
                fetch_time,
                unpacked,
                rejected,
            };
            return Ok(if is_exact {
                Restored::Exact(entry)
            } else {
                Restored::Prefix(entry)
            });
        }
        let nearest = nearest(first, self.entries("").await?);
        Ok(Restored::Miss(Miss {
            candidates,
            rejected,
            nearest,
        }))
    }

    /// Tries what one key finds, best first; else says how many there were.
    async fn try_key(
        &self,
        key: &CacheKey,
        options: &RestoreOptions,
        rejected: &mut Vec<Rejected>,
    ) -> Result<Result<Unpacked, usize>, CacheError> {
        // A store may be large and far away: the exact key is asked for without listing. It is
        // asked for even when it is not listed, since damage should be reported, not passed over.
        let exact_first = options.policy == MatchPolicy::ExactThenNewestPrefix;
        let known = rejected.len();
        if exact_first && let Some(unpacked) = self.try_entry(key, options, rejected).await? {
            return Ok(Ok(unpacked));
        }
        let mut matches = self.matches(key, options.policy).await?;
        if exact_first {
            matches.retain(|entry| entry.key != *key);
        }
        let matched = matches.len() + (rejected.len() - known);
        let mut tries = 0;
        for found in matches {
            if tries == MAX_TRIES {
                break;
            }
            let known = rejected.len();
            if let Some(unpacked) = self.try_entry(&found.key, options, rejected).await? {
                return Ok(Ok(unpacked));
            }
            tries += usize::from(
                rejected[known..]
                    .iter()
                    .any(|entry| !is_untrusted(&entry.error)),
            );
        }
        Ok(Err(matched))
    }

    /// Tries an entry that was not tried yet. One that cannot be used is noted.
    async fn try_entry(
        &self,
        key: &CacheKey,
        options: &RestoreOptions,
        rejected: &mut Vec<Rejected>,
    ) -> Result<Option<Unpacked>, CacheError> {
        if rejected.iter().any(|known| known.key == *key) {
            return Ok(None);
        }
        let mut before: Option<EntryMetadata> = None;
        for _ in 0..MAX_TRIES {
            let started = Instant::now();
            let (error, quarantined) = match self.store.get(key).await {
                Ok(None) => return Ok(None),
                Ok(Some(entry)) if options.digest.is_some_and(|it| it != entry.metadata.digest) => {
                    return Ok(None);
                }
                Err(error) => (error.into(), false),
                Ok(Some(entry)) => {
                    let fetch_time = started.elapsed();
                    let metadata = entry.metadata.clone();
                    match self.unpack_entry(entry, &options.unpack).await {
                        Ok(Some(summary)) => return Ok(Some((metadata, fetch_time, summary))),
                        Ok(None) if before.is_some_and(|before| before.is_same(&metadata)) => {
                            return Ok(None);
                        }
                        // Another one may be there by now.
                        Ok(None) => {
                            before = Some(metadata);
                            continue;
                        }
                        Err(error) if is_for_nobody(&error) => {
                            // A store that cannot be written is no reason to lose the real error.
                            let why = error.to_string();
                            let done = self.store.quarantine(&metadata, &why).await;
                            (error, done.is_ok())
                        }
                        Err(error) => (error, false),
                    }
                }
            };
            if !is_entrys_fault(&error) {
                return Err(error);
            }
            rejected.push(Rejected {
                key: key.clone(),
                error,
                quarantined,
            });
            return Ok(None);
        }
        Ok(None)
    }

    /// Unpacks an entry; `None` when it was removed, replaced or taken back meanwhile.
    async fn unpack_entry(
        &self,
        entry: StoredEntry,
        options: &UnpackOptions,
    ) -> Result<Option<UnpackSummary>, CacheError> {
        #[cfg(feature = "chunked")]
        if entry.metadata.codec == crate::store::Codec::Chunked {
            return crate::chunked::restore(self, entry, options).await;
        }
        let options = options.clone();
        let stat_cache = self.stat_cache.clone();
        run_blocking(move |abandoned| {
            unpack_entry(&entry, &options, stat_cache.as_ref(), &|| {
                abandoned.is_set()
            })
        })
        .await
        .map(Some)
    }
}

fn unpack_entry(
    entry: &StoredEntry,
    options: &UnpackOptions,
    stat_cache: Option<&StatCache>,
    cancelled: &(dyn Fn() -> bool + Sync),
) -> Result<UnpackSummary, CacheError> {
    unpack_onto(entry, options, stat_cache, cancelled).map_err(|error| match error {
        ArchiveError::Cancelled => CacheError::Store(StoreError::Cancelled),
        other => CacheError::Archive(other),
    })
}

/// Whether another entry may do.
fn is_entrys_fault(error: &CacheError) -> bool {
    match error {
        CacheError::Archive(error) => error.is_entrys_fault(),
        CacheError::Store(error) => matches!(
            error.kind(),
            StoreErrorKind::Damaged | StoreErrorKind::Untrusted
        ),
        _ => false,
    }
}

/// Whether no reader could use the entry.
fn is_for_nobody(error: &CacheError) -> bool {
    match error {
        CacheError::Archive(error) => error.is_for_nobody(),
        error => is_entrys_fault(error),
    }
}

fn is_untrusted(error: &CacheError) -> bool {
    matches!(error, CacheError::Store(error) if error.kind() == StoreErrorKind::Untrusted)
}
