use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use object_store::ObjectStore;

use super::download::Fetched;
use super::listing::Known;
use super::objects::{Objects, Version};
use super::{BucketError, BucketOptions};
use crate::key::CacheKey;
use crate::store::entry_metadata::MAX_DOCUMENT;
use crate::store::filesystem::layout::{FileKind, classify, stem};
use crate::store::{
    CacheStore, DeleteOutcome, EntryMetadata, GetOptions, MetadataError, NewEntry, ProducePayload,
    PutOptions, PutOutcome, ReadPlan, RecordUse, StoreError, StoredEntry,
};

/// A bucket as store, safe for any number of machines at once.
///
/// An entry appears by creating its description only if there is none; its payload is in the
/// bucket by then, under a name that nobody else uses, so that a writer who loses overwrites
/// nothing. What is read is compared with its digest before it is handed out, and is held by this
/// process from then on: nothing that happens to the bucket disturbs a reader.
///
/// Buckets delete without conditions: a removal at the very moment in which another machine replaces
/// the same entry may take the new one, which is a miss then.
///
/// The service may be slow, fail or be gone: every call ends within the times of
/// [`BucketOptions`], in [`StoreErrorKind::Unavailable`](crate::store::StoreErrorKind) at worst.
///
/// Uploads that a killed process left in parts are invisible and cost money: give the bucket a
/// rule that aborts incomplete uploads after a day. Payloads without a description are removed by
/// [`sweep`](Self::sweep).
///
/// Needs a Tokio runtime with I/O and time.
#[derive(Clone)]
pub struct BucketStore {
    pub(super) objects: Arc<Objects>,
    pub(super) options: Arc<BucketOptions>,
    /// `s3://name` and the like.
    address: Arc<str>,
    pub(super) known: Arc<Mutex<HashMap<String, Known>>>,
}

/// A key's description as it is in the bucket.
pub(super) struct Described {
    pub(super) content: Result<EntryMetadata, MetadataError>,
    pub(super) version: Version,
}

pub(super) fn entry_object(name: &str) -> String {
    format!("entries/{name}")
}

pub(super) fn description_object(key: &CacheKey) -> String {
    entry_object(&format!("{}.json", stem(key)))
}

pub(super) fn quarantine_object(key: &CacheKey) -> String {
    entry_object(&format!("{}.quarantine", stem(key)))
}

pub(super) fn used_object(key: &CacheKey) -> String {
    entry_object(&format!("{}.used", stem(key)))
}

/// Reads a description that should be this key's.
pub(super) fn read_description(
    key: &CacheKey,
    bytes: &[u8],
) -> Result<EntryMetadata, MetadataError> {
    let metadata = EntryMetadata::from_document(bytes)?;
    if metadata.key == *key {
        Ok(metadata)
    } else {
        Err(MetadataError::OtherKey {
            found: metadata.key,
        })
    }
}

/// Whether a description names a payload that its key can have: it is not trusted to point
/// elsewhere.
pub(super) fn names_own_payload(metadata: &EntryMetadata) -> bool {
    matches!(
        classify(&metadata.payload),
        FileKind::Payload { stem: found } if found == stem(&metadata.key)
    )
}

impl BucketStore {
    /// A store over a client that is already made.
    pub(super) fn over(
        inner: Arc<dyn ObjectStore>,
        address: &str,
        options: BucketOptions,
    ) -> Result<Self, BucketError> {
        let objects = Objects::new(inner, &options)?;
        let address = match objects.prefix() {
            "" => address.to_owned(),
            prefix => format!("{address}/{prefix}"),
        };
        Ok(Self {
            objects: Arc::new(objects),
            options: Arc::new(options),
            address: address.into(),
            known: Arc::default(),
        })
    }

    /// A store over a client that could be made, or not.
    #[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
    pub(super) fn opened(
        client: object_store::Result<impl ObjectStore>,
        bucket: &impl fmt::Display,
        options: BucketOptions,
    ) -> Result<Self, BucketError> {
        let bucket = bucket.to_string();
        match client {
            Ok(client) => Self::over(Arc::new(client), &bucket, options),
            // The client's own type stays inside.
            Err(error) => Err(BucketError::Client {
                bucket,
                source: error.to_string().into(),
            }),
        }
    }

    pub(super) async fn describe(&self, key: &CacheKey) -> Result<Option<Described>, StoreError> {
        let object = self
            .objects
            .read(&description_object(key), MAX_DOCUMENT)
            .await?;
        Ok(object.map(|object| Described {
            content: read_description(key, &object.bytes),
            version: object.version,
        }))
    }

    /// The payload that the key's quarantine names.
    async fn quarantined(&self, key: &CacheKey) -> Result<Option<String>, StoreError> {
        let object = self.objects.read(&quarantine_object(key), 4096).await?;
        Ok(object.and_then(|object| {
            let text = String::from_utf8_lossy(&object.bytes).into_owned();
            text.lines().next().map(str::to_owned)
        }))
    }

    /// The entry that a put would keep.
    pub(super) async fn servable(
        &self,
        key: &CacheKey,
    ) -> Result<Option<EntryMetadata>, StoreError> {
        let (described, quarantined) = tokio::try_join!(self.describe(key), self.quarantined(key))?;
        let Some(Ok(metadata)) = described.map(|described| described.content) else {
            return Ok(None);
        };
        if !names_own_payload(&metadata) || quarantined.as_ref() == Some(&metadata.payload) {
            return Ok(None);
        }
        let size = self.objects.size(&entry_object(&metadata.payload)).await?;
        Ok((size == Some(metadata.packed_size)).then_some(metadata))
    }

