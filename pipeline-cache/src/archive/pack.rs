//! Packs a tree on several threads: workers make blocks, the calling thread writes them in order.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::{CWD, Mode, OFlags, fstat, openat};

use super::compressor::Compressor;
use super::frame_index::{Frame, FrameIndex};
use super::header::{self, BLOCK, HeaderFields, padding};
use super::pax;
use super::plan::{BlockPlan, NodeRef, Plan, SparseFile};
use super::walk::{FileFacts, NodeKind, Tree, Xattrs, facts, open_below, read_xattrs};
use super::{ArchiveError, DeclaredPaths};
use crate::store::{Codec, EntryFacts, Sha256Digest};

/// How to pack.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PackOptions {
    /// Compression. Default: zstd, else gzip, else none, as features allow.
    pub codec: Codec,
    /// Compression level. Default: 3 for zstd, 6 for gzip.
    pub level: Option<i32>,
    /// Threads that read and compress. Default: as many as the process may use, at most 16.
    pub workers: usize,
    /// Folder that relative declared paths start from. Default: `.`.
    pub working_folder: PathBuf,
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
    /// Sockets, FIFOs and devices that were left out.
    pub skipped: Vec<String>,
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
    // Before anything is listed: a codec that is not there costs nothing to find out.
    Compressor::new(options.codec, options.level)?;
    let tree = Tree::list(paths, &options.working_folder, options.workers)?;
    let plan = Plan::new(&tree)?;
    let line = Line {
        state: Mutex::new(State {
            next_block: 0,
            next_write: 0,
            ready: BTreeMap::new(),
            spare: Vec::new(),
            failed: None,
            gone: false,
        }),
        wake: Condvar::new(),
        blocks: plan.blocks.len(),
        ahead: options.workers * 2,
    };
    let mut index = FrameIndex::default();
    let mut raw_size = 0;
    let written = std::thread::scope(|scope| {
        for _ in 0..options.workers.min(plan.blocks.len()) {
            scope.spawn(|| {
                let _leaving = Leaving(&line);
                if let Err(error) = work(&line, &tree, &plan, options) {
                    line.lock().failed.get_or_insert(error);
                }
            });
        }
        let result = write_in_order(&line, options.codec, out, &mut index, &mut raw_size);
        if result.is_err() {
            line.lock().gone = true;
            line.wake.notify_all();
        }
        result
    });
    let failed = line.lock().failed.take();
    if let Some(error) = failed {
        return Err(error);
    }
    written?;
    let facts = EntryFacts::opaque(options.codec)
        .with_sizes(raw_size, plan.order.len() as u64)
        .with_index_digest(write_index(options.codec, &index, out)?);
    Ok(PackSummary {
        facts,
        content_bytes: plan.content,
        skipped: tree.skipped,
    })
}

/// What has become of one block.
struct Packed {
    bytes: Vec<u8>,
    raw: u64,
    entries: u64,
    digest: Option<Sha256Digest>,
    times: Vec<u32>,
}

struct State {
    next_block: usize,
    next_write: usize,
    ready: BTreeMap<usize, Packed>,
    spare: Vec<Vec<u8>>,
    failed: Option<ArchiveError>,
    /// The writer or a worker has left.
    gone: bool,
}

struct Line {
    state: Mutex<State>,
    wake: Condvar,
    blocks: usize,
    /// How far workers may be ahead of the writer: this bounds memory.
    ahead: usize,
}

impl Line {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.wake
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The next block to make and a buffer for it.
    fn take(&self) -> Option<(usize, Vec<u8>)> {
        let mut state = self.lock();
        loop {
            if state.gone || state.failed.is_some() || state.next_block == self.blocks {
                return None;
            }
            if state.next_block < state.next_write + self.ahead {
                let block = state.next_block;
                state.next_block += 1;
                return Some((block, state.spare.pop().unwrap_or_default()));
            }
            state = self.wait(state);
        }
    }
}

/// Tells the others when a worker ends in a panic: nobody may wait for its block for ever.
struct Leaving<'a>(&'a Line);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if std::thread::panicking() || state.failed.is_some() {
            state.gone = true;
        }
        drop(state);
        self.0.wake.notify_all();
    }
}

