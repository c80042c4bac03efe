use std::fmt;

use async_trait::async_trait;

use super::{
    DeleteOutcome, EntryMetadata, GetOptions, NewEntry, ProducePayload, PutOptions, PutOutcome,
    StoreError, StoredEntry,
};
use crate::key::CacheKey;

/// Bytes and their description under keys.
///
/// # Contract
/// - A key is written once: the first complete writer wins, and readers of a key see one content
///   until it is deleted or replaced on request.
/// - An entry appears whole or not at all, also when the writer is killed at any moment. When
///   [`put_opts`](Self::put_opts) says [`PutOutcome::Stored`], the entry is as durable as the
///   store can make it.
/// - A damaged or vanished entry never blocks its key: after [`quarantine`](Self::quarantine),
///   and when the store itself can see the damage, the next put stores anew.
/// - The payload handed out is leased while it is held; [`delete`](Self::delete) then answers
///   [`DeleteOutcome::Leased`], or lets the reader finish undisturbed.
/// - Bytes are handed out unchecked: whoever unpacks compares the digest, because it can do so
///   while reading.
/// - Implementations are [`Display`](fmt::Display), wrappers nest: `tiered(memory, filesystem)`.
///
/// The suite in the `testing` feature checks all of this for any store.
///
/// # Errors
/// A missing entry is an answer. An error means that the store could not find out.
///
/// # Cancellation
/// Dropping a future leaves no entry or a whole one. Blocking work that it started stops at its
/// next write and removes what it wrote. Local stores need a Tokio runtime around the call,
/// because they move blocking work to its threads; none is ever created here.
#[async_trait]
pub trait CacheStore: fmt::Debug + fmt::Display + Send + Sync {
    /// Opens an entry. `None` when there is none, or its payload is gone.
    async fn get_opts(
        &self,
        key: &CacheKey,
        options: GetOptions,
    ) -> Result<Option<StoredEntry>, StoreError>;

    /// Stores an entry, unless the key is taken. Whether it is taken is asked before anything is
    /// produced, and once more when publishing.
    async fn put_opts(
        &self,
        entry: NewEntry,
        payload: Box<dyn ProducePayload>,
        options: PutOptions,
    ) -> Result<PutOutcome, StoreError>;

    /// The description of the entry that a put would keep: `None` also for an entry that is
    /// visibly damaged or quarantined, since a put replaces it.
    async fn head(&self, key: &CacheKey) -> Result<Option<EntryMetadata>, StoreError>;

    /// Descriptions of the entries whose key starts with a text, sorted by key. Damaged ones are
    /// left out.
    async fn list(&self, prefix: &str) -> Result<Vec<EntryMetadata>, StoreError>;

    /// Descriptions of all entries, sorted by key, for whoever decides what is to go: an error
    /// when any part of the store does not answer, where [`list`](Self::list) may make do.
    async fn list_everything(&self) -> Result<Vec<EntryMetadata>, StoreError>;

    /// Removes an entry that nobody is reading.
    async fn delete(&self, key: &CacheKey) -> Result<DeleteOutcome, StoreError>;

    /// Removes this very entry, unless somebody reads it. [`DeleteOutcome::Absent`] also when the
    /// key holds another one by now.
    async fn delete_entry(&self, entry: &EntryMetadata) -> Result<DeleteOutcome, StoreError>;

    /// Notes that this very entry turned out to be damaged or unsafe, so that the next put
    /// replaces it. Does nothing when the key holds another entry by now. Removing the entry is a
    /// valid way to do it.
    async fn quarantine(&self, entry: &EntryMetadata, reason: &str) -> Result<(), StoreError>;
}

/// Calls with default options.
#[async_trait]
pub trait CacheStoreExt: CacheStore {
    /// [`CacheStore::get_opts`] with default options.
    async fn get(&self, key: &CacheKey) -> Result<Option<StoredEntry>, StoreError> {
        self.get_opts(key, GetOptions::default()).await
    }

    /// [`CacheStore::put_opts`] with default options.
    async fn put(
        &self,
        entry: NewEntry,
        payload: Box<dyn ProducePayload>,
    ) -> Result<PutOutcome, StoreError> {
        self.put_opts(entry, payload, PutOptions::default()).await
    }
}

impl<S: CacheStore + ?Sized> CacheStoreExt for S {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_object_safe_and_shareable() {
        fn shareable<T: Send + Sync + fmt::Debug + fmt::Display + ?Sized>() {}
        shareable::<dyn CacheStore>();
    }
}
