//! Unpacks a stored entry into staging, checks it, and puts it in place.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::entry_reader::{Entry, EntryKind, EntryReader};
use super::pack::available_workers;
use super::staging::Staging;
use super::tree_writer::{FolderRecord, TreeWriter};
use super::{ArchiveError, DeclaredPaths, Limits, Refusal};
use crate::store::StoredEntry;

/// How to unpack.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnpackOptions {
    /// Put everything below this folder, absolute declared paths too; it is made if missing.
    /// Default: none, each path goes back to where it came from.
    pub into: Option<PathBuf>,
    /// Folder that relative declared paths start from. Default: `.`.
    pub working_folder: PathBuf,
    /// Threads. Default: as many as the process may use, at most 8.
    pub workers: usize,
    /// Bounds.
    pub limits: Limits,
}

impl Default for UnpackOptions {
    fn default() -> Self {
        Self {
            into: None,
            working_folder: PathBuf::from("."),
            workers: available_workers(8),
            limits: Limits::default(),
        }
    }
}

impl UnpackOptions {
    /// Puts everything below a folder.
    #[must_use]
    pub fn with_into(mut self, folder: impl Into<PathBuf>) -> Self {
        self.into = Some(folder.into());
        self
    }

    /// Sets the folder that relative paths start from.
    #[must_use]
    pub fn with_working_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.working_folder = folder.into();
        self
    }

    /// Sets the number of threads.
    #[must_use]
    pub fn with_workers(mut self, workers: usize) -> Self {
        self.workers = workers.max(1);
        self
    }

    /// Sets the bounds.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }
}

/// What was restored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnpackSummary {
    /// Archive entries.
    pub entries: u64,
    /// Time for reading, checking and writing into staging.
    pub unpack_time: Duration,
    /// Time for putting everything in place.
    pub place_time: Duration,
}

/// Restores a stored entry: unpacks into staging beside the destination, compares digests, then
/// replaces each declared path in one step. Blocking.
///
/// `cancelled` is asked now and then; `true` gives up and leaves the destination as it was.
///
/// # Errors
/// Damage, anything unsafe, or a destination that cannot be written. The destination is then as
/// it was before.
pub fn unpack(
    entry: &StoredEntry,
    options: &UnpackOptions,
    cancelled: &(dyn Fn() -> bool + Sync),
) -> Result<UnpackSummary, ArchiveError> {
    let started = Instant::now();
    let metadata = &entry.metadata;
    if entry.payload.len() != metadata.packed_size {
        return Err(ArchiveError::Damaged {
            what: format!(
                "the payload has {} bytes, not {}",
                entry.payload.len(),
                metadata.packed_size
            ),
        });
    }
    let paths = DeclaredPaths::new(&metadata.paths)?;
    let mut limits = options.limits.clone();
    limits.max_bytes = Some(limits.bytes_for(metadata.raw_size, metadata.packed_size));
    let staging = Staging::prepare(&paths, options.into.as_deref(), &options.working_folder)?;
    let sink = Sink {
        staging: &staging,
        cancelled,
    };
    let unpacked = super::framed::unpack_frames(entry, &sink, &limits, options.workers)
        .unwrap_or_else(|| super::streamed::unpack_stream(entry, &sink, &limits))?;
    let unpack_time = started.elapsed();
    if cancelled() {
        return Err(ArchiveError::Cancelled);
    }
    let entries = unpacked.entries;
    staging.commit(unpacked.folders)?;
    Ok(UnpackSummary {
        entries,
        unpack_time,
        place_time: started.elapsed() - unpack_time,
    })
}

/// Where entries go.
pub(crate) struct Sink<'a> {
    pub(crate) staging: &'a Staging,
    cancelled: &'a (dyn Fn() -> bool + Sync),
}

