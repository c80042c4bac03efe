use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use super::behind::Behind;
use super::report::Tier;
use crate::key::CacheKey;
use crate::store::copy::{copy_of, digest_of_payload};
use crate::store::entry_metadata::{SHARED_NOTES, SHARED_PARTS};
use crate::store::{
    CacheStore, CacheStoreExt as _, DeleteOutcome, EntryMetadata, GetOptions, IfExists, IfUnsure,
    NewEntry, ProducePayload, PutOptions, PutOutcome, ReadPlan, RecordUse, StoreError, StoredEntry,
    run_blocking,
};

/// A near store in front of a far one: a folder of this host before a bucket, for example.
///
/// - What is read comes from the near store, else from the far one, and is then kept near.
/// - What is saved is in the near store when the call returns; a task brings it to the far one.
///   [`drain`](Self::drain) waits for these tasks and tells what became of them: call it before
///   the runtime ends.
/// - When one store fails and the other answers, the answer counts, except where it decides what
///   is removed. The failure is in the next drain's report.
/// - A chunked entry goes to the far store after the chunks it needs, those included that somebody
///   else removed there: whoever finds it finds all of it.
///
/// A key that the far store has is taken, whoever stored it. Two hosts that save one key at the
/// same moment keep each their own near; the far store keeps the first.
#[derive(Clone, Debug)]
pub struct TieredStore {
    pub(super) near: Arc<dyn CacheStore>,
    pub(super) far: Arc<dyn CacheStore>,
    pub(super) behind: Arc<Behind>,
}

impl TieredStore {
    /// Puts one store in front of another.
    #[must_use]
    pub fn new(near: impl CacheStore + 'static, far: impl CacheStore + 'static) -> Self {
        Self::shared(Arc::new(near), Arc::new(far))
    }

    /// Puts one store in front of another, both used by others too.
    #[must_use]
    pub fn shared(near: Arc<dyn CacheStore>, far: Arc<dyn CacheStore>) -> Self {
        Self {
            near,
            far,
            behind: Arc::default(),
        }
    }

    /// The near store's entry, unless a put would replace it: a damaged one is fetched anew.
    async fn near_entry(
        &self,
        key: &CacheKey,
        options: &GetOptions,
    ) -> Result<Option<StoredEntry>, StoreError> {
        match self.near.head(key).await? {
            None => Ok(None),
            Some(_) => self.near.get_opts(key, options.clone()).await,
        }
    }

    /// Keeps a far entry near, and hands out the near one if that worked.
    async fn back_fill(&self, entry: StoredEntry, options: &GetOptions) -> StoredEntry {
        let key = entry.metadata.key.clone();
        let (new, payload) = copy_of(entry.clone());
        let kept = async {
            self.near.put(new, payload).await?;
            self.near.get_opts(&key, options.clone()).await
        };
        match kept.await {
            Ok(Some(near)) => near,
            Ok(None) => entry,
            Err(error) => {
                // A full disk is no reason not to use what was fetched; damage is found by
                // whoever reads it.
                self.problem(Tier::Near, "keep", key.as_str(), error);
                entry
            }
        }
    }

    /// Brings an entry to the far store that may be only near, because an earlier way there failed
    /// or because it went from there. Asking for it is what a save does that finds its key taken.
    fn send_again(&self, key: &CacheKey) {
        if !key.as_str().starts_with(SHARED_PARTS) {
            self.send_behind(key, IfExists::Keep);
        }
    }

    /// Two answers, of which one is enough.
    fn either<T>(
        &self,
        action: &'static str,
        key: &str,
        near: Result<T, StoreError>,
        far: Result<T, StoreError>,
        both: impl FnOnce(T, T) -> T,
    ) -> Result<T, StoreError> {
        match (near, far) {
            (Ok(near), Ok(far)) => Ok(both(near, far)),
            (Ok(near), Err(error)) => {
                self.problem(Tier::Far, action, key, error);
                Ok(near)
            }
            (Err(error), Ok(far)) => {
                self.problem(Tier::Near, action, key, error);
                Ok(far)
            }
            (Err(near), Err(far)) => {
                self.problem(Tier::Far, action, key, far);
                Err(near)
            }
        }
    }

    /// Whether the near store's bytes are not the ones described.
    async fn is_rotten_near(&self, key: &CacheKey) -> bool {
        let look = GetOptions::default().with_record_use(RecordUse::No);
        let Ok(Some(entry)) = self.near.get_opts(key, look).await else {
            return false;
        };
        let digest = run_blocking(move |_| {
            let digest = digest_of_payload(&entry);
            Ok::<_, StoreError>(digest.is_ok_and(|digest| digest != entry.metadata.digest))
        });
        digest.await.unwrap_or(false)
    }
}

/// What both stores list; the near store's word counts.
fn together(near: Vec<EntryMetadata>, far: Vec<EntryMetadata>) -> Vec<EntryMetadata> {
    let entries = far.into_iter().chain(near);
    let entries: BTreeMap<CacheKey, EntryMetadata> =
        entries.map(|entry| (entry.key.clone(), entry)).collect();
    entries.into_values().collect()
}

