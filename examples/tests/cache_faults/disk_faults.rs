//! Every operation of a save, an eviction and a restore meets every fault of a disk: an error
//! once or for ever, no more room, a kill, a power cut.

use std::os::unix::fs::DirEntryExt;
use std::path::Path;
use std::process::Stdio;

use crate::disk::{Counted, Disk, Fault};
use crate::full_disk::KEPT;
use crate::place::{MOUNTED, Place, STORE, Tree, bytes_below, no_debris_in, restoring, tree_of};
use crate::survives::Survives;
use crate::{is_full, rounds};

/// A store with one entry, on a disk that can fail, and what is in it.
struct Ground {
    place: Place,
    disk: Disk,
    wanted: Tree,
    codec: &'static str,
}

const ON_DISK: [&str; 2] = ["--store", MOUNTED];

impl Ground {
    fn new(codec: &'static str) -> Self {
        let place = Place::bare(12);
        let disk = Disk::new();
        std::fs::create_dir(place.path("mnt")).unwrap();
        let ground = Self {
            wanted: tree_of(&place.path("work/tree")),
            place,
            disk,
            codec,
        };
        let mounted = ground.disk.mount(&ground.place.path("mnt"));
        ground.expect(0, &ground.save("kept"));
        drop(mounted);
        ground
    }

    fn save(&self, key: &'static str) -> [&'static str; 6] {
        ["save", "--codec", self.codec, "--key", key, "tree"]
    }

    fn arguments<'a>(verb: &[&'a str]) -> Vec<&'a str> {
        [&verb[..1], &ON_DISK, &verb[1..]].concat()
    }

    #[track_caller]
    fn expect(&self, code: i32, verb: &[&str]) {
        self.place.expect(code, &Self::arguments(verb));
    }

    /// Runs a command while one operation goes wrong, and says how the command ended: `None`
    /// when it was killed. The outer `None`: it has no operation of that number.
    fn suffer(
        &self,
        disk: &Disk,
        fault: Fault,
        counted: Counted,
        number: u64,
        verb: &[&str],
    ) -> Option<Option<bool>> {
        let armed = disk.arm(fault, counted, number);
        let mut child = self
            .place
            .command(&Self::arguments(verb))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let killed = armed.attend(&mut child);
        let output = child.wait_with_output().unwrap();
        if !disk.disarm() {
            return None;
        }
        if killed {
            return Some(None);
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        let context = format!("{fault:?} at {number} of {verb:?}: {stderr}");
        let code = output.status.code();
        assert!(matches!(code, Some(0 | 1)), "{context}");
        if code == Some(1) {
            assert_eq!(stderr.lines().count(), 1, "{context}");
            assert!(stderr.starts_with("cache: "), "{context}");
        }
        Some(Some(code == Some(0)))
    }

    /// All is well: nothing damaged, the entry that was there is whole, and so is the new one if
    /// its save said so. Another save heals and cleans up.
    fn is_sound(&self, context: &str, acknowledged: &[&str]) {
        self.expect(0, &["verify"]);
        for key in acknowledged {
            self.expect(0, &["restore", "--key", key, "--into", "../out"]);
            assert!(
                tree_of(&self.place.path("out/tree")) == self.wanted,
                "{context}: {key}"
            );
        }
        self.expect(0, &self.save("new"));
        self.expect(0, &["verify", "--key", "new"]);
        // A save that finds its key taken reads nothing and writes nothing; this one sweeps.
        self.expect(0, &self.save("last"));
        self.expect(0, &["restore", "--key", "new", "--into", "../out"]);
        assert!(
            tree_of(&self.place.path("out/tree")) == self.wanted,
            "{context}"
        );
        no_debris_in(&self.place.path("mnt/store"));
    }
}

/// Bytes in the store that no description names, quarantine notes aside.
fn debris(store: &Path) -> u64 {
    let entries = store.join("entries");
    let mut bytes = bytes_below(&store.join("tmp"));
    let Ok(listing) = std::fs::read_dir(&entries) else {
        return bytes;
    };
    for entry in listing {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let description = entries.join(format!("{}.json", &name[..40]));
        let named = std::fs::read_to_string(description).is_ok_and(|text| text.contains(&name));
        if !name.ends_with(".json") && !named {
            bytes += std::fs::metadata(entries.join(name)).unwrap().len();
        }
    }
    bytes
}

/// Runs a check on archives and on chunks, each as a test.
macro_rules! on_every_codec {
    ($check:ident) => {
        mod $check {
            #[test]
            #[ignore = "needs root and FUSE"]
            fn of_an_archive() {
                println!("{} cases", super::$check(&super::Ground::new("zstd")));
            }

            #[test]
            #[ignore = "needs root and FUSE"]
            fn of_chunks() {
                println!("{} cases", super::$check(&super::Ground::new("chunked")));
            }
        }
    };
}

const ERRORS: [Fault; 3] = [Fault::ErrorOnce, Fault::ErrorFromNow, Fault::Full];

