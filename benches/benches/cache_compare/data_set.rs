//! The trees that are saved, made once and the same in every run on one machine.

use std::collections::HashMap;
use std::fs::{self, File, FileTimes};
use std::io::Write as _;
use std::ops::Range;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use clap::ValueEnum;

use crate::tree;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DataSet {
    /// About 10,000 files and 150 MB of installed Python packages.
    Venv,
    /// About 1 GB of what cargo builds, hard links included.
    Target,
    /// 100,000 tiny files in 10,000 folders.
    Many,
    /// One file of 1 GiB, half random, half text.
    Blob,
    /// A few files, to see whether all contenders work.
    Small,
}

impl DataSet {
    /// The tree, made if it is not there.
    pub(crate) fn make(self, folder: &Path) -> PathBuf {
        let name = format!("{self:?}").to_lowercase();
        let place = folder.join(&name);
        if place.exists() {
            return place;
        }
        eprintln!("making {}", place.display());
        // Whole or not at all, so that a stopped run leaves nothing that looks complete.
        let unfinished = folder.join(format!("{name}-unfinished"));
        tree::remove(&unfinished);
        fs::create_dir_all(&unfinished).unwrap();
        match self {
            Self::Venv => venv(&unfinished),
            Self::Target => target(&unfinished),
            Self::Many => many(&unfinished, 10_000, 10),
            Self::Blob => blob(&unfinished),
            Self::Small => many(&unfinished, 30, 10),
        }
        fs::rename(&unfinished, &place).unwrap();
        place
    }
}

/// Paths that the Python of this system is installed in.
fn python_folders() -> Vec<PathBuf> {
    let script = "import sysconfig; p = sysconfig.get_paths(); \
                  print(p['purelib'], p['platlib'], p['stdlib'], sep='\\n')";
    let output = Command::new("python3").args(["-c", script]).output();
    let mut folders: Vec<PathBuf> = Vec::new();
    let text = output.map_or_else(|_| Vec::new(), |output| output.stdout);
    for line in String::from_utf8_lossy(&text).lines() {
        folders.push(line.into());
    }
    folders.push("/usr/lib/python3".into());
    folders.retain(|folder| folder.is_dir());
    assert!(!folders.is_empty(), "python3 is needed for this data set");
    folders
}

fn venv(top: &Path) {
    let packages = top.join("lib/python3/site-packages");
    fs::create_dir_all(&packages).unwrap();
    fs::create_dir_all(top.join("bin")).unwrap();
    for (name, to) in [
        ("python", "/usr/bin/python3"),
        ("python3", "python"),
        ("pip3", "pip"),
    ] {
        symlink(to, top.join("bin").join(name)).unwrap();
    }
    symlink("lib", top.join("lib64")).unwrap();
    let mut copy = Copy {
        files: 9_700,
        bytes: 156_000_000,
        sizes: 0..8_000_000,
        twins: HashMap::new(),
    };
    for folder in python_folders() {
        copy.tree(&folder, &packages);
    }
    assert!(copy.files < 5_000, "too few files of Python on this system");
    // Then libraries and tables, as scientific packages have them.
    copy.files += 300;
    copy.sizes = 200_000..8_000_000;
    for folder in python_folders() {
        copy.tree(&folder, &packages);
    }
}

fn target(top: &Path) {
    // The program that runs is in target/release/deps.
    let exe = std::env::current_exe().unwrap();
    let built = exe.ancestors().nth(3).unwrap();
    let mut copy = Copy {
        files: usize::MAX,
        bytes: 1_190_000_000,
        sizes: 0..150_000_000,
        twins: HashMap::new(),
    };
    for profile in ["release", "debug"] {
        copy.tree(&built.join(profile), &top.join(profile));
    }
    assert!(
        copy.bytes < 400_000_000,
        "the target folder holds too little: build the workspace's tests first"
    );
}

