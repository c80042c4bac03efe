use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;

use super::blocking::{AbandonableWriter, run_blocking};
use super::{
    CacheStore, DeleteOutcome, EntryMetadata, GetOptions, IfExists, NewEntry, Payload,
    ProducePayload, PutOptions, PutOutcome, RecordUse, Sha256Digest, StoreError, StoredEntry,
};
use crate::key::CacheKey;

/// A store that lives in memory, for tests and as the near side of a tiered store.
///
/// Clones share their entries. There is no limit to its size.
#[derive(Clone, Default)]
pub struct MemoryStore {
    entries: Arc<Mutex<BTreeMap<CacheKey, Held>>>,
}

#[derive(Clone)]
struct Held {
    metadata: EntryMetadata,
    bytes: Arc<[u8]>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<CacheKey, Held>> {
        // Every change under the lock is one map operation, so a panic leaves nothing half-done.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove_if(&self, key: &CacheKey, wanted: impl Fn(&EntryMetadata) -> bool) -> DeleteOutcome {
        let mut entries = self.lock();
        match entries.get(key) {
            Some(held) if !wanted(&held.metadata) => DeleteOutcome::Absent,
            None => DeleteOutcome::Absent,
            Some(held) if Arc::strong_count(&held.bytes) > 1 => DeleteOutcome::Leased,
            Some(_) => {
                entries.remove(key);
                DeleteOutcome::Deleted
            }
        }
    }
}

#[async_trait]
impl CacheStore for MemoryStore {
    async fn get_opts(
        &self,
        key: &CacheKey,
        options: GetOptions,
    ) -> Result<Option<StoredEntry>, StoreError> {
        let mut entries = self.lock();
        Ok(entries.get_mut(key).map(|held| {
            if options.record_use == RecordUse::Yes {
                held.metadata.last_used = Some(SystemTime::now());
            }
            StoredEntry::new(held.metadata.clone(), Payload::new(Arc::clone(&held.bytes)))
        }))
    }

    async fn put_opts(
        &self,
        entry: NewEntry,
        payload: Box<dyn ProducePayload>,
        options: PutOptions,
    ) -> Result<PutOutcome, StoreError> {
        let key = entry.key.key().clone();
        if options.if_exists == IfExists::Keep
            && let Some(held) = self.lock().get(&key)
        {
            return Ok(PutOutcome::Exists(held.metadata.clone()));
        }
        let produced = key.clone();
        let (facts, bytes) = run_blocking(move |abandoned| {
            let mut out = AbandonableWriter::new(Vec::new(), abandoned);
            match payload.produce(&mut out) {
                _ if abandoned.is_set() => Err(StoreError::Cancelled),
                Ok(facts) => Ok((facts, out.into_inner())),
                Err(source) => Err(StoreError::Produce {
                    key: produced,
                    source,
                }),
            }
        })
        .await?;
        let name = format!("memory.{}", facts.codec.extension());
        let metadata = entry.complete(&facts, name, bytes.len() as u64, Sha256Digest::of(&bytes));
        let held = Held {
            metadata: metadata.clone(),
            bytes: bytes.into(),
        };
        let mut entries = self.lock();
        if options.if_exists == IfExists::Keep
            && let Some(taken) = entries.get(&key)
        {
            return Ok(PutOutcome::Exists(taken.metadata.clone()));
        }
        entries.insert(key, held);
        Ok(PutOutcome::Stored(metadata))
    }

    async fn head(&self, key: &CacheKey) -> Result<Option<EntryMetadata>, StoreError> {
        Ok(self.lock().get(key).map(|held| held.metadata.clone()))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<EntryMetadata>, StoreError> {
        Ok(self
            .lock()
            .iter()
            .filter(|(key, _)| key.as_str().starts_with(prefix))
            .map(|(_, held)| held.metadata.clone())
            .collect())
    }

    async fn list_everything(&self) -> Result<Vec<EntryMetadata>, StoreError> {
        self.list("").await
    }

    async fn delete(&self, key: &CacheKey) -> Result<DeleteOutcome, StoreError> {
        Ok(self.remove_if(key, |_| true))
    }

    async fn delete_entry(&self, entry: &EntryMetadata) -> Result<DeleteOutcome, StoreError> {
        Ok(self.remove_if(&entry.key, |now| now.is_same(entry)))
    }

    async fn quarantine(&self, entry: &EntryMetadata, _reason: &str) -> Result<(), StoreError> {
        let mut entries = self.lock();
        if entries
            .get(&entry.key)
            .is_some_and(|held| held.metadata.is_same(entry))
        {
            entries.remove(&entry.key);
        }
        Ok(())
    }
}

impl fmt::Display for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory")
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("entries", &self.lock().len())
            .finish()
    }
}
