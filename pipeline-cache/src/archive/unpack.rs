//! Unpacks a stored entry into staging, checks it, and puts it in place.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::entry_reader::{Entry, EntryKind, EntryReader};
use super::existing::{Existing, ExistingFiles, OpenFolder};
use super::makers::{HandOver, SMALL, SmallFile};
use super::pack::available_workers;
use super::set_id::SetIdBits;
use super::staging::{Staging, sweep_beside};
use super::stat_cache::{StatCache, file_clock};
use super::tree_writer::{FolderRecord, TreeWriter};
use super::{ArchiveError, DeclaredPaths, Limits, Refusal};
use crate::store::{EntryMetadata, Sha256Digest, StoredEntry};

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
    /// Set-user-id and set-group-id bits. Default: an archive that has one is refused.
    pub set_id: SetIdBits,
    /// What to do with files that are there already. Default: keep those that are the same, where
    /// set-id bits are refused; else write all anew.
    pub existing: ExistingFiles,
}

impl Default for UnpackOptions {
    fn default() -> Self {
        Self {
            into: None,
            working_folder: PathBuf::from("."),
            workers: available_workers(8),
            limits: Limits::default(),
            set_id: SetIdBits::Refuse,
            existing: ExistingFiles::default(),
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

    /// Sets what becomes of set-id bits.
    #[must_use]
    pub fn with_set_id(mut self, set_id: SetIdBits) -> Self {
        self.set_id = set_id;
        self
    }

    /// Sets the bounds.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets what to do with files that are there already.
    #[must_use]
    pub fn with_existing(mut self, existing: ExistingFiles) -> Self {
        self.existing = existing;
        self
    }
}

/// What was restored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnpackSummary {
    /// Archive entries.
    pub entries: u64,
    /// Files that were there already and were kept.
    pub kept: u64,
    /// Files that were written.
    pub written: u64,
    /// Time for reading, checking and writing into staging.
    pub unpack_time: Duration,
    /// Time for putting everything in place.
    pub place_time: Duration,
}

/// Restores a stored entry: unpacks into staging beside the destination, compares digests, then
/// replaces each declared path in one step. Blocking.
///
/// Files of the destination that are the same already are kept: see [`ExistingFiles`].
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
    unpack_onto(entry, options, None, cancelled)
}