fn of_both(near: DeleteOutcome, far: DeleteOutcome) -> DeleteOutcome {
    match (near, far) {
        (_, DeleteOutcome::Leased) => DeleteOutcome::Leased,
        (DeleteOutcome::Absent, DeleteOutcome::Absent) => DeleteOutcome::Absent,
        _ => DeleteOutcome::Deleted,
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl CacheStore for TieredStore {
    async fn get_opts(
        &self,
        key: &CacheKey,
        options: GetOptions,
    ) -> Result<Option<StoredEntry>, StoreError> {
        let near = match self.near_entry(key, &options).await {
            Ok(Some(entry)) => return Ok(Some(entry)),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        let far = match self.far.get_opts(key, options.clone()).await {
            // Parts of it are no copy.
            Ok(Some(entry)) if options.read_plan == ReadPlan::Parts => Ok(Some(entry)),
            Ok(Some(entry)) => Ok(Some(self.back_fill(entry, &options).await)),
            // That is an answer about the entry, not a failure of the store.
            Err(error) if error.is_entrys_fault() => return Err(error),
            Err(error) if options.if_unsure == IfUnsure::Fail => return Err(error),
            other => other,
        };
        if options.if_unsure == IfUnsure::Fail && matches!(far, Ok(None)) {
            return near;
        }
        self.either("open", key.as_str(), near, far, |_, far| far)
    }

    async fn put_opts(
        &self,
        entry: NewEntry,
        payload: Box<dyn ProducePayload>,
        options: PutOptions,
    ) -> Result<PutOutcome, StoreError> {
        let key = entry.key.key().clone();
        if key.as_str().starts_with(SHARED_NOTES) {
            // Everybody must be able to see it as soon as it is written.
            return self.far.put_opts(entry, payload, options).await;
        }
        if options.if_exists == IfExists::Keep {
            if let Some(existing) = self.near.head(&key).await? {
                self.send_again(&key);
                return Ok(PutOutcome::Exists(existing));
            }
            match self.far.head(&key).await {
                Ok(Some(existing)) => return Ok(PutOutcome::Exists(existing)),
                Ok(None) => {}
                Err(error) => self.problem(Tier::Far, "look for", key.as_str(), error),
            }
        }
        let if_exists = options.if_exists;
        let outcome = self.near.put_opts(entry, payload, options).await?;
        // Parts go with the entries that need them.
        if !key.as_str().starts_with(SHARED_PARTS) {
            self.send_behind(&key, if_exists);
        }
        Ok(outcome)
    }

    async fn head(&self, key: &CacheKey) -> Result<Option<EntryMetadata>, StoreError> {
        let near = self.near.head(key).await;
        if let Ok(Some(_)) = near {
            self.send_again(key);
            return near;
        }
        let far = self.far.head(key).await;
        self.either("look for", key.as_str(), near, far, |_, far| far)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<EntryMetadata>, StoreError> {
        let (near, far) = tokio::join!(self.near.list(prefix), self.far.list(prefix));
        self.either("list", prefix, near, far, together)
    }

    async fn list_everything(&self) -> Result<Vec<EntryMetadata>, StoreError> {
        let (near, far) =
            tokio::try_join!(self.near.list_everything(), self.far.list_everything())?;
        Ok(together(near, far))
    }

    /// An entry must go from both: it would come back from the one that failed.
    async fn delete(&self, key: &CacheKey) -> Result<DeleteOutcome, StoreError> {
        self.settle(key).await;
        let near = self.near.delete(key).await?;
        if near == DeleteOutcome::Leased {
            return Ok(near);
        }
        let far = self.far.delete(key).await?;
        Ok(of_both(near, far))
    }

    async fn delete_entry(&self, entry: &EntryMetadata) -> Result<DeleteOutcome, StoreError> {
        self.settle(&entry.key).await;
        let near = self.near.delete_entry(entry).await?;
        if near == DeleteOutcome::Leased {
            return Ok(near);
        }
        Ok(of_both(near, self.far.delete_entry(entry).await?))
    }

    async fn quarantine(&self, entry: &EntryMetadata, reason: &str) -> Result<(), StoreError> {
        let key = &entry.key;
        self.settle(key).await;
        let near = async {
            match self.near.head(key).await? {
                Some(own) if own.is_same(entry) => {
                    // A disk that rots here says nothing about what everybody else reads.
                    let rotten = self.is_rotten_near(key).await;
                    self.near.quarantine(&own, reason).await?;
                    Ok(rotten)
                }
                _ => Ok(false),
            }
        };
        let near = near.await;
        if let Ok(true) = near {
            return Ok(());
        }
        let far = async {
            match self.far.head(key).await? {
                Some(own) if own.is_same(entry) => {
                    self.far.quarantine(&own, reason).await?;
                    Ok(true)
                }
                _ => Ok(false),
            }
        };
        let far = far.await;
        self.either("quarantine", key.as_str(), near, far, |_, far| far)
            .map(drop)
    }
}

/// `tiered(NEAR, FAR)`.
impl fmt::Display for TieredStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tiered({}, {})", self.near, self.far)
    }
}
