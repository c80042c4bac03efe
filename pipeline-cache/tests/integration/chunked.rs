//! Chunked entries: what is shared is written once, what is damaged is never handed out.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pipeline_cache::archive::{ExistingFiles, PackOptions};
use pipeline_cache::cache::{
    Cache, CacheError, MatchPolicy, RestoreOptions, Restored, SaveOptions, Saved,
};
use pipeline_cache::chunked::CollectOptions;
use pipeline_cache::key::{CacheKey, RenderedKey};
use pipeline_cache::store::{
    CacheStore, Codec, EvictionPolicy, FilesystemStore, MemoryStore, ReadOnlyStore, TieredStore,
    plan_eviction,
};

use crate::incremental::{everything, pass_a_tick, restore, save};
use crate::noise::noise;
use crate::trees::{curious, describe, many};

fn key(text: &str) -> CacheKey {
    CacheKey::new(text).unwrap()
}

async fn stored(cache: &Cache, name: &str, work: &Path) -> u64 {
    match save(cache, name, work, Codec::Chunked).await {
        Saved::Stored(report) => report.stored_bytes,
        other => panic!("{name}: {other:?}"),
    }
}

#[tokio::test]
async fn everything_survives_in_any_store() {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    curious(&work.join("tree"));
    many(&work.join("tree/many"), 500);
    // Twice the same, so that one chunk feeds several files and several places of one file.
    let large = noise(3_000_000, 9);
    fs::write(work.join("tree/large-1"), &large).unwrap();
    fs::write(work.join("tree/large-2"), [&large[..], &large].concat()).unwrap();
    fs::write(work.join("tree/flat"), vec![0; 5_000_000]).unwrap();
    let wanted = everything(&work);
    let near = FilesystemStore::new(dir.path().join("near"));
    let mut stores: Vec<Arc<dyn CacheStore>> = vec![
        Arc::new(FilesystemStore::new(dir.path().join("store"))),
        Arc::new(MemoryStore::new()),
        Arc::new(TieredStore::new(near, MemoryStore::new())),
    ];
    {
        use pipeline_cache::testing::{Lie, LyingStore};
        let torn = LyingStore::new(Arc::new(MemoryStore::new()), Lie::TornReads);
        stores.push(Arc::new(torn));
    }
    #[cfg(feature = "signed")]
    {
        use pipeline_cache::store::SignedStore;
        let signed = SignedStore::new(MemoryStore::new(), []);
        stores.push(Arc::new(
            signed.with_signing_key(crate::signed::signing('a')),
        ));
    }
    for (number, store) in stores.into_iter().enumerate() {
        let cache = Cache::shared(store);
        stored(&cache, "k", &work).await;
        let out = dir.path().join(format!("out{number}"));
        let done = restore(&cache, "k", &out, ExistingFiles::Reuse).await;
        assert_eq!(done.kept, 0);
        let found = everything(&out);
        for (path, wanted) in &wanted {
            assert_eq!(found.get(path), Some(wanted), "{}", path.display());
        }
        assert_eq!(found.len(), wanted.len());
    }
}

/// Whatever a store hands out, it is a miss or the right tree.
#[tokio::test]
async fn a_lying_store_is_never_believed() {
    use pipeline_cache::testing::{Lie, LyingStore};

    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    many(&work.join("tree"), 60);
    fs::write(work.join("tree/large"), noise(300_000, 9)).unwrap();
    let wanted = everything(&work);
    let store: Arc<dyn CacheStore> = Arc::new(MemoryStore::new());
    stored(&Cache::shared(Arc::clone(&store)), "k", &work).await;
    let mut lies = vec![Lie::TooShort(1), Lie::TooLong(1), Lie::TooLong(100)];
    for at in [0, 7, 40, 1_000, 100_000, 300_000] {
        lies.extend([Lie::WrongByte(at), Lie::FailsAt(at), Lie::TooShort(at + 2)]);
    }
    for (number, lie) in lies.into_iter().enumerate() {
        // Without a way to note damage, so that each lie meets the whole entry.
        let reader = ReadOnlyStore::shared(Arc::clone(&store));
        let lying = Cache::new(LyingStore::new(Arc::new(reader), lie));
        let out = dir.path().join(format!("out{number}"));
        let options = RestoreOptions::in_folder(&out);
        fs::create_dir(&out).unwrap();
        match lying.restore([key("k")], options).await {
            Ok(Restored::Exact(_)) => assert_eq!(everything(&out), wanted, "{lie:?}"),
            Ok(Restored::Miss(_)) | Err(_) => {
                assert!(
                    !out.join("tree").exists(),
                    "{lie:?}: something was restored"
                );
            }
            other => panic!("{lie:?}: {other:?}"),
        }
    }
    let sound = dir.path().join("sound");
    restore(&Cache::shared(store), "k", &sound, ExistingFiles::Reuse).await;
    assert_eq!(everything(&sound), wanted);
}

