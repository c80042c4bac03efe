//! The files of a layer, each with the digest of its content.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use pipeline_core::StepError;
use serde::{Deserialize, Serialize};

use crate::files::{FileSet, Kind, Listing, Stamp, digest_of};
use crate::store::Sha256Digest;

/// Names are relative to the root, with `/` between them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) entries: BTreeMap<String, Entry>,
    /// Whether there is an archive: empty files and folders need none.
    pub(super) archived: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(super) enum Entry {
    File {
        size: u64,
        digest: Sha256Digest,
        mode: u32,
    },
    Link {
        target: String,
    },
    Folder {
        mode: u32,
    },
}

impl Entry {
    /// Whether it makes no difference which of the two is there. Modes do not count.
    pub(super) fn is_same_content(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File { digest, .. }, Self::File { digest: theirs, .. }) => digest == theirs,
            (Self::Link { target }, Self::Link { target: theirs }) => target == theirs,
            (Self::Folder { .. }, Self::Folder { .. }) => true,
            _ => false,
        }
    }
}

/// What was listed and read, with what is needed to pack it unchanged.
pub(super) struct Taken {
    pub(super) manifest: Manifest,
    /// What the archive declares.
    pub(super) roots: Vec<String>,
    pub(super) unmatched: Vec<String>,
    stamps: Vec<(PathBuf, Stamp)>,
}

impl Taken {
    /// Lists and reads. Blocks.
    pub(super) fn new(root: &Path, files: &FileSet) -> Result<Self, StepError> {
        let Listing {
            found,
            roots,
            unmatched,
        } = files
            .list(root)
            .map_err(|error| StepError::errored("could not list the files to persist", error))?;
        let mut taken = Self {
            manifest: Manifest::default(),
            roots: Vec::new(),
            unmatched,
            stamps: Vec::new(),
        };
        for found in found {
            let on_disk = root.join(&found.path);
            let entry = match found.kind {
                Kind::Folder => Entry::Folder { mode: found.mode },
                Kind::Link(target) => Entry::Link {
                    target: text(&target)?,
                },
                Kind::File => {
                    let (size, digest) = digest_of(&on_disk).map_err(|error| {
                        StepError::errored(format!("could not read {}", on_disk.display()), error)
                    })?;
                    taken.stamps.push((on_disk, found.stamp));
                    Entry::File {
                        size,
                        digest,
                        mode: found.mode,
                    }
                }
            };
            taken.manifest.entries.insert(text(&found.path)?, entry);
        }
        for path in roots {
            let path = text(&path)?;
            if taken.manifest.holds_something(&path) {
                taken
                    .roots
                    .push(if path.is_empty() { ".".into() } else { path });
            }
        }
        taken.manifest.archived = !taken.roots.is_empty();
        Ok(taken)
    }

    /// The first file that is no longer the one that was read. Blocks.
    pub(super) fn changed(stamps: &[(PathBuf, Stamp)]) -> Option<&Path> {
        stamps
            .iter()
            .find(|(path, stamp)| {
                fs::symlink_metadata(path).map_or(true, |now| Stamp::of(&now) != *stamp)
            })
            .map(|(path, _)| path.as_path())
    }

    pub(super) fn take_stamps(&mut self) -> Vec<(PathBuf, Stamp)> {
        std::mem::take(&mut self.stamps)
    }
}

impl Manifest {
    /// Files and links, and bytes of files.
    pub(super) fn totals(&self) -> (u64, u64) {
        self.entries
            .values()
            .fold((0, 0), |(files, bytes), entry| match entry {
                Entry::File { size, .. } => (files + 1, bytes + size),
                Entry::Link { .. } => (files + 1, bytes),
                Entry::Folder { .. } => (files, bytes),
            })
    }

    /// Whether an archive of this path would not be empty: archives of nothing are refused.
    fn holds_something(&self, root: &str) -> bool {
        match self.entries.get(root) {
            Some(Entry::File { size, .. }) => *size > 0,
            Some(Entry::Link { .. }) => true,
            Some(Entry::Folder { .. }) => {
                let below = format!("{root}/");
                self.entries
                    .range(below.clone()..)
                    .next()
                    .is_some_and(|(path, _)| path.starts_with(&below))
            }
            None => !self.entries.is_empty(),
        }
    }

    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, StepError> {
        serde_json::to_vec_pretty(self)
            .map_err(|error| StepError::errored("could not write a layer's list of files", error))
    }

    /// Reads a list, if it is the one that is named.
    pub(super) fn from_bytes(bytes: &[u8], layer: Sha256Digest) -> Option<Self> {
        if Sha256Digest::of(bytes) != layer {
            return None;
        }
        serde_json::from_slice(bytes).ok()
    }
}

fn text(path: &Path) -> Result<String, StepError> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        StepError::failed(format!(
            "{path:?} cannot be persisted: its name is not UTF-8; leave it out, or pack it with \
             tar and persist that"
        ))
    })
}