fn write_in_order(
    line: &Line,
    codec: Codec,
    out: &mut dyn Write,
    index: &mut FrameIndex,
    raw_size: &mut u64,
) -> Result<(), ArchiveError> {
    for block in 0..line.blocks {
        let mut state = line.lock();
        let packed = loop {
            if state.gone || state.failed.is_some() {
                return Err(ArchiveError::Cancelled);
            }
            if let Some(packed) = state.ready.remove(&block) {
                break packed;
            }
            state = line.wait(state);
        };
        drop(state);
        out.write_all(&packed.bytes).map_err(ArchiveError::Write)?;
        *raw_size += packed.raw;
        if codec == Codec::Zstd {
            index.times.extend_from_slice(&packed.times);
            if let Some(digest) = packed.digest {
                index.frames.push(Frame {
                    packed: packed.bytes.len() as u64,
                    raw: packed.raw,
                    entries: packed.entries,
                    digest,
                });
            }
        }
        let mut state = line.lock();
        state.next_write = block + 1;
        state.spare.push(packed.bytes);
        drop(state);
        line.wake.notify_all();
    }
    Ok(())
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
    let mut compressor = Compressor::new(options.codec, options.level)?;
    let mut maker = BlockMaker {
        tree,
        plan,
        // zstd archives keep nanoseconds in the index, which costs 4 bytes instead of 1024.
        pax_times: options.codec != Codec::Zstd,
        raw: Raw::default(),
        folder: None,
        times: Vec::new(),
        file: None,
    };
    while let Some((block, mut bytes)) = line.take() {
        maker.make(block)?;
        if block + 1 == line.blocks {
            maker.raw.zeros(2 * BLOCK);
        }
        compressor.compress(maker.raw.filled(), &mut bytes)?;
        let digest = (options.codec == Codec::Zstd).then(|| Sha256Digest::of(&bytes));
        let packed = Packed {
            bytes,
            raw: maker.raw.filled().len() as u64,
            entries: maker.times.len() as u64,
            digest,
            times: std::mem::take(&mut maker.times),
        };
        line.lock().ready.insert(block, packed);
        line.wake.notify_all();
    }
    Ok(())
}

/// A buffer that is filled anew for every block and cleared for none.
#[derive(Default)]
struct Raw {
    bytes: Vec<u8>,
    filled: usize,
}

impl Raw {
    fn filled(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    fn room(&mut self, length: usize) -> &mut [u8] {
        let end = self.filled + length;
        if self.bytes.len() < end {
            self.bytes.resize(end.max(1 << 20), 0);
        }
        let room = &mut self.bytes[self.filled..end];
        self.filled = end;
        room
    }

    fn zeros(&mut self, length: usize) {
        self.room(length).fill(0);
    }

    fn extend(&mut self, bytes: &[u8]) {
        self.room(bytes.len()).copy_from_slice(bytes);
    }
}

struct BlockMaker<'a> {
    tree: &'a Tree,
    plan: &'a Plan,
    pax_times: bool,
    raw: Raw,
    /// The folder that was read from last.
    folder: Option<(usize, OwnedFd)>,
    /// Nanoseconds of the entries that start in this block.
    times: Vec<u32>,
    /// The large file that was read from last.
    file: Option<(usize, OwnedFd)>,
}

