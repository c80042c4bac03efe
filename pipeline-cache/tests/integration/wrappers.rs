//! Stores around stores: tiered, read-only.

use std::fmt;
use std::fs;
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use pipeline_cache::cache::{Cache, RestoreOptions, Restored, SaveOptions, Saved};
use pipeline_cache::key::CacheKey;
use pipeline_cache::store::{
    CacheStore, CacheStoreExt as _, Codec, DeleteOutcome, EntryFacts, EntryMetadata,
    FilesystemStore, GetOptions, IfExists, MemoryStore, NewEntry, ProducePayload, PutOptions,
    PutOutcome, ReadOnlyStore, StoreError, StoreErrorKind, StoredEntry, Tier, TieredStore,
    produce_with,
};
use pipeline_cache::store_contract;
use pipeline_cache::testing::{Lie, LyingStore};

use crate::trees::{describe, many};

pub(crate) fn key(text: &str) -> CacheKey {
    CacheKey::new(text).unwrap()
}

pub(crate) fn bytes(content: &'static [u8]) -> Box<dyn ProducePayload> {
    produce_with(move |out| {
        out.write_all(content)?;
        Ok(EntryFacts::opaque(Codec::None))
    })
}

pub(crate) async fn put(store: &dyn CacheStore, name: &str, content: &'static [u8]) -> PutOutcome {
    let entry = NewEntry::new(key(name), SystemTime::now());
    store.put(entry, bytes(content)).await.unwrap()
}

pub(crate) fn content(entry: &StoredEntry) -> Vec<u8> {
    let mut content = Vec::new();
    entry.payload.reader().read_to_end(&mut content).unwrap();
    content
}

/// A store whose service is gone.
#[derive(Debug)]
pub(crate) struct Gone;

fn gone(what: &str) -> StoreError {
    StoreError::Unavailable {
        key: what.to_owned(),
        source: "nobody answers".into(),
    }
}

#[async_trait]
impl CacheStore for Gone {
    async fn get_opts(
        &self,
        key: &CacheKey,
        _: GetOptions,
    ) -> Result<Option<StoredEntry>, StoreError> {
        Err(gone(key.as_str()))
    }

    async fn put_opts(
        &self,
        entry: NewEntry,
        _: Box<dyn ProducePayload>,
        _: PutOptions,
    ) -> Result<PutOutcome, StoreError> {
        Err(gone(entry.key.key().as_str()))
    }

    async fn head(&self, key: &CacheKey) -> Result<Option<EntryMetadata>, StoreError> {
        Err(gone(key.as_str()))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<EntryMetadata>, StoreError> {
        Err(gone(prefix))
    }

    async fn list_everything(&self) -> Result<Vec<EntryMetadata>, StoreError> {
        Err(gone(""))
    }

    async fn delete(&self, key: &CacheKey) -> Result<DeleteOutcome, StoreError> {
        Err(gone(key.as_str()))
    }

    async fn delete_entry(&self, entry: &EntryMetadata) -> Result<DeleteOutcome, StoreError> {
        Err(gone(entry.key.as_str()))
    }

    async fn quarantine(&self, entry: &EntryMetadata, _: &str) -> Result<(), StoreError> {
        Err(gone(entry.key.as_str()))
    }
}

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("gone")
    }
}

store_contract!(tiered_memory, || (
    TieredStore::new(MemoryStore::new(), MemoryStore::new()),
    ()
));
store_contract!(tiered_folder, || {
    let dir = tempfile::tempdir().unwrap();
    let near = FilesystemStore::new(dir.path().join("near"));
    (TieredStore::new(near, MemoryStore::new()), dir)
});

#[tokio::test]
async fn what_is_far_is_kept_near_and_what_is_saved_goes_far() {
    let (near, far) = (MemoryStore::new(), MemoryStore::new());
    put(&far, "theirs", b"from far").await;
    let tiered = TieredStore::new(near.clone(), far.clone());
    assert_eq!(tiered.to_string(), "tiered(memory, memory)");
    let entry = tiered.get(&key("theirs")).await.unwrap().unwrap();
    assert_eq!(content(&entry), b"from far");
    let kept = near.head(&key("theirs")).await.unwrap().unwrap();
    let original = far.head(&key("theirs")).await.unwrap().unwrap();
    assert_eq!(
        (kept.digest, kept.created, kept.codec),
        (original.digest, original.created, original.codec)
    );

    put(&tiered, "ours", b"from near").await;
    // Taken far, though not near: nothing is produced.
    put(&far, "both", b"theirs").await;
    assert!(matches!(
        put(&tiered, "both", b"ours").await,
        PutOutcome::Exists(_)
    ));
    let report = tiered.drain().await;
    assert_eq!(report.stored, [key("ours")]);
    assert!(report.problems.is_empty(), "{report:?}");
    let entry = far.get(&key("ours")).await.unwrap().unwrap();
    assert_eq!(content(&entry), b"from near");
}

