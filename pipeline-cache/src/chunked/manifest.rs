//! The payload of a chunked entry.

use super::segment::damaged;
use crate::archive::ArchiveError;
use crate::archive::Refusal;
use crate::archive::columns::{ColumnReader, ColumnWriter};
use crate::archive::listing::{ListedKind, Listing};
use crate::archive::padding::skippable;
use crate::store::{EntryMetadata, Payload, Sha256Digest, StoredEntry};

const MARK: [u8; 8] = *b"PCCHUNK\x01";
const MAX_RAW: u32 = 1 << 30;

/// What a manifest of so many bytes may take in memory: a bomb is stopped before it does.
pub(super) fn raw_limit(packed: u64) -> u64 {
    (8 << 20) + 64 * packed
}

/// A segment as a manifest names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SegmentRef {
    pub(super) id: [u8; 16],
    /// BLAKE3 of the segment's index.
    pub(super) index: [u8; 32],
}

/// A chunk: which of the manifest's segments, and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ChunkRef {
    pub(super) segment: u32,
    pub(super) chunk: u32,
}

/// One declared path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ManifestRoot {
    pub(super) listing: Listing,
    pub(super) files: FileChunks,
}

/// The chunks of each entry of a listing; none for what is no file.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct FileChunks {
    ends: Vec<u32>,
    chunks: Vec<ChunkRef>,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) segments: Vec<SegmentRef>,
    pub(super) roots: Vec<ManifestRoot>,
}

impl FileChunks {
    /// Adds the next entry's.
    pub(super) fn push(&mut self, chunks: impl IntoIterator<Item = ChunkRef>) {
        self.chunks.extend(chunks);
        self.ends.push(self.chunks.len() as u32);
    }

    pub(super) fn of(&self, at: usize) -> &[ChunkRef] {
        let start = at
            .checked_sub(1)
            .map_or(0, |before| self.ends[before] as usize);
        &self.chunks[start..self.ends[at] as usize]
    }

    pub(super) fn all(&self) -> &[ChunkRef] {
        &self.chunks
    }

    pub(super) fn renumber(&mut self, number: impl Fn(u32) -> u32) {
        for chunk in &mut self.chunks {
            chunk.segment = number(chunk.segment);
        }
    }

    fn encode(&self, listing: &Listing, out: &mut ColumnWriter) {
        for at in files(listing) {
            out.number(self.of(at).len() as u64);
        }
        let mut expected = ChunkRef {
            segment: 0,
            chunk: 0,
        };
        for chunk in &self.chunks {
            out.signed(i64::from(chunk.segment) - i64::from(expected.segment));
            expected.segment = chunk.segment;
        }
        // Most follow the one before.
        for chunk in &self.chunks {
            out.signed(i64::from(chunk.chunk) - i64::from(expected.chunk));
            expected.chunk = chunk.chunk.wrapping_add(1);
        }
    }

    fn decode(listing: &Listing, segments: usize, from: &mut ColumnReader<'_>) -> Option<Self> {
        let mut found = Self::default();
        let mut total = 0_usize;
        let mut is_file = vec![false; listing.len()];
        for at in files(listing) {
            is_file[at] = true;
        }
        for is_file in is_file {
            if is_file {
                total = total.checked_add(usize::try_from(from.number()?).ok()?)?;
            }
            found.ends.push(u32::try_from(total).ok()?);
        }
        // Two columns of at least a byte each.
        if total.checked_mul(2)? > from.0.len() {
            return None;
        }
        let mut segment = 0_i64;
        for _ in 0..total {
            segment = segment.checked_add(from.signed()?)?;
            let segment = u32::try_from(segment).ok()?;
            if segment as usize >= segments {
                return None;
            }
            found.chunks.push(ChunkRef { segment, chunk: 0 });
        }
        let mut expected = 0_i64;
        for chunk in &mut found.chunks {
            chunk.chunk = u32::try_from(expected.checked_add(from.signed()?)?).ok()?;
            expected = i64::from(chunk.chunk) + 1;
        }
        Some(found)
    }
}

fn files(listing: &Listing) -> impl Iterator<Item = usize> {
    (0..listing.len()).filter(|&at| listing.kind(at) == ListedKind::File)
}

fn encode_segments(segments: &[SegmentRef], out: &mut ColumnWriter) {
    out.number(segments.len() as u64);
    for segment in segments {
        out.0.extend_from_slice(&segment.id);
        out.0.extend_from_slice(&segment.index);
    }
}

fn decode_segments(from: &mut ColumnReader<'_>) -> Option<Vec<SegmentRef>> {
    (0..from.count(48)?)
        .map(|_| {
            Some(SegmentRef {
                id: from.take(16)?.try_into().ok()?,
                index: from.take(32)?.try_into().ok()?,
            })
        })
        .collect()
}

/// What a tree's record keeps beside the listing.
pub(super) fn encode_extra(segments: &[SegmentRef], root: &ManifestRoot) -> Vec<u8> {
    let mut out = ColumnWriter::default();
    encode_segments(segments, &mut out);
    root.files.encode(&root.listing, &mut out);
    out.0
}