#[tokio::test]
async fn an_export_is_an_ordinary_archive() {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    curious(&work.join("tree"));
    let cache = Cache::new(FilesystemStore::new(dir.path().join("store")));
    stored(&cache, "k", &work).await;
    let file = dir.path().join("exported.tar.zst");
    // What an export that was killed left is in nobody's way, and goes.
    let left = format!(".pipeline-staging-{}-0", std::process::id());
    let left = dir.path().join(left);
    fs::create_dir(&left).unwrap();
    fs::write(left.join("archive"), b"half").unwrap();
    let before = format!("exported.tar.zst.part-{}", std::process::id());
    fs::write(dir.path().join(before), b"half").unwrap();
    cache.export(&key("k"), &file).await.unwrap().unwrap();
    cache
        .import(key("back"), &file, SystemTime::now())
        .await
        .unwrap();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    restore(&cache, "back", &out, ExistingFiles::Reuse).await;
    assert_eq!(describe(&out), describe(&work));
    assert!(!left.exists());
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(left.len(), 5, "{left:?}");
}

#[tokio::test]
async fn only_what_is_new_is_read_and_written() {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use pipeline_cache::archive::StatCache;
    use pipeline_cache::testing::LyingStore;

    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    many(&work.join("tree"), 400);
    let large = noise(6_000_000, 3);
    fs::write(work.join("tree/large"), &large).unwrap();
    pass_a_tick();
    // Only reading content takes opening segments.
    let segments = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&segments);
    let store = LyingStore::changing(Arc::new(MemoryStore::new()), move |entry| {
        counted.fetch_add(
            usize::from(entry.metadata.is_shared_part()),
            Ordering::Relaxed,
        );
        entry
    });
    let opened = || segments.swap(0, Ordering::Relaxed);
    let state = StatCache::in_folder(dir.path().join("state"));
    let cache = Cache::new(store.clone()).with_stat_cache(state);
    let all = stored(&cache, "k1", &work).await;
    opened();

    let unchanged = stored(&cache, "k2", &work).await;
    assert_eq!(opened(), 0, "an unchanged tree was read");
    assert!(unchanged < all / 50, "{unchanged} of {all}");

    fs::write(work.join("tree/d1/f1"), noise(5_000, 77)).unwrap();
    let mut edited = large.clone();
    edited.splice(1_000_000..1_000_000, *b"inserted");
    fs::write(work.join("tree/large"), &edited).unwrap();
    pass_a_tick();
    let changed = stored(&cache, "k3", &work).await;
    assert!(opened() > 0);
    assert!(changed < all / 10, "{changed} of {all}");

    // Another machine, which remembers nothing, saves the same under another key.
    let copy = dir.path().join("copy");
    let elsewhere = Cache::new(store.clone());
    restore(&elsewhere, "k3", &copy, ExistingFiles::Reuse).await;
    let again = stored(&elsewhere, "k4", &copy).await;
    assert!(again < all / 50, "{again} of {all}");

    // After a restore nothing need be read either, not even where nothing had been before.
    let third = dir.path().join("third");
    restore(&cache, "k1", &third, ExistingFiles::Reuse).await;
    opened();
    stored(&cache, "k5", &third).await;
    assert_eq!(opened(), 0, "a restored tree was read");

    for (name, first) in [("k1", "k5"), ("k3", "k4")] {
        let (one, two) = (dir.path().join(name), dir.path().join(first));
        restore(&cache, name, &one, ExistingFiles::Reuse).await;
        restore(&cache, first, &two, ExistingFiles::Reuse).await;
        assert_eq!(everything(&one), everything(&two));
    }
    assert_eq!(fs::read(dir.path().join("k1/tree/large")).unwrap(), large);
    assert_eq!(fs::read(dir.path().join("k3/tree/large")).unwrap(), edited);
}

