//! The readers of untrusted bytes by themselves, for fuzzers and for comparing them with others.

use std::io::BufRead;

use sha2::{Digest as _, Sha256};

#[cfg(feature = "zstd")]
use crate::archive::testing::FrameIndex;
use crate::archive::testing::{
    BLOCK, EndMark, Entry, EntryKind, EntryReader, decode, padding, parse_pax,
};
use crate::archive::{ArchiveError, Limits, Refusal};
use crate::store::Sha256Digest;

/// What an entry of a tar archive is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TarKind {
    /// A file with its whole length.
    #[non_exhaustive]
    File {
        /// Bytes with its holes.
        length: u64,
        /// SHA-256 of the stored bytes, which leave holes out.
        stored: Sha256Digest,
        /// Whether it has holes.
        is_sparse: bool,
    },
    /// A folder.
    Folder,
    /// A symlink with its target as it is.
    Symlink(Vec<u8>),
    /// A hard link with the normalised name of its target.
    HardLink(Vec<u8>),
}

/// An entry as a restore would see it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TarEntry {
    /// Components joined by single slashes; empty for the top.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: TarKind,
    /// Permission, set-id and sticky bits.
    pub mode: u32,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
}

/// Reads a whole plain tar as a restore does, without writing anything.
///
/// # Errors
/// What a restore would refuse.
pub fn read_tar(source: impl BufRead) -> Result<Vec<TarEntry>, ArchiveError> {
    let limits = Limits::default();
    let mut reader = EntryReader::new(source, &limits, EndMark::Required);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let Entry {
            path,
            kind,
            mode,
            mtime,
            ..
        } = entry;
        let kind = match kind {
            EntryKind::File { size, sparse } => {
                let mut hasher = Sha256::new();
                loop {
                    let content = reader.content()?;
                    let length = content.len();
                    if length == 0 {
                        break;
                    }
                    hasher.update(content);
                    reader.consume(length);
                }
                TarKind::File {
                    length: sparse.as_ref().map_or(size, |map| map.real_size),
                    stored: Sha256Digest::from_bytes(hasher.finalize().into()),
                    is_sparse: sparse.is_some(),
                }
            }
            EntryKind::Folder => TarKind::Folder,
            EntryKind::Symlink(target) => TarKind::Symlink(target),
            EntryKind::HardLink(target) => TarKind::HardLink(target),
        };
        entries.push(TarEntry {
            path,
            kind,
            mode,
            mtime,
        });
    }
    Ok(entries)
}

/// Reads one header of 512 bytes; bytes beyond are ignored, missing ones are zeros. Says how long
/// its content and the padding after it are.
///
/// # Errors
/// What a restore would refuse.
pub fn read_header(bytes: &[u8]) -> Result<(u64, usize), Refusal> {
    let mut block = [0; BLOCK];
    let length = bytes.len().min(BLOCK);
    block[..length].copy_from_slice(&bytes[..length]);
    decode(&block).map(|header| (header.size, padding(header.size)))
}

/// Reads the records of a PAX header, and says which path and which size they give.
///
/// # Errors
/// What a restore would refuse.
pub fn read_pax(records: &[u8]) -> Result<(Option<Vec<u8>>, Option<u64>), Refusal> {
    parse_pax(records).map(|fields| (fields.path, fields.size))
}

/// Reads the index at the end of an archive of this length. Says how many frames there are, and
/// whether writing them down again gives an index that reads the same.
///
/// # Errors
/// What a restore would refuse.
#[cfg(feature = "zstd")]
pub fn read_frame_index(bytes: &[u8], archive_length: u64) -> Result<(usize, bool), Refusal> {
    let unpack = |packed: &[u8], length| zstd::bulk::decompress(packed, length).ok();
    let index = FrameIndex::decode(bytes, archive_length, u64::MAX, unpack)?;
    let again = index.encode(|planes| zstd::bulk::compress(planes, 1).unwrap_or_default());
    let length = archive_length - bytes.len() as u64 + again.len() as u64;
    let same = FrameIndex::decode(&again, length, u64::MAX, unpack).is_ok_and(|read| {
        // Times that are all zero are not written down.
        read.frames == index.frames
            && (read.times == index.times || index.times.iter().all(|&time| time == 0))
    });
    Ok((index.frames.len(), same))
}