    async fn get(
        &self,
        key: &CacheKey,
        options: &GetOptions,
    ) -> Result<Option<StoredEntry>, StoreError> {
        if options.read_plan == ReadPlan::Parts {
            let found = self.look_into(key).await?;
            if found.is_some() && options.record_use == RecordUse::Yes {
                self.note_use(key).await;
            }
            return Ok(found);
        }
        // An eviction or replacement may take the payload away between reading the description
        // and fetching it; then the description says something else by now.
        let mut before = None;
        loop {
            let look = self.describe(key);
            let described = self.objects.within(key.as_str(), self.options.budget, look);
            let metadata = match described.await?.map(|described| described.content) {
                None => return Ok(None),
                Some(Ok(metadata)) if names_own_payload(&metadata) => metadata,
                Some(Ok(_)) => return Ok(None),
                Some(Err(source)) => {
                    return Err(StoreError::DamagedMetadata {
                        key: key.clone(),
                        source,
                    });
                }
            };
            let fetch = self.fetch(&metadata);
            let fetched = self
                .objects
                .within(key.as_str(), self.options.transfer_budget, fetch);
            match fetched.await? {
                Fetched::Whole(payload) => {
                    if options.record_use == RecordUse::Yes {
                        self.note_use(key).await;
                    }
                    return Ok(Some(StoredEntry::new(metadata, payload)));
                }
                Fetched::Absent if before.as_deref() == Some(metadata.payload.as_str()) => {
                    return Ok(None);
                }
                Fetched::Absent => before = Some(metadata.payload),
                Fetched::Damaged(actual) => {
                    // A bucket that cannot be written is no reason to lose the real error.
                    let _ = self.quarantine(&metadata, "its SHA-256 does not fit").await;
                    return Err(StoreError::DamagedPayload {
                        key: key.clone(),
                        expected: metadata.digest,
                        actual,
                    });
                }
            }
        }
    }

    /// Notes a use. A bucket that cannot be written is no reason to fail a read.
    async fn note_use(&self, key: &CacheKey) {
        let name = used_object(key);
        let note = self.objects.write(&name, Bytes::new());
        let _ = tokio::time::timeout(self.options.silence_timeout, note).await;
    }

    /// Removes the entry of a key; with `only`, only if it is this one.
    async fn remove(
        &self,
        key: &CacheKey,
        only: Option<&EntryMetadata>,
    ) -> Result<DeleteOutcome, StoreError> {
        let Some(described) = self.describe(key).await? else {
            return Ok(DeleteOutcome::Absent);
        };
        if let Some(only) = only
            && !described
                .content
                .as_ref()
                .is_ok_and(|now| now.is_same(only))
        {
            return Ok(DeleteOutcome::Absent);
        }
        // The description goes first: from here on there is no entry, whatever happens.
        self.objects.remove(&description_object(key)).await?;
        if let Ok(metadata) = described.content
            && names_own_payload(&metadata)
        {
            self.objects
                .remove(&entry_object(&metadata.payload))
                .await?;
        }
        self.objects.remove(&quarantine_object(key)).await?;
        self.objects.remove(&used_object(key)).await?;
        Ok(DeleteOutcome::Deleted)
    }

    /// The note names the payload, so that it cannot hit an entry that was stored meanwhile.
    async fn mark(&self, entry: &EntryMetadata, reason: &str) -> Result<(), StoreError> {
        match self.describe(&entry.key).await? {
            Some(now)
                if now
                    .content
                    .as_ref()
                    .is_ok_and(|now| now.payload == entry.payload) => {}
            _ => return Ok(()),
        }
        let reason: String = reason.chars().take(512).collect();
        let note = format!("{}\n{reason}\n", entry.payload);
        self.objects
            .write(&quarantine_object(&entry.key), note.into())
            .await
    }
}

#[async_trait]
impl CacheStore for BucketStore {
    async fn get_opts(
        &self,
        key: &CacheKey,
        options: GetOptions,
    ) -> Result<Option<StoredEntry>, StoreError> {
        self.get(key, &options).await
    }

    async fn put_opts(
        &self,
        entry: NewEntry,
        payload: Box<dyn ProducePayload>,
        options: PutOptions,
    ) -> Result<PutOutcome, StoreError> {
        self.publish(entry, payload, &options).await
    }

    async fn head(&self, key: &CacheKey) -> Result<Option<EntryMetadata>, StoreError> {
        let look = self.servable(key);
        self.objects
            .within(key.as_str(), self.options.budget, look)
            .await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<EntryMetadata>, StoreError> {
        self.list_all(prefix).await
    }

    async fn list_everything(&self) -> Result<Vec<EntryMetadata>, StoreError> {
        self.list("").await
    }

    async fn delete(&self, key: &CacheKey) -> Result<DeleteOutcome, StoreError> {
        let remove = self.remove(key, None);
        self.objects
            .within(key.as_str(), self.options.budget, remove)
            .await
    }

    async fn delete_entry(&self, entry: &EntryMetadata) -> Result<DeleteOutcome, StoreError> {
        let remove = self.remove(&entry.key, Some(entry));
        self.objects
            .within(entry.key.as_str(), self.options.budget, remove)
            .await
    }

    async fn quarantine(&self, entry: &EntryMetadata, reason: &str) -> Result<(), StoreError> {
        let mark = self.mark(entry, reason);
        self.objects
            .within(entry.key.as_str(), self.options.budget, mark)
            .await
    }
}

/// `bucket(s3://NAME/PREFIX)`.
impl fmt::Display for BucketStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bucket({})", self.address)
    }
}

impl fmt::Debug for BucketStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BucketStore")
            .field("address", &self.address)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
