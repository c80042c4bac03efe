//! The index at the end of a zstd archive, in a skippable frame that other readers pass over.
//!
//! ```text
//! 50 2A 4D 18  length of the rest (u32 LE)
//! varint  number of frames, then for each frame
//!         varint  packed length
//!         varint  length of tar
//!         varint  entries that start in it; 0: it continues the file of the frame before
//!         32 bytes  SHA-256 of the packed frame
//! varint  length of the times, then the times: nanoseconds of each entry in order, u32 LE in
//!         four byte planes, as a zstd frame; nothing if all are zero
//! u32 LE  length of the whole skippable frame
//! "PCIDX\x01\r\n"
//! ```

use super::Refusal;
use super::columns::{ColumnReader, ColumnWriter};
use crate::store::Sha256Digest;

const SKIPPABLE: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];
const MARK: [u8; 8] = *b"PCIDX\x01\r\n";
/// Length and mark, which a reader finds from the end.
pub(crate) const TAIL: usize = 12;
/// An index is small; a larger one is a lie. This is for 5 million entries in half a terabyte.
pub(crate) const MAX_INDEX: u32 = 24 << 20;
/// Frames, likewise: what is known of them takes more memory than in the index.
pub(crate) const MAX_FRAMES: usize = 1 << 17;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) packed: u64,
    pub(crate) raw: u64,
    /// Entries that start in this frame, always at its first byte; 0 when it continues a file.
    pub(crate) entries: u64,
    pub(crate) digest: Sha256Digest,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct FrameIndex {
    pub(crate) frames: Vec<Frame>,
    /// Nanoseconds of each entry's time; empty when all are zero.
    pub(crate) times: Vec<u32>,
}

