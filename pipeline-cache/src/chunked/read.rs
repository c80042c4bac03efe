//! Reads files, cuts them, and writes what is new as blocks of a segment.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::Write;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use super::chunker::{ChunkId, chunk_id, cut, cut_file};
use super::manifest::ChunkRef;
use super::segment::{WrittenBlock, encode_tail};
use crate::archive::compressor::Compressor;
use crate::archive::listing::Attributes;
use crate::archive::plan::Plan;
use crate::archive::source_file::{Opener, SourceFile};
use crate::archive::walk::{NodeKind, Tree};
use crate::archive::{ArchiveError, PackOptions};
use crate::store::Codec;

/// Content of one block before it is compressed.
const BLOCK: usize = 4 << 20;
/// Longer files are read in pieces.
const LARGE: u64 = 1 << 20;

/// What was read.
#[derive(Default)]
pub(super) struct Read {
    /// Chunks with the place in [`Plan::order`] of their file, in order.
    pub(super) files: Vec<(u32, ChunkRef)>,
    /// By place in [`Plan::order`].
    pub(super) attributes: HashMap<usize, Attributes>,
    /// BLAKE3 of the index that was written.
    pub(super) index: [u8; 32],
    /// Content of new chunks, and how many there are.
    pub(super) raw: u64,
    pub(super) chunks: u64,
}

/// Where a chunk is: in the store, or in a block of this save that may not be written yet.
#[derive(Clone, Copy)]
pub(super) enum Place {
    Stored(ChunkRef),
    New { batch: u32, number: u32 },
}

