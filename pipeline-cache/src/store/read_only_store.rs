use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use super::{
    CacheStore, DeleteOutcome, EntryMetadata, GetOptions, IfExists, NewEntry, ProducePayload,
    PutOptions, PutOutcome, RecordUse, StoreError, StoredEntry,
};
use crate::key::CacheKey;

/// A store that is only read, for jobs that may use a cache and must not change it: builds of
/// pull requests, for example.
///
/// Whatever would change the store is [`StoreError::ReadOnly`]; saving under a key that is taken
/// still says so. No use is noted, so eviction does not see these readers.
#[derive(Clone, Debug)]
pub struct ReadOnlyStore {
    inner: Arc<dyn CacheStore>,
}

impl ReadOnlyStore {
    /// Reads a store and never writes it.
    #[must_use]
    pub fn new(inner: impl CacheStore + 'static) -> Self {
        Self::shared(Arc::new(inner))
    }

    /// Reads a store that others use too.
    #[must_use]
    pub fn shared(inner: Arc<dyn CacheStore>) -> Self {
        Self { inner }
    }
}

fn refused(key: &CacheKey) -> StoreError {
    StoreError::ReadOnly { key: key.clone() }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl CacheStore for ReadOnlyStore {
    async fn get_opts(
        &self,
        key: &CacheKey,
        options: GetOptions,
    ) -> Result<Option<StoredEntry>, StoreError> {
        let options = options.with_record_use(RecordUse::No);
        self.inner.get_opts(key, options).await
    }

    async fn put_opts(
        &self,
        entry: NewEntry,
        _payload: Box<dyn ProducePayload>,
        options: PutOptions,
    ) -> Result<PutOutcome, StoreError> {
        let key = entry.key.key();
        if options.if_exists == IfExists::Keep
            && let Some(existing) = self.inner.head(key).await?
        {
            return Ok(PutOutcome::Exists(existing));
        }
        Err(refused(key))
    }

    async fn head(&self, key: &CacheKey) -> Result<Option<EntryMetadata>, StoreError> {
        self.inner.head(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<EntryMetadata>, StoreError> {
        self.inner.list(prefix).await
    }

    async fn list_everything(&self) -> Result<Vec<EntryMetadata>, StoreError> {
        self.inner.list_everything().await
    }

    async fn delete(&self, key: &CacheKey) -> Result<DeleteOutcome, StoreError> {
        match self.inner.head(key).await? {
            None => Ok(DeleteOutcome::Absent),
            Some(_) => Err(refused(key)),
        }
    }

    async fn delete_entry(&self, entry: &EntryMetadata) -> Result<DeleteOutcome, StoreError> {
        match self.inner.head(&entry.key).await? {
            Some(now) if now.is_same(entry) => Err(refused(&entry.key)),
            _ => Ok(DeleteOutcome::Absent),
        }
    }

    async fn quarantine(&self, entry: &EntryMetadata, _reason: &str) -> Result<(), StoreError> {
        Err(refused(&entry.key))
    }
}

/// `read-only(STORE)`.
impl fmt::Display for ReadOnlyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "read-only({})", self.inner)
    }
}
