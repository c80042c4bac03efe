//! A disk that is full: a small tmpfs, which only root may mount.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::place::{Place, STORE, bytes_below, no_debris_in, restoring, saving, tree_of};

/// A mounted file system, unmounted when dropped.
pub(crate) struct Mount(PathBuf);

impl Mount {
    pub(crate) fn new(at: &Path, arguments: &[&str]) -> Self {
        fs::create_dir_all(at).unwrap();
        let output = Command::new("mount")
            .args(arguments)
            .arg(at)
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        Self(at.to_path_buf())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}

/// Unmounts. A process that another test is just starting may hold a file for a moment.
pub(crate) fn unmount(at: &Path) {
    for _ in 0..200 {
        let output = Command::new("umount").arg(at).output().unwrap();
        if output.status.success() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = Command::new("umount").arg("-l").arg(at).status();
}

/// What may stay of something that failed for lack of room.
pub(crate) const KEPT: u64 = 64 * 1024;

/// A store on the disk that is too small.
const SMALL: &str = "../small/store";

#[test]
#[ignore = "needs root"]
fn a_full_disk_is_one_error_and_leaves_nothing() {
    let place = Place::new(300);
    let tree = tree_of(&place.path("two/tree"));
    let small = place.path("small");
    // Of too little room for a folder up to almost enough for the whole entry.
    for kib in [16, 64, 256, 1024, 1536, 1984] {
        let size = format!("size={kib}k");
        let mounted = Mount::new(&small, &["-t", "tmpfs", "-o", &size, "tmpfs"]);
        let save = place.run(&saving(SMALL, "k"));
        let kept = bytes_below(&small);
        assert!(kept <= KEPT, "{kib} KiB: a save left {kept} bytes");
        let restore = place.run(&restoring(STORE, "one", "../small/out"));
        for output in [save, restore] {
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{kib} KiB: {stderr}");
            assert_eq!(stderr.lines().count(), 1, "{stderr}");
            assert!(stderr.contains("space"), "{stderr}");
        }
        let kept = bytes_below(&small);
        assert!(kept <= KEPT, "{kib} KiB: a restore left {kept} bytes");
        assert!(!small.join("out").exists());
        drop(mounted);
    }

    // A store that fills up: what was stored stays, and is served while nothing more fits.
    let mounted = Mount::new(&small, &["-t", "tmpfs", "-o", "size=5m", "tmpfs"]);
    let mut stored = Vec::new();
    loop {
        let key = format!("k{}", stored.len());
        let output = place.run(&saving(SMALL, &key));
        if !output.status.success() {
            break;
        }
        stored.push(key);
    }
    assert!(!stored.is_empty());
    place.expect(0, &["verify", "--store", "../small/store"]);
    no_debris_in(&small.join("store"));
    for key in &stored {
        place.expect(0, &restoring(SMALL, key, "../back"));
        assert!(tree_of(&place.path("back/tree")) == tree);
    }
    // Room again, and the save works.
    place.expect(0, &["gc", "--store", SMALL, "--max-bytes", "0"]);
    place.no_debris(SMALL);
    drop(mounted);
}

/// A restore over a tree on a disk that is too small for a second one: the first stays.
#[test]
#[ignore = "needs root"]
fn a_restore_without_room_keeps_the_old_tree() {
    let place = Place::new(300);
    let small = place.path("small");
    let _mounted = Mount::new(&small, &["-t", "tmpfs", "-o", "size=5m", "tmpfs"]);
    let restore = |key| restoring(STORE, key, "../small/out");
    place.expect(0, &restore("one"));
    fs::write(small.join("filler"), vec![1; 512 * 1024]).unwrap();
    let (before, used) = (tree_of(&small.join("out")), bytes_below(&small));
    let mut refused = 0;
    for round in 0..8 {
        // Less room each time, by an amount that is no multiple of anything.
        fs::write(small.join(format!("more{round}")), vec![1; 30_011]).unwrap();
        if !place.run(&restore("two")).status.success() {
            refused += 1;
            assert!(tree_of(&small.join("out")) == before);
            let kept = bytes_below(&small).saturating_sub(used + (round + 1) * 30_011);
            assert!(kept <= KEPT, "{kept} bytes were left");
        }
    }
    assert!(refused > 0, "there was room enough");
}
