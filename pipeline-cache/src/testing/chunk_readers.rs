//! The readers of chunked entries and of what machines remember, by themselves, for fuzzers.

use crate::archive::ArchiveError;
use crate::archive::columns::{ColumnReader, ColumnWriter};
use crate::archive::stat_cache::{TreeRecord, boot_id, unseal};
use crate::chunked::{read_manifest_bytes, read_segment_bytes};

/// Reads the manifest of a chunked entry. Says how many entries it lists.
///
/// # Errors
/// What a restore would refuse.
pub fn read_chunk_manifest(bytes: &[u8]) -> Result<usize, ArchiveError> {
    read_manifest_bytes(bytes)
}

/// Reads a segment: its index, and every chunk of it. Says how many chunks there are.
///
/// # Errors
/// What a restore would refuse.
pub fn read_segment(bytes: &[u8]) -> Result<usize, ArchiveError> {
    read_segment_bytes(bytes)
}

/// Reads what a machine remembers of a tree, behind its seal and the name of the machine's start.
/// Says of how many entries, and whether writing it down again gives the same.
#[must_use]
pub fn read_tree_record(bytes: &[u8]) -> Option<(usize, bool)> {
    let mut body = ColumnWriter::default();
    body.bytes(&boot_id());
    body.0.extend_from_slice(bytes);
    let record = TreeRecord::decode(&body.0)?;
    let again = TreeRecord::decode(&record.encode());
    let same = again.is_some_and(|again| again.listing == record.listing);
    Some((record.listing.len(), same))
}

/// The part of a stat cache's file that [`read_tree_record`] reads, if the file is whole.
#[must_use]
pub fn tree_record_in(file: &[u8]) -> Option<&[u8]> {
    let mut from = ColumnReader(unseal(file)?);
    from.bytes()?;
    Some(from.0)
}

/// Reads a part of a bucket's index. Says how many descriptions it holds.
#[cfg(feature = "object-store")]
#[must_use]
pub fn read_bucket_index(bytes: &[u8]) -> Option<usize> {
    crate::store::read_index_bytes(bytes)
}