on_every_codec!(a_save_that_meets_an_error_is_a_clear_failure_or_a_whole_entry);

fn a_save_that_meets_an_error_is_a_clear_failure_or_a_whole_entry(ground: &Ground) -> u32 {
    let mut cases = 0;
    for fault in ERRORS {
        for counted in [Counted::Changes, Counted::Reads] {
            if fault == Fault::Full && counted == Counted::Reads {
                continue;
            }
            for number in (0..).step_by(step(counted)) {
                let disk = ground.disk.copy();
                let mounted = disk.mount(&ground.place.path("mnt"));
                let save = ground.save("new");
                let Some(ended) = ground.suffer(&disk, fault, counted, number, &save) else {
                    break;
                };
                cases += 1;
                let context = format!("{fault:?} at {counted:?} {number}");
                if fault != Fault::ErrorFromNow {
                    let left = debris(&ground.place.path("mnt/store"));
                    assert!(left <= KEPT, "{context}: {left} bytes left");
                }
                let acknowledged = match ended {
                    Some(true) => &["kept", "new"][..],
                    _ => &["kept"],
                };
                ground.is_sound(&context, acknowledged);
                drop(mounted);
            }
        }
    }
    assert!(cases > 50, "only {cases} operations were met");
    cases
}

/// Reads are many and alike: a part of them is enough where nobody asked for all.
fn step(counted: Counted) -> usize {
    if counted == Counted::Reads && !is_full() {
        5
    } else {
        1
    }
}

on_every_codec!(a_save_or_eviction_killed_at_any_operation_leaves_no_half_entry);

fn a_save_or_eviction_killed_at_any_operation_leaves_no_half_entry(ground: &Ground) -> u32 {
    let mut cases = 0;
    for verb in [
        &ground.save("new")[..],
        &["evict", "--key", "kept"],
        &["gc", "--max-bytes", "0"],
    ] {
        for number in 0.. {
            let disk = ground.disk.copy();
            let _mounted = disk.mount(&ground.place.path("mnt"));
            let Some(ended) = ground.suffer(&disk, Fault::Kill, Counted::Changes, number, verb)
            else {
                break;
            };
            assert_eq!(ended, None);
            cases += 1;
            let kept: &[&str] = if verb[0] == "save" { &["kept"] } else { &[] };
            ground.is_sound(&format!("killed at {number} of {verb:?}"), kept);
        }
    }
    assert!(cases > 20, "only {cases} operations were met");
    cases
}

on_every_codec!(a_power_cut_at_any_operation_damages_nothing_and_loses_nothing_acknowledged);

/// What was acknowledged survives a power cut whole, whatever became of what was not synced.
fn a_power_cut_at_any_operation_damages_nothing_and_loses_nothing_acknowledged(
    ground: &Ground,
) -> u32 {
    let chances = (0..rounds(24)).map(Survives::Some);
    let survivals: Vec<Survives> = [Survives::Nothing, Survives::Names]
        .into_iter()
        .chain(chances)
        .collect();
    let mut cases = 0;
    for verb in [&ground.save("new")[..], &["evict", "--key", "kept"]] {
        for number in 0.. {
            let mut met = false;
            for &survives in &survivals {
                let disk = ground.disk.copy();
                let mounted = disk.mount(&ground.place.path("mnt"));
                let ended = ground.suffer(&disk, Fault::PowerCut, Counted::Changes, number, verb);
                // Cut right after the end as well: all of it was acknowledged by then.
                met |= ended.is_some();
                drop(mounted);
                disk.switch_on(survives);
                let _mounted = disk.mount(&ground.place.path("mnt"));
                cases += 1;
                let acknowledged: &[&str] = match (verb[0], ended.is_some()) {
                    ("save", true) => &["kept"],
                    ("save", false) => &["kept", "new"],
                    _ => &[],
                };
                let context = format!("{verb:?} cut at {number}, {survives:?} survives");
                ground.is_sound(&context, acknowledged);
            }
            if !met {
                break;
            }
        }
    }
    assert!(cases > 50, "only {cases} operations were met");
    cases
}

on_every_codec!(a_power_cut_after_the_first_save_loses_nothing);

/// The first save ever also makes the folders of the store.
fn a_power_cut_after_the_first_save_loses_nothing(ground: &Ground) -> u32 {
    let all = [Survives::Nothing, Survives::Names, Survives::Some(1)];
    for survives in all {
        let disk = Disk::new();
        let mounted = disk.mount(&ground.place.path("mnt"));
        ground.expect(0, &ground.save("kept"));
        drop(mounted);
        disk.switch_on(survives);
        let _mounted = disk.mount(&ground.place.path("mnt"));
        ground.is_sound(&format!("{survives:?}"), &["kept"]);
    }
    all.len() as u32
}

on_every_codec!(a_restore_from_a_failing_disk_is_an_error_and_loses_no_entry);

