//! Payloads that are fetched as they are read.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use tokio::runtime::Handle;

use super::bucket_store::{BucketStore, entry_object};
use super::objects::Objects;
use crate::key::CacheKey;
use crate::store::payload::PayloadBytes;
use crate::store::{EntryMetadata, Payload, StoreError, StoredEntry};

impl BucketStore {
    /// Opens an entry without fetching its payload.
    pub(super) async fn look_into(
        &self,
        key: &CacheKey,
    ) -> Result<Option<StoredEntry>, StoreError> {
        let look = self.servable(key);
        let budget = self.options.budget;
        let metadata = self.objects.within(key.as_str(), budget, look).await?;
        Ok(metadata.map(|metadata| {
            let payload = Payload::new(self.remote(&metadata));
            StoredEntry::new(metadata, payload)
        }))
    }

    fn remote(&self, metadata: &EntryMetadata) -> Remote {
        Remote {
            store: self.clone(),
            name: entry_object(&metadata.payload),
            size: metadata.packed_size,
            runtime: Handle::current(),
        }
    }
}

/// A payload in a bucket. Each read is one request of at most a part.
struct Remote {
    store: BucketStore,
    name: String,
    size: u64,
    runtime: Handle,
}

impl PayloadBytes for Remote {
    fn len(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let part = self.store.options.part_bytes;
        let wanted = buffer.len().min(part) as u64;
        let range = position..position.saturating_add(wanted).min(self.size);
        if range.is_empty() {
            return Ok(0);
        }
        // Whoever reads is a thread that may wait; the runtime's own threads do the work.
        let (answer, answered) = sync_channel(1);
        let (objects, name) = (Arc::clone(&self.store.objects), self.name.clone());
        let budget = self.store.options.transfer_budget;
        self.runtime.spawn(async move {
            let fetch = Objects::range(&objects, &name, range);
            let _ = answer.send(objects.within(&name, budget, fetch).await);
        });
        let bytes = match answered.recv() {
            Ok(Ok(Some(bytes))) => bytes,
            Ok(Ok(None)) => return Err(io::ErrorKind::NotFound.into()),
            Ok(Err(error)) => return Err(io::Error::other(error)),
            Err(_) => return Err(io::Error::other("the runtime has ended")),
        };
        let count = bytes.len().min(buffer.len());
        buffer[..count].copy_from_slice(&bytes[..count]);
        Ok(count)
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote")
            .field("name", &self.name)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}
