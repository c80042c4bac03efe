//! The corpus of hostile archives against our reader, GNU tar and Python's data filter.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use pipeline_cache::archive::UnpackOptions;
use pipeline_cache::cache::{Cache, RestoreOptions, Restored};
use pipeline_cache::key::CacheKey;
use pipeline_cache::store::{CacheStore as _, MemoryStore};
use pipeline_cache::testing::{Expectation, HostileArchive, hostile_archives};

use crate::trees::{Described, describe};

/// A folder with a destination and what is beside it, each with a canary.
struct Place {
    dir: tempfile::TempDir,
}

type Tree = std::collections::BTreeMap<PathBuf, Described>;

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["outside", "into"] {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("canary"), "alive").unwrap();
            let rights = fs::Permissions::from_mode(0o750);
            fs::set_permissions(dir.path().join(name), rights).unwrap();
        }
        Self { dir }
    }

    fn destination(&self) -> PathBuf {
        self.dir.path().join("into")
    }

    fn outside(&self) -> PathBuf {
        self.dir.path().join("outside")
    }

    /// Everything that is neither the destination nor in it, the folder itself included.
    fn beside(&self) -> (Tree, u32, i64) {
        let meta = fs::metadata(self.outside()).unwrap();
        (describe(&self.outside()), meta.mode(), meta.mtime_nsec())
    }
}

async fn restore(archive: &HostileArchive, into: &Path) -> Result<bool, String> {
    let store = MemoryStore::new();
    let cache = Cache::new(store.clone());
    let key = CacheKey::new(archive.name).unwrap();
    let file = into.with_file_name("archive");
    fs::write(&file, &archive.bytes).unwrap();
    cache
        .import(key.clone(), &file, SystemTime::now())
        .await
        .unwrap();
    fs::remove_file(&file).unwrap();
    let options = RestoreOptions::default().with_unpack(UnpackOptions::default().with_into(into));
    match cache.restore([key.clone()], options).await {
        Ok(Restored::Exact(_)) => Ok(true),
        Ok(Restored::Miss(miss)) => {
            let text = miss.rejected[0].error.to_string();
            assert!(!text.contains(['\n', '\x1b']), "{text:?}");
            // The key is free again.
            assert!(store.head(&key).await.unwrap().is_none());
            Err(text)
        }
        other => panic!("{}: {other:?}", archive.name),
    }
}

#[tokio::test]
async fn refused_or_harmless_and_nothing_outside_is_touched() {
    let count = hostile_archives(Path::new("/x")).len();
    assert!(count >= 80, "{count}");
    for index in 0..count {
        let place = Place::new();
        let archive = hostile_archives(&place.outside()).swap_remove(index);
        let (beside, before) = (place.beside(), describe(&place.destination()));
        let outcome = restore(&archive, &place.destination()).await;
        let name = format!("{}: {}", archive.name, archive.reason);
        assert!(
            place.beside() == beside,
            "{name}: something outside changed"
        );
        match archive.expectation {
            Expectation::Refused => {
                assert!(outcome.is_err(), "{name}: restored");
                assert_eq!(describe(&place.destination()), before, "{name}");
            }
            _ => {
                outcome.unwrap_or_else(|error| panic!("{name}: refused: {error}"));
                for (path, found) in describe(&place.destination()) {
                    assert!(found.is_tame(), "{name}: {}", path.display());
                }
            }
        }
        let left = fs::read_dir(place.dir.path()).unwrap().count();
        assert_eq!(left, 2, "{name}: something was left behind");
    }
}

/// Runs the same corpus through GNU tar and Python's data filter, and says what they do. Ours is
/// never the one that lets more through.
#[tokio::test]
#[ignore = "needs minutes; prints a comparison"]
async fn compared_with_gnu_tar_and_python() {
    let count = hostile_archives(Path::new("/x")).len();
    let mut totals = [[0_u32; 3]; 2];
    for index in 0..count {
        let mut row = Vec::new();
        for (tool, totals) in totals.iter_mut().enumerate() {
            let place = Place::new();
            let archive = hostile_archives(&place.outside()).swap_remove(index);
            let beside = place.beside();
            let file = place.dir.path().join("archive");
            fs::write(&file, &archive.bytes).unwrap();
            let mut command = match tool {
                0 => {
                    let mut tar = Command::new("timeout");
                    tar.args(["20", "tar", "-xf"])
                        .arg(&file)
                        .arg("-C")
                        .arg(place.destination());
                    tar
                }
                _ => {
                    let script = "import sys,tarfile\n\
                                  tarfile.open(sys.argv[1]).extractall(sys.argv[2], filter='data')";
                    let mut python = Command::new("timeout");
                    python
                        .args(["20", "python3", "-c", script])
                        .arg(&file)
                        .arg(place.destination());
                    python
                }
            };
            let accepted = command.output().unwrap().status.success();
            let escaped = place.beside() != beside;
            let verdict = match (escaped, accepted) {
                (true, _) => 0,
                (false, true) => 1,
                (false, false) => 2,
            };
            if archive.expectation == Expectation::Refused {
                totals[verdict] += 1;
            }
            row.push(["ESCAPED", "accepted", "refused"][verdict]);
        }
        let archive = hostile_archives(Path::new("/x")).swap_remove(index);
        println!(
            "{:26} {:9?} tar {:9} python {:9} {}",
            archive.name, archive.expectation, row[0], row[1], archive.reason
        );
    }
    println!(
        "of those to refuse: escaped, accepted, refused: GNU tar {:?}, Python {:?}",
        totals[0], totals[1]
    );
}