impl BlockMaker<'_> {
    fn make(&mut self, block: usize) -> Result<(), ArchiveError> {
        self.raw.filled = 0;
        self.times.clear();
        match self.plan.blocks[block] {
            BlockPlan::Entries { from, to } => (from..to).try_for_each(|entry| self.entry(entry)),
            BlockPlan::Piece {
                entry,
                offset,
                length,
                last,
            } => self.piece(entry, offset, length, last),
        }
    }

    fn entry(&mut self, entry: usize) -> Result<(), ArchiveError> {
        let place = self.plan.order[entry];
        let node = place.node(self.tree);
        if let Some(&first) = self.plan.links.get(&entry) {
            let target = self.plan.order[first].archive_name(self.tree);
            self.header(entry, b'1', &target, 0, &None);
            return Ok(());
        }
        match &node.kind {
            NodeKind::Folder(index) => {
                let xattrs = &self.tree.folders[*index].xattrs;
                self.header(entry, b'5', b"", 0, xattrs);
            }
            NodeKind::Symlink(target) => self.header(entry, b'2', target, 0, &None),
            NodeKind::File(facts) => {
                let name = || place.archive_name(self.tree);
                let file = self.open(place)?;
                let xattrs = read_xattrs(file.as_fd())
                    .map_err(|error| ArchiveError::read(&name(), "read attributes", error))?;
                self.header(entry, b'0', b"", facts.size, &xattrs);
                let room = self
                    .raw
                    .room(usize::try_from(facts.size).unwrap_or(usize::MAX));
                read_exact(&file, room, None, &name)?;
                self.raw.zeros(padding(facts.size));
                unchanged(&file, node.mtime, node.mtime_ns, facts, &name)?;
            }
        }
        Ok(())
    }

    fn piece(
        &mut self,
        entry: usize,
        offset: u64,
        length: u64,
        last: bool,
    ) -> Result<(), ArchiveError> {
        let place = self.plan.order[entry];
        let node = place.node(self.tree);
        let NodeKind::File(facts) = node.kind else {
            return Ok(());
        };
        let name = || place.archive_name(self.tree);
        let file = match self.file.take() {
            Some((open, file)) if open == entry => file,
            _ => self.open(place)?,
        };
        let stored = self.plan.stored_size(self.tree, entry);
        if offset == 0 {
            let xattrs = read_xattrs(file.as_fd())
                .map_err(|error| ArchiveError::read(&name(), "read attributes", error))?;
            self.header(entry, b'0', b"", stored, &xattrs);
        }
        let room = self.raw.room(usize::try_from(length).unwrap_or(usize::MAX));
        match self.plan.sparse.get(&entry) {
            None => read_exact(&file, room, Some(offset), &name)?,
            Some(sparse) => read_sparse(&file, sparse, room, offset, &name)?,
        }
        if last {
            self.raw.zeros(padding(stored));
        }
        unchanged(&file, node.mtime, node.mtime_ns, &facts, &name)?;
        self.file = Some((entry, file));
        Ok(())
    }

    fn open(&mut self, place: NodeRef) -> Result<OwnedFd, ArchiveError> {
        let name = || place.archive_name(self.tree);
        // Not waiting for a writer, should the file have become a FIFO meanwhile.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fail = |error| ArchiveError::read(&name(), "open it", error);
        let (index, folder) = match (place, place.folder(self.tree)) {
            (NodeRef::Root(root), _) => {
                let path = &self.tree.roots[root as usize].on_disk;
                return openat(CWD, path, flags, Mode::empty()).map_err(fail);
            }
            (_, Some(found)) => found,
            (_, None) => return Err(fail(rustix::io::Errno::NOENT)),
        };
        if self.folder.as_ref().is_none_or(|(open, _)| *open != index) {
            let handle = open_below(&self.tree.roots[folder.root], &folder.below).map_err(fail)?;
            self.folder = Some((index, handle));
        }
        match &self.folder {
            Some((_, handle)) => {
                openat(handle, &*place.node(self.tree).name, flags, Mode::empty()).map_err(fail)
            }
            None => Err(fail(rustix::io::Errno::NOENT)),
        }
    }

    fn header(&mut self, entry: usize, kind: u8, link: &[u8], size: u64, xattrs: &Xattrs) {
        let place = self.plan.order[entry];
        let node = place.node(self.tree);
        let mut path = place.archive_name(self.tree);
        if kind == b'5' {
            if path.is_empty() {
                path.push(b'.');
            }
            path.push(b'/');
        }
        let mut records = Vec::new();
        let sparse = if kind == b'0' {
            self.plan.sparse.get(&entry)
        } else {
            None
        };
        let mut shown = None;
        if sparse.is_some() {
            let real_size = match &node.kind {
                NodeKind::File(facts) => facts.size,
                _ => 0,
            };
            pax::push_record(&mut records, b"GNU.sparse.major", b"1");
            pax::push_record(&mut records, b"GNU.sparse.minor", b"0");
            pax::push_record(&mut records, b"GNU.sparse.name", &path);
            pax::push_record(
                &mut records,
                b"GNU.sparse.realsize",
                real_size.to_string().as_bytes(),
            );
            shown = Some(b"GNUSparseFile.0/data".to_vec());
        }
        let fields = HeaderFields {
            kind,
            path: shown.as_deref().unwrap_or(&path),
            link,
            mode: node.mode,
            size,
            mtime: node.mtime,
        };
        let over = header::overflow(&fields);
        if over.path {
            pax::push_record(&mut records, b"path", &path);
        }
        if over.link {
            pax::push_record(&mut records, b"linkpath", link);
        }
        if over.size {
            pax::push_record(&mut records, b"size", size.to_string().as_bytes());
        }
        if over.mtime || (self.pax_times && node.mtime_ns != 0) {
            let time = pax::time_value(node.mtime, node.mtime_ns);
            pax::push_record(&mut records, b"mtime", time.as_bytes());
        }
        for (name, value) in xattrs.iter().flatten() {
            let key = [b"SCHILY.xattr.", name.as_slice()].concat();
            pax::push_record(&mut records, &key, value);
        }
        if !records.is_empty() {
            let mut extended = Vec::new();
            pax::push_header(&mut extended, &records);
            self.raw.extend(&extended);
        }
        header::encode(&fields, self.raw.room(BLOCK));
        self.times.push(node.mtime_ns);
    }
}

