//! Walks a folder in one order, and only where a pattern can still match.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::pattern::{Pattern, Progress};
use super::staging_folder::is_staging;
use super::{FileSet, FileSetError};

/// What was found, names in byte order, folders before what is in them.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) found: Vec<Found>,
    /// The fewest paths that hold exactly what was found: whole folders where everything in them
    /// belongs.
    pub(crate) roots: Vec<PathBuf>,
    /// Patterns that match nothing.
    pub(crate) unmatched: Vec<String>,
}

/// One file, link or folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Relative to the root; empty for the root itself.
    pub(crate) path: PathBuf,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) stamp: Stamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Folder,
    Link(PathBuf),
}

/// What tells that a file is still the one that was listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) size: u64,
    modified: Option<SystemTime>,
    changed: (i64, i64),
    inode: u64,
}

impl Stamp {
    pub(crate) fn of(metadata: &fs::Metadata) -> Self {
        Self {
            size: metadata.len(),
            modified: metadata.modified().ok(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
        }
    }
}

pub(super) fn list(set: &FileSet, root: &Path) -> Result<Listing, FileSetError> {
    let metadata = fs::metadata(root).map_err(|source| read("look at", root, source))?;
    let mut walk = Walk {
        set,
        root,
        listing: Listing::default(),
        matched: vec![false; set.patterns.len()],
    };
    let wanted = set.patterns.iter().map(Pattern::start).collect();
    let unwanted = set.excluded.iter().map(Pattern::start).collect();
    let place = Place {
        path: PathBuf::new(),
        wanted,
        unwanted,
        inside: false,
    };
    let whole = walk.visit(&place, &metadata)?;
    if whole == Some(true) {
        walk.listing.roots = vec![PathBuf::new()];
    }
    walk.listing.unmatched = set
        .patterns
        .iter()
        .zip(&walk.matched)
        .filter(|(_, matched)| !**matched)
        .map(|(pattern, _)| pattern.text.clone())
        .collect();
    Ok(walk.listing)
}

struct Walk<'a> {
    set: &'a FileSet,
    root: &'a Path,
    listing: Listing,
    matched: Vec<bool>,
}

/// A file or folder, and how far each pattern has got.
struct Place {
    path: PathBuf,
    wanted: Vec<Progress>,
    unwanted: Vec<Progress>,
    /// Whether a folder above was matched.
    inside: bool,
}

impl Walk<'_> {
    /// `None` when nothing here belongs; else whether all of it does.
    fn visit(
        &mut self,
        place: &Place,
        metadata: &fs::Metadata,
    ) -> Result<Option<bool>, FileSetError> {
        let excluded = |(pattern, at): (&Pattern, &Progress)| pattern.is_match(at);
        if self.set.excluded.iter().zip(&place.unwanted).any(excluded) {
            return Ok(None);
        }
        let mut selected = place.inside;
        for (index, (pattern, at)) in self.set.patterns.iter().zip(&place.wanted).enumerate() {
            if pattern.is_match(at) {
                self.matched[index] = true;
                selected = true;
            }
        }
        let on_disk = self.root.join(&place.path);
        let kind = if metadata.is_dir() {
            Kind::Folder
        } else if metadata.is_symlink() {
            let target =
                fs::read_link(&on_disk).map_err(|source| read("read", &on_disk, source))?;
            Kind::Link(target)
        } else {
            Kind::File
        };
        let is_folder = kind == Kind::Folder;
        if selected && !place.path.as_os_str().is_empty() {
            self.listing.found.push(Found {
                path: place.path.clone(),
                kind,
                mode: metadata.mode() & 0o777,
                stamp: Stamp::of(metadata),
            });
        }
        if !is_folder {
            return Ok(selected.then_some(true));
        }
        let may_match = |(pattern, at): (&Pattern, &Progress)| pattern.may_go_on(at);
        if !selected && !self.set.patterns.iter().zip(&place.wanted).any(may_match) {
            return Ok(None);
        }
        let first_root = self.listing.roots.len();
        let (mut whole, mut some) = (selected, selected);
        for name in names(&on_disk)? {
            if is_staging(&name) {
                // Of a step that works in the same folder at the moment.
                whole = false;
                continue;
            }
            let path = place.path.join(&name);
            let child_on_disk = self.root.join(&path);
            let metadata = match fs::symlink_metadata(&child_on_disk) {
                Ok(metadata) => metadata,
                // Gone since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(read("look at", &child_on_disk, error)),
            };
            let kind = metadata.file_type();
            if !(kind.is_file() || kind.is_dir() || kind.is_symlink()) {
                // Sockets and the like are of no use to anybody else.
                continue;
            }
            let step = |patterns: &[Pattern], from: &[Progress]| {
                patterns
                    .iter()
                    .zip(from)
                    .map(|(pattern, at)| pattern.step(at, &name))
                    .collect::<Vec<_>>()
            };
            let child = Place {
                wanted: step(&self.set.patterns, &place.wanted),
                unwanted: step(&self.set.excluded, &place.unwanted),
                inside: selected,
                path,
            };
            match self.visit(&child, &metadata)? {
                Some(true) => {
                    self.listing.roots.push(child.path);
                    some = true;
                }
                Some(false) => {
                    whole = false;
                    some = true;
                }
                None => whole = false,
            }
        }
        if whole {
            self.listing.roots.truncate(first_root);
        }
        Ok(some.then_some(whole))
    }
}