/// Trouble of the medium is never taken for damage, and never for nothing being there.
fn a_restore_from_a_failing_disk_is_an_error_and_loses_no_entry(ground: &Ground) -> u32 {
    let mut cases = 0;
    for fault in [Fault::ErrorOnce, Fault::ErrorFromNow] {
        for number in 0.. {
            let disk = ground.disk.copy();
            let _mounted = disk.mount(&ground.place.path("mnt"));
            let restore = ["restore", "--key", "kept", "--into", "../out"];
            let _ = std::fs::remove_dir_all(ground.place.path("out"));
            let Some(ended) = ground.suffer(&disk, fault, Counted::Reads, number, &restore) else {
                break;
            };
            cases += 1;
            let context = format!("{fault:?} at {number}");
            let out = ground.place.path("out");
            match ended {
                Some(true) => assert!(tree_of(&out.join("tree")) == ground.wanted, "{context}"),
                _ => assert!(!out.exists(), "{context}: something was restored"),
            }
            ground.is_sound(&context, &["kept"]);
        }
    }
    assert!(cases > 10, "only {cases} operations were met");
    cases
}

/// A file that the medium lost costs its entry and no other: lookups go on, `verify` names it and
/// all else that is wrong, `repair` removes it.
#[test]
#[ignore = "needs root and FUSE"]
fn a_file_that_cannot_be_read_costs_one_entry() {
    for lost in [".json", ".tar.zst"] {
        let ground = Ground::new("zstd");
        let disk = ground.disk.copy();
        let _mounted = disk.mount(&ground.place.path("mnt"));
        ground.expect(0, &ground.save("other"));
        ground.expect(0, &["verify"]);
        let entries = ground.place.path("mnt/store/entries");
        let newest = std::fs::read_dir(entries)
            .unwrap()
            .map(Result::unwrap)
            .filter(|file| file.file_name().to_string_lossy().ends_with(lost))
            .max_by_key(DirEntryExt::ino);
        disk.rot(newest.unwrap().ino());

        // By prefix, and exactly.
        let kept = ["restore", "--key", "kep", "--into", "../out"];
        ground.expect(0, &kept);
        ground.expect(1, &["verify"]);
        // Elsewhere: where the same tree lies already, nothing has to be read.
        ground.expect(1, &["restore", "--key", "other", "--into", "../elsewhere"]);
        ground.expect(0, &["repair"]);
        ground.expect(0, &["verify"]);
        ground.is_sound(lost, &["kept"]);
    }
}

/// The destination fails, and the old tree stays, or the new one is there: never a mixture.
#[test]
#[ignore = "needs root and FUSE"]
fn a_restore_onto_a_failing_disk_leaves_the_old_tree_or_the_new_one() {
    println!("{} cases", restore_onto(&Place::new(12)));
}

/// Two files in three are kept from the tree that is there.
#[test]
#[ignore = "needs root and FUSE"]
fn an_incremental_restore_onto_a_failing_disk_leaves_the_old_tree_or_the_new_one() {
    println!("{} cases", restore_onto(&Place::stored(12, 3, "zstd")));
}

#[test]
#[ignore = "needs root and FUSE"]
fn an_incremental_restore_of_chunks_onto_a_failing_disk_leaves_one_tree_whole() {
    println!("{} cases", restore_onto(&Place::stored(12, 3, "chunked")));
}

fn restore_onto(place: &Place) -> u32 {
    let versions = place.versions();
    let base = Disk::new();
    std::fs::create_dir(place.path("mnt")).unwrap();
    let restore = |key| restoring(STORE, key, "../mnt/out");
    let mounted = base.mount(&place.path("mnt"));
    place.expect(0, &restore("one"));
    drop(mounted);
    let mut cases = 0;
    for fault in [Fault::ErrorOnce, Fault::Full, Fault::Kill] {
        for counted in [Counted::Changes, Counted::Reads] {
            if fault != Fault::ErrorOnce && counted == Counted::Reads {
                continue;
            }
            for number in (0..).step_by(step(counted)) {
                let disk = base.copy();
                let _mounted = disk.mount(&place.path("mnt"));
                let armed = disk.arm(fault, counted, number);
                let mut child = place.spawn(&restore("two"));
                let killed = armed.attend(&mut child);
                let ended = child.wait().unwrap();
                if !disk.disarm() {
                    break;
                }
                cases += 1;
                let context = format!("{fault:?} at {counted:?} {number}");
                let found = tree_of(&place.path("mnt/out/tree"));
                if killed {
                    assert!(versions.contains(&found), "{context}");
                } else if ended.success() {
                    assert!(found == versions[1], "{context}");
                } else {
                    assert_eq!(ended.code(), Some(1), "{context}");
                    assert!(found == versions[0], "{context}");
                }
                place.expect(0, &restore("two"));
                assert!(tree_of(&place.path("mnt/out/tree")) == versions[1]);
                let left = std::fs::read_dir(place.path("mnt/out")).unwrap().count();
                assert_eq!(left, 1, "{context}: something beside the tree");
            }
        }
    }
    assert!(cases > 100, "only {cases} operations were met");
    cases
}
