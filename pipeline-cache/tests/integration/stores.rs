//! Every store against the contract, and restores from stores that lie.

use std::fs;
use std::sync::Arc;

use pipeline_cache::archive::{ArchiveError, PackOptions, UnpackOptions};
use pipeline_cache::cache::{Cache, CacheError, RestoreOptions, Restored, SaveOptions, Saved};
use pipeline_cache::key::CacheKey;
use pipeline_cache::store::{CacheStore, Codec, Durability, FilesystemStore, MemoryStore};
use pipeline_cache::store_contract;
use pipeline_cache::testing::{Lie, LyingStore};

use crate::trees::{describe, many};

fn filesystem() -> (FilesystemStore, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (FilesystemStore::new(dir.path().join("store")), dir)
}

store_contract!(memory, || (MemoryStore::new(), ()));
store_contract!(folder, filesystem);
store_contract!(unsynced_folder, || {
    let (store, dir) = filesystem();
    (store.with_durability(Durability::Unsynced), dir)
});

#[tokio::test]
async fn a_store_that_lies_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    many(&work.join("tree"), 40);
    let wanted = describe(&work);
    for codec in [Codec::Zstd, Codec::Gzip, Codec::None] {
        let inner: Arc<dyn CacheStore> = Arc::new(MemoryStore::new());
        let key = CacheKey::new("k").unwrap();
        let pack = PackOptions::default()
            .with_codec(codec)
            .with_working_folder(&work);
        let options = SaveOptions::default().with_pack(pack);
        let saved = Cache::shared(Arc::clone(&inner))
            .save(key.clone(), ["tree"], options)
            .await
            .unwrap();
        let Saved::Stored(report) = saved else {
            panic!("{saved:?}");
        };
        let length = report.metadata.packed_size;
        for lie in [
            Lie::TornReads,
            Lie::TooShort(1),
            Lie::TooShort(length),
            Lie::TooLong(1),
            Lie::TooLong(512),
            Lie::WrongByte(0),
            Lie::WrongByte(length / 2),
            Lie::WrongByte(length - 1),
            Lie::FailsAt(0),
            Lie::FailsAt(length / 2),
            Lie::FailsAt(length - 1),
        ] {
            // The verdict must not reach the store that tells the truth.
            let out = dir.path().join("out");
            let store = LyingStore::new(Arc::clone(&inner), lie);
            let options =
                RestoreOptions::default().with_unpack(UnpackOptions::default().with_into(&out));
            let restored = Cache::new(store).restore([key.clone()], options).await;
            match (lie, restored) {
                (Lie::TornReads, Ok(Restored::Exact(_))) => {
                    assert_eq!(describe(&out), wanted);
                    fs::remove_dir_all(&out).unwrap();
                }
                (Lie::FailsAt(_), Err(CacheError::Archive(ArchiveError::Payload(error)))) => {
                    assert_eq!(error.to_string(), "the medium failed");
                }
                (
                    Lie::TooShort(_) | Lie::TooLong(_) | Lie::WrongByte(_),
                    Ok(Restored::Miss(miss)),
                ) => {
                    assert!(
                        matches!(
                            &miss.rejected[0].error,
                            CacheError::Archive(ArchiveError::Damaged { .. })
                        ),
                        "{codec} {lie:?}: {miss:?}"
                    );
                    // Memory quarantines by removing; put it back for the next lie.
                    let pack = PackOptions::default()
                        .with_codec(codec)
                        .with_working_folder(&work);
                    let options = SaveOptions::default().with_pack(pack);
                    Cache::shared(Arc::clone(&inner))
                        .save(key.clone(), ["tree"], options)
                        .await
                        .unwrap();
                }
                (lie, other) => panic!("{codec} {lie:?}: {other:?}"),
            }
            assert!(!out.exists(), "{codec} {lie:?}");
        }
    }
}