/// The same with a memory of what is there, so that a tree that nobody touched need not be read.
pub(crate) fn unpack_onto(
    entry: &StoredEntry,
    options: &UnpackOptions,
    stat_cache: Option<&StatCache>,
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
    limits.refuse_description(metadata)?;
    let is_described = limits.max_bytes.is_none() && metadata.raw_size > 0;
    limits.max_bytes = Some(limits.bytes_for(metadata.raw_size, metadata.packed_size));
    let (into, folder) = (options.into.as_deref(), options.working_folder.as_path());
    let clock = file_clock();
    // What was made with other bits is not what is there now.
    let stat_cache = stat_cache.filter(|_| options.set_id == SetIdBits::Refuse);
    let existing = match options.existing {
        ExistingFiles::Reuse if options.set_id == SetIdBits::Refuse => Some(Existing::look(
            &paths,
            into,
            folder,
            options.workers,
            stat_cache,
        )),
        _ => None,
    }
    .filter(|existing| !existing.is_empty());
    if let Some((entries, kept)) = existing
        .as_ref()
        .and_then(|existing| existing.is_whole(tree_identity(metadata)))
    {
        sweep_beside(&paths, into, folder);
        return Ok(UnpackSummary {
            entries,
            kept,
            unpack_time: started.elapsed(),
            ..UnpackSummary::default()
        });
    }
    let attempt = |existing: Option<&Existing>| {
        let staging = Staging::prepare(&paths, into, folder)?;
        if existing.is_none() {
            staging.check_room(least_content(metadata))?;
        }
        let sink = Sink {
            staging: &staging,
            set_id: options.set_id,
            existing,
            entry: tree_identity(metadata),
            limits: &limits,
            remembered: AtomicU64::new(0),
            cancelled,
        };
        let unpacked = super::framed::unpack_frames(entry, &sink, &limits, options.workers)
            .unwrap_or_else(|| {
                super::streamed::unpack_stream(entry, &sink, &limits, options.workers)
            })
            .map_err(|error| match error {
                // Not the reader's limit, but the entry's own word.
                ArchiveError::TooLarge { what, limit }
                    if is_described && what == "bytes" && limit == metadata.raw_size =>
                {
                    ArchiveError::Damaged {
                        what: format!("more comes out than the {limit} bytes of its description"),
                    }
                }
                other => other,
            })?;
        if cancelled() {
            return Err(ArchiveError::Cancelled);
        }
        Ok((staging, unpacked))
    };
    let (staging, unpacked) = match attempt(existing.as_ref()) {
        // Somebody writes into the old tree, or it cannot be linked to: do without it.
        Err(ArchiveError::Changed { .. }) => attempt(None)?,
        other => other?,
    };
    // It is listed anew when everything is in place.
    drop(existing);
    let unpack_time = started.elapsed();
    let placed = staging.placed();
    let summary = UnpackSummary {
        entries: unpacked.entries,
        kept: unpacked.kept,
        written: unpacked.written,
        unpack_time,
        ..UnpackSummary::default()
    };
    staging.commit(unpacked.folders, options.workers)?;
    if let Some(cache) = stat_cache {
        let (entry, workers) = (tree_identity(metadata), options.workers);
        Existing::record(
            &paths,
            into,
            folder,
            workers,
            cache,
            entry,
            &placed,
            clock,
            |_, listing| Some((listing.clone(), Vec::new())),
        );
    }
    Ok(UnpackSummary {
        place_time: started.elapsed() - unpack_time,
        ..summary
    })
}

/// What stands for the content of an entry on this machine: what a restore compares. With an index
/// of frames that is the index and not the digest of the whole, which a description could borrow
/// from another entry.
pub(crate) fn tree_identity(metadata: &EntryMetadata) -> Sha256Digest {
    match metadata.index_digest {
        None => metadata.digest,
        Some(index) => {
            Sha256Digest::of(&[&metadata.digest.as_bytes()[..], index.as_bytes()].concat())
        }
    }
}

/// Bytes of content that an archive has at the very least: headers and padding take no room on
/// disk. Holes are not in it.
fn least_content(metadata: &EntryMetadata) -> u64 {
    const HEADERS: u64 = 4096;
    let headers = metadata.file_count.saturating_mul(HEADERS);
    metadata.raw_size.saturating_sub(headers)
}

/// Where entries go.
pub(crate) struct Sink<'a> {
    pub(crate) staging: &'a Staging,
    set_id: SetIdBits,
    existing: Option<&'a Existing>,
    /// What stands for the content.
    entry: Sha256Digest,
    limits: &'a Limits,
    /// Bytes of names and attributes that all workers keep until the end.
    remembered: AtomicU64,
    cancelled: &'a (dyn Fn() -> bool + Sync),
}

/// What is left to do when all entries were read.
#[derive(Default)]
pub(crate) struct Unpacked {
    pub(crate) entries: u64,
    pub(crate) kept: u64,
    pub(crate) written: u64,
    pub(crate) open_folder: OpenFolder,
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

    /// Counts what is kept until the end.
    fn remember(&self, bytes: usize) -> Result<(), ArchiveError> {
        let bytes = bytes as u64;
        let limit = self.limits.max_remembered;
        if self.remembered.fetch_add(bytes, Ordering::Relaxed) + bytes > limit {
            return Err(ArchiveError::TooLarge {
                what: "bytes of names and attributes",
                limit,
            });
        }
        Ok(())
    }

    /// What is left of an entry's mode.
    fn mode(&self, entry: &Entry) -> Result<u32, ArchiveError> {
        match entry.kind {
            // The rights of a link mean nothing.
            EntryKind::Symlink(_) => Ok(entry.mode),
            _ => self
                .set_id
                .apply(entry.mode)
                .ok_or_else(|| ArchiveError::refuse(&entry.path, Refusal::SetId)),
        }
    }

