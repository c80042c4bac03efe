//! A whole archive in any codec is restored or refused. Nothing outside of the destination
//! changes, and a refusal leaves nothing.

#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::SystemTime;

use libfuzzer_sys::fuzz_target;
use pipeline_cache::archive::{Limits, UnpackOptions};
use pipeline_cache::cache::{Cache, RestoreOptions, Restored};
use pipeline_cache::key::CacheKey;
use pipeline_cache::store::MemoryStore;

static GROUND: LazyLock<PathBuf> = LazyLock::new(|| {
    // In memory where that is possible: nobody wants to wait for a disk.
    let memory = PathBuf::from("/dev/shm");
    let top = if memory.is_dir() {
        memory
    } else {
        std::env::temp_dir()
    };
    let ground = top.join(format!("pipeline-cache-fuzz-{}", std::process::id()));
    fs::create_dir_all(ground.join("place")).unwrap_or_default();
    fs::write(ground.join("place/canary"), "alive").unwrap_or_default();
    ground
});

fuzz_target!(|bytes: &[u8]| {
    let (place, file) = (GROUND.join("place"), GROUND.join("archive"));
    assert!(fs::write(&file, bytes).is_ok(), "no room for the fuzzer");
    let into = place.join("into");
    let limits = Limits::default()
        .with_max_bytes(1 << 20)
        .with_max_file_length(4 << 20);
    let options = RestoreOptions::default().with_unpack(
        UnpackOptions::default()
            .with_into(&into)
            .with_workers(1)
            .with_limits(limits),
    );
    let restored = RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let cache = Cache::new(MemoryStore::new());
            let Ok(key) = CacheKey::new("k") else {
                return false;
            };
            if cache.import(key.clone(), &file, SystemTime::now()).await.is_err() {
                return false;
            }
            match cache.restore([key], options).await {
                Ok(Restored::Exact(_)) => true,
                Ok(Restored::Miss(_)) => false,
                // Names that the file system itself cannot make.
                Err(_) => false,
                Ok(other) => unreachable!("{other:?}"),
            }
        })
    });
    assert!(restored || !into.exists(), "a refused archive left something");
    if restored {
        assert!(fs::remove_dir_all(&into).is_ok());
    }
    let left = fs::read_dir(&place).map_or(0, Iterator::count);
    assert_eq!(left, 1, "something beside the destination");
    assert!(fs::read(place.join("canary")).is_ok_and(|text| text == b"alive"));
});

thread_local! {
    static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap_or_else(|error| panic!("no runtime: {error}"));
}
