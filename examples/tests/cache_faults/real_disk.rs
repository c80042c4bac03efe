//! A block device that fails: its backing file is cut short, so that reads end in EIO, or lies on
//! a disk without room, so that writing back does.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::process::Command;

use crate::full_disk::Mount;
use crate::place::{MOUNTED, Place, restoring, saving, tree_of};

const UNJOURNALED: [&str; 2] = ["-O", "^has_journal"];

pub(crate) fn make_ext4(image: &Path, bytes: u64, options: &[&str]) {
    File::create(image).unwrap().set_len(bytes).unwrap();
    let made = Command::new("mkfs.ext4")
        .arg("-q")
        .args(options)
        .arg(image)
        .status()
        .unwrap();
    assert!(made.success());
}

#[test]
#[ignore = "needs root and loop devices"]
fn a_disk_that_cannot_be_read_is_an_error_and_never_a_wrong_tree() {
    let place = Place::new(300);
    let (image, mnt) = (place.path("image"), place.path("mnt"));
    make_ext4(&image, 24 << 20, &UNJOURNALED);
    let mount = || Mount::new(&mnt, &["-o", "loop", image.to_str().unwrap()]);
    let mounted = mount();
    place.expect(0, &saving(MOUNTED, "k"));
    let payload = fs::read_dir(mnt.join("store/entries"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|kind| kind == "zst"))
        .unwrap();
    let content = fs::read(payload).unwrap();
    drop(mounted);
    // Where the payload's end lies on the device: the rest of the device is lost.
    let device = fs::read(&image).unwrap();
    let middle = &content[content.len() / 2..][..4096];
    let at = device
        .windows(middle.len())
        .position(|window| window == middle)
        .unwrap();
    drop(device);

    let mounted = mount();
    let keep = at as u64 / 4096 * 4096;
    File::options()
        .write(true)
        .open(&image)
        .unwrap()
        .set_len(keep)
        .unwrap();
    let restore = restoring(MOUNTED, "k", "../out");
    for arguments in [&restore[..], &["verify", "--store", MOUNTED]] {
        let output = place.run(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains("os error 5"), "{stderr}");
    }
    assert!(!place.path("out").exists());
    drop(mounted);
}

#[test]
#[ignore = "needs root and loop devices"]
fn a_disk_that_cannot_be_written_never_says_stored() {
    let place = Place::new(300);
    let wanted = tree_of(&place.path("two/tree"));
    let (thin, mnt) = (place.path("thin"), place.path("mnt"));
    // The device claims 24 MiB, the disk below it has less.
    let _below = Mount::new(&thin, &["-t", "tmpfs", "-o", "size=9m", "tmpfs"]);
    let image = thin.join("image");
    make_ext4(&image, 24 << 20, &UNJOURNALED);
    // Room is taken until the device can store one entry and not two.
    let filler = File::create(thin.join("filler")).unwrap();
    let mounted = Mount::new(&mnt, &["-o", "loop", image.to_str().unwrap()]);
    place.expect(0, &saving(MOUNTED, "k"));
    let entry = fs::metadata(mnt.join("store/entries")).unwrap().size();
    assert!(entry > 0);
    let mut taken = 0;
    let block = vec![1; 64 << 10];
    while filler.write_all_at(&block, taken).is_ok() {
        taken += block.len() as u64;
    }
    let output = place.run(&saving(MOUNTED, "new"));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(
        stderr.contains("os error 5") || stderr.contains("space"),
        "{stderr}"
    );
    // What was stored before is still served.
    place.expect(0, &restoring(MOUNTED, "k", "../out"));
    assert!(tree_of(&place.path("out/tree")) == wanted);
    drop(mounted);
}
