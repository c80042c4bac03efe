//! The corpus of hostile archives against our reader, GNU tar and Python's data filter.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Instant, SystemTime};

use pipeline_cache::archive::{ExistingFiles, UnpackOptions};
use pipeline_cache::cache::{Cache, RestoreOptions, Restored};
use pipeline_cache::key::CacheKey;
use pipeline_cache::store::FilesystemStore;
use pipeline_cache::testing::{
    Expectation, HostileArchive, hostile_archives, hostile_bombs, hostile_hoards,
};

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

async fn restore(archive: HostileArchive, into: &Path) -> Result<bool, String> {
    restore_onto(archive, into, ExistingFiles::default()).await
}

async fn restore_onto(
    archive: HostileArchive,
    into: &Path,
    existing: ExistingFiles,
) -> Result<bool, String> {
    // Not in memory, where the archive would count as memory of the restore.
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(FilesystemStore::new(folder.path())).without_stat_cache();
    let store = cache.store().clone();
    let key = CacheKey::new(archive.name).unwrap();
    let file = into.with_file_name("archive");
    fs::write(&file, &archive.bytes).unwrap();
    // Memory of the test would count as memory of the restore.
    drop(archive);
    cache
        .import(key.clone(), &file, SystemTime::now())
        .await
        .unwrap();
    fs::remove_file(&file).unwrap();
    let unpack = UnpackOptions::default()
        .with_into(into)
        .with_existing(existing);
    let options = RestoreOptions::default().with_unpack(unpack);
    match cache.restore([key.clone()], options).await {
        Ok(Restored::Exact(_)) => Ok(true),
        Ok(Restored::Miss(miss)) => {
            let text = miss.rejected[0].error.to_string();
            assert!(!text.contains(['\n', '\x1b']), "{text:?}");
            // The key is free again, unless others may choose to let the entry through.
            let is_there = store.head(&key).await.unwrap().is_some();
            assert_eq!(is_there, !miss.rejected[0].quarantined, "{key}: {text}");
            let is_choice = text.contains("too large") || text.contains("SetIdBits");
            assert_eq!(is_there, is_choice, "{key}: {text}");
            Err(text)
        }
        other => panic!("{key}: {other:?}"),
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
        let name = format!("{}: {}", archive.name, archive.reason);
        let expectation = archive.expectation;
        let outcome = restore(archive, &place.destination()).await;
        assert!(
            place.beside() == beside,
            "{name}: something outside changed"
        );
        match expectation {
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

/// The largest size of this process since the peak was started anew.
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.unwrap().trim().trim_end_matches(" kB");
    peak.parse().unwrap()
}

/// Restores archives in a process of their own and says what the largest size of it was, in
/// KiB, and how long it took.
#[tokio::test]
#[ignore = "needs a process of its own; the test after it starts one"]
async fn one_after_another_with_peaks() {
    let outside = Path::new("/x");
    let bombs = std::iter::once_with(hostile_bombs).flatten();
    let hoards = std::iter::once_with(hostile_hoards).flatten();
    let archives = hostile_archives(outside).into_iter();
    for archive in archives.chain(bombs).chain(hoards) {
        let name = archive.name;
        let place = Place::new();
        // Starts the peak anew, from what making the archives has left.
        fs::write("/proc/self/clear_refs", "5").unwrap();
        let start = peak_kib();
        let started = Instant::now();
        // Small files are handed over to other threads only where nothing is compared.
        let outcome = restore_onto(archive, &place.destination(), ExistingFiles::Replace).await;
        let time = started.elapsed().as_secs_f64();
        let peak = peak_kib();
        let left = describe(&place.destination()).len();
        let verdict = if outcome.is_ok() {
            "restored"
        } else {
            "refused"
        };
        println!("peak {peak} {name} {verdict} {left} {time:.2} {start}");
    }
}

/// Neither a bomb nor anything else takes more memory than 64 MiB, and of a bomb nothing is left.
#[test]
#[cfg(target_os = "linux")]
fn none_takes_more_than_64_mib() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hostile::one_after_another_with_peaks"])
        .args(["--ignored", "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    let peaks: Vec<Vec<&str>> = text
        .lines()
        .filter_map(|line| Some(line.split_once("peak ")?.1.split(' ').collect()))
        .collect();
    let (bombs, hoards) = (hostile_bombs(), hostile_hoards());
    let expected = hostile_archives(Path::new("/x")).len() + bombs.len() + hoards.len();
    assert_eq!(peaks.len(), expected, "{text}");
    for peak in &peaks {
        let mut kib: u64 = peak[0].parse().unwrap();
        if hoards.iter().any(|hoard| hoard.name == peak[1]) {
            // Making these takes more memory than restoring them, and the allocator keeps some.
            kib -= peak[5].parse::<u64>().unwrap();
        }
        assert!(kib <= 64 << 10, "{peak:?}");
    }
    for bomb in &bombs {
        let peak = peaks.iter().find(|peak| peak[1] == bomb.name).unwrap();
        // The canary is all there is.
        assert_eq!(peak[2..4], ["refused", "1"], "{peak:?}");
        println!("{}: refused after {} s", bomb.name, peak[4]);
    }
    for hoard in &hoards {
        let peak = peaks.iter().find(|peak| peak[1] == hoard.name).unwrap();
        match hoard.expectation {
            Expectation::Refused => assert_eq!(peak[2..4], ["refused", "1"], "{peak:?}"),
            _ => assert_eq!(peak[2], "restored", "{peak:?}"),
        }
    }
}

/// Runs the same corpus through GNU tar and Python's data filter, and says what they do. Ours never
/// takes what both refuse, and refuses what one of them writes outside of the destination for.
#[tokio::test]
#[ignore = "needs minutes; prints a comparison"]
async fn compared_with_gnu_tar_and_python() {
    let count = hostile_archives(Path::new("/x")).len();
    let mut totals = [[0_u32; 3]; 2];
    let mut lenient = Vec::new();
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
        let is_taken = archive.expectation != Expectation::Refused;
        if is_taken && (row == ["refused"; 2] || row.contains(&"ESCAPED")) {
            lenient.push(archive.name);
        }
        println!(
            "{:26} {:9?} tar {:9} python {:9} {}",
            archive.name, archive.expectation, row[0], row[1], archive.reason
        );
    }
    println!(
        "of those to refuse: escaped, accepted, refused: GNU tar {:?}, Python {:?}",
        totals[0], totals[1]
    );
    assert!(lenient.is_empty(), "{lenient:?}");
}
