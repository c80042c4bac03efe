use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;

use crate::key::CacheKey;
use crate::store::{
    CacheStore, DeleteOutcome, EntryMetadata, GetOptions, NewEntry, Payload, PayloadBytes,
    ProducePayload, PutOptions, PutOutcome, StoreError, StoredEntry,
};

/// What a [`LyingStore`] does to payloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lie {
    /// Every read gives only a few bytes. Allowed, and often forgotten.
    TornReads,
    /// The payload ends this many bytes early.
    TooShort(u64),
    /// The payload has this many zero bytes more.
    TooLong(u64),
    /// One byte, at this position, is another one.
    WrongByte(u64),
    /// Reading fails from this position on.
    FailsAt(u64),
}

/// A store that hands out something else than was stored.
#[derive(Clone)]
pub struct LyingStore {
    inner: Arc<dyn CacheStore>,
    change: Arc<dyn Fn(StoredEntry) -> StoredEntry + Send + Sync>,
    listings: Arc<AtomicUsize>,
}

impl LyingStore {
    /// Lies about what another store holds.
    #[must_use]
    pub fn new(inner: Arc<dyn CacheStore>, lie: Lie) -> Self {
        Self::changing(inner, move |entry| {
            let payload = Payload::new(LyingPayload {
                inner: entry.payload,
                lie,
            });
            StoredEntry::new(entry.metadata, payload)
        })
    }

    /// Changes every entry that is opened. Nothing else is changed, neither what is stored nor
    /// what is listed.
    #[must_use]
    pub fn changing(
        inner: Arc<dyn CacheStore>,
        change: impl Fn(StoredEntry) -> StoredEntry + Send + Sync + 'static,
    ) -> Self {
        Self {
            inner,
            change: Arc::new(change),
            listings: Arc::default(),
        }
    }

    /// How often entries were listed.
    #[must_use]
    pub fn listings(&self) -> usize {
        self.listings.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for LyingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LyingStore")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct LyingPayload {
    inner: Payload,
    lie: Lie,
}

impl PayloadBytes for LyingPayload {
    fn len(&self) -> u64 {
        match self.lie {
            Lie::TooShort(by) => self.inner.len().saturating_sub(by),
            Lie::TooLong(by) => self.inner.len() + by,
            _ => self.inner.len(),
        }
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let mut wanted = buffer.len();
        if self.lie == Lie::TornReads {
            wanted = wanted.min(1 + usize::try_from(position % 13).unwrap_or(0));
        }
        let left = PayloadBytes::len(self).saturating_sub(position);
        wanted = usize::try_from(left).map_or(wanted, |left| wanted.min(left));
        let buffer = &mut buffer[..wanted];
        let mut read = self.inner.read_at(buffer, position)?;
        if read == 0 && wanted > 0 {
            buffer.fill(0);
            read = wanted;
        }
        match self.lie {
            Lie::WrongByte(at) if (position..position + read as u64).contains(&at) => {
                let index = usize::try_from(at - position).unwrap_or(0);
                buffer[index] ^= 0x10;
            }
            Lie::FailsAt(at) if position + read as u64 > at => {
                return Err(io::Error::other("the medium failed"));
            }
            _ => {}
        }
        Ok(read)
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl CacheStore for LyingStore {
    async fn get_opts(
        &self,
        key: &CacheKey,
        options: GetOptions,
    ) -> Result<Option<StoredEntry>, StoreError> {
        let entry = self.inner.get_opts(key, options).await?;
        Ok(entry.map(&*self.change))
    }

    async fn put_opts(
        &self,
        entry: NewEntry,
        payload: Box<dyn ProducePayload>,
        options: PutOptions,
    ) -> Result<PutOutcome, StoreError> {
        self.inner.put_opts(entry, payload, options).await
    }

    async fn head(&self, key: &CacheKey) -> Result<Option<EntryMetadata>, StoreError> {
        self.inner.head(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<EntryMetadata>, StoreError> {
        self.listings.fetch_add(1, Ordering::Relaxed);
        self.inner.list(prefix).await
    }

    async fn list_everything(&self) -> Result<Vec<EntryMetadata>, StoreError> {
        self.inner.list_everything().await
    }

    async fn delete(&self, key: &CacheKey) -> Result<DeleteOutcome, StoreError> {
        self.inner.delete(key).await
    }

    async fn delete_entry(&self, entry: &EntryMetadata) -> Result<DeleteOutcome, StoreError> {
        self.inner.delete_entry(entry).await
    }

    async fn quarantine(&self, entry: &EntryMetadata, reason: &str) -> Result<(), StoreError> {
        self.inner.quarantine(entry, reason).await
    }
}

/// `lying(STORE)`.
impl fmt::Display for LyingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lying({})", self.inner)
    }
}
