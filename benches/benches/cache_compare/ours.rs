//! Our side, as a process of its own, and the floor it is compared with.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use pipeline_cache::archive::{PackOptions, StatCache, UnpackOptions};
use pipeline_cache::cache::{Cache, RestoreOptions, Restored, SaveOptions, Saved};
use pipeline_cache::key::CacheKey;
use pipeline_cache::store::{Codec, Durability, FilesystemStore};

/// `save|restore KIND SOURCE WORKERS KEY`, in the contender's folder.
pub(crate) fn child(arguments: &[String]) {
    let [verb, kind, source, workers, key] = arguments else {
        panic!("five arguments")
    };
    let source = PathBuf::from(source);
    let workers: usize = workers.parse().unwrap();
    if verb == "walk" {
        return walk(&source, workers);
    }
    let durability = if kind == "ours-synced" {
        Durability::Synced
    } else {
        Durability::Unsynced
    };
    let store = FilesystemStore::new("stored").with_durability(durability);
    // Beside the store, where the caches of others are: it is of this machine only.
    let cache = Cache::new(store).with_stat_cache(StatCache::in_folder("cache"));
    let key = CacheKey::new(key.as_str()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        match verb.as_str() {
            "save" => save(&cache, key, &source, kind, workers).await,
            _ => restore(&cache, key, workers).await,
        }
    });
}

async fn save(cache: &Cache, key: CacheKey, source: &Path, kind: &str, workers: usize) {
    let mut pack = PackOptions::default().with_working_folder(source.parent().unwrap());
    pack = match kind {
        "ours-gzip" => pack.with_codec(Codec::Gzip),
        "ours-chunked" => pack.with_codec(Codec::Chunked),
        _ => pack,
    };
    if workers > 0 {
        pack = pack.with_workers(workers);
    }
    let name = source.file_name().unwrap().to_str().unwrap();
    let options = SaveOptions::default().with_pack(pack);
    let saved = cache.save(key, [name], options).await.unwrap();
    assert!(matches!(saved, Saved::Stored(_)), "{saved:?}");
}

async fn restore(cache: &Cache, key: CacheKey, workers: usize) {
    let mut unpack = UnpackOptions::default().with_working_folder("out");
    if workers > 0 {
        unpack = unpack.with_workers(workers);
    }
    let options = RestoreOptions::default().with_unpack(unpack);
    let restored = cache.restore([key], options).await.unwrap();
    assert!(!matches!(restored, Restored::Miss(_)), "{restored:?}");
}

/// Looks at everything below a folder, on several threads.
fn walk(top: &Path, threads: usize) {
    let waiting = Mutex::new(vec![top.to_path_buf()]);
    let left = AtomicUsize::new(1);
    let work = || {
        while left.load(Ordering::Acquire) > 0 {
            let Some(folder) = waiting.lock().unwrap().pop() else {
                std::thread::yield_now();
                continue;
            };
            for entry in fs::read_dir(&folder).unwrap() {
                let entry = entry.unwrap();
                // Relative to the open folder, without following links.
                if entry.metadata().unwrap().is_dir() {
                    left.fetch_add(1, Ordering::Release);
                    waiting.lock().unwrap().push(entry.path());
                }
            }
            left.fetch_sub(1, Ordering::Release);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
}
