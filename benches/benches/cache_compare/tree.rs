//! Trees: size, comparison, edits, removal.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File, FileTimes};
use std::io::Read as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Everything below a folder by path, in order.
pub(crate) fn list(top: &Path) -> BTreeMap<PathBuf, fs::Metadata> {
    let mut found = BTreeMap::new();
    let mut left = vec![top.to_path_buf()];
    while let Some(folder) = left.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            let Ok(meta) = fs::symlink_metadata(&path) else {
                continue;
            };
            if meta.is_dir() {
                left.push(path.clone());
            }
            found.insert(path.strip_prefix(top).unwrap().to_path_buf(), meta);
        }
    }
    found
}

pub(crate) struct Size {
    pub(crate) files: usize,
    pub(crate) folders: usize,
    pub(crate) bytes: u64,
}

pub(crate) fn size(top: &Path) -> Size {
    let mut seen = HashSet::new();
    let mut size = Size {
        files: 0,
        folders: 0,
        bytes: 0,
    };
    for meta in list(top).values() {
        if meta.is_dir() {
            size.folders += 1;
        } else if meta.is_file() {
            size.files += 1;
            if seen.insert(meta.ino()) {
                size.bytes += meta.len();
            }
        }
    }
    size
}

pub(crate) fn bytes_below(top: impl AsRef<Path>) -> u64 {
    size(top.as_ref()).bytes
}

pub(crate) fn remove(path: &Path) {
    if fs::symlink_metadata(path).is_ok() {
        fs::remove_dir_all(path).unwrap();
    }
}

/// What of a tree is not the same in another; the first of each sort, and how many there are.
pub(crate) fn differences(source: &Path, restored: &Path) -> Vec<String> {
    let (wanted, found) = (list(source), list(restored));
    let mut differences: BTreeMap<&str, (usize, String)> = BTreeMap::new();
    let mut differs = |what: &'static str, path: &Path| {
        let entry = differences
            .entry(what)
            .or_insert_with(|| (0, path.display().to_string()));
        entry.0 += 1;
    };
    let mut twins: HashMap<u64, u64> = HashMap::new();
    for path in found.keys().filter(|path| !wanted.contains_key(*path)) {
        differs("is not in the source", path);
    }
    for (path, meta) in &wanted {
        let Some(other) = found.get(path) else {
            differs("is missing", path);
            continue;
        };
        if meta.file_type() != other.file_type() {
            differs("is something else", path);
            continue;
        }
        if meta.mode() != other.mode() {
            differs("has another mode", path);
        }
        if meta.mtime() != other.mtime() {
            differs("has another time", path);
        } else if meta.mtime_nsec() != other.mtime_nsec() {
            differs("has other nanoseconds", path);
        }
        if meta.is_symlink() {
            let target = |top: &Path| fs::read_link(top.join(path)).unwrap();
            if target(source) != target(restored) {
                differs("links elsewhere", path);
            }
        }
        if meta.is_file() {
            if meta.nlink() > 1 {
                let twin = *twins.entry(meta.ino()).or_insert(other.ino());
                if twin != other.ino() {
                    differs("is no hard link any more", path);
                }
            }
            if meta.len() != other.len() || !same_content(&source.join(path), &restored.join(path))
            {
                differs("has other content", path);
            }
        }
    }
    differences
        .into_iter()
        .map(|(what, (count, first))| format!("{count} x {what}, first {first}"))
        .collect()
}

fn same_content(one: &Path, other: &Path) -> bool {
    let (mut one, mut other) = (File::open(one).unwrap(), File::open(other).unwrap());
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let count = one.read(&mut left).unwrap();
        if count == 0 {
            return other.read(&mut right).unwrap() == 0;
        }
        if other.read_exact(&mut right[..count]).is_err() || left[..count] != right[..count] {
            return false;
        }
    }
}

/// 64 bytes inserted in the middle of 1 % of the files; of a tree of a few large files, ten runs
/// overwritten that make 1 % of it.
pub(crate) struct Edits {
    before: Vec<Before>,
}

struct Before {
    path: PathBuf,
    mtime: SystemTime,
    length: u64,
    /// Where bytes were, and which.
    runs: Vec<(u64, Vec<u8>)>,
}

impl Edits {
    pub(crate) fn make(tree: &Path, round: usize) -> Self {
        let mut before = Vec::new();
        let files: Vec<(PathBuf, fs::Metadata)> = list(tree)
            .into_iter()
            .filter(|(_, meta)| meta.is_file())
            .collect();
        if files.len() < 100 {
            let (name, meta) = files.iter().max_by_key(|(_, meta)| meta.len()).unwrap();
            let path = tree.join(name);
            let file = File::options().read(true).write(true).open(&path).unwrap();
            let run = meta.len() / 1000;
            let mut runs = Vec::new();
            for number in 0..10 {
                let offset = (number * 100 + round as u64 * 7 % 90) * run;
                let mut old = vec![0; usize::try_from(run).unwrap()];
                file.read_exact_at(&mut old, offset).unwrap();
                let new: Vec<u8> = old.iter().map(|byte| byte.wrapping_add(7)).collect();
                file.write_all_at(&new, offset).unwrap();
                runs.push((offset, old));
            }
            before.push(Before {
                path,
                mtime: meta.modified().unwrap(),
                length: meta.len(),
                runs,
            });
        } else {
            for (name, meta) in files.iter().skip(round % 100).step_by(100) {
                let path = tree.join(name);
                let old = fs::read(&path).unwrap();
                let middle = old.len() / 2;
                let new = [&old[..middle], &[b'#'; 64], &old[middle..]].concat();
                rewrite(&path, &[(0, new)], None);
                before.push(Before {
                    path,
                    mtime: meta.modified().unwrap(),
                    length: meta.len(),
                    runs: vec![(0, old)],
                });
            }
        }
        Self { before }
    }

    /// Puts back contents and times.
    pub(crate) fn undo(self) {
        for before in self.before {
            rewrite(&before.path, &before.runs, Some(before.length));
            File::open(&before.path)
                .unwrap()
                .set_times(FileTimes::new().set_modified(before.mtime))
                .unwrap();
        }
    }
}

/// Writes into a file that may be read-only.
fn rewrite(path: &Path, runs: &[(u64, Vec<u8>)], length: Option<u64>) {
    let before = fs::metadata(path).unwrap().permissions();
    let mut open = before.clone();
    std::os::unix::fs::PermissionsExt::set_mode(&mut open, 0o600);
    fs::set_permissions(path, open).unwrap();
    let file = File::options().write(true).open(path).unwrap();
    for (offset, bytes) in runs {
        file.write_all_at(bytes, *offset).unwrap();
    }
    if let Some(length) = length {
        file.set_len(length).unwrap();
    }
    fs::set_permissions(path, before).unwrap();
}
