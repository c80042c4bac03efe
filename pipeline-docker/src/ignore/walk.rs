//! Walking a tree past an ignore file.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{FolderMatch, IgnoreError, IgnoreRules};

/// Which program's way through an ignored folder is followed.
///
/// The two differ when an exception has a wildcard: after `*` and `!**/*.md`, BuildKit keeps every
/// Markdown file, the classic builder only those in the root, because it enters an ignored folder
/// only when the text of an exception begins with that folder's path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum IgnoreRule {
    /// What `docker build` does today.
    #[default]
    Buildkit,
    /// What the docker command line does for engines without BuildKit.
    Classic,
}

/// One thing that is kept.
#[derive(Debug)]
pub(crate) struct TreeEntry {
    /// Relative to the root, bytes separated by `/`.
    pub(crate) path: Vec<u8>,
    pub(crate) full: PathBuf,
    pub(crate) kind: TreeKind,
    pub(crate) mode: u32,
    pub(crate) size: u64,
    pub(crate) inode: Option<(u64, u64)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TreeKind {
    Folder,
    File,
    Symlink(Vec<u8>),
    /// A pipe, socket or device.
    Special(&'static str),
}

#[derive(Debug)]
pub(crate) enum WalkError {
    Io { path: PathBuf, source: io::Error },
    Ignore(IgnoreError),
}

/// Everything below `root` that the rules keep, sorted by the bytes of the path.
///
/// Folders above kept things are kept too.
pub(crate) fn walk(
    root: &Path,
    rules: &IgnoreRules,
    rule: IgnoreRule,
) -> Result<Vec<TreeEntry>, WalkError> {
    let mut walker = Walker {
        rules,
        rule,
        kept: Vec::new(),
    };
    walker.folder(root, &[], None, &mut Vec::new())?;
    walker.kept.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(walker.kept)
}

struct Walker<'a> {
    rules: &'a IgnoreRules,
    rule: IgnoreRule,
    kept: Vec<TreeEntry>,
}

impl Walker<'_> {
    /// `above` holds the ignored folders on the way here, which appear once something below is kept.
    fn folder(
        &mut self,
        full: &Path,
        relative: &[u8],
        parent: Option<&FolderMatch>,
        above: &mut Vec<TreeEntry>,
    ) -> Result<(), WalkError> {
        let fail = |source| WalkError::Io {
            path: full.to_owned(),
            source,
        };
        for child in fs::read_dir(full).map_err(fail)? {
            let child = child.map_err(fail)?;
            let mut path = Vec::with_capacity(relative.len() + 32);
            path.extend_from_slice(relative);
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(child.file_name().as_bytes());
            let is_folder = child.file_type().map_err(fail)?.is_dir();
            let (ignored, found) = if self.rules.is_empty() {
                (false, FolderMatch::default())
            } else {
                self.rules
                    .judge(&text(&path), parent)
                    .map_err(WalkError::Ignore)?
            };
            if ignored && !(is_folder && self.may_reenter(&path)) {
                continue;
            }
            let full = child.path();
            let entry = read(full.clone(), path.clone())?;
            if ignored {
                above.push(entry);
                let depth = above.len();
                self.folder(&full, &path, Some(&found), above)?;
                // Still there only if nothing below was kept.
                above.truncate(depth.saturating_sub(1));
            } else {
                self.kept.append(above);
                self.kept.push(entry);
                if is_folder {
                    self.folder(&full, &path, Some(&found), above)?;
                }
            }
        }
        Ok(())
    }

    fn may_reenter(&self, folder: &[u8]) -> bool {
        let folder = text(folder);
        match self.rule {
            IgnoreRule::Buildkit => self.rules.may_reenter_buildkit(&folder),
            IgnoreRule::Classic => self.rules.may_reenter_classic(&folder),
        }
    }
}

/// Patterns are about text. Bytes that are none become one replacement character each, as in Go.
fn text(path: &[u8]) -> std::borrow::Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(path) {
        return text.into();
    }
    let mut whole = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        whole.push_str(chunk.valid());
        whole.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    whole.into()
}

/// Looks at one thing without following a link.
pub(crate) fn read(full: PathBuf, path: Vec<u8>) -> Result<TreeEntry, WalkError> {
    let metadata = match fs::symlink_metadata(&full) {
        Ok(metadata) => metadata,
        Err(source) => return Err(WalkError::Io { path: full, source }),
    };
    let kind = match kind(&metadata, &full) {
        Ok(kind) => kind,
        Err(source) => return Err(WalkError::Io { path: full, source }),
    };
    let inode =
        (kind == TreeKind::File && metadata.nlink() > 1).then(|| (metadata.dev(), metadata.ino()));
    let size = if kind == TreeKind::File {
        metadata.len()
    } else {
        0
    };
    Ok(TreeEntry {
        path,
        full,
        kind,
        mode: metadata.mode() & 0o7777,
        size,
        inode,
    })
}

fn kind(metadata: &Metadata, full: &Path) -> io::Result<TreeKind> {
    let file_type = metadata.file_type();
    Ok(if file_type.is_dir() {
        TreeKind::Folder
    } else if file_type.is_file() {
        TreeKind::File
    } else if file_type.is_symlink() {
        TreeKind::Symlink(fs::read_link(full)?.into_os_string().as_bytes().to_vec())
    } else if file_type.is_socket() {
        TreeKind::Special("socket")
    } else if file_type.is_fifo() {
        TreeKind::Special("named pipe")
    } else {
        TreeKind::Special("device")
    })
}