/// What is left to do when all entries were read.
#[derive(Default)]
pub(crate) struct Unpacked {
    pub(crate) entries: u64,
    pub(crate) folders: Vec<(usize, FolderRecord)>,
    /// Stage, path and target of hard links not made yet.
    pub(crate) hard_links: Vec<(usize, Vec<u8>, Vec<u8>)>,
}

/// When hard links are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HardLinks {
    /// At once: their target came before.
    Now,
    /// After everything else: their target may be in another worker's hands.
    #[cfg_attr(
        not(feature = "zstd"),
        expect(dead_code, reason = "only frames are unpacked by several workers")
    )]
    Later,
}

impl Sink<'_> {
    pub(crate) fn check_cancelled(&self) -> Result<(), ArchiveError> {
        if (self.cancelled)() {
            return Err(ArchiveError::Cancelled);
        }
        Ok(())
    }

    /// Writes one entry, content included.
    pub(crate) fn write<R: std::io::BufRead>(
        &self,
        entry: Entry,
        mtime_ns: Option<u32>,
        reader: &mut EntryReader<'_, R>,
        writers: &mut [TreeWriter<'_>],
        hard_links: HardLinks,
        unpacked: &mut Unpacked,
    ) -> Result<(), ArchiveError> {
        if (self.cancelled)() {
            return Err(ArchiveError::Cancelled);
        }
        unpacked.entries += 1;
        let mtime = (entry.mtime.0, mtime_ns.unwrap_or(entry.mtime.1));
        let (stage, path) = self.staging.place(&entry.path)?;
        let writer = &mut writers[stage];
        match entry.kind {
            EntryKind::Folder => {
                writer.folder(&path)?;
                let record = FolderRecord {
                    path: path.into(),
                    mode: entry.mode,
                    mtime,
                    xattrs: entry.xattrs,
                };
                unpacked.folders.push((stage, record));
            }
            EntryKind::Symlink(target) => writer.symlink(&path, &target, mtime)?,
            EntryKind::HardLink(target) => {
                let (target_stage, target) = self
                    .staging
                    .place(&target)
                    .map_err(|_| ArchiveError::refuse(&entry.path, Refusal::HardLinkTarget))?;
                if target_stage != stage {
                    return Err(ArchiveError::refuse(&entry.path, Refusal::HardLinkTarget));
                }
                match hard_links {
                    HardLinks::Now => writer.hard_link(&path, &target)?,
                    HardLinks::Later => unpacked.hard_links.push((stage, path, target)),
                }
            }
            EntryKind::File { sparse, .. } => {
                let mut file = writer.file(&path, entry.mode)?;
                loop {
                    let content = reader.content()?;
                    let length = content.len();
                    if length == 0 {
                        break;
                    }
                    match &sparse {
                        None => file.write(content, &entry.path)?,
                        Some(map) => file.write_sparse(content, map, &entry.path)?,
                    }
                    reader.consume(length);
                    if (self.cancelled)() {
                        return Err(ArchiveError::Cancelled);
                    }
                }
                let real_size = sparse.map(|map| map.real_size);
                file.finish(real_size, &entry.xattrs, mtime, &entry.path)?;
            }
        }
        Ok(())
    }
}

impl Unpacked {
    /// Adds what another worker did.
    #[cfg_attr(
        not(feature = "zstd"),
        expect(dead_code, reason = "only frames are unpacked by several workers")
    )]
    pub(crate) fn absorb(&mut self, other: Self) {
        self.entries += other.entries;
        self.folders.extend(other.folders);
        self.hard_links.extend(other.hard_links);
    }

    pub(crate) fn check(&self, limits: &Limits) -> Result<(), ArchiveError> {
        if self.folders.len() as u64 > limits.max_folders {
            return Err(ArchiveError::TooLarge {
                what: "folders",
                limit: limits.max_folders,
            });
        }
        if self.hard_links.len() as u64 > limits.max_hard_links {
            return Err(ArchiveError::TooLarge {
                what: "hard links",
                limit: limits.max_hard_links,
            });
        }
        Ok(())
    }
}