/// Sorted by bytes, so that every machine sees one order.
fn names(folder: &Path) -> Result<Vec<OsString>, FileSetError> {
    let fail = |source| read("list", folder, source);
    let mut names = fs::read_dir(folder)
        .map_err(fail)?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<Result<Vec<_>, io::Error>>()
        .map_err(fail)?;
    names.sort_unstable();
    Ok(names)
}

fn read(action: &'static str, path: &Path, source: io::Error) -> FileSetError {
    FileSetError::Read {
        action,
        path: path.to_path_buf(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in ["a/x.txt", "a/b/y.txt", "a/b/z.md", "c/.h.txt", "top.txt"] {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        fs::create_dir(dir.path().join("empty")).unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("link")).unwrap();
        dir
    }

    fn listed(patterns: &[&str], without: &[&str]) -> (Vec<String>, Vec<String>, Vec<String>) {
        let dir = tree();
        let set = FileSet::new(patterns).unwrap().without(without).unwrap();
        let listing = set.list(dir.path()).unwrap();
        let text = |path: &PathBuf| path.to_str().unwrap().to_owned();
        (
            listing
                .found
                .iter()
                .map(|found| text(&found.path))
                .collect(),
            listing.roots.iter().map(text).collect(),
            listing.unmatched,
        )
    }

    #[test]
    fn files_come_in_one_order_and_whole_folders_in_one_piece() {
        let (found, roots, unmatched) = listed(&["**/*.txt", "no/*"], &[]);
        assert_eq!(found, ["a/b/y.txt", "a/x.txt", "c/.h.txt", "top.txt"]);
        assert_eq!(roots, found);
        assert_eq!(unmatched, ["no/*"]);

        let (found, roots, _) = listed(&["a", "empty", "link"], &[]);
        let wanted = [
            "a",
            "a/b",
            "a/b/y.txt",
            "a/b/z.md",
            "a/x.txt",
            "empty",
            "link",
        ];
        assert_eq!(found, wanted);
        assert_eq!(roots, ["a", "empty", "link"]);

        let (_, roots, _) = listed(&["."], &[]);
        assert_eq!(roots, [""]);
    }

    #[test]
    fn files_on_their_way_to_their_place_are_not_seen() {
        let dir = tree();
        let staging = crate::files::StagingFolder::new(dir.path()).unwrap();
        fs::write(staging.path().join("half"), "").unwrap();
        let listing = FileSet::new(["."]).unwrap().list(dir.path()).unwrap();
        assert!(
            listing
                .found
                .iter()
                .all(|found| !found.path.ends_with("half"))
        );
        assert_eq!(listing.roots.len(), 5, "{:?}", listing.roots);
    }

    #[test]
    fn what_is_left_out_breaks_folders_up() {
        let (found, roots, _) = listed(&["."], &["**/*.md", "c", "link"]);
        assert_eq!(
            found,
            ["a", "a/b", "a/b/y.txt", "a/x.txt", "empty", "top.txt"]
        );
        assert_eq!(roots, ["a/b/y.txt", "a/x.txt", "empty", "top.txt"]);
    }
}