/// Fills a buffer from a file, by position or in order.
fn read_exact(
    file: &OwnedFd,
    mut room: &mut [u8],
    mut position: Option<u64>,
    name: &impl Fn() -> Vec<u8>,
) -> Result<(), ArchiveError> {
    while !room.is_empty() {
        let read = match position {
            None => rustix::io::read(file, &mut *room),
            Some(position) => rustix::io::pread(file, &mut *room, position),
        };
        match read {
            Ok(0) => {
                return Err(ArchiveError::Changed {
                    path: super::archive_error::escape(&name()),
                });
            }
            Ok(read) => {
                room = &mut room[read..];
                position = position.map(|position| position + read as u64);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(ArchiveError::read(&name(), "read it", error)),
        }
    }
    Ok(())
}

/// Fills a buffer from the stored form of a file with holes: its map, then its data.
fn read_sparse(
    file: &OwnedFd,
    sparse: &SparseFile,
    mut room: &mut [u8],
    mut offset: u64,
    name: &impl Fn() -> Vec<u8>,
) -> Result<(), ArchiveError> {
    let map = sparse.map.len() as u64;
    if offset < map {
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let count = room.len().min(sparse.map.len() - from);
        let (now, later) = room.split_at_mut(count);
        now.copy_from_slice(&sparse.map[from..from + count]);
        room = later;
        offset += count as u64;
    }
    let mut start = map;
    for &(position, length) in &sparse.regions {
        if room.is_empty() {
            break;
        }
        if offset < start + length {
            let skip = offset - start;
            let count =
                usize::try_from(length - skip).map_or(room.len(), |left| left.min(room.len()));
            let (now, later) = room.split_at_mut(count);
            read_exact(file, now, Some(position + skip), name)?;
            room = later;
            offset += count as u64;
        }
        start += length;
    }
    Ok(())
}

/// Fails when the file is no longer the one that was listed.
fn unchanged(
    file: &OwnedFd,
    mtime: i64,
    mtime_ns: u32,
    listed: &FileFacts,
    name: &impl Fn() -> Vec<u8>,
) -> Result<(), ArchiveError> {
    let stat = fstat(file).map_err(|error| ArchiveError::read(&name(), "look at it", error))?;
    let now = facts(&stat);
    let same = now.size == listed.size
        && now.inode == listed.inode
        && now.device == listed.device
        && stat.st_mtime == mtime
        && u32::try_from(stat.st_mtime_nsec).unwrap_or(0) == mtime_ns;
    if same {
        Ok(())
    } else {
        Err(ArchiveError::Changed {
            path: super::archive_error::escape(&name()),
        })
    }
}
