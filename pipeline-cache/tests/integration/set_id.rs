//! Set-user-id and set-group-id bits: left out, refused, or kept, as asked.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use pipeline_cache::archive::{ArchiveError, PackOptions, Refusal, SetIdBits, UnpackOptions};
use pipeline_cache::cache::{Cache, CacheError, RestoreOptions, Restored, SaveOptions};
use pipeline_cache::key::CacheKey;
use pipeline_cache::store::MemoryStore;

fn key(text: &str) -> CacheKey {
    CacheKey::new(text).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

/// A program, another name of it, and a folder, all with set-id bits.
fn tree(work: &Path) {
    fs::create_dir_all(work.join("tree/shared")).unwrap();
    fs::write(work.join("tree/program"), "#!/bin/sh\n").unwrap();
    fs::hard_link(work.join("tree/program"), work.join("tree/twin")).unwrap();
    for (name, mode) in [("program", 0o6755), ("shared", 0o3775)] {
        fs::set_permissions(
            work.join("tree").join(name),
            fs::Permissions::from_mode(mode),
        )
        .unwrap();
    }
}

async fn save(cache: &Cache, name: &str, work: &Path, set_id: SetIdBits) -> Result<(), CacheError> {
    let pack = PackOptions::default()
        .with_working_folder(work)
        .with_set_id(set_id);
    let options = SaveOptions::default().with_pack(pack);
    cache.save(key(name), ["tree"], options).await.map(drop)
}

async fn restore(cache: &Cache, name: &str, out: &Path, set_id: SetIdBits) -> Restored {
    let unpack = UnpackOptions::default().with_into(out).with_set_id(set_id);
    let options = RestoreOptions::default().with_unpack(unpack);
    cache.restore([key(name)], options).await.unwrap()
}

#[tokio::test]
async fn left_out_of_what_is_saved() {
    let dir = tempfile::tempdir().unwrap();
    tree(dir.path());
    let cache = Cache::new(MemoryStore::new());
    save(&cache, "plain", dir.path(), SetIdBits::Clear)
        .await
        .unwrap();
    let out = dir.path().join("out");
    // Nothing is left for a strict restore to refuse.
    let restored = restore(&cache, "plain", &out, SetIdBits::Refuse).await;
    assert!(matches!(restored, Restored::Exact(_)), "{restored:?}");
    assert_eq!(mode(&out.join("tree/program")), 0o755);
    assert_eq!(mode(&out.join("tree/shared")), 0o775);
}

#[tokio::test]
async fn refused_on_saving_when_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    tree(dir.path());
    let cache = Cache::new(MemoryStore::new());
    let error = save(&cache, "strict", dir.path(), SetIdBits::Refuse)
        .await
        .unwrap_err();
    let CacheError::Archive(ArchiveError::SetId { path }) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(path, "tree/program");
    assert!(error.to_string().contains("SetIdBits::Clear"), "{error}");
}

#[tokio::test]
async fn kept_for_those_who_ask_and_refused_for_all_others() {
    let dir = tempfile::tempdir().unwrap();
    tree(dir.path());
    let cache = Cache::new(MemoryStore::new());
    for (name, policy, found) in [
        ("kept", SetIdBits::Keep, (0o6755, 0o2775)),
        ("cleared", SetIdBits::Clear, (0o755, 0o775)),
    ] {
        save(&cache, name, dir.path(), SetIdBits::Keep)
            .await
            .unwrap();
        let out = dir.path().join(name);
        let restored = restore(&cache, name, &out, policy).await;
        assert!(matches!(restored, Restored::Exact(_)), "{restored:?}");
        assert_eq!(mode(&out.join("tree/program")), found.0, "{name}");
        assert_eq!(mode(&out.join("tree/twin")), found.0, "{name}");
        assert_eq!(mode(&out.join("tree/shared")), found.1, "{name}");
    }
    let out = dir.path().join("refused");
    let restored = restore(&cache, "kept", &out, SetIdBits::Refuse).await;
    let Restored::Miss(miss) = restored else {
        panic!("{restored:?}");
    };
    let CacheError::Archive(ArchiveError::Unsafe { path, reason }) = &miss.rejected[0].error else {
        panic!("{miss:?}");
    };
    assert_eq!((path.as_str(), *reason), ("tree/program", Refusal::SetId));
    assert!(!out.exists());
    // That was one reader's choice: others still find it.
    let restored = restore(&cache, "kept", &out, SetIdBits::Keep).await;
    assert!(matches!(restored, Restored::Exact(_)), "{restored:?}");
}