    /// Hands a small file over to others, or writes the entry here.
    pub(crate) fn hand_over<R: std::io::BufRead>(
        &self,
        entry: Entry,
        reader: &mut EntryReader<'_, R>,
        writers: &mut [TreeWriter<'_>],
        makers: &mut HandOver<'_>,
        unpacked: &mut Unpacked,
    ) -> Result<(), ArchiveError> {
        match entry.kind {
            EntryKind::File { size, ref sparse } => {
                let (stage, path) = self.staging.place(&entry.path)?;
                makers.before(stage, &path, writers)?;
                if size > SMALL || sparse.is_some() || self.existing.is_some() {
                    return self.write(entry, None, reader, writers, HardLinks::Now, unpacked);
                }
                self.check_cancelled()?;
                unpacked.entries += 1;
                unpacked.written += 1;
                let mode = self.mode(&entry)?;
                let mut content = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
                loop {
                    let some = reader.content()?;
                    let length = some.len();
                    if length == 0 {
                        break;
                    }
                    content.extend_from_slice(some);
                    reader.consume(length);
                }
                let file = SmallFile {
                    stage,
                    path,
                    mode,
                    mtime: entry.mtime,
                    xattrs: entry.xattrs,
                    content,
                    archived: entry.path,
                };
                makers.file(file, writers)
            }
            EntryKind::HardLink(_) => {
                // Its target must be there.
                makers.finish(writers)?;
                self.write(entry, None, reader, writers, HardLinks::Now, unpacked)
            }
            // Nothing depends on what is made first: of two entries that cannot both be, the
            // second is refused.
            EntryKind::Folder | EntryKind::Symlink(_) => {
                self.write(entry, None, reader, writers, HardLinks::Now, unpacked)
            }
        }
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
        self.check_cancelled()?;
        unpacked.entries += 1;
        let mode = self.mode(&entry)?;
        let mtime = (entry.mtime.0, mtime_ns.unwrap_or(entry.mtime.1));
        let (stage, path) = self.staging.place(&entry.path)?;
        let writer = &mut writers[stage];
        match entry.kind {
            EntryKind::Folder => {
                self.remember(path.len() + size_of_xattrs(&entry.xattrs))?;
                let mode_is_set = writer.folder(&path, mode)?;
                let record = FolderRecord {
                    path: path.into(),
                    mode,
                    mode_is_set,
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
                    HardLinks::Later => {
                        self.remember(path.len() + target.len())?;
                        unpacked.hard_links.push((stage, path, target));
                    }
                }
            }
            EntryKind::File { size, sparse } => {
                if let Some(existing) = self.existing
                    && let Some(candidate) =
                        existing.candidate(self.entry, &entry.path, mode, mtime, size)
                {
                    let folder = &mut unpacked.open_folder;
                    if candidate.vouched
                        || (sparse.is_none()
                            && entry.xattrs.is_empty()
                            && existing.compare(candidate, folder, reader, &entry.path)?)
                    {
                        existing.keep(candidate, folder, writer, &path)?;
                        unpacked.kept += 1;
                        return Ok(());
                    }
                }
                unpacked.written += 1;
                let mut file = writer.file(&path, mode)?;
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

/// What attributes take in memory.
pub(crate) fn size_of_xattrs(xattrs: &[(Vec<u8>, Vec<u8>)]) -> usize {
    let each = size_of::<(Vec<u8>, Vec<u8>)>();
    xattrs
        .iter()
        .map(|(name, value)| name.len() + value.len() + each)
        .sum()
}

impl Unpacked {
    /// Adds what another worker did.
    #[cfg_attr(
        not(feature = "zstd"),
        expect(dead_code, reason = "only frames are unpacked by several workers")
    )]
    pub(crate) fn absorb(&mut self, other: Self) {
        self.entries += other.entries;
        self.kept += other.kept;
        self.written += other.written;
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
