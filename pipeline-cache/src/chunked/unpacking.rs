//! Unpacks a chunked entry: what is there and the same is kept, blocks of what is missing are
//! decoded once and feed all files that need them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::chunker::{LARGEST, chunk_id};
use super::manifest::encode_extra;
use super::restore_plan::{Fate, Plan};
use super::segment::{Buffers, damaged};
use super::segments::OpenSegment;
use crate::archive::entry_reader::SparseMap;
use crate::archive::existing::{Candidate, Existing, OpenFolder};
use crate::archive::listing::ListedKind;
use crate::archive::staging::Staging;
use crate::archive::stat_cache::StatCache;
use crate::archive::tree_writer::{FolderRecord, SameName, TreeWriter};
use crate::archive::{ArchiveError, UnpackOptions, UnpackSummary};

/// A restored tree.
pub(super) struct Placed {
    pub(super) summary: UnpackSummary,
    /// Device and inode of each declared path.
    roots: Vec<Option<(u64, u64)>>,
}

/// A chunk that a file needs.
struct Piece {
    segment: u32,
    block: u32,
    chunk: u32,
    root: u32,
    entry: u32,
    /// Where in the bytes of the file that are stored.
    offset: u64,
}

/// What is left to do when files are written.
#[derive(Default)]
struct Share {
    folders: Vec<(usize, FolderRecord)>,
    hard_links: Vec<(usize, Vec<u8>, Vec<u8>)>,
    to_write: Vec<(u32, u32)>,
    kept: u64,
    written: u64,
}

impl Plan {
    pub(super) fn unpack(
        &self,
        open: &[Option<OpenSegment>],
        existing: Option<&Existing>,
        options: &UnpackOptions,
        cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Result<Placed, ArchiveError> {
        let (into, folder) = (options.into.as_deref(), options.working_folder.as_path());
        self.check_chunks(open)?;
        let staging = Staging::prepare(&self.paths, into, folder)?;
        if existing.is_none() {
            staging.check_room(self.manifest.content())?;
        }
        let work = Unpacking {
            plan: self,
            open,
            existing,
            staging: &staging,
            failed: Mutex::new(None),
            cancelled,
        };
        let mut share = work.lay_out(options.workers)?;
        work.fill(&share.to_write, options.workers)?;
        let mut writers = staging.writers(SameName::Refuse);
        for (stage, path, target) in std::mem::take(&mut share.hard_links) {
            writers[stage].hard_link(&path, &target)?;
        }
        drop(writers);
        if cancelled() {
            return Err(ArchiveError::Cancelled);
        }
        let placed = staging.placed();
        let placing = Instant::now();
        staging.commit(share.folders, options.workers)?;
        let listings = self.manifest.roots.iter().map(|root| &root.listing);
        let summary = UnpackSummary {
            entries: listings.map(|listing| listing.len() as u64).sum(),
            kept: share.kept,
            written: share.written,
            place_time: placing.elapsed(),
            ..UnpackSummary::default()
        };
        Ok(Placed {
            summary,
            roots: placed,
        })
    }

    /// Notes where everything is now.
    pub(super) fn record(
        &self,
        placed: &Placed,
        options: &UnpackOptions,
        stat_cache: &StatCache,
        clock: (i64, u32),
    ) {
        Existing::record(
            &self.paths,
            options.into.as_deref(),
            &options.working_folder,
            options.workers,
            stat_cache,
            self.metadata.digest,
            &placed.roots,
            clock,
            |index, found| {
                let root = &self.manifest.roots[index];
                found.is_like(&root.listing).then(|| {
                    let extra = encode_extra(&self.manifest.segments, root);
                    (root.listing.clone(), extra)
                })
            },
        );
    }
}

struct Unpacking<'a> {
    plan: &'a Plan,
    open: &'a [Option<OpenSegment>],
    existing: Option<&'a Existing>,
    staging: &'a Staging,
    failed: Mutex<Option<ArchiveError>>,
    cancelled: &'a (dyn Fn() -> bool + Sync),
}

