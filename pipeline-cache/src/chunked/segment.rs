//! The payload of a segment.
//!
//! ```text
//! blocks, each a zstd frame
//! index:  varint  number of blocks, then for each: varint packed length, varint raw length,
//!                 varint number of chunks
//!         varint  number of chunks, then the length of each, then the 20 bytes that name each
//! u32 LE  length of the index
//! 32 bytes  BLAKE3 of the index
//! "PCSEGMT\x01"
//! ```

use super::chunker::{ChunkId, LARGEST};
use crate::archive::ArchiveError;
use crate::archive::columns::{ColumnReader, ColumnWriter};
use crate::store::Payload;

const MARK: [u8; 8] = *b"PCSEGMT\x01";
const TAIL: usize = 4 + 32 + 8;
/// Blocks are about 4 MiB; a larger one is a lie.
const MAX_RAW: u64 = 16 << 20;
const MAX_INDEX: u32 = 1 << 30;

pub(super) struct Block {
    offset: u64,
    packed: usize,
    raw: usize,
    first_chunk: u32,
}

/// The last bytes of a payload.
struct End(Vec<u8>);

impl End {
    /// Reads about so many, within reason.
    fn read(payload: &Payload, about: u64) -> Result<Self, ArchiveError> {
        let about = about.clamp(4 << 10, 128 << 10).min(payload.len());
        let mut end = Self(Vec::new());
        end.extend_to(payload, usize::try_from(about).unwrap_or(0))?;
        Ok(end)
    }

    /// Reads what is missing in front, so that there are so many.
    fn extend_to(&mut self, payload: &Payload, wanted: usize) -> Result<(), ArchiveError> {
        let Some(missing) = wanted.checked_sub(self.0.len()) else {
            return Ok(());
        };
        let mut bytes = vec![0; missing];
        let start = payload.len().saturating_sub(wanted as u64);
        read_exact(payload, &mut bytes, start)?;
        bytes.append(&mut self.0);
        self.0 = bytes;
        Ok(())
    }

    fn last(&self, count: usize) -> &[u8] {
        &self.0[self.0.len() - count..]
    }
}

/// A segment that is collected while it is read from afar is the entry's trouble.
fn read_exact(payload: &Payload, buffer: &mut [u8], position: u64) -> Result<(), ArchiveError> {
    payload
        .read_exact_at(buffer, position)
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => damaged("a segment of its chunks is gone"),
            _ => ArchiveError::Payload(error),
        })
}

/// What is where in a segment.
pub(super) struct SegmentIndex {
    /// BLAKE3 of the index, which manifests name.
    pub(super) digest: [u8; 32],
    pub(super) ids: Vec<ChunkId>,
    blocks: Vec<Block>,
    lengths: Vec<u32>,
    /// Where each chunk starts in its block.
    starts: Vec<u32>,
}

/// A block that was written.
pub(super) struct WrittenBlock {
    pub(super) packed: u64,
    pub(super) raw: u64,
    pub(super) chunks: Vec<(ChunkId, u32)>,
}

/// What comes after the blocks, and the BLAKE3 that manifests name.
pub(super) fn encode_tail(blocks: &[WrittenBlock]) -> (Vec<u8>, [u8; 32]) {
    let mut out = ColumnWriter::default();
    out.number(blocks.len() as u64);
    for block in blocks {
        out.number(block.packed);
        out.number(block.raw);
        out.number(block.chunks.len() as u64);
    }
    let chunks = || blocks.iter().flat_map(|block| &block.chunks);
    out.number(chunks().count() as u64);
    for (_, length) in chunks() {
        out.number((*length).into());
    }
    for (id, _) in chunks() {
        out.0.extend_from_slice(id);
    }
    let mut bytes = out.0;
    let digest = *blake3::hash(&bytes).as_bytes();
    let length = bytes.len() as u32;
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&digest);
    bytes.extend_from_slice(&MARK);
    (bytes, digest)
}

pub(super) fn damaged(what: impl Into<String>) -> ArchiveError {
    ArchiveError::Damaged { what: what.into() }
}

