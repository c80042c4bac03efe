//! A real file system that loses its power: ext4 on a loop device, shut down in the middle of
//! saves. What its journal and its data had not reached the device is gone.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::full_disk::Mount;
use crate::place::{MOUNTED, Place, no_debris_in, restoring, saving, tree_of};
use crate::real_disk::make_ext4;
use crate::rounds;

/// How ext4 goes down.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// The journal is written out, data is not: names without their content.
    WithJournal = 1,
    /// Nothing more is written.
    AtOnce = 2,
}

/// The shutdown request of Linux file systems, which takes an `ioctl`.
fn cut(at: &Path, how: Cut) {
    let script = "import fcntl, os, struct, sys\n\
                  fd = os.open(sys.argv[1], os.O_RDONLY)\n\
                  fcntl.ioctl(fd, 0x8004587D, struct.pack('I', int(sys.argv[2])))";
    let output = Command::new("python3")
        .args(["-c", script])
        .arg(at)
        .arg((how as u32).to_string())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
}

#[test]
#[ignore = "needs root and loop devices"]
fn a_power_cut_of_ext4_damages_nothing_and_loses_nothing_acknowledged() {
    let place = Place::bare(60);
    let wanted = tree_of(&place.path("work/tree"));
    let (image, mnt) = (place.path("image"), place.path("mnt"));
    let options = "lazy_itable_init=0,lazy_journal_init=0";
    make_ext4(&image, 64 << 20, &["-E", options]);
    let mount = || Mount::new(&mnt, &["-o", "loop", image.to_str().unwrap()]);
    // Saves one key after the other, names each that was acknowledged, and never stops.
    let script = format!(
        "n=0; while '{}' save --store ../mnt/store --key cut$1-$n tree >/dev/null; \
         do echo cut$1-$n; n=$((n+1)); done",
        env!("CARGO_BIN_EXE_cache")
    );
    let count = rounds(40);
    let mut acknowledged = Vec::new();
    for round in 0..count {
        let mounted = mount();
        let mut child = Command::new("sh")
            .args(["-c", &script, "sh", &round.to_string()])
            .current_dir(place.path("work"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        // The moment is what is being tried, not something waited for.
        std::thread::sleep(Duration::from_millis(20 + round * 7_919 % 150));
        let how = if round % 2 == 0 {
            Cut::WithJournal
        } else {
            Cut::AtOnce
        };
        cut(&mnt, how);
        // Everything fails now, so the loop ends.
        child.wait().unwrap();
        acknowledged.extend(lines.lines().map(Result::unwrap));
        drop(mounted);

        let _mounted = mount();
        place.expect(0, &["verify", "--store", MOUNTED]);
        for key in acknowledged.iter().rev().take(4) {
            place.expect(0, &restoring(MOUNTED, key, "../out"));
            let found = tree_of(&place.path("out/tree"));
            assert!(found == wanted, "{key} after {how:?}");
        }
        // The key that was being saved is not blocked, and nothing is left of the attempt.
        let key = format!("after{round}");
        place.expect(0, &saving(MOUNTED, &key));
        no_debris_in(&place.path("mnt/store"));
        if acknowledged.len() > 20 {
            place.expect(0, &["gc", "--store", MOUNTED, "--max-bytes", "0"]);
            acknowledged.clear();
        }
    }
    println!("{count} power cuts");
}
