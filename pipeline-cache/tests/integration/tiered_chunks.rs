//! Chunked entries through a near store of each host and a far one that all share: what is in the
//! far store can be restored by everybody.

use std::fs;
use std::path::Path;
use std::time::Duration;

use pipeline_cache::archive::{ExistingFiles, StatCache};
use pipeline_cache::cache::{Cache, Saved};
use pipeline_cache::chunked::CollectOptions;
use pipeline_cache::store::{
    CacheStore, Codec, EvictionPlan, EvictionReason, FilesystemStore, MemoryStore, TieredStore,
};

use crate::incremental::{everything, pass_a_tick, restore, save};
use crate::noise::noise;
use crate::trees::many;
use crate::wrappers::{Gone, key, put};

/// A host: its near store, and what it remembers of its trees.
struct Host {
    tiered: TieredStore,
    cache: Cache,
}

fn host(near: &Path, far: impl CacheStore + 'static) -> Host {
    let tiered = TieredStore::new(FilesystemStore::new(near.join("near")), far);
    let cache =
        Cache::new(tiered.clone()).with_stat_cache(StatCache::in_folder(near.join("state")));
    Host { tiered, cache }
}

fn tree(work: &Path) {
    many(&work.join("tree"), 40);
    fs::write(work.join("tree/large"), noise(400_000, 3)).unwrap();
    pass_a_tick();
}

async fn is_restored_elsewhere(far: &MemoryStore, name: &str, work: &Path, out: &Path) {
    let elsewhere = Cache::new(far.clone());
    restore(&elsewhere, name, out, ExistingFiles::Replace).await;
    assert_eq!(everything(out), everything(work));
}

fn at_once() -> CollectOptions {
    CollectOptions::default().with_min_age(Duration::ZERO)
}

#[tokio::test]
async fn chunks_that_never_got_there_go_with_the_next_entry_that_needs_them() {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    tree(&work);
    let cut_off = host(dir.path(), Gone);
    save(&cut_off.cache, "k1", &work, Codec::Chunked).await;
    let problems = cut_off.tiered.drain().await.problems;
    assert!(!problems.is_empty());

    let far = MemoryStore::new();
    let back = host(dir.path(), far.clone());
    save(&back.cache, "k2", &work, Codec::Chunked).await;
    let problems = back.tiered.drain().await.problems;
    assert!(problems.is_empty(), "{problems:?}");
    is_restored_elsewhere(&far, "k2", &work, &dir.path().join("out2")).await;

    // The entry of that time goes when it is saved again, which stores nothing new.
    let saved = save(&back.cache, "k1", &work, Codec::Chunked).await;
    assert!(matches!(saved, Saved::Exists(_)), "{saved:?}");
    back.tiered.drain().await;
    is_restored_elsewhere(&far, "k1", &work, &dir.path().join("out1")).await;
}

#[tokio::test]
async fn chunks_that_were_collected_far_come_back_from_a_host_that_has_them() {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    tree(&work);
    let far = MemoryStore::new();
    let host = host(dir.path(), far.clone());
    save(&host.cache, "k1", &work, Codec::Chunked).await;
    host.tiered.drain().await;

    let collector = Cache::new(far.clone());
    far.delete(&key("k1")).await.unwrap();
    assert_eq!(
        collector.collect_chunks(at_once()).await.unwrap().removed,
        1
    );
    assert!(far.list("").await.unwrap().is_empty());

    for name in ["k2", "k1"] {
        save(&host.cache, name, &work, Codec::Chunked).await;
        let problems = host.tiered.drain().await.problems;
        assert!(problems.is_empty(), "{problems:?}");
        is_restored_elsewhere(&far, name, &work, &dir.path().join(name)).await;
    }
}