impl SegmentIndex {
    /// Reads and checks the index of a segment.
    pub(super) fn read(payload: &Payload) -> Result<Self, ArchiveError> {
        let bad = || damaged("the index of a chunk segment is not the one stored");
        let tail_at = payload.len().checked_sub(TAIL as u64).ok_or_else(bad)?;
        // One read for all of it, most times: the payload may be far away.
        let mut end = End::read(payload, payload.len() / 64)?;
        let (length, rest) = end.last(TAIL).split_at(4);
        let length = u32::from_le_bytes(length.try_into().map_err(|_| bad())?);
        let (digest, mark) = rest.split_at(32);
        let digest: [u8; 32] = digest.try_into().map_err(|_| bad())?;
        let start = tail_at.checked_sub(length.into());
        let start = start.filter(|_| mark == MARK && length <= MAX_INDEX);
        let start = start.ok_or_else(bad)?;
        let whole = length as usize + TAIL;
        end.extend_to(payload, whole)?;
        let bytes = &end.last(whole)[..length as usize];
        if *blake3::hash(bytes).as_bytes() != digest {
            return Err(bad());
        }
        Self::decode(bytes, digest, start).ok_or_else(bad)
    }

    fn decode(bytes: &[u8], digest: [u8; 32], blocks_end: u64) -> Option<Self> {
        let mut from = ColumnReader(bytes);
        let mut blocks = Vec::new();
        let (mut offset, mut first_chunk) = (0_u64, 0_u32);
        for _ in 0..from.count(3)? {
            let (packed, raw, chunks) = (from.number()?, from.number()?, from.small()?);
            if raw == 0 || raw > MAX_RAW || packed > MAX_RAW + (1 << 20) {
                return None;
            }
            blocks.push(Block {
                offset,
                packed: usize::try_from(packed).ok()?,
                raw: usize::try_from(raw).ok()?,
                first_chunk,
            });
            offset = offset.checked_add(packed)?;
            first_chunk = first_chunk.checked_add(chunks)?;
        }
        let count = from.count(21)?;
        if offset != blocks_end || count != first_chunk as usize {
            return None;
        }
        let mut lengths = Vec::with_capacity(count);
        for _ in 0..count {
            lengths.push(from.small().filter(|l| *l > 0 && *l as usize <= LARGEST)?);
        }
        let ids: Vec<ChunkId> = from
            .take(count * 20)?
            .chunks_exact(20)
            .filter_map(|id| id.try_into().ok())
            .collect();
        let mut starts = Vec::with_capacity(count);
        for (number, block) in blocks.iter().enumerate() {
            let end = blocks
                .get(number + 1)
                .map_or(count, |next| next.first_chunk as usize);
            let mut start = 0_u32;
            for length in &lengths[block.first_chunk as usize..end] {
                starts.push(start);
                start = start.checked_add(*length)?;
            }
            if start as usize != block.raw {
                return None;
            }
        }
        from.is_at_end().then_some(Self {
            digest,
            ids,
            blocks,
            lengths,
            starts,
        })
    }

    pub(super) fn length(&self, chunk: u32) -> u32 {
        self.lengths[chunk as usize]
    }

    /// Bytes of a block as it is stored.
    pub(super) fn packed_length(&self, block: u32) -> u64 {
        self.blocks[block as usize].packed as u64
    }

    /// Which block a chunk is in.
    pub(super) fn block_of(&self, chunk: u32) -> u32 {
        self.blocks
            .partition_point(|block| block.first_chunk <= chunk)
            .saturating_sub(1) as u32
    }

    /// Reads and decodes a block. Its chunks are not checked yet.
    pub(super) fn read_block(
        &self,
        payload: &Payload,
        block: u32,
        buffers: &mut Buffers,
    ) -> Result<(), ArchiveError> {
        let block = &self.blocks[block as usize];
        buffers.packed.resize(block.packed, 0);
        read_exact(payload, &mut buffers.packed, block.offset)?;
        buffers.raw.clear();
        buffers.raw.reserve(block.raw);
        let decoded = buffers
            .decompressor
            .decompress_to_buffer(&buffers.packed, &mut buffers.raw);
        if decoded.is_err() || buffers.raw.len() != block.raw {
            return Err(damaged("a block of chunks is not the one stored"));
        }
        Ok(())
    }

