//! Entries that go away while they are being restored.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use pipeline_cache::archive::PackOptions;
use pipeline_cache::cache::{Cache, RestoreOptions, Restored, SaveOptions, Saved};
use pipeline_cache::key::CacheKey;
use pipeline_cache::store::{
    CacheStore, Codec, DeleteOutcome, EntryMetadata, FilesystemStore, GetOptions, MemoryStore,
    NewEntry, ProducePayload, PutOptions, PutOutcome, StoreError, StoredEntry,
};

use tempfile::TempDir;

use crate::trees::{describe, many};
use crate::wrappers::key;

/// What becomes of an entry at the moment when its first segment is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Event {
    /// It is evicted, and its segments are collected.
    Evicted,
    /// Its segment is collected; its saver finds out a little later and takes it back.
    TakenBack,
    /// Its segment is collected, and its saver has been killed.
    LeftBehind,
    /// It is replaced by another one.
    Replaced,
}

/// A store in which that happens.
#[derive(Debug)]
struct Eventful {
    inner: Arc<dyn CacheStore>,
    next: Mutex<Option<Event>>,
    /// So many entries lose their segments as soon as they are stored.
    unlucky: AtomicUsize,
}

impl Eventful {
    fn over(inner: Arc<dyn CacheStore>) -> Self {
        Self {
            inner,
            next: Mutex::default(),
            unlucky: AtomicUsize::new(0),
        }
    }

    /// Also while somebody reads them: not every store has leases.
    async fn lose_segments(&self) -> Result<(), StoreError> {
        for part in self.inner.list_everything().await? {
            if part.is_shared_part() {
                self.inner.quarantine(&part, "collected").await?;
                self.inner.delete_entry(&part).await?;
            }
        }
        Ok(())
    }

    async fn happen(&self, event: Event) -> Result<(), StoreError> {
        let entry = self.inner.head(&key("entry")).await?.unwrap();
        if event == Event::Evicted || event == Event::Replaced {
            self.inner.quarantine(&entry, "evicted").await?;
        }
        self.lose_segments().await?;
        match event {
            Event::TakenBack => {
                let inner = Arc::clone(&self.inner);
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    inner.quarantine(&entry, "taken back").await
                });
            }
            Event::Replaced => {
                save(&Cache::shared(Arc::clone(&self.inner)), "other").await;
            }
            Event::Evicted | Event::LeftBehind => {}
        }
        Ok(())
    }
}

#[async_trait]
impl CacheStore for Eventful {
    async fn get_opts(
        &self,
        key: &CacheKey,
        options: GetOptions,
    ) -> Result<Option<StoredEntry>, StoreError> {
        let event = match key.as_str() {
            "entry" => None,
            _ => self.next.lock().unwrap().take(),
        };
        if let Some(event) = event {
            self.happen(event).await?;
        }
        self.inner.get_opts(key, options).await
    }

    async fn put_opts(
        &self,
        entry: NewEntry,
        payload: Box<dyn ProducePayload>,
        options: PutOptions,
    ) -> Result<PutOutcome, StoreError> {
        let is_entry = entry.key.key().as_str() == "entry";
        let stored = self.inner.put_opts(entry, payload, options).await?;
        let left = self.unlucky.load(Ordering::Relaxed);
        if is_entry && left > 0 {
            self.unlucky.store(left - 1, Ordering::Relaxed);
            self.lose_segments().await?;
        }
        Ok(stored)
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
        self.inner.delete(key).await
    }

    async fn delete_entry(&self, entry: &EntryMetadata) -> Result<DeleteOutcome, StoreError> {
        self.inner.delete_entry(entry).await
    }

    async fn quarantine(&self, entry: &EntryMetadata, reason: &str) -> Result<(), StoreError> {
        self.inner.quarantine(entry, reason).await
    }
}

impl fmt::Display for Eventful {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "eventful({})", self.inner)
    }
}