pub(super) fn decode_extra(
    extra: &[u8],
    listing: &Listing,
) -> Option<(Vec<SegmentRef>, FileChunks)> {
    let mut from = ColumnReader(extra);
    let segments = decode_segments(&mut from)?;
    let files = FileChunks::decode(listing, segments.len(), &mut from)?;
    from.is_at_end().then_some((segments, files))
}

impl Manifest {
    pub(super) fn encode(&self, level: i32) -> std::io::Result<Vec<u8>> {
        let mut columns = ColumnWriter::default();
        encode_segments(&self.segments, &mut columns);
        columns.number(self.roots.len() as u64);
        for root in &self.roots {
            root.listing.encode(&mut columns);
            root.files.encode(&root.listing, &mut columns);
        }
        let length = u32::try_from(columns.0.len())
            .ok()
            .filter(|length| *length <= MAX_RAW)
            .ok_or(std::io::ErrorKind::FileTooLarge)?;
        let mut out = MARK.to_vec();
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&zstd::bulk::compress(&columns.0, level)?);
        let missing = u64::from(length).saturating_sub(raw_limit(out.len() as u64));
        skippable(&mut out, missing.div_ceil(64));
        Ok(out)
    }

    /// Reads a manifest. `most` bounds what it may take in memory.
    pub(super) fn decode(bytes: &[u8], most: u64) -> Result<Self, ArchiveError> {
        let refuse = || ArchiveError::refuse(b"(manifest)", Refusal::Index);
        let columns = Self::columns(bytes, most)?;
        Self::try_decode(&columns).ok_or_else(refuse)
    }

    /// Only the segments that a manifest uses.
    pub(super) fn decode_segments(bytes: &[u8]) -> Result<Vec<SegmentRef>, ArchiveError> {
        let refuse = || ArchiveError::refuse(b"(manifest)", Refusal::Index);
        let columns = Self::columns(bytes, raw_limit(bytes.len() as u64))?;
        decode_segments(&mut ColumnReader(&columns)).ok_or_else(refuse)
    }

    fn columns(bytes: &[u8], most: u64) -> Result<Vec<u8>, ArchiveError> {
        let refuse = || ArchiveError::refuse(b"(manifest)", Refusal::Index);
        let (length, packed) = bytes
            .strip_prefix(&MARK)
            .and_then(|rest| rest.split_first_chunk::<4>())
            .ok_or_else(refuse)?;
        let length = u32::from_le_bytes(*length);
        if u64::from(length) > most {
            return Err(ArchiveError::TooLarge {
                what: "bytes of manifest",
                limit: most,
            });
        }
        zstd::bulk::decompress(packed, length as usize)
            .ok()
            .filter(|columns| columns.len() == length as usize)
            .ok_or_else(refuse)
    }

    fn try_decode(columns: &[u8]) -> Option<Self> {
        let mut from = ColumnReader(columns);
        let segments = decode_segments(&mut from)?;
        let mut roots = Vec::new();
        for _ in 0..from.count(1)? {
            let listing = Listing::decode(&mut from)?;
            let files = FileChunks::decode(&listing, segments.len(), &mut from)?;
            roots.push(ManifestRoot { listing, files });
        }
        from.is_at_end().then_some(Self { segments, roots })
    }
}

/// Reads a manifest and checks that it is the entry's.
pub(super) fn read_manifest(entry: &StoredEntry) -> Result<Vec<u8>, ArchiveError> {
    const MOST: u64 = 256 << 20;
    let (metadata, payload): (&EntryMetadata, &Payload) = (&entry.metadata, &entry.payload);
    if payload.len() != metadata.packed_size {
        return Err(damaged(format!(
            "the payload has {} bytes, not {}",
            payload.len(),
            metadata.packed_size
        )));
    }
    if payload.len() > MOST {
        return Err(ArchiveError::TooLarge {
            what: "bytes of manifest",
            limit: MOST,
        });
    }
    let mut bytes = vec![0; usize::try_from(payload.len()).unwrap_or(usize::MAX)];
    payload
        .read_exact_at(&mut bytes, 0)
        .map_err(ArchiveError::Payload)?;
    let actual = Sha256Digest::of(&bytes);
    if actual != metadata.digest {
        return Err(damaged(format!(
            "the payload's SHA-256 is {actual}, not {}",
            metadata.digest
        )));
    }
    Ok(bytes)
}

/// For fuzzers: how many entries a manifest lists.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn read_manifest_bytes(bytes: &[u8]) -> Result<usize, ArchiveError> {
    let manifest = Manifest::decode(bytes, raw_limit(bytes.len() as u64))?;
    let segments = Manifest::decode_segments(bytes)?;
    debug_assert_eq!(segments, manifest.segments);
    Ok(manifest.roots.iter().map(|root| root.listing.len()).sum())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_compresses_very_well_is_read_all_the_same() {
        let segments = vec![
            SegmentRef {
                id: [1; 16],
                index: [2; 32],
            };
            400_000
        ];
        let manifest = Manifest {
            segments,
            roots: Vec::new(),
        };
        let bytes = manifest.encode(3).unwrap();
        let most = raw_limit(bytes.len() as u64);
        assert!(bytes.len() < 1 << 20, "{}", bytes.len());
        assert_eq!(Manifest::decode(&bytes, most).unwrap(), manifest);
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Manifest::try_decode(&bytes);
            let _ = Manifest::decode(&bytes, 1 << 20);
        }
    }
}
