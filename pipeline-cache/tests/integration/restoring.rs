//! Which entry a restore takes, what it says of it, and what it leaves in the store.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use pipeline_cache::archive::{ArchiveError, PackOptions, SkipReason, UnpackOptions};
use pipeline_cache::cache::{
    Cache, CacheError, MatchPolicy, RestoreOptions, Restored, SaveOptions, Saved,
};
use pipeline_cache::key::CacheKey;
use pipeline_cache::store::{CacheStore as _, Codec, FilesystemStore, MemoryStore};
use pipeline_cache::testing::LyingStore;

use crate::trees::{describe, many};

fn key(text: &str) -> CacheKey {
    CacheKey::new(text).unwrap()
}

async fn save(cache: &Cache, name: &str, work: &Path) {
    let options = SaveOptions::in_folder(work);
    cache.save(key(name), ["tree"], options).await.unwrap();
}

fn into(folder: &Path) -> RestoreOptions {
    RestoreOptions::default().with_unpack(UnpackOptions::default().with_into(folder))
}

#[tokio::test]
async fn limits_of_one_restore_cost_nobody_else_the_entry() {
    let dir = tempfile::tempdir().unwrap();
    many(&dir.path().join("tree"), 20);
    for codec in [Codec::Zstd, Codec::Gzip, Codec::None] {
        let cache = Cache::new(MemoryStore::new());
        let pack = PackOptions::default()
            .with_codec(codec)
            .with_working_folder(dir.path());
        let options = SaveOptions::default().with_pack(pack);
        cache.save(key("k"), ["tree"], options).await.unwrap();
        let out = dir.path().join(codec.to_string());
        let mut narrow = into(&out);
        narrow.unpack.limits = narrow.unpack.limits.with_max_bytes(2048);
        let Restored::Miss(miss) = cache.restore([key("k")], narrow).await.unwrap() else {
            panic!("restored");
        };
        let error = &miss.rejected[0].error;
        assert!(
            matches!(error, CacheError::Archive(ArchiveError::TooLarge { .. })),
            "{error:?}"
        );
        let mut few = into(&out);
        few.unpack.limits = few.unpack.limits.with_max_entries(5);
        let restored = cache.restore([key("k")], few).await.unwrap();
        assert!(matches!(restored, Restored::Miss(_)), "{restored:?}");
        let restored = cache.restore([key("k")], into(&out)).await.unwrap();
        assert!(matches!(restored, Restored::Exact(_)), "{restored:?}");
    }
}

/// A fallback key that is stored exactly is still a fallback: there is work left to do.
#[tokio::test]
async fn only_the_first_key_is_exact() {
    let dir = tempfile::tempdir().unwrap();
    many(&dir.path().join("tree"), 3);
    let cache = Cache::new(MemoryStore::new());
    save(&cache, "deps-latest", dir.path()).await;
    let keys = [key("deps-abc"), key("deps-latest")];
    let out = dir.path().join("out");
    match cache.restore(keys.clone(), into(&out)).await.unwrap() {
        Restored::Prefix(entry) => {
            assert_eq!(entry.candidate, keys[1]);
            assert_eq!(entry.metadata.key, keys[1]);
            assert_eq!(entry.position, 1);
        }
        other => panic!("{other:?}"),
    }
    let found = cache.lookup(&keys, MatchPolicy::default()).await.unwrap();
    assert!(!found.unwrap().is_exact());
    let restored = cache.restore([keys[1].clone()], into(&out)).await.unwrap();
    assert!(matches!(restored, Restored::Exact(_)), "{restored:?}");
}

/// Listing a bucket of thousands of entries takes longer than the whole restore.
#[tokio::test]
async fn an_exact_key_is_found_without_listing() {
    let dir = tempfile::tempdir().unwrap();
    many(&dir.path().join("tree"), 3);
    let inner = MemoryStore::new();
    save(&Cache::new(inner.clone()), "k", dir.path()).await;
    let store = LyingStore::changing(Arc::new(inner), |entry| entry);
    let store = Arc::new(store);
    let cache = Cache::shared(store.clone());
    let out = dir.path().join("out");
    let restored = cache.restore([key("k")], into(&out)).await.unwrap();
    assert!(matches!(restored, Restored::Exact(_)), "{restored:?}");
    assert_eq!(store.listings(), 0);
    let restored = cache.restore([key("other")], into(&out)).await.unwrap();
    assert!(matches!(restored, Restored::Miss(_)), "{restored:?}");
    assert!(store.listings() > 0);
}

/// What a killed restore left, or what one makes just now, is no part of the tree.
#[tokio::test]
async fn staging_of_a_restore_is_not_saved() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    many(&tree, 3);
    let staging = tree.join(".pipeline-cache-0123456789abcdef");
    fs::create_dir(&staging).unwrap();
    fs::write(staging.join("half"), "a file").unwrap();
    // Nearly the same name is somebody's own.
    fs::create_dir(tree.join(".pipeline-cache-mine")).unwrap();
    let cache = Cache::new(MemoryStore::new());
    let options = SaveOptions::in_folder(dir.path());
    let Saved::Stored(report) = cache.save(key("k"), ["tree"], options).await.unwrap() else {
        panic!("not stored");
    };
    let skipped: Vec<_> = report
        .skipped
        .iter()
        .map(|s| (&*s.path, s.reason))
        .collect();
    let name = "tree/.pipeline-cache-0123456789abcdef";
    assert_eq!(skipped, [(name, SkipReason::Staging)]);
    let out = dir.path().join("out");
    cache.restore([key("k")], into(&out)).await.unwrap();
    fs::remove_dir_all(&staging).unwrap();
    assert_eq!(describe(&out.join("tree")), describe(&tree));
}

/// Who may write no trusted entry may still write a description that names one's digest. What
/// was restored by it is not taken for the trusted entry later.
#[tokio::test]
async fn a_tree_is_known_by_what_was_checked() {
    let dir = tempfile::tempdir().unwrap();
    let good = MemoryStore::new();
    let (work, evil) = (dir.path().join("good"), dir.path().join("evil"));
    for (folder, content) in [(&work, "good"), (&evil, "evil")] {
        fs::create_dir_all(folder.join("tree")).unwrap();
        fs::write(folder.join("tree/program"), content).unwrap();
    }
    save(&Cache::new(good.clone()), "x", &work).await;
    let digest = good.head(&key("x")).await.unwrap().unwrap().digest;
    let bad = MemoryStore::new();
    save(&Cache::new(bad.clone()), "x", &evil).await;
    let forged = LyingStore::changing(Arc::new(bad), move |mut entry| {
        entry.metadata.digest = digest;
        entry
    });

    let trees = FilesystemStore::new(dir.path().join("store"));
    let stat_cache = pipeline_cache::archive::StatCache::in_folder(trees.folder().join("trees"));
    let out = dir.path().join("out");
    let untrusted = Cache::new(forged).with_stat_cache(stat_cache.clone());
    let trusted = Cache::new(good).with_stat_cache(stat_cache);
    // Twice, because what was touched a moment ago is not relied on.
    for _ in 0..2 {
        // That it is refused would do as well.
        let _ = untrusted.restore([key("x")], into(&out)).await.unwrap();
    }
    let restored = trusted.restore([key("x")], into(&out)).await.unwrap();
    assert!(matches!(restored, Restored::Exact(_)), "{restored:?}");
    let program = fs::read_to_string(out.join("tree/program")).unwrap();
    assert_eq!(program, "good");
    assert_eq!(describe(&out).len(), 2);
}