async fn save(cache: &Cache, tree: &str) -> Saved {
    let work = tempfile::tempdir().unwrap();
    many(&work.path().join("tree"), 20);
    std::fs::write(work.path().join("tree/which"), tree).unwrap();
    let pack = PackOptions::default().with_codec(Codec::Chunked);
    let options = SaveOptions::default().with_pack(pack.with_working_folder(work.path()));
    cache.save(key("entry"), ["tree"], options).await.unwrap()
}

/// A store of each kind; quarantined entries of a folder can still be read.
fn stores() -> Vec<(Arc<dyn CacheStore>, Option<TempDir>)> {
    let dir = tempfile::tempdir().unwrap();
    let folder = FilesystemStore::new(dir.path().join("store"));
    vec![
        (Arc::new(MemoryStore::new()), None),
        (Arc::new(folder), Some(dir)),
    ]
}

/// Restores while something happens, over a tree that is there already.
async fn restore_during(event: Event, inner: Arc<dyn CacheStore>) -> (Restored, String) {
    save(&Cache::shared(Arc::clone(&inner)), "one").await;
    let store = Eventful::over(inner);
    *store.next.lock().unwrap() = Some(event);
    let cache = Cache::new(store);
    let out = tempfile::tempdir().unwrap();
    std::fs::create_dir(out.path().join("tree")).unwrap();
    std::fs::write(out.path().join("tree/which"), "before").unwrap();
    let before = describe(out.path());
    let options = RestoreOptions::in_folder(out.path());
    let restored = cache.restore([key("entry")], options).await.unwrap();
    if let Restored::Miss(_) = restored {
        assert_eq!(describe(out.path()), before);
    }
    let which = std::fs::read_to_string(out.path().join("tree/which")).unwrap();
    (restored, which)
}

#[tokio::test]
async fn an_entry_that_goes_while_it_is_restored_is_a_miss() {
    for event in [Event::Evicted, Event::TakenBack] {
        for (store, _dir) in stores() {
            let name = format!("{event:?} {store}");
            let (restored, _) = restore_during(event, store).await;
            let Restored::Miss(miss) = restored else {
                panic!("{name}: {restored:?}");
            };
            assert!(miss.rejected.is_empty(), "{name}: {miss:?}");
        }
    }
}

#[tokio::test]
async fn an_entry_that_is_replaced_while_it_is_restored_is_restored_as_it_is_now() {
    for (store, _dir) in stores() {
        let (restored, which) = restore_during(Event::Replaced, store).await;
        assert!(matches!(restored, Restored::Exact(_)), "{restored:?}");
        assert_eq!(which, "other");
    }
}

#[tokio::test]
async fn an_entry_that_a_killed_saver_left_without_a_segment_is_damaged() {
    for (store, _dir) in stores() {
        let (restored, _) = restore_during(Event::LeftBehind, store).await;
        let Restored::Miss(miss) = restored else {
            panic!("{restored:?}");
        };
        let rejected = &miss.rejected[0];
        assert!(rejected.quarantined, "{rejected:?}");
        assert!(rejected.error.to_string().contains("is gone"));
    }
}

/// The last try shares nothing and can only lose what it wrote itself.
#[tokio::test]
async fn a_save_that_loses_its_segments_again_and_again_succeeds_in_the_end() {
    for (inner, _dir) in stores() {
        let store = Eventful::over(Arc::clone(&inner));
        store.unlucky.store(3, Ordering::Relaxed);
        let saved = save(&Cache::new(store), "one").await;
        assert!(matches!(saved, Saved::Stored(_)), "{saved:?}");
        let out = tempfile::tempdir().unwrap();
        let options = RestoreOptions::in_folder(out.path());
        let cache = Cache::shared(inner);
        let restored = cache.restore([key("entry")], options).await.unwrap();
        assert!(matches!(restored, Restored::Exact(_)), "{restored:?}");
    }
}
