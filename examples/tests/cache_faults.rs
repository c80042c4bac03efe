//! Processes that are killed, run at once, or run out of room: the store stays whole, and no
//! restore leaves a mixed tree.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

struct Place {
    dir: tempfile::TempDir,
}

type Files = BTreeMap<PathBuf, Vec<u8>>;

impl Place {
    /// Two versions of one tree, stored as `one` and `two`.
    fn new() -> Self {
        let place = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        for (version, key) in [(1_u64, "one"), (2, "two")] {
            let tree = place.path("work/tree");
            for index in 0..300_u64 {
                let folder = tree.join(format!("d{}", index % 9));
                fs::create_dir_all(&folder).unwrap();
                let length = usize::try_from(index * 97 % 20_000).unwrap();
                let content = noise(length + 1, index * 3 + version);
                fs::write(folder.join(format!("f{index}")), content).unwrap();
            }
            assert!(
                place
                    .run(&["save", "--store", "../store", "--key", key, "tree"])
                    .success()
            );
            assert!(
                place
                    .run(&[
                        "restore",
                        "--store",
                        "../store",
                        "--key",
                        key,
                        "--into",
                        &format!("../{key}")
                    ])
                    .success()
            );
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn spawn(&self, arguments: &[&str]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_cache"))
            .args(arguments)
            .current_dir(self.path("work"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn run(&self, arguments: &[&str]) -> ExitStatus {
        self.spawn(arguments).wait().unwrap()
    }

    /// Starts a command and kills it after a moment. Says whether it was still running.
    fn kill(&self, moment: Duration, arguments: &[&str]) -> bool {
        let mut child = self.spawn(arguments);
        // The moment is what is being tried, not something waited for.
        std::thread::sleep(moment);
        let running = child.try_wait().unwrap().is_none();
        child.kill().unwrap();
        child.wait().unwrap();
        running
    }

    fn verified(&self) -> bool {
        self.run(&["verify", "--store", "../store"]).success()
    }

    /// After a last save and restore nothing is left of the killed ones.
    fn no_debris(&self) {
        assert!(
            self.run(&["save", "--store", "../store", "--key", "last", "tree"])
                .success()
        );
        assert!(
            self.run(&[
                "restore", "--store", "../store", "--key", "two", "--into", "../out"
            ])
            .success()
        );
        assert_eq!(fs::read_dir(self.path("store/tmp")).unwrap().count(), 0);
        let mut files: BTreeMap<String, u32> = BTreeMap::new();
        for entry in fs::read_dir(self.path("store/entries")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            *files.entry(name[..40].to_owned()).or_default() += 1;
        }
        assert!(files.values().all(|count| *count == 2), "{files:?}");
        let left = fs::read_dir(self.path("out")).unwrap().count();
        assert_eq!(left, 1, "something beside the tree");
    }
}

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

fn files(top: &Path) -> Files {
    let mut found = Files::new();
    let mut left = vec![top.to_path_buf()];
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                let content = fs::read(&path).unwrap();
                found.insert(path.strip_prefix(top).unwrap().to_path_buf(), content);
            }
        }
    }
    found
}

/// Moments spread over the time that a command takes, the same in every run.
fn moments(count: u64) -> impl Iterator<Item = (u64, Duration)> {
    (0..count).map(|index| (index, Duration::from_micros(index * 7_919 % 60_000)))
}

#[test]
fn no_killed_restore_leaves_a_mixed_tree() {
    let place = Place::new();
    let versions = [
        files(&place.path("one/tree")),
        files(&place.path("two/tree")),
    ];
    let mut killed = 0;
    for (index, moment) in moments(60) {
        let key = if index % 2 == 0 { "one" } else { "two" };
        let restore = [
            "restore", "--store", "../store", "--key", key, "--into", "../out",
        ];
        killed += u32::from(place.kill(moment, &restore));
        let tree = place.path("out/tree");
        if tree.exists() {
            assert!(versions.contains(&files(&tree)), "mixed after {moment:?}");
        }
    }
    assert!(killed > 0, "no restore was killed");
    assert!(place.verified());
    place.no_debris();
}

#[test]
fn killed_saves_and_evictions_leave_no_half_entry() {
    let place = Place::new();
    let mut killed = 0;
    for (index, moment) in moments(60) {
        let key = format!("k{}", index % 5);
        let save = ["save", "--store", "../store", "--key", &key, "tree"];
        killed += u32::from(place.kill(moment, &save));
        let key = format!("k{}", (index + 2) % 5);
        let evict = ["evict", "--store", "../store", "--key", &key];
        place.kill(moment / 8, &evict);
        assert!(place.verified(), "after {moment:?}");
    }
    assert!(killed > 0, "no save was killed");
    place.no_debris();
}

#[test]
fn ten_processes_save_restore_and_evict_at_once() {
    let place = Place::new();
    let wanted = files(&place.path("two/tree"));
    for _ in 0..6 {
        let mut children = Vec::new();
        for worker in 0..10 {
            let key = format!("shared{}", worker % 2);
            let out = format!("../worker{worker}");
            children.push(match worker % 5 {
                0 | 1 => (
                    0,
                    place.spawn(&["save", "--store", "../store", "--key", &key, "tree"]),
                ),
                2 | 3 => (
                    3,
                    place.spawn(&[
                        "restore", "--store", "../store", "--key", &key, "--into", &out,
                    ]),
                ),
                _ => (
                    1,
                    place.spawn(&["evict", "--store", "../store", "--key", &key]),
                ),
            });
        }
        for (other, child) in &mut children {
            let code = child.wait().unwrap().code().unwrap();
            // Evicting may find nothing, or an entry that is being read.
            let fine = code == 0 || code == *other || (*other == 1 && code == 3);
            assert!(fine, "exit code {code}, {other} would do");
        }
    }
    assert!(place.verified());
    for worker in 0..10 {
        let tree = place.path(&format!("worker{worker}/tree"));
        if tree.exists() {
            assert!(files(&tree) == wanted, "worker {worker}");
        }
    }
    place.no_debris();
}

/// Mounts a small tmpfs, which only root may.
#[test]
#[ignore = "needs root"]
fn a_full_disk_is_one_error_and_leaves_nothing() {
    let place = Place::new();
    let small = place.path("small");
    fs::create_dir(&small).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(&small)
        .status()
        .unwrap();
    assert!(mounted.success());
    let run = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_cache"))
            .args(arguments)
            .current_dir(place.path("work"))
            .output()
            .unwrap()
    };
    let save = run(&["save", "--store", "../small/store", "--key", "k", "tree"]);
    let restore = run(&[
        "restore",
        "--store",
        "../store",
        "--key",
        "one",
        "--into",
        "../small/out",
    ]);
    let left: u64 = files(&small)
        .values()
        .map(|content| content.len() as u64)
        .sum();
    let out = small.join("out").exists();
    let unmounted = Command::new("umount").arg(&small).status().unwrap();
    assert!(unmounted.success());
    for output in [save, restore] {
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains("space"), "{stderr}");
    }
    assert_eq!(left, 0);
    assert!(!out);
}