#[tokio::test]
async fn chunks_are_no_entries_to_whoever_looks() {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    many(&work.join("tree"), 20);
    let cache = Cache::new(MemoryStore::new());
    stored(&cache, "deps-1", &work).await;
    let keys: Vec<RenderedKey> = vec![key("pipeline").into()];
    assert!(
        cache
            .explain(&keys, MatchPolicy::default())
            .await
            .unwrap()
            .is_err()
    );
    let options = RestoreOptions::in_folder(&work);
    match cache.restore([key("p")], options).await.unwrap() {
        Restored::Miss(miss) => assert!(miss.rejected.is_empty()),
        other => panic!("{other:?}"),
    }
    let entries = cache.store().list("").await.unwrap();
    assert_eq!(entries.len(), 2);
    let policy = EvictionPolicy::default().with_max_total_bytes(0);
    let plan = plan_eviction(entries, &policy, SystemTime::now());
    let evicted: Vec<&str> = plan.remove.iter().map(|(e, _)| e.key.as_str()).collect();
    assert_eq!(evicted, ["deps-1"]);
}

#[tokio::test]
async fn no_damage_is_ever_restored_and_saving_heals() {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    many(&work.join("tree"), 60);
    let store = FilesystemStore::new(dir.path().join("store"));
    let cache = Cache::new(store.clone()).without_stat_cache();
    stored(&cache, "k", &work).await;
    let wanted = everything(&work);
    let out = dir.path().join("out");
    let payloads: Vec<PathBuf> = store
        .list("")
        .await
        .unwrap()
        .iter()
        .map(|entry| store.payload_path(entry).unwrap())
        .collect();
    assert_eq!(payloads.len(), 2);
    let whole = dir.path().join("whole");
    copy_folder(&dir.path().join("store/entries"), &whole);
    let (mut missed, mut flips) = (0, 0);
    for payload in payloads {
        let length = fs::metadata(&payload).unwrap().len() as usize;
        for step in 0..80 {
            let mut bytes = fs::read(whole.join(payload.file_name().unwrap())).unwrap();
            match step % 8 {
                7 => bytes.truncate(length * step / 80),
                _ => bytes[(length - 1) * step / 79] ^= 1 << (step % 8),
            }
            fs::write(&payload, bytes).unwrap();
            flips += 1;
            let unpack = pipeline_cache::archive::UnpackOptions::default()
                .with_into(&out)
                .with_existing(ExistingFiles::Replace);
            let options = RestoreOptions::default().with_unpack(unpack);
            match cache.restore([key("k")], options).await.unwrap() {
                Restored::Exact(_) => assert_eq!(everything(&out), wanted),
                Restored::Miss(miss) => {
                    assert_eq!(miss.rejected.len(), 1);
                    missed += 1;
                }
                other => panic!("{other:?}"),
            }
            if step % 20 == 0 {
                // The key is free again, and what is saved under it is whole.
                stored(&cache, "k", &work).await;
                restore(&cache, "k", &out, ExistingFiles::Replace).await;
                assert_eq!(everything(&out), wanted);
            }
            fs::remove_dir_all(dir.path().join("store/entries")).unwrap();
            copy_folder(&whole, &dir.path().join("store/entries"));
        }
    }
    // A few bits of a compressed frame decide nothing.
    assert!(missed > flips * 9 / 10, "{missed} of {flips}");
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let place = to.join(entry.file_name());
        fs::copy(entry.path(), &place).unwrap();
        let modified = entry.metadata().unwrap().modified().unwrap();
        let times = fs::FileTimes::new().set_modified(modified);
        fs::File::open(place).unwrap().set_times(times).unwrap();
    }
}