    /// A chunk in a decoded block, checked.
    pub(super) fn chunk<'a>(&self, raw: &'a [u8], chunk: u32) -> Result<&'a [u8], ArchiveError> {
        let start = self.starts[chunk as usize] as usize;
        let content = raw
            .get(start..start + self.lengths[chunk as usize] as usize)
            .filter(|content| super::chunker::chunk_id(content) == self.ids[chunk as usize]);
        content.ok_or_else(|| damaged("a chunk is not the one stored"))
    }
}

/// What decoding a block takes; each worker has its own.
pub(super) struct Buffers {
    decompressor: zstd::bulk::Decompressor<'static>,
    packed: Vec<u8>,
    pub(super) raw: Vec<u8>,
}

impl Buffers {
    pub(super) fn new() -> Result<Self, ArchiveError> {
        Ok(Self {
            decompressor: zstd::bulk::Decompressor::new().map_err(ArchiveError::Payload)?,
            packed: Vec::new(),
            raw: Vec::new(),
        })
    }
}

/// For fuzzers: how many chunks a segment holds, all of them read.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn read_segment_bytes(bytes: &[u8]) -> Result<usize, ArchiveError> {
    let payload = Payload::new(bytes.to_vec());
    let index = SegmentIndex::read(&payload)?;
    let mut buffers = Buffers::new()?;
    for chunk in 0..index.ids.len() as u32 {
        index.read_block(&payload, index.block_of(chunk), &mut buffers)?;
        index.chunk(&buffers.raw, chunk)?;
    }
    Ok(index.ids.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::chunker::chunk_id;
    use super::*;

    fn segment() -> Vec<u8> {
        let (mut payload, mut blocks) = (Vec::new(), Vec::new());
        for contents in [&[&b"one"[..], b"two"][..], &[b"three"]] {
            let raw = contents.concat();
            let packed = zstd::bulk::compress(&raw, 3).unwrap();
            blocks.push(WrittenBlock {
                packed: packed.len() as u64,
                raw: raw.len() as u64,
                chunks: contents
                    .iter()
                    .map(|content| (chunk_id(content), content.len() as u32))
                    .collect(),
            });
            payload.extend_from_slice(&packed);
        }
        payload.extend_from_slice(&encode_tail(&blocks).0);
        payload
    }

    fn contents(segment: &[u8]) -> Result<Vec<Vec<u8>>, ArchiveError> {
        let payload = Payload::new(segment.to_vec());
        let index = SegmentIndex::read(&payload)?;
        let mut buffers = Buffers::new()?;
        (0..index.ids.len() as u32)
            .map(|chunk| {
                index.read_block(&payload, index.block_of(chunk), &mut buffers)?;
                index.chunk(&buffers.raw, chunk).map(<[u8]>::to_vec)
            })
            .collect()
    }

    #[test]
    fn chunks_come_back_and_no_flipped_bit_goes_unnoticed() {
        let segment = segment();
        let wanted = [&b"one"[..], b"two", b"three"];
        assert_eq!(contents(&segment).unwrap(), wanted);
        for at in 0..segment.len() * 8 {
            let mut damaged = segment.clone();
            damaged[at / 8] ^= 1 << (at % 8);
            // Some bits of a zstd frame mean nothing; what comes out must be right all the same.
            if let Ok(found) = contents(&damaged) {
                assert_eq!(found, wanted, "bit {at}");
            }
        }
        for length in 0..segment.len() {
            assert!(contents(&segment[..length]).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_index_decodes_or_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), end in 0u64..100) {
            let _ = SegmentIndex::decode(&bytes, [0; 32], end);
        }
    }
}
