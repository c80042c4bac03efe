//! Packs a tree on several threads: workers make blocks, the calling thread writes them in order.

use std::io::Write;
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use super::block_maker::BlockMaker;
use super::compressor::{Compressor, Files};
use super::frame_index::{Frame, FrameIndex};
use super::line::{Leaving, Line, Packed};
use super::listing::Listing;
use super::plan::Plan;
use super::set_id::SetIdBits;
use super::stat_cache::{StatCache, TreeRecord, file_clock, has_local_clock};
use super::walk::Tree;
use super::{ArchiveError, DeclaredPaths, Skipped, Unreadable};
use crate::store::{Codec, EntryFacts, Sha256Digest};

/// How to pack.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PackOptions {
    /// Compression. Default: zstd, else gzip, else none, as features allow.
    pub codec: Codec,
    /// Compression level. Default: 3 for zstd, with tables and a window that suit the blocks of an
    /// archive better than zstd's own; 6 of 12 for gzip.
    pub level: Option<i32>,
    /// Threads that read and compress. Default: as many as the process may use, at most 16.
    pub workers: usize,
    /// Folder that relative declared paths start from. Default: `.`.
    pub working_folder: PathBuf,
    /// Set-user-id and set-group-id bits. Default: cleared.
    pub set_id: SetIdBits,
    /// What may not be read. Default: an error.
    pub unreadable: Unreadable,
}

impl Default for PackOptions {
    fn default() -> Self {
        Self {
            codec: if cfg!(feature = "zstd") {
                Codec::Zstd
            } else if cfg!(feature = "gzip") {
                Codec::Gzip
            } else {
                Codec::None
            },
            level: None,
            workers: available_workers(16),
            working_folder: PathBuf::from("."),
            set_id: SetIdBits::Clear,
            unreadable: Unreadable::Refuse,
        }
    }
}

impl PackOptions {
    /// Sets the compression.
    #[must_use]
    pub fn with_codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// Sets the level.
    #[must_use]
    pub fn with_level(mut self, level: i32) -> Self {
        self.level = Some(level);
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

    /// Sets what becomes of files and folders that may not be read.
    #[must_use]
    pub fn with_unreadable(mut self, unreadable: Unreadable) -> Self {
        self.unreadable = unreadable;
        self
    }

    /// Sets the folder that relative paths start from.
    #[must_use]
    pub fn with_working_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.working_folder = folder.into();
        self
    }
}

/// What the process may use, container limits included.
pub(crate) fn available_workers(cap: usize) -> usize {
    std::thread::available_parallelism().map_or(1, |count| count.get().min(cap))
}

/// What was packed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PackSummary {
    /// Facts for the entry's description.
    pub facts: EntryFacts,
    /// Bytes of file content, hard links counted once.
    pub content_bytes: u64,
    /// What was left out: sockets, FIFOs and devices, and what may not be read if that was asked for.
    pub skipped: Vec<Skipped>,
}

/// Packs declared paths into one archive: an ordinary tar, compressed in independent blocks.
///
/// Folders come before what is in them, names in byte order, owners are left out: the same tree
/// gives the same bytes, on any number of threads. Blocks.
///
/// # Errors
/// A declared path that is missing or empty, a file that cannot be read or changes meanwhile, or
/// a failing `out`. Whatever was written to `out` by then is no archive.
pub fn pack(
    paths: &DeclaredPaths,
    options: &PackOptions,
    out: &mut dyn Write,
) -> Result<PackSummary, ArchiveError> {
    pack_recorded(paths, options, out).map(|(summary, _)| summary)
}

/// The same, with what it takes to remember the tree.
pub(crate) fn pack_recorded(
    paths: &DeclaredPaths,
    options: &PackOptions,
    out: &mut dyn Write,
) -> Result<(PackSummary, PackedTree), ArchiveError> {
    let started = file_clock();
    // Before anything is listed: a codec that is not there costs nothing to find out.
    Compressor::new(options.codec, options.level, Files::Ordinary)?;
    let tree = Tree::list(
        paths,
        &options.working_folder,
        options.workers,
        options.unreadable,
    )?;
    let plan = Plan::new(&tree, options.codec)?;
    plan.refuse_long_names(&tree)?;
    refuse_set_id(&tree, &plan, options.set_id)?;
    let line = Line::new(plan.blocks.len(), options.workers + 1);
    let mut index = FrameIndex::default();
    let mut raw_size = 0;
    let written = std::thread::scope(|scope| {
        for _ in 0..options.workers.min(plan.blocks.len()) {
            scope.spawn(|| {
                let _leaving = Leaving(&line);
                if let Err(error) = work(&line, &tree, &plan, options) {
                    line.fail(error);
                }
            });
        }
        line.write_in_order(|packed| {
            out.write_all(&packed.bytes).map_err(ArchiveError::Write)?;
            raw_size += packed.raw;
            if let Some(digest) = packed.digest {
                index.times.extend_from_slice(&packed.times);
                index.frames.push(Frame {
                    packed: packed.bytes.len() as u64,
                    raw: packed.raw,
                    entries: packed.entries,
                    digest,
                });
            }
            Ok(())
        })
    });
    if let Some(error) = line.failure() {
        return Err(error);
    }
    written?;
    let facts = EntryFacts::opaque(options.codec)
        .with_sizes(raw_size, plan.order.len() as u64)
        .with_index_digest(write_index(options.codec, &index, out)?);
    let summary = PackSummary {
        facts,
        content_bytes: plan.content,
        skipped: tree.skipped.clone(),
    };
    Ok((summary, PackedTree { tree, started }))
}