#[tokio::test]
async fn a_collection_takes_what_nobody_needs_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    let cache = Cache::new(FilesystemStore::new(dir.path().join("store")));
    for version in 1..=3_u64 {
        many(&work.join("tree"), 40);
        fs::write(work.join("tree/version"), noise(50_000, version * 2)).unwrap();
        pass_a_tick();
        stored(&cache, &format!("k{version}"), &work).await;
    }
    let now = CollectOptions::default().with_min_age(Duration::ZERO);
    let nothing = cache.collect_chunks(now.clone()).await.unwrap();
    assert_eq!((nothing.removed, nothing.kept), (0, 3));
    cache.store().delete(&key("k2")).await.unwrap();
    let young = cache
        .collect_chunks(CollectOptions::default())
        .await
        .unwrap();
    assert_eq!(young.removed, 0);
    let done = cache.collect_chunks(now.clone()).await.unwrap();
    assert_eq!((done.removed, done.kept), (1, 2));
    assert!(done.removed_bytes > 50_000 && done.kept_bytes > 50_000);
    for name in ["k1", "k3"] {
        let out = dir.path().join(name);
        restore(&cache, name, &out, ExistingFiles::Reuse).await;
    }
    assert_eq!(everything(&dir.path().join("k3")), everything(&work));

    // The memory of this machine names chunks that are gone: they are read and written again.
    cache.store().delete(&key("k1")).await.unwrap();
    cache.store().delete(&key("k3")).await.unwrap();
    let done = cache.collect_chunks(now).await.unwrap();
    assert_eq!((done.removed, done.kept), (2, 0));
    assert!(cache.store().list("").await.unwrap().is_empty());
    assert!(stored(&cache, "k4", &work).await > 50_000);
    let out = dir.path().join("k4");
    restore(&cache, "k4", &out, ExistingFiles::Reuse).await;
    assert_eq!(everything(&out), everything(&work));
}