/// Reads files and writes a segment of the chunks that are not stored. `new` is the number by
/// which references name it.
pub(super) fn read(
    tree: &Tree,
    plan: &Plan,
    to_read: &[usize],
    options: &PackOptions,
    known: HashMap<ChunkId, Place>,
    new: u32,
    out: &mut dyn Write,
) -> Result<Read, ArchiveError> {
    let work = Work {
        tree,
        plan,
        to_read,
        feed: Mutex::new(Feed::default()),
        known: Mutex::new(known),
        stop: AtomicBool::new(false),
        level: options.level,
    };
    let mut blocks: Vec<WrittenBlock> = Vec::new();
    // The number of a batch's first chunk in the segment.
    let mut firsts: HashMap<u32, u32> = HashMap::new();
    let mut failed: Option<ArchiveError> = None;
    let mut parts: Vec<Part> = Vec::new();
    std::thread::scope(|scope| {
        let (sender, blocks_made) = sync_channel::<Packed>(2);
        let workers: Vec<_> = (0..options.workers.max(1))
            .map(|_| {
                let (sender, work) = (sender.clone(), &work);
                scope.spawn(move || work.run(&sender))
            })
            .collect();
        drop(sender);
        let mut chunks = 0;
        for packed in blocks_made {
            if let Err(error) = out.write_all(&packed.bytes) {
                failed = Some(ArchiveError::Write(error));
                break;
            }
            firsts.insert(packed.batch, chunks);
            chunks += packed.chunks.len() as u32;
            blocks.push(WrittenBlock {
                packed: packed.bytes.len() as u64,
                raw: packed.raw,
                chunks: packed.chunks,
            });
        }
        if failed.is_some() {
            work.stop.store(true, Ordering::Relaxed);
        }
        for worker in workers {
            match worker.join() {
                Ok(Ok(part)) => parts.push(part),
                Ok(Err(error)) => {
                    failed.get_or_insert(error);
                }
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    if let Some(error) = failed {
        return Err(error);
    }
    let (tail, index) = encode_tail(&blocks);
    out.write_all(&tail).map_err(ArchiveError::Write)?;
    let mut found = Read {
        index,
        raw: blocks.iter().map(|block| block.raw).sum(),
        chunks: blocks.iter().map(|block| block.chunks.len() as u64).sum(),
        ..Read::default()
    };
    drop(work);
    drop(blocks);
    let mut pieces: Vec<(Piece, usize)> = Vec::new();
    for (number, part) in parts.iter_mut().enumerate() {
        pieces.extend(part.pieces.drain(..).map(|piece| (piece, number)));
        found.attributes.extend(part.attributes.drain());
    }
    // Batches of one file are numbered in its order.
    pieces.sort_unstable_by_key(|(piece, _)| (piece.entry, piece.batch));
    for (piece, part) in pieces {
        for place in &parts[part].places[piece.places.start as usize..piece.places.end as usize] {
            let chunk = match *place {
                Place::Stored(chunk) => chunk,
                Place::New { batch, number } => ChunkRef {
                    segment: new,
                    chunk: firsts.get(&batch).copied().unwrap_or(0) + number,
                },
            };
            found.files.push((piece.entry, chunk));
        }
    }
    Ok(found)
}

/// A block that is ready to be written.
struct Packed {
    batch: u32,
    bytes: Vec<u8>,
    raw: u64,
    chunks: Vec<(ChunkId, u32)>,
}

/// What one worker found.
#[derive(Default)]
struct Part {
    pieces: Vec<Piece>,
    places: Vec<Place>,
    attributes: HashMap<usize, Attributes>,
}

/// The chunks that a batch has of a file, as a range of its worker's places.
struct Piece {
    entry: u32,
    batch: u32,
    places: Range<u32>,
}

impl Part {
    fn add(&mut self, entry: u32, batch: u32, place: Place) {
        let at = self.places.len() as u32;
        self.places.push(place);
        match self.pieces.last_mut() {
            Some(last) if (last.entry, last.batch) == (entry, batch) => last.places.end = at + 1,
            _ => self.pieces.push(Piece {
                entry,
                batch,
                places: at..at + 1,
            }),
        }
    }
}

struct Work<'a> {
    tree: &'a Tree,
    plan: &'a Plan,
    to_read: &'a [usize],
    feed: Mutex<Feed<'a>>,
    known: Mutex<HashMap<ChunkId, Place>>,
    stop: AtomicBool,
    level: Option<i32>,
}

/// What is to be read next.
#[derive(Default)]
struct Feed<'a> {
    next: usize,
    batches: u32,
    large: Option<LargeFile<'a>>,
}

/// A long file that is being read, in order and by one worker at a time; everything else about it
/// is done at once.
struct LargeFile<'a> {
    entry: usize,
    file: SourceFile<'a>,
    offset: u64,
    stored: u64,
    carry: Vec<u8>,
}

/// What one worker reads at a time.
#[derive(Default)]
struct Batch {
    number: u32,
    content: Vec<u8>,
    /// Entry and end of each chunk.
    chunks: Vec<(usize, usize)>,
    /// Files still to be read, as a range of what is to be read.
    small: Range<usize>,
}

impl<'a> Work<'a> {
    fn run(&self, sender: &SyncSender<Packed>) -> Result<Part, ArchiveError> {
        let mut part = Part::default();
        let result = self.try_run(sender, &mut part);
        if result.is_err() {
            self.stop.store(true, Ordering::Relaxed);
        }
        result.map(|()| part)
    }

    fn try_run(&self, sender: &SyncSender<Packed>, part: &mut Part) -> Result<(), ArchiveError> {
        let mut compressor = Compressor::new(Codec::Zstd, self.level, self.plan.files())?;
        let mut opener = Opener::new(self.tree);
        let mut batch = Batch::default();
        while !self.stop.load(Ordering::Relaxed) && self.next(&mut batch, &mut opener, part)? {
            for at in batch.small.clone() {
                self.read_small(self.to_read[at], &mut batch, &mut opener, part)?;
            }
            let Some(packed) = self.pack(&mut batch, &mut compressor, part)? else {
                continue;
            };
            if sender.send(packed).is_err() {
                // The writer has failed and says so itself.
                return Ok(());
            }
        }
        Ok(())
    }

    /// Takes what is next; `false` at the end.
    fn next(
        &self,
        batch: &mut Batch,
        opener: &mut Opener<'a>,
        part: &mut Part,
    ) -> Result<bool, ArchiveError> {
        let mut feed = self.feed.lock().unwrap_or_else(PoisonError::into_inner);
        batch.content.clear();
        batch.chunks.clear();
        let from = feed.next;
        batch.small = from..from;
        batch.number = feed.batches;
        feed.batches += 1;
        if feed.large.is_none() {
            let mut total = 0;
            while let Some(&entry) = self.to_read.get(feed.next) {
                let stored = self.stored(entry);
                if stored > LARGE {
                    if feed.next == from {
                        feed.large = Some(self.open_large(entry, stored, opener, part)?);
                        feed.next += 1;
                    }
                    break;
                }
                feed.next += 1;
                total += stored;
                if total >= BLOCK as u64 {
                    break;
                }
            }
        }
        if let Some(large) = &mut feed.large {
            if self.read_large(large, batch)? {
                feed.large = None;
            }
            return Ok(true);
        }
        batch.small = from..feed.next;
        Ok(!batch.small.is_empty())
    }

    /// Bytes of a file that are not holes.
    fn stored(&self, entry: usize) -> u64 {
        let kind = &self.plan.order[entry].node(self.tree).kind;
        match (self.plan.sparse.get(&entry), kind) {
            (Some(sparse), _) => sparse.regions.iter().map(|&(_, length)| length).sum(),
            (None, NodeKind::File(facts)) => facts.size,
            (None, _) => 0,
        }
    }

    fn open_large(
        &self,
        entry: usize,
        stored: u64,
        opener: &mut Opener<'a>,
        part: &mut Part,
    ) -> Result<LargeFile<'a>, ArchiveError> {
        let file = self.open(entry, opener, part)?;
        Ok(LargeFile {
            entry,
            file,
            offset: 0,
            stored,
            carry: Vec::new(),
        })
    }

    /// Reads and cuts the next piece; `true` when it was the last.
    fn read_large(
        &self,
        large: &mut LargeFile<'_>,
        batch: &mut Batch,
    ) -> Result<bool, ArchiveError> {
        batch.content.append(&mut large.carry);
        let start = batch.content.len();
        let length = (large.stored - large.offset).min(BLOCK as u64);
        batch
            .content
            .resize(start + usize::try_from(length).unwrap_or(BLOCK), 0);
        self.read_stored(
            large.entry,
            &large.file,
            large.offset,
            &mut batch.content[start..],
        )?;
        large.offset += length;
        let is_last = large.offset == large.stored;
        let mut ends = Vec::new();
        cut(&batch.content, is_last, &mut ends);
        let used = ends.last().copied().unwrap_or(0);
        large.carry.extend_from_slice(&batch.content[used..]);
        batch.content.truncate(used);
        batch
            .chunks
            .extend(ends.into_iter().map(|end| (large.entry, end)));
        if is_last {
            large.file.check()?;
        }
        Ok(is_last)
    }

    fn read_small(
        &self,
        entry: usize,
        batch: &mut Batch,
        opener: &mut Opener<'a>,
        part: &mut Part,
    ) -> Result<(), ArchiveError> {
        let file = self.open(entry, opener, part)?;
        let start = batch.content.len();
        let length = usize::try_from(self.stored(entry)).unwrap_or(usize::MAX);
        batch.content.resize(start + length, 0);
        self.read_stored(entry, &file, 0, &mut batch.content[start..])?;
        file.check()?;
        let mut ends = Vec::new();
        cut_file(&batch.content[start..], &mut ends);
        batch
            .chunks
            .extend(ends.into_iter().map(|end| (entry, start + end)));
        Ok(())
    }

    fn open(
        &self,
        entry: usize,
        opener: &mut Opener<'a>,
        part: &mut Part,
    ) -> Result<SourceFile<'a>, ArchiveError> {
        let file = opener.open(self.plan.order[entry])?;
        if let Some(attributes) = file.attributes()? {
            part.attributes.insert(entry, attributes);
        }
        Ok(file)
    }

    /// Reads from the bytes of a file that are not holes.
    fn read_stored(
        &self,
        entry: usize,
        file: &SourceFile<'_>,
        offset: u64,
        room: &mut [u8],
    ) -> Result<(), ArchiveError> {
        match self.plan.sparse.get(&entry) {
            None => file.read_exact(room, Some(offset)),
            Some(sparse) => file.read_regions(&sparse.regions, room, offset),
        }
    }

    /// Leaves of a batch what is new, and compresses that.
    fn pack(
        &self,
        batch: &mut Batch,
        compressor: &mut Compressor,
        part: &mut Part,
    ) -> Result<Option<Packed>, ArchiveError> {
        let mut start = 0;
        let named: Vec<(usize, Range<usize>, ChunkId)> = batch
            .chunks
            .iter()
            .map(|&(entry, end)| {
                let range = start..end;
                start = end;
                let id = chunk_id(&batch.content[range.clone()]);
                (entry, range, id)
            })
            .collect();
        let mut chunks: Vec<(ChunkId, u32)> = Vec::new();
        let mut kept: Vec<Range<usize>> = Vec::new();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for (entry, range, id) in named {
            let place = match known.entry(id) {
                Entry::Occupied(found) => *found.get(),
                Entry::Vacant(free) => {
                    let number = chunks.len() as u32;
                    chunks.push((id, range.len() as u32));
                    kept.push(range);
                    *free.insert(Place::New {
                        batch: batch.number,
                        number,
                    })
                }
            };
            part.add(entry as u32, batch.number, place);
        }
        drop(known);
        if chunks.is_empty() {
            return Ok(None);
        }
        let mut end = 0;
        for range in kept {
            let length = range.len();
            batch.content.copy_within(range, end);
            end += length;
        }
        let mut bytes = Vec::new();
        compressor.compress(&batch.content[..end], &mut bytes)?;
        // Many blocks wait and most are far smaller than they might have been.
        bytes.shrink_to_fit();
        Ok(Some(Packed {
            batch: batch.number,
            bytes,
            raw: end as u64,
            chunks,
        }))
    }
}