#[tokio::test]
async fn a_far_store_that_is_gone_fails_nothing_and_is_told() {
    let near = MemoryStore::new();
    let tiered = TieredStore::new(near.clone(), Gone);
    assert!(tiered.get(&key("k")).await.unwrap().is_none());
    assert!(tiered.head(&key("k")).await.unwrap().is_none());
    assert!(matches!(
        put(&tiered, "k", b"kept").await,
        PutOutcome::Stored(_)
    ));
    let entry = tiered.get(&key("k")).await.unwrap().unwrap();
    assert_eq!(content(&entry), b"kept");
    assert_eq!(tiered.list("").await.unwrap().len(), 1);
    let report = tiered.drain().await;
    assert!(report.stored.is_empty());
    let actions: Vec<_> = report
        .problems
        .iter()
        .map(|problem| problem.action)
        .collect();
    assert_eq!(actions, ["open", "look for", "look for", "list", "store"]);
    assert!(
        report
            .problems
            .iter()
            .all(|problem| problem.tier == Tier::Far
                && problem.error.kind() == StoreErrorKind::Unavailable)
    );
    assert_eq!(
        report.problems[0].to_string(),
        "the far store could not open k"
    );
    assert!(tiered.drain().await.problems.is_empty());

    // What the failure kept from getting there gets there with the next save.
    let far = MemoryStore::new();
    let tiered = TieredStore::new(near, far.clone());
    assert!(matches!(
        put(&tiered, "k", b"again").await,
        PutOutcome::Exists(_)
    ));
    assert_eq!(tiered.drain().await.stored, [key("k")]);
    let entry = far.get(&key("k")).await.unwrap().unwrap();
    assert_eq!(content(&entry), b"kept");
}

#[tokio::test]
async fn a_near_store_that_is_gone_is_made_up_for_by_the_far_one() {
    let far = MemoryStore::new();
    put(&far, "k", b"there").await;
    let tiered = TieredStore::new(Gone, far);
    let entry = tiered.get(&key("k")).await.unwrap().unwrap();
    assert_eq!(content(&entry), b"there");
    assert!(tiered.head(&key("k")).await.unwrap().is_some());
    let report = tiered.drain().await;
    assert!(
        report
            .problems
            .iter()
            .any(|problem| problem.tier == Tier::Near && problem.action == "keep")
    );
    // When both are gone, that is an error.
    let nothing = TieredStore::new(Gone, Gone);
    let error = nothing.get(&key("k")).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
}

#[tokio::test]
async fn damage_near_is_mended_from_far_and_damage_far_does_not_come_near() {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    many(&work.join("tree"), 20);
    let wanted = describe(&work);
    let near = FilesystemStore::new(dir.path().join("near"));
    let far: Arc<dyn CacheStore> = Arc::new(MemoryStore::new());
    let tiered = TieredStore::shared(Arc::new(near.clone()), Arc::clone(&far));
    let cache = Cache::new(tiered.clone());
    let save = || cache.save(key("k"), ["tree"], SaveOptions::in_folder(&work));
    assert!(matches!(save().await.unwrap(), Saved::Stored(_)));
    assert_eq!(tiered.drain().await.stored.len(), 1);

    // A disk rots near: reported once, then mended from far, which nobody touched.
    let metadata = near.head(&key("k")).await.unwrap().unwrap();
    let path = near.payload_path(&metadata).unwrap();
    let mut payload = fs::read(&path).unwrap();
    let middle = payload.len() / 2;
    payload[middle] ^= 1;
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .write_all(&payload)
        .unwrap();
    let out = dir.path().join("out");
    let restore = |cache: &Cache| {
        let cache = cache.clone();
        let mut options = RestoreOptions::default();
        options.unpack = options.unpack.with_into(&out);
        async move { cache.restore([key("k")], options).await.unwrap() }
    };
    // The length is right and the time is not, so the near store sees the damage by itself.
    assert!(matches!(restore(&cache).await, Restored::Exact(_)));
    assert_eq!(describe(&out), wanted);
    assert!(near.verify(None).await.unwrap().is_empty());

    // A far store that lies is found out before its bytes come near.
    fs::remove_dir_all(&out).unwrap();
    for lie in [Lie::WrongByte(10), Lie::TooShort(1), Lie::TooLong(1)] {
        let near = MemoryStore::new();
        let lying = LyingStore::new(Arc::clone(&far), lie);
        let tiered = TieredStore::new(near.clone(), ReadOnlyStore::new(lying));
        let restored = restore(&Cache::new(tiered.clone())).await;
        assert!(
            matches!(&restored, Restored::Miss(miss) if !miss.rejected.is_empty()),
            "{lie:?}: {restored:?}"
        );
        assert!(near.list("").await.unwrap().is_empty(), "{lie:?}");
        assert!(!out.exists());
    }
}