#[tokio::test]
async fn an_eviction_by_size_takes_no_more_than_it_must() {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    let cache = Cache::new(FilesystemStore::new(dir.path().join("store")));
    for (name, seed) in [("older", 1), ("newer", 2)] {
        fs::create_dir_all(work.join("tree")).unwrap();
        fs::write(work.join("tree/large"), noise(2_000_000, seed)).unwrap();
        pass_a_tick();
        stored(&cache, name, &work).await;
    }
    let wanted = everything(&work);
    let bound = 3_000_000;
    let policy = EvictionPolicy::default().with_max_total_bytes(bound);
    let keep = CollectOptions::default();
    let plan = cache
        .plan_eviction(&policy, SystemTime::now())
        .await
        .unwrap();
    assert!(plan.kept_bytes > 2_000_000 && plan.kept_bytes <= bound);
    let done = cache.evict(&plan, keep).await.unwrap();
    let evicted: Vec<&str> = done.evicted.iter().map(|(e, _)| e.key.as_str()).collect();
    assert_eq!(evicted, ["older"]);
    assert!(done.leased.is_empty());
    // Its chunks went with it, new as they are.
    let left = cache.store().list("").await.unwrap();
    assert!(left.iter().any(|entry| entry.key == key("newer")));
    let out = dir.path().join("out");
    restore(&cache, "newer", &out, ExistingFiles::Reuse).await;
    assert_eq!(everything(&out), wanted);
    let bytes: u64 = left.iter().map(|entry| entry.packed_size).sum();
    assert_eq!(bytes, plan.kept_bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn savers_and_collectors_do_not_disturb_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let store = FilesystemStore::new(dir.path().join("store"));
    let workers: Vec<_> = (0..4_u64)
        .map(|worker| {
            let cache = Cache::new(store.clone());
            let top = dir.path().join(format!("worker{worker}"));
            tokio::spawn(async move {
                let now = CollectOptions::default().with_min_age(Duration::ZERO);
                let mut lost = 0;
                for round in 0..25_u64 {
                    if worker == 3 {
                        cache.collect_chunks(now.clone()).await.unwrap();
                        continue;
                    }
                    // Three contents that all savers share, so that they live on each other's.
                    let work = top.join(format!("work{}", round % 3));
                    for file in 0..6 {
                        let place = work.join(format!("tree/f{file}"));
                        if !place.exists() {
                            fs::create_dir_all(work.join("tree")).unwrap();
                            fs::write(place, noise(30_000, round % 3 * 10 + file + 1)).unwrap();
                        }
                    }
                    let name = format!("w{worker}-{}", round % 2);
                    let options = SaveOptions::default().with_pack(
                        PackOptions::default()
                            .with_codec(Codec::Chunked)
                            .with_working_folder(&work),
                    );
                    match cache.save(key(&name), ["tree"], options).await {
                        Ok(_) => {}
                        Err(CacheError::Collected) => {
                            lost += 1;
                            continue;
                        }
                        Err(error) => panic!("{error:?}"),
                    }
                    // Nobody else removes this key: what was saved is there, whoever collects.
                    let out = top.join("out");
                    restore(&cache, &name, &out, ExistingFiles::Reuse).await;
                    let found = describe(&out);
                    let is_one_of = (0..3).any(|version| {
                        let work = top.join(format!("work{version}"));
                        work.exists() && describe(&work) == found
                    });
                    assert!(is_one_of, "{name}: a tree nobody saved");
                    cache.store().delete(&key(&name)).await.unwrap();
                }
                lost
            })
        })
        .collect();
    for worker in workers {
        assert!(worker.await.unwrap() < 20);
    }
    assert!(store.verify(None).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_savers_of_one_key_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let store = FilesystemStore::new(dir.path().join("store"));
    for round in 0..5 {
        let savers: Vec<_> = (0..4_u64)
            .map(|saver| {
                let cache = Cache::new(store.clone());
                let work = dir.path().join(format!("saver{saver}"));
                tokio::spawn(async move {
                    fs::create_dir_all(work.join("tree")).unwrap();
                    fs::write(work.join("tree/file"), noise(90_000, saver + 1)).unwrap();
                    let name = format!("k{round}");
                    match save(&cache, &name, &work, Codec::Chunked).await {
                        Saved::Stored(_) => Some(work),
                        _ => None,
                    }
                })
            })
            .collect();
        let mut winners = Vec::new();
        for saver in savers {
            winners.extend(saver.await.unwrap());
        }
        assert_eq!(winners.len(), 1);
        let out = dir.path().join("out");
        let cache = Cache::new(store.clone());
        restore(&cache, &format!("k{round}"), &out, ExistingFiles::Reuse).await;
        assert_eq!(everything(&out), everything(&winners[0]));
    }
}

#[tokio::test]
async fn a_clock_that_jumps_costs_nothing_but_time() {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    many(&work.join("tree"), 20);
    let cache = Cache::new(FilesystemStore::new(dir.path().join("store")));
    for (name, seconds) in [("1970", 0), ("2100", 4_102_444_800)] {
        fs::write(work.join("tree/name"), name.repeat(9_000)).unwrap();
        let pack = PackOptions::default()
            .with_codec(Codec::Chunked)
            .with_working_folder(&work);
        let created = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let options = SaveOptions::default().with_pack(pack).with_created(created);
        cache.save(key(name), ["tree"], options).await.unwrap();
    }
    let wanted = everything(&work);
    let done = cache
        .collect_chunks(CollectOptions::default())
        .await
        .unwrap();
    assert_eq!((done.removed, done.kept), (0, 2));
    let out = dir.path().join("out");
    restore(&cache, "2100", &out, ExistingFiles::Reuse).await;
    assert_eq!(everything(&out), wanted);
    // What seems to come from the future is new; what seems old goes if nobody needs it.
    for name in ["1970", "2100"] {
        cache.store().delete(&key(name)).await.unwrap();
    }
    let done = cache
        .collect_chunks(CollectOptions::default())
        .await
        .unwrap();
    assert_eq!((done.removed, done.kept), (1, 1));
}