/// A tree as it was when it was packed.
pub(crate) struct PackedTree {
    tree: Tree,
    started: (i64, u32),
}

impl PackedTree {
    /// Remembers each declared path as this entry.
    pub(crate) fn record(&self, stat_cache: &StatCache, entry: Sha256Digest) {
        for (index, root) in self.tree.roots.iter().enumerate() {
            if root
                .handle
                .as_ref()
                .is_some_and(|handle| !has_local_clock(handle.as_fd()))
            {
                continue;
            }
            // What was changed after the start may have been read before or after the change.
            let record = Listing::of(&self.tree, index).and_then(|listing| {
                let never = (i64::MAX, 0);
                TreeRecord::of(&self.tree, index, entry, listing, self.started, never)
            });
            if let Some(record) = record {
                stat_cache.store(&root.on_disk, &record);
            }
        }
    }
}

/// Fails before anything is read when a set-id bit is there and must not be.
pub(crate) fn refuse_set_id(
    tree: &Tree,
    plan: &Plan,
    set_id: SetIdBits,
) -> Result<(), ArchiveError> {
    match plan
        .order
        .iter()
        .find(|place| set_id.apply(place.node(tree).set_id).is_none())
    {
        Some(place) => Err(ArchiveError::SetId {
            path: super::archive_error::escape(&place.archive_name(tree)),
        }),
        None => Ok(()),
    }
}

#[cfg(feature = "zstd")]
fn write_index(
    codec: Codec,
    index: &FrameIndex,
    out: &mut dyn Write,
) -> Result<Option<Sha256Digest>, ArchiveError> {
    if codec != Codec::Zstd {
        return Ok(None);
    }
    let most = super::frame_index::MAX_FRAMES;
    if index.frames.len() > most {
        return Err(ArchiveError::TooLarge {
            what: "frames",
            limit: most as u64,
        });
    }
    let mut failed = None;
    let bytes = index.encode(|planes| {
        zstd::bulk::compress(planes, 3).unwrap_or_else(|error| {
            failed = Some(error);
            Vec::new()
        })
    });
    if let Some(error) = failed {
        return Err(ArchiveError::Write(error));
    }
    if bytes.len() > super::frame_index::MAX_INDEX as usize {
        return Err(ArchiveError::TooLarge {
            what: "bytes of frame index",
            limit: u64::from(super::frame_index::MAX_INDEX),
        });
    }
    out.write_all(&bytes).map_err(ArchiveError::Write)?;
    Ok(Some(Sha256Digest::of(&bytes)))
}

#[cfg(not(feature = "zstd"))]
fn write_index(
    _codec: Codec,
    _index: &FrameIndex,
    _out: &mut dyn Write,
) -> Result<Option<Sha256Digest>, ArchiveError> {
    Ok(None)
}

fn work(line: &Line, tree: &Tree, plan: &Plan, options: &PackOptions) -> Result<(), ArchiveError> {
    let mut compressor = Compressor::new(options.codec, options.level, plan.files())?;
    let mut maker = BlockMaker::new(tree, plan, options);
    while let Some((block, mut bytes)) = line.take() {
        maker.make(block)?;
        compressor.compress(maker.filled(), &mut bytes)?;
        // Only zstd archives have an index to keep it in.
        let digest = (options.codec == Codec::Zstd).then(|| Sha256Digest::of(&bytes));
        let times = maker.take_times();
        let packed = Packed {
            bytes,
            raw: maker.filled().len() as u64,
            entries: times.len() as u64,
            digest,
            times,
        };
        line.put(block, packed);
    }
    Ok(())
}