#[tokio::test]
async fn a_rotten_near_copy_takes_nothing_away_from_others() {
    let (near, far) = (MemoryStore::new(), MemoryStore::new());
    put(&far, "k", b"good").await;
    let lying: Arc<dyn CacheStore> = Arc::new(near.clone());
    let tiered = TieredStore::new(LyingStore::new(lying, Lie::WrongByte(0)), far.clone());
    let entry = tiered.get(&key("k")).await.unwrap().unwrap();
    assert_ne!(content(&entry), b"good");
    tiered
        .quarantine(&entry.metadata, "its digest does not fit")
        .await
        .unwrap();
    assert!(near.head(&key("k")).await.unwrap().is_none());
    assert!(far.head(&key("k")).await.unwrap().is_some());
}

/// What is read through a read-only store, with a writer beside it.
#[derive(Debug)]
struct ReadThrough {
    reader: ReadOnlyStore,
    writer: Arc<dyn CacheStore>,
}

impl ReadThrough {
    fn new() -> Self {
        let writer: Arc<dyn CacheStore> = Arc::new(MemoryStore::new());
        Self {
            reader: ReadOnlyStore::shared(Arc::clone(&writer)),
            writer,
        }
    }
}

#[async_trait]
impl CacheStore for ReadThrough {
    async fn get_opts(
        &self,
        key: &CacheKey,
        options: GetOptions,
    ) -> Result<Option<StoredEntry>, StoreError> {
        self.reader.get_opts(key, options).await
    }

    async fn put_opts(
        &self,
        entry: NewEntry,
        payload: Box<dyn ProducePayload>,
        options: PutOptions,
    ) -> Result<PutOutcome, StoreError> {
        self.writer.put_opts(entry, payload, options).await
    }

    async fn head(&self, key: &CacheKey) -> Result<Option<EntryMetadata>, StoreError> {
        self.reader.head(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<EntryMetadata>, StoreError> {
        self.reader.list(prefix).await
    }

    async fn list_everything(&self) -> Result<Vec<EntryMetadata>, StoreError> {
        self.reader.list_everything().await
    }

    async fn delete(&self, key: &CacheKey) -> Result<DeleteOutcome, StoreError> {
        self.writer.delete(key).await
    }

    async fn delete_entry(&self, entry: &EntryMetadata) -> Result<DeleteOutcome, StoreError> {
        self.writer.delete_entry(entry).await
    }

    async fn quarantine(&self, entry: &EntryMetadata, reason: &str) -> Result<(), StoreError> {
        self.writer.quarantine(entry, reason).await
    }
}

impl fmt::Display for ReadThrough {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reader.fmt(f)
    }
}

store_contract!(read_only, || (ReadThrough::new(), ()));

#[tokio::test]
async fn a_read_only_store_refuses_every_change_and_notes_no_use() {
    let inner = MemoryStore::new();
    let PutOutcome::Stored(stored) = put(&inner, "k", b"there").await else {
        panic!("not stored");
    };
    let store = ReadOnlyStore::new(inner.clone());
    assert_eq!(store.to_string(), "read-only(memory)");
    assert!(matches!(
        put(&store, "k", b"other").await,
        PutOutcome::Exists(_)
    ));
    let replace = PutOptions::default().with_if_exists(IfExists::Replace);
    let entry = |name| NewEntry::new(key(name), SystemTime::now());
    for refused in [
        store.put(entry("new"), bytes(b"x")).await.map(drop),
        store
            .put_opts(entry("k"), bytes(b"x"), replace)
            .await
            .map(drop),
        store.delete(&key("k")).await.map(drop),
        store.quarantine(&stored, "no").await,
    ] {
        assert_eq!(refused.unwrap_err().kind(), StoreErrorKind::Permission);
    }
    assert_eq!(
        store.delete(&key("new")).await.unwrap(),
        DeleteOutcome::Absent
    );
    assert!(store.get(&key("k")).await.unwrap().is_some());
    let after = inner.head(&key("k")).await.unwrap().unwrap();
    assert_eq!(after.last_used, None);
}
