//! Entries that go away while they are being restored.

use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use pipeline_cache::archive::PackOptions;
use pipeline_cache::cache::{Cache, RestoreOptions, Restored, SaveOptions};
use pipeline_cache::key::CacheKey;
use pipeline_cache::store::{
    CacheStore, Codec, DeleteOutcome, EntryMetadata, GetOptions, MemoryStore, NewEntry,
    ProducePayload, PutOptions, PutOutcome, StoreError, StoredEntry,
};

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
    inner: MemoryStore,
    next: Mutex<Option<Event>>,
}

impl Eventful {
    async fn happen(&self, event: Event) -> Result<(), StoreError> {
        let entry = self.inner.head(&key("entry")).await?.unwrap();
        if event == Event::Evicted || event == Event::Replaced {
            // Also while it is read: not every store has leases.
            self.inner.quarantine(&entry, "evicted").await?;
        }
        for part in self.inner.list_everything().await? {
            if part.is_shared_part() {
                self.inner.delete_entry(&part).await?;
            }
        }
        match event {
            Event::TakenBack => {
                let inner = self.inner.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    inner.quarantine(&entry, "taken back").await
                });
            }
            Event::Replaced => save(&Cache::new(self.inner.clone()), "other").await,
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
        self.inner.put_opts(entry, payload, options).await
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

async fn save(cache: &Cache, tree: &str) {
    let work = tempfile::tempdir().unwrap();
    many(&work.path().join("tree"), 20);
    std::fs::write(work.path().join("tree/which"), tree).unwrap();
    let pack = PackOptions::default().with_codec(Codec::Chunked);
    let options = SaveOptions::default().with_pack(pack.with_working_folder(work.path()));
    cache.save(key("entry"), ["tree"], options).await.unwrap();
}

/// Restores while something happens, over a tree that is there already.
async fn restore_during(event: Event) -> (Restored, String) {
    let inner = MemoryStore::new();
    save(&Cache::new(inner.clone()), "one").await;
    let next = Mutex::new(Some(event));
    let cache = Cache::new(Eventful { inner, next });
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
        let (restored, _) = restore_during(event).await;
        let Restored::Miss(miss) = restored else {
            panic!("{event:?}: {restored:?}");
        };
        assert!(miss.rejected.is_empty(), "{event:?}: {miss:?}");
    }
}

#[tokio::test]
async fn an_entry_that_is_replaced_while_it_is_restored_is_restored_as_it_is_now() {
    let (restored, which) = restore_during(Event::Replaced).await;
    assert!(matches!(restored, Restored::Exact(_)), "{restored:?}");
    assert_eq!(which, "other");
}

#[tokio::test]
async fn an_entry_that_a_killed_saver_left_without_a_segment_is_damaged() {
    let (restored, _) = restore_during(Event::LeftBehind).await;
    let Restored::Miss(miss) = restored else {
        panic!("{restored:?}");
    };
    let rejected = &miss.rejected[0];
    assert!(rejected.quarantined, "{rejected:?}");
    assert!(rejected.error.to_string().contains("is gone"));
}