/// Copies what exists until there is enough of it, with times and hard links.
struct Copy {
    files: usize,
    bytes: u64,
    /// Of one file.
    sizes: Range<u64>,
    twins: HashMap<u64, PathBuf>,
}

impl Copy {
    fn tree(&mut self, from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        let mut folders = Vec::new();
        for (name, meta) in tree::list(from) {
            let (source, place) = (from.join(&name), to.join(&name));
            if meta.is_dir() {
                folders.push((place, meta.modified().unwrap()));
            } else if meta.is_file() && !place.exists() {
                self.file(&source, &place, &meta);
            }
        }
        for (folder, mtime) in folders.iter().rev() {
            // Only those that something was copied into are there.
            if folder.is_dir() {
                set_time(folder, *mtime);
            }
        }
    }

    fn file(&mut self, source: &Path, place: &Path, meta: &fs::Metadata) {
        if let Some(twin) = self.twins.get(&meta.ino()) {
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::hard_link(twin, place).unwrap();
            return;
        }
        if self.files == 0 || meta.len() > self.bytes || !self.sizes.contains(&meta.len()) {
            return;
        }
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        // A build that goes on may take a file away.
        if fs::copy(source, place).is_err() {
            return;
        }
        self.files -= 1;
        self.bytes -= meta.len();
        set_time(place, meta.modified().unwrap());
        if meta.nlink() > 1 {
            self.twins.insert(meta.ino(), place.to_path_buf());
        }
    }
}

/// Source text to take pieces of.
fn text() -> Vec<u8> {
    let mut text = Vec::new();
    for folder in python_folders() {
        for (name, meta) in tree::list(&folder) {
            if meta.is_file() && name.extension().is_some_and(|extension| extension == "py") {
                text.extend(fs::read(folder.join(name)).unwrap());
            }
            if text.len() > 48 << 20 {
                return text;
            }
        }
    }
    text
}

fn many(top: &Path, folders: usize, files: usize) {
    let text = text();
    let mut random = Random(7);
    for folder in 0..folders {
        let place = top
            .join(format!("package-{:03}", folder / 100))
            .join(format!("module_{folder:05}"));
        fs::create_dir_all(&place).unwrap();
        for file in 0..files {
            // Median about 1.8 KB, the longest just below 10 KB.
            let length = 300 << (random.next() % 5);
            let length = length + random.next() as usize % length;
            let start = random.next() as usize % (text.len() - length);
            let path = place.join(format!("source_{file}.js"));
            let head = format!("// {folder} {file}\n");
            fs::write(
                &path,
                [head.as_bytes(), &text[start..start + length]].concat(),
            )
            .unwrap();
            set_time(&path, random.time());
        }
        set_time(&place, random.time());
    }
}

fn blob(top: &Path) {
    let text = text();
    let mut random = Random(11);
    let mut file = File::create(top.join("blob")).unwrap();
    for _ in 0..512 {
        let mut noise = Vec::with_capacity(1 << 20);
        while noise.len() < 1 << 20 {
            noise.extend_from_slice(&random.next().to_le_bytes());
        }
        file.write_all(&noise).unwrap();
    }
    for _ in 0..512 {
        let mut piece = Vec::with_capacity(1 << 20);
        while piece.len() < 1 << 20 {
            let length = 200 + random.next() as usize % 3_000;
            let start = random.next() as usize % (text.len() - length);
            piece.extend_from_slice(&text[start..start + length]);
        }
        file.write_all(&piece[..1 << 20]).unwrap();
    }
    drop(file);
    set_time(&top.join("blob"), random.time());
}

fn set_time(path: &Path, mtime: SystemTime) {
    File::open(path)
        .unwrap()
        .set_times(FileTimes::new().set_modified(mtime))
        .unwrap();
}

/// The same numbers in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn time(&mut self) -> SystemTime {
        let nanoseconds = (self.next() % 1_000_000_000) as u32;
        SystemTime::UNIX_EPOCH
            + Duration::new(1_700_000_000 + self.next() % 30_000_000, nanoseconds)
    }
}
