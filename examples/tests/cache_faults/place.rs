//! A folder with two versions of one tree, a store, and the program to run on them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::noise::noise;

pub(crate) struct Place {
    dir: tempfile::TempDir,
}

/// Content, mode and time of everything below a folder, the folder itself included.
pub(crate) type Tree = BTreeMap<PathBuf, (u32, Vec<u8>)>;

impl Place {
    /// Nothing but a tree of about this many files, in its second version.
    pub(crate) fn bare(count: u64) -> Self {
        let place = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        place.write_files(count, 2, 1);
        place
    }

    /// Two versions of one tree, stored as `one` and `two`, and restored there.
    pub(crate) fn new(count: u64) -> Self {
        Self::stored(count, 1, "zstd")
    }

    /// The same, where only one in so many files differs, stored with a codec.
    pub(crate) fn stored(count: u64, one_in: u64, codec: &str) -> Self {
        let place = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        for (version, key) in [(1, "one"), (2, "two")] {
            place.write_files(count, version, one_in);
            place.expect(0, &saving_as(codec, STORE, key));
            place.expect(0, &restoring(STORE, key, &format!("../{key}")));
        }
        place
    }

    fn write_files(&self, count: u64, version: u64, one_in: u64) {
        let tree = self.path("work/tree");
        for index in 0..count {
            let folder = tree.join(format!("d{}", index % 9));
            fs::create_dir_all(&folder).unwrap();
            let length = usize::try_from(index * 97 % 20_000).unwrap();
            let version = if index % one_in == 0 { version } else { 1 };
            let content = noise(length + 1, index * 3 + version);
            fs::write(folder.join(format!("f{index}")), content).unwrap();
        }
        // The mode of the top tells the versions apart as well.
        let mode = if version == 1 { 0o700 } else { 0o755 };
        fs::set_permissions(&tree, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// The trees of `one` and `two`.
    pub(crate) fn versions(&self) -> [Tree; 2] {
        ["one/tree", "two/tree"].map(|name| tree_of(&self.path(name)))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cache"));
        command.args(arguments).current_dir(self.path("work"));
        command
    }

    pub(crate) fn spawn(&self, arguments: &[&str]) -> Child {
        self.command(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs and wants an exit code.
    #[track_caller]
    pub(crate) fn expect(&self, code: i32, arguments: &[&str]) {
        let output = self.run(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
    }

    /// How long a command takes here and now, to spread moments over.
    pub(crate) fn typical(&self, arguments: &[&str]) -> Duration {
        let started = Instant::now();
        self.expect(0, arguments);
        started.elapsed()
    }

    /// Starts a command and kills it after a moment. Says whether it was still running.
    pub(crate) fn kill(&self, moment: Duration, arguments: &[&str]) -> bool {
        let mut child = self.spawn(arguments);
        // The moment is what is being tried, not something waited for.
        std::thread::sleep(moment);
        let running = child.try_wait().unwrap().is_none();
        child.kill().unwrap();
        child.wait().unwrap();
        running
    }

    /// After a last save and restore nothing is left of what was interrupted.
    #[track_caller]
    pub(crate) fn no_debris(&self, store: &str) {
        self.expect(0, &saving(store, "last"));
        self.expect(0, &restoring(store, "last", "../out"));
        no_debris_in(&self.path("work").join(store));
        let left = fs::read_dir(self.path("out")).unwrap().count();
        assert_eq!(left, 1, "something beside the tree");
    }
}

/// The store that most tests use, seen from where the program runs.
pub(crate) const STORE: &str = "../store";

/// A store on a mounted disk.
pub(crate) const MOUNTED: &str = "../mnt/store";

/// Arguments that save the tree.
pub(crate) fn saving<'a>(store: &'a str, key: &'a str) -> [&'a str; 8] {
    saving_as("zstd", store, key)
}

/// Arguments that save the tree with a codec.
pub(crate) fn saving_as<'a>(codec: &'a str, store: &'a str, key: &'a str) -> [&'a str; 8] {
    [
        "save", "--codec", codec, "--store", store, "--key", key, "tree",
    ]
}

/// Arguments that restore the tree into a folder.
pub(crate) fn restoring<'a>(store: &'a str, key: &'a str, into: &'a str) -> [&'a str; 7] {
    ["restore", "--store", store, "--key", key, "--into", into]
}

/// Nothing in `tmp`, and in `entries` nothing but pairs of description and payload.
#[track_caller]
pub(crate) fn no_debris_in(store: &Path) {
    assert_eq!(fs::read_dir(store.join("tmp")).unwrap().count(), 0);
    let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in fs::read_dir(store.join("entries")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        files.entry(name[..40].to_owned()).or_default().push(name);
    }
    assert!(files.values().all(|names| names.len() == 2), "{files:?}");
}

/// Bytes of files below a folder.
pub(crate) fn bytes_below(top: &Path) -> u64 {
    if !top.exists() {
        return 0;
    }
    let contents = tree_of(top).into_values();
    contents.map(|(_, content)| content.len() as u64).sum()
}

pub(crate) fn tree_of(top: &Path) -> Tree {
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().mode() & 0o7777;
    let mut found = Tree::from([(PathBuf::new(), (mode(top), Vec::new()))]);
    let mut left = vec![top.to_path_buf()];
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let content = if path.is_dir() {
                left.push(path.clone());
                Vec::new()
            } else {
                fs::read(&path).unwrap()
            };
            let below = path.strip_prefix(top).unwrap().to_path_buf();
            found.insert(below, (mode(&path), content));
        }
    }
    found
}
