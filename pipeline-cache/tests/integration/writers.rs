//! Several writers and readers at once.

use std::fs;
use std::sync::Arc;
use std::time::SystemTime;

use pipeline_cache::cache::{Cache, RestoreOptions, Restored, SaveOptions, Saved};
use pipeline_cache::key::CacheKey;
use pipeline_cache::store::{
    CacheStore, CacheStoreExt as _, Codec, EntryFacts, FilesystemStore, MemoryStore, NewEntry,
    PutOutcome, produce_with,
};

fn key(text: &str) -> CacheKey {
    CacheKey::new(text).unwrap()
}

async fn put(store: Arc<dyn CacheStore>, name: &str, content: String) -> PutOutcome {
    let payload = produce_with(move |out| {
        for byte in content.bytes() {
            out.write_all(&[byte])?;
        }
        Ok(EntryFacts::opaque(Codec::None))
    });
    store
        .put(NewEntry::new(key(name), SystemTime::now()), payload)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_eight_writers_of_one_key_one_wins_and_readers_see_one_content() {
    let dir = tempfile::tempdir().unwrap();
    let stores: [Arc<dyn CacheStore>; 2] = [
        Arc::new(FilesystemStore::new(dir.path())),
        Arc::new(MemoryStore::new()),
    ];
    for store in stores {
        for round in 0..10 {
            let name = format!("round-{round}");
            let writers: Vec<_> = (0..8)
                .map(|writer| {
                    let (store, name) = (Arc::clone(&store), name.clone());
                    tokio::spawn(async move { put(store, &name, format!("writer {writer}")).await })
                })
                .collect();
            let mut stored = Vec::new();
            let mut seen = Vec::new();
            for writer in writers {
                match writer.await.unwrap() {
                    PutOutcome::Stored(metadata) => stored.push(metadata.digest),
                    PutOutcome::Exists(metadata) => seen.push(metadata.digest),
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(stored.len(), 1, "{store}");
            assert!(seen.iter().all(|digest| *digest == stored[0]), "{store}");
        }
    }
    // Of every key one payload and one description, and nothing half-done.
    let left = fs::read_dir(dir.path().join("entries")).unwrap().count();
    assert_eq!(left, 20);
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn savers_restorers_and_evictors_do_not_disturb_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    crate::trees::many(&work.join("tree"), 200);
    let wanted = crate::trees::describe(&work);
    let store = FilesystemStore::new(dir.path().join("store"));
    let cache = Cache::new(store.clone());
    let workers: Vec<_> = (0..6)
        .map(|worker| {
            let (cache, store) = (cache.clone(), store.clone());
            let (work, top) = (work.clone(), dir.path().to_path_buf());
            tokio::spawn(async move {
                for round in 0..12 {
                    let name = key(&format!("k{}", round % 2));
                    match worker % 3 {
                        0 => {
                            let options = SaveOptions::in_folder(&work);
                            let saved = cache.save(name, ["tree"], options).await.unwrap();
                            assert!(matches!(saved, Saved::Stored(_) | Saved::Exists(_)));
                        }
                        1 => {
                            let out = top.join(format!("out-{worker}"));
                            let mut options = RestoreOptions::default();
                            options.unpack = options.unpack.with_into(&out);
                            match cache.restore([name], options).await.unwrap() {
                                Restored::Exact(_) => {}
                                Restored::Miss(miss) => assert!(miss.rejected.is_empty()),
                                other => panic!("{other:?}"),
                            }
                        }
                        _ => {
                            store.delete(&name).await.unwrap();
                        }
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    assert!(store.verify(None).await.unwrap().is_empty());
    for worker in [1, 4] {
        let out = dir.path().join(format!("out-{worker}"));
        if out.exists() {
            assert_eq!(crate::trees::describe(&out), wanted);
        }
    }
    store.sweep().await.unwrap();
    assert_eq!(
        fs::read_dir(dir.path().join("store/tmp")).unwrap().count(),
        0
    );
    let entries = store.list("").await.unwrap().len();
    let files = fs::read_dir(dir.path().join("store/entries"))
        .unwrap()
        .count();
    assert_eq!(files, 2 * entries);
}

#[tokio::test]
async fn a_dropped_save_stores_nothing_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = FilesystemStore::new(dir.path());
    let (started, mut wait) = tokio::sync::mpsc::channel(1);
    let payload = produce_with(move |out| {
        started.blocking_send(())?;
        // Until writing fails because nobody waits any more.
        loop {
            out.write_all(b"x")?;
        }
    });
    let entry = NewEntry::new(key("k"), SystemTime::now());
    tokio::select! {
        _ = store.put(entry, payload) => panic!("it cannot end by itself"),
        started = wait.recv() => assert!(started.is_some()),
    }
    // The blocking thread ends at its next write; its file goes with it.
    while fs::read_dir(dir.path().join("tmp")).unwrap().count() > 0 {
        tokio::task::yield_now().await;
    }
    assert!(store.list("").await.unwrap().is_empty());
    assert_eq!(fs::read_dir(dir.path().join("entries")).unwrap().count(), 0);
}
