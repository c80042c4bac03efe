//! Trees to save, and a full description of a tree to compare.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, FileTimes};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

pub(crate) use crate::noise::noise;

/// Everything that must survive a round trip.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Described {
    kind: &'static str,
    mode: u32,
    mtime: (i64, i64),
    /// Content of a file, target of a link.
    content: Vec<u8>,
    /// First name of the same inode.
    first_name: Option<PathBuf>,
    /// Attributes of users, by name.
    attributes: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[cfg(feature = "testing")]
impl Described {
    /// Neither set-id nor sticky, and nothing but a file, folder or link.
    pub(crate) fn is_tame(&self) -> bool {
        self.mode & 0o7000 == 0 || self.kind == "link"
    }
}

/// Describes what is below a folder, by path.
pub(crate) fn describe(top: &Path) -> BTreeMap<PathBuf, Described> {
    let mut found = BTreeMap::new();
    let mut inodes = BTreeMap::new();
    let mut left = vec![top.to_path_buf()];
    let mut paths = Vec::new();
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                left.push(path.clone());
            }
            paths.push(path);
        }
    }
    paths.sort();
    for path in paths {
        let meta = fs::symlink_metadata(&path).unwrap();
        let (kind, content) = if meta.is_dir() {
            ("folder", Vec::new())
        } else if meta.is_symlink() {
            let target = fs::read_link(&path).unwrap();
            ("link", target.as_os_str().as_bytes().to_vec())
        } else {
            assert!(
                meta.is_file(),
                "{}: neither file nor folder nor link",
                path.display()
            );
            ("file", fs::read(&path).unwrap())
        };
        let below = path.strip_prefix(top).unwrap().to_path_buf();
        let first_name = (kind == "file" && meta.nlink() > 1).then(|| {
            inodes
                .entry(meta.ino())
                .or_insert_with(|| below.clone())
                .clone()
        });
        found.insert(
            below,
            Described {
                kind,
                mode: meta.mode() & 0o7777,
                mtime: (meta.mtime(), meta.mtime_nsec()),
                content,
                first_name,
                attributes: attributes(&path),
            },
        );
    }
    found
}

fn attributes(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 64 * 1024];
    let length = rustix::fs::llistxattr(path, &mut names).unwrap_or(0);
    names[..length]
        .split(|&byte| byte == 0)
        .filter(|name| name.starts_with(b"user."))
        .map(|name| {
            let mut value = vec![0; 64 * 1024];
            let length = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
            value.truncate(length);
            (name.to_vec(), value)
        })
        .collect()
}

pub(crate) fn write(path: &Path, content: &[u8], mode: u32, mtime: SystemTime) {
    fs::write(path, content).unwrap();
    set(path, mode, mtime);
}

fn set(path: &Path, mode: u32, mtime: SystemTime) {
    let file = File::open(path).unwrap();
    file.set_times(FileTimes::new().set_modified(mtime))
        .unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A small tree with one of everything that is hard to keep.
pub(crate) fn curious(top: &Path) {
    let at = |seconds, nanoseconds| SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds);
    fs::create_dir_all(top.join("bin")).unwrap();
    fs::create_dir_all(top.join("empty")).unwrap();
    write(
        &top.join("bin/run"),
        b"#!/bin/sh\n",
        0o755,
        at(1_700_000_000, 123_456_789),
    );
    write(&top.join("bin/read-only"), b"r", 0o444, at(1, 1));
    // What nobody may read only root can save.
    let no_one = top.join("bin/no-one");
    write(&no_one, b"n", 0o200, at(2, 0));
    if File::open(&no_one).is_err() {
        fs::remove_file(&no_one).unwrap();
        write(&no_one, b"n", 0o400, at(2, 0));
    }
    write(
        &top.join("zero"),
        b"",
        0o600,
        at(1_700_000_001, 999_999_999),
    );
    write(
        &top.join("before-1970"),
        b"old",
        0o644,
        SystemTime::UNIX_EPOCH - Duration::new(300_000_000, 500_000_000),
    );
    write(
        &top.join("after-2262"),
        b"new",
        0o644,
        at(20_000_000_000, 7),
    );
    fs::hard_link(top.join("bin/run"), top.join("bin/twin")).unwrap();
    fs::hard_link(top.join("bin/run"), top.join("a-twin")).unwrap();
    symlink("/nonexistent/python3", top.join("bin/python")).unwrap();
    symlink("run", top.join("bin/relative")).unwrap();
    symlink("..", top.join("bin/up")).unwrap();
    fs::write(top.join(OsStr::from_bytes(b"not-\xff-utf8")), "x").unwrap();
    fs::write(top.join("line\nbreak"), "x").unwrap();
    fs::write(top.join("  spaces  "), "x").unwrap();
    let long = top
        .join("l".repeat(200))
        .join("m".repeat(200))
        .join("n".repeat(200));
    fs::create_dir_all(&long).unwrap();
    fs::write(long.join("o".repeat(255)), "deep").unwrap();
    symlink("t".repeat(300), top.join("long-target")).unwrap();
    let sparse = File::create(top.join("sparse")).unwrap();
    sparse.set_len(8 << 20).unwrap();
    sparse.write_all_at(b"middle", 3_000_000).unwrap();
    sparse.write_all_at(b"end", (8 << 20) - 3).unwrap();
    File::create(top.join("all-hole"))
        .unwrap()
        .set_len(3_000_000)
        .unwrap();
    // Larger than a block, with an odd length.
    fs::write(top.join("large"), noise(9 * 1024 * 1024 + 17, 3)).unwrap();
    for size in [511, 512, 513, 1024] {
        fs::write(top.join(format!("size-{size}")), noise(size, 5)).unwrap();
    }
    fs::create_dir_all(top.join("locked/inside")).unwrap();
    fs::write(top.join("locked/inside/file"), "x").unwrap();
    set(&top.join("locked/inside"), 0o500, at(5, 5));
    set(&top.join("locked"), 0o500, at(6, 6));
    set(&top.join("empty"), 0o711, at(7, 7));
}

/// Many small files, enough for several blocks.
pub(crate) fn many(top: &Path, files: usize) {
    for index in 0..files {
        let folder = top.join(format!("d{}", index % 37));
        fs::create_dir_all(&folder).unwrap();
        let size = (index * 7_919) % 9_000;
        fs::write(
            folder.join(format!("f{index}")),
            noise(size, index as u64 + 1),
        )
        .unwrap();
    }
}