impl Unpacking<'_> {
    fn failed(&self) -> MutexGuard<'_, Option<ArchiveError>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs work on several threads until there is none left or something fails.
    fn each<T: Send>(
        &self,
        workers: usize,
        count: usize,
        start: impl Fn() -> Result<T, ArchiveError> + Sync,
        work: impl Fn(usize, &mut T) -> Result<(), ArchiveError> + Sync,
    ) -> Result<Vec<T>, ArchiveError> {
        let next = AtomicUsize::new(0);
        let run = || -> Option<T> {
            let mut state = match start() {
                Ok(state) => state,
                Err(error) => {
                    self.failed().get_or_insert(error);
                    return None;
                }
            };
            while self.failed().is_none() {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= count {
                    break;
                }
                let result = if (self.cancelled)() {
                    Err(ArchiveError::Cancelled)
                } else {
                    work(at, &mut state)
                };
                if let Err(error) = result {
                    self.failed().get_or_insert(error);
                }
            }
            Some(state)
        };
        let states = std::thread::scope(|scope| {
            let others: Vec<_> = (1..workers.min(count)).map(|_| scope.spawn(run)).collect();
            let mut states: Vec<T> = run().into_iter().collect();
            for other in others {
                match other.join() {
                    Ok(state) => states.extend(state),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            states
        });
        match self.failed().take() {
            Some(error) => Err(error),
            None => Ok(states),
        }
    }

    /// Stage and path in it of an entry.
    fn place(&self, root: usize, at: usize) -> Result<(usize, Vec<u8>), ArchiveError> {
        let mut path = self.plan.paths.as_slice()[root].archived().to_vec();
        self.plan.manifest.roots[root].listing.below(at, &mut path);
        self.staging.place(&path)
    }

    /// Makes folders and links and keeps what can be kept.
    fn lay_out(&self, workers: usize) -> Result<Share, ArchiveError> {
        const STEP: usize = 256;
        let mut steps: Vec<(usize, usize)> = Vec::new();
        for (root, found) in self.plan.manifest.roots.iter().enumerate() {
            steps.extend((0..found.listing.len()).step_by(STEP).map(|at| (root, at)));
        }
        let parts = self.each(
            workers,
            steps.len(),
            || {
                let writers = self.staging.writers(SameName::Refuse);
                Ok((writers, OpenFolder::default(), Share::default()))
            },
            |step, (writers, folder, share)| {
                let (root, from) = steps[step];
                let to = (from + STEP).min(self.plan.manifest.roots[root].listing.len());
                (from..to).try_for_each(|at| self.lay_out_one(root, at, writers, folder, share))
            },
        )?;
        let mut all = Share::default();
        for (_, _, part) in parts {
            all.folders.extend(part.folders);
            all.hard_links.extend(part.hard_links);
            all.to_write.extend(part.to_write);
            all.kept += part.kept;
            all.written += part.written;
        }
        Ok(all)
    }

    fn lay_out_one(
        &self,
        root: usize,
        at: usize,
        writers: &mut [TreeWriter<'_>],
        folder: &mut OpenFolder,
        share: &mut Share,
    ) -> Result<(), ArchiveError> {
        let listing = &self.plan.manifest.roots[root].listing;
        let (stage, path) = self.place(root, at)?;
        let writer = &mut writers[stage];
        let mode = listing.mode(at);
        let xattrs = || listing.attributes(at).map_or_else(Vec::new, |a| a.to_vec());
        match listing.kind(at) {
            ListedKind::Folder => {
                let mode_is_set = writer.folder(&path, mode)?;
                let record = FolderRecord {
                    path: path.into(),
                    mode,
                    mode_is_set,
                    mtime: listing.mtime(at),
                    xattrs: xattrs(),
                };
                share.folders.push((stage, record));
            }
            ListedKind::Symlink => writer.symlink(&path, listing.target(at), listing.mtime(at))?,
            ListedKind::HardLink(first) => {
                let (_, target) = self.place(root, first as usize)?;
                share.hard_links.push((stage, path, target));
            }
            ListedKind::File => {
                if let Some(existing) = self.existing {
                    let candidate = match self.plan.fates[root][at] {
                        Fate::Keep(candidate) => Some(candidate),
                        Fate::Compare(candidate) => self
                            .is_equal(root, at, candidate, existing, folder)
                            .then_some(candidate),
                        Fate::Write => None,
                    };
                    if let Some(candidate) = candidate {
                        existing.keep(candidate, folder, writer, &path)?;
                        share.kept += 1;
                        return Ok(());
                    }
                }
                share.written += 1;
                if self.plan.manifest.roots[root].files.of(at).is_empty() {
                    let file = writer.file(&path, listing.mode(at))?;
                    let size = Some(listing.size(at));
                    return file.finish(size, &xattrs(), listing.mtime(at), &path);
                }
                share.to_write.push((root as u32, at as u32));
            }
        }
        Ok(())
    }

    /// Whether a file that is there has the content of an entry.
    fn is_equal(
        &self,
        root: usize,
        at: usize,
        candidate: Candidate,
        existing: &Existing,
        folder: &mut OpenFolder,
    ) -> bool {
        use std::os::unix::fs::FileExt as _;

        let Some(file) = existing.open(candidate, folder) else {
            return false;
        };
        let mut buffer = Vec::new();
        let mut position = 0;
        self.plan.manifest.roots[root]
            .files
            .of(at)
            .iter()
            .all(|chunk| {
                let Some(segment) = &self.open[chunk.segment as usize] else {
                    return false;
                };
                buffer.resize(segment.index.length(chunk.chunk) as usize, 0);
                let there = file.read_exact_at(&mut buffer, position).is_ok();
                position += buffer.len() as u64;
                there && chunk_id(&buffer) == segment.index.ids[chunk.chunk as usize]
            })
    }

    /// Writes files from their chunks, each block decoded once.
    fn fill(&self, files: &[(u32, u32)], workers: usize) -> Result<(), ArchiveError> {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut left: HashMap<(u32, u32), AtomicUsize> = HashMap::new();
        for &(root, entry) in files {
            let chunks = self.plan.manifest.roots[root as usize]
                .files
                .of(entry as usize);
            let mut offset = 0;
            for chunk in chunks {
                let Some(segment) = &self.open[chunk.segment as usize] else {
                    return Err(damaged("a segment of its chunks is gone"));
                };
                pieces.push(Piece {
                    segment: chunk.segment,
                    block: segment.index.block_of(chunk.chunk),
                    chunk: chunk.chunk,
                    root,
                    entry,
                    offset,
                });
                offset += u64::from(segment.index.length(chunk.chunk));
            }
            if chunks.len() > 1 {
                left.insert((root, entry), AtomicUsize::new(chunks.len()));
            }
        }
        pieces.sort_unstable_by_key(|piece| {
            (
                piece.segment,
                piece.block,
                piece.chunk,
                piece.root,
                piece.entry,
                piece.offset,
            )
        });
        let blocks: Vec<&[Piece]> = pieces
            .chunk_by(|a, b| (a.segment, a.block) == (b.segment, b.block))
            .collect();
        self.each(
            workers,
            blocks.len(),
            || Ok((Buffers::new()?, self.staging.writers(SameName::Refuse))),
            |block, (buffers, writers)| self.fill_block(blocks[block], &left, buffers, writers),
        )?;
        Ok(())
    }

    fn fill_block(
        &self,
        pieces: &[Piece],
        left: &HashMap<(u32, u32), AtomicUsize>,
        buffers: &mut Buffers,
        writers: &mut [TreeWriter<'_>],
    ) -> Result<(), ArchiveError> {
        let Some(Piece { segment, block, .. }) = pieces.first() else {
            return Ok(());
        };
        let Some(OpenSegment { payload, index, .. }) = &self.open[*segment as usize] else {
            return Ok(());
        };
        index.read_block(payload, *block, buffers)?;
        let mut checked: Option<(u32, &[u8])> = None;
        for pieces in pieces.chunk_by(|a, b| (a.root, a.entry) == (b.root, b.entry)) {
            let Some(first) = pieces.first() else {
                continue;
            };
            let (root, at) = (first.root as usize, first.entry as usize);
            let listing = &self.plan.manifest.roots[root].listing;
            let (stage, path) = self.place(root, at)?;
            let left = left.get(&(first.root, first.entry));
            let mut file = match left {
                None => writers[stage].file(&path, listing.mode(at))?,
                Some(_) => writers[stage].part(&path, listing.mode(at))?,
            };
            let map = listing.regions(at).map(|regions| SparseMap {
                real_size: listing.size(at),
                regions: regions.to_vec(),
            });
            for piece in pieces {
                let content = match checked {
                    Some((chunk, content)) if chunk == piece.chunk => content,
                    _ => index.chunk(&buffers.raw, piece.chunk)?,
                };
                checked = Some((piece.chunk, content));
                debug_assert!(content.len() <= LARGEST);
                match &map {
                    Some(map) => {
                        file.seek(piece.offset);
                        file.write_sparse(content, map, &path)?;
                    }
                    None if left.is_some() => file.write_at(content, piece.offset, &path)?,
                    None => file.write(content, &path)?,
                }
            }
            let is_done = left
                .is_none_or(|left| left.fetch_sub(pieces.len(), Ordering::AcqRel) == pieces.len());
            if is_done {
                let xattrs = listing.attributes(at).map_or_else(Vec::new, |a| a.to_vec());
                let size = map.map(|map| map.real_size);
                file.finish(size, &xattrs, listing.mtime(at), &path)?;
            }
        }
        Ok(())
    }
}