impl FrameIndex {
    /// The whole skippable frame.
    pub(crate) fn encode(&self, compress: impl FnOnce(&[u8]) -> Vec<u8>) -> Vec<u8> {
        let mut columns = ColumnWriter(SKIPPABLE.to_vec());
        columns.0.extend_from_slice(&[0; 4]);
        columns.number(self.frames.len() as u64);
        for frame in &self.frames {
            columns.number(frame.packed);
            columns.number(frame.raw);
            columns.number(frame.entries);
            columns.0.extend_from_slice(frame.digest.as_bytes());
        }
        if self.times.iter().all(|&time| time == 0) {
            columns.number(0);
        } else {
            let mut planes = ColumnWriter::default();
            planes.planes(&self.times.iter().copied());
            columns.bytes(&compress(&planes.0));
        }
        let mut out = columns.0;
        let length = (out.len() + TAIL) as u32;
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&MARK);
        out[4..8].copy_from_slice(&(length - 8).to_le_bytes());
        out
    }

    /// Length of the whole skippable frame, if these last bytes of a payload end one.
    pub(crate) fn length_from_tail(tail: &[u8; TAIL]) -> Option<u32> {
        let (length, mark) = tail.split_at(4);
        let length = u32::from_le_bytes(length.try_into().ok()?);
        (mark == MARK && length as usize > TAIL + 8 && length <= MAX_INDEX).then_some(length)
    }

    /// Reads a whole skippable frame and checks that its frames fill a payload exactly. The times
    /// of more than `max_entries` are left out: such an archive is not read.
    pub(crate) fn decode(
        bytes: &[u8],
        payload_length: u64,
        max_entries: u64,
        decompress: impl FnOnce(&[u8], usize) -> Option<Vec<u8>>,
    ) -> Result<Self, Refusal> {
        Self::try_decode(bytes, payload_length, max_entries, decompress).ok_or(Refusal::Index)
    }

    fn try_decode(
        bytes: &[u8],
        payload_length: u64,
        max_entries: u64,
        decompress: impl FnOnce(&[u8], usize) -> Option<Vec<u8>>,
    ) -> Option<Self> {
        let body = bytes.strip_prefix(&SKIPPABLE)?;
        let (length, body) = body.split_at_checked(4)?;
        if u32::from_le_bytes(length.try_into().ok()?) as usize != body.len() {
            return None;
        }
        let mut body = ColumnReader(body.get(..body.len().checked_sub(TAIL)?)?);
        let count = body.count(35)?;
        if count == 0 || count > MAX_FRAMES {
            return None;
        }
        let mut frames = Vec::with_capacity(count);
        let (mut packed_total, mut raw_total, mut entries_total) = (0_u64, 0_u64, 0_u64);
        for _ in 0..count {
            let (packed, raw, entries) = (body.number()?, body.number()?, body.number()?);
            let digest = body.take(32)?;
            packed_total = packed_total.checked_add(packed)?;
            raw_total = raw_total.checked_add(raw)?;
            entries_total = entries_total.checked_add(entries)?;
            // No entry is shorter than a header.
            if packed == 0 || raw == 0 || entries > raw / 512 {
                return None;
            }
            frames.push(Frame {
                packed,
                raw,
                entries,
                digest: Sha256Digest::from_bytes(digest.try_into().ok()?),
            });
        }
        if packed_total.checked_add(bytes.len() as u64)? != payload_length
            || frames.first()?.entries == 0
        {
            return None;
        }
        let times = body.bytes().filter(|_| body.is_at_end())?;
        let times = if times.is_empty() || entries_total > max_entries {
            Vec::new()
        } else {
            // Times are next to incompressible, so a claim of many in few bytes is a lie.
            let count = usize::try_from(entries_total).ok()?;
            let wanted = count.checked_mul(4)?;
            if wanted > MAX_INDEX as usize {
                return None;
            }
            let planes = decompress(times, wanted).filter(|planes| planes.len() == wanted)?;
            ColumnReader(&planes).planes(count)?.collect()
        };
        if times.iter().any(|&time| time >= 1_000_000_000) {
            return None;
        }
        Some(Self { frames, times })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain(bytes: &[u8]) -> Vec<u8> {
        bytes.to_vec()
    }

    #[expect(
        clippy::unnecessary_wraps,
        reason = "stands in for a decompressor, which can fail"
    )]
    fn unpack(bytes: &[u8], _length: usize) -> Option<Vec<u8>> {
        Some(bytes.to_vec())
    }

    fn index(frames: &[(u64, u64)]) -> FrameIndex {
        FrameIndex {
            frames: frames
                .iter()
                .enumerate()
                .map(|(at, &(packed, entries))| Frame {
                    packed: packed + 1,
                    raw: 512 * (entries + 1),
                    entries: if at == 0 { entries.max(1) } else { entries },
                    digest: Sha256Digest::of(&packed.to_le_bytes()),
                })
                .collect(),
            times: Vec::new(),
        }
    }

    proptest! {
        #[test]
        fn round_trips(frames in prop::collection::vec((0u64..1 << 40, 0u64..20), 1..20), timed in any::<bool>()) {
            let mut index = index(&frames);
            if timed {
                let count: u64 = index.frames.iter().map(|frame| frame.entries).sum();
                index.times = (0..count).map(|n| (n as u32 * 7_919 + 1) % 1_000_000_000).collect();
            }
            let bytes = index.encode(plain);
            let total: u64 = index.frames.iter().map(|frame| frame.packed).sum::<u64>() + bytes.len() as u64;
            let tail = bytes[bytes.len() - TAIL..].try_into().unwrap();
            prop_assert_eq!(FrameIndex::length_from_tail(&tail), Some(bytes.len() as u32));
            prop_assert_eq!(FrameIndex::decode(&bytes, total, 1000, unpack), Ok(index.clone()));
            prop_assert_eq!(FrameIndex::decode(&bytes, total + 1, 1000, unpack), Err(Refusal::Index));
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut frame = SKIPPABLE.to_vec();
            frame.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            frame.extend_from_slice(&bytes);
            let _ = FrameIndex::decode(&frame, 1000, 1000, unpack);
        }
    }
}