#[tokio::test]
async fn an_entry_whose_chunks_are_nowhere_goes_nowhere_and_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    tree(&work);
    let near = FilesystemStore::new(dir.path().join("near"));
    save(&host(dir.path(), Gone).cache, "k", &work, Codec::Chunked).await;
    for entry in near.list("pipeline-cache/chunks/").await.unwrap() {
        near.delete(&entry.key).await.unwrap();
    }
    let far = MemoryStore::new();
    let host = host(dir.path(), far.clone());
    save(&host.cache, "k", &work, Codec::Chunked).await;
    let report = host.tiered.drain().await;
    assert_eq!(report.problems.len(), 1, "{report:?}");
    assert!(far.list("").await.unwrap().is_empty());

    let saved = save(&host.cache, "k", &work, Codec::Chunked).await;
    assert!(matches!(saved, Saved::Stored(_)), "{saved:?}");
    host.tiered.drain().await;
    is_restored_elsewhere(&far, "k", &work, &dir.path().join("out")).await;
}

#[tokio::test]
async fn who_does_not_see_everything_removes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    tree(&work);
    let host = host(dir.path(), Gone);
    save(&host.cache, "k", &work, Codec::Chunked).await;
    let store = host.cache.store();
    let entries = store.list("k").await.unwrap();
    store.quarantine(&entries[0], "not needed here").await.ok();
    let error = host.cache.collect_chunks(at_once()).await.unwrap_err();
    assert!(error.to_string().contains("unavailable"), "{error}");
    let near = FilesystemStore::new(dir.path().join("near"));
    let segments = near.list("pipeline-cache/chunks/").await.unwrap();
    assert_eq!(segments.len(), 1);
}

#[tokio::test]
async fn a_note_about_shared_chunks_is_seen_by_everybody_at_once() {
    let far = MemoryStore::new();
    let tiered = TieredStore::new(MemoryStore::new(), far.clone());
    let name = "pipeline-cache/chunks/condemned/00";
    put(&tiered, name, b"").await;
    assert!(far.head(&key(name)).await.unwrap().is_some());
    assert!(tiered.head(&key(name)).await.unwrap().is_some());
}

#[tokio::test]
async fn an_eviction_takes_the_entries_that_were_planned_and_no_later_ones() {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    tree(&work);
    let store = FilesystemStore::new(dir.path().join("store"));
    let cache = Cache::new(store.clone());
    save(&cache, "k", &work, Codec::Chunked).await;
    let planned = store.head(&key("k")).await.unwrap().unwrap();
    store.delete(&key("k")).await.unwrap();
    fs::write(work.join("tree/large"), noise(400_000, 4)).unwrap();
    save(&cache, "k", &work, Codec::Chunked).await;
    let mut plan = EvictionPlan::default();
    plan.remove.push((planned, EvictionReason::Age));
    let report = cache.evict(&plan, at_once()).await.unwrap();
    assert!(report.evicted.is_empty(), "{report:?}");
    let out = dir.path().join("out");
    restore(&cache, "k", &out, ExistingFiles::Replace).await;
    assert_eq!(everything(&out), everything(&work));
}

/// Damage and distrust are answers: neither stops a collection, and neither keeps chunks.
#[cfg(feature = "signed")]
#[tokio::test]
async fn a_bad_entry_does_not_stop_a_collection() {
    use std::time::SystemTime;

    use pipeline_cache::store::{EvictionPolicy, GetOptions, SignedStore, StoreErrorKind};

    use crate::signed::signing;

    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    tree(&work);
    let below = MemoryStore::new();
    let signed_by = |letter| SignedStore::new(below.clone(), []).with_signing_key(signing(letter));
    save(&Cache::new(signed_by('a')), "theirs", &work, Codec::Chunked).await;
    fs::write(work.join("tree/large"), noise(400_000, 4)).unwrap();
    let cache = Cache::new(signed_by('b'));
    save(&cache, "ours", &work, Codec::Chunked).await;
    assert_eq!(
        cache.store().list("").await.unwrap().len(),
        4,
        "two entries, a segment each"
    );
    let theirs = key("theirs");
    let opened = cache.store().get_opts(&theirs, GetOptions::default()).await;
    assert_eq!(opened.unwrap_err().kind(), StoreErrorKind::Untrusted);
    cache
        .plan_eviction(&EvictionPolicy::default(), SystemTime::now())
        .await
        .unwrap();
    let report = cache.collect_chunks(at_once()).await.unwrap();
    assert_eq!((report.removed, report.kept), (1, 1));
    let out = dir.path().join("out");
    restore(&cache, "ours", &out, ExistingFiles::Replace).await;
    assert_eq!(everything(&out), everything(&work));
}
