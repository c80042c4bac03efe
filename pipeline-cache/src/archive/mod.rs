//! Archives: an ordinary tar in zstd, gzip or nothing, packed and unpacked on every core.
//!
//! A zstd archive is a sequence of frames of 8 to 11 MiB of tar, each of which can be decoded by
//! itself, with an index in a trailing skippable frame that other tools pass over.

mod archive_error;
mod block_maker;
pub(crate) mod columns;
pub(crate) mod compressor;
pub(crate) mod entry_reader;
pub(crate) mod existing;
#[cfg_attr(
    all(not(feature = "zstd"), not(test)),
    expect(dead_code, reason = "only zstd archives have an index")
)]
mod frame_index;
#[cfg(feature = "zstd")]
mod frame_source;
mod framed;
mod header;
mod limits;
mod line;
pub(crate) mod listing;
mod makers;
mod monitor;
pub(crate) mod pack;
#[cfg(feature = "zstd")]
pub(crate) mod padding;
mod pax;
pub(crate) mod plan;
mod read_ahead;
mod remove_tree;
mod room;
mod roots;
pub(crate) mod set_id;
mod skipped;
pub(crate) mod source_file;
pub(crate) mod staging;
pub(crate) mod stat_cache;
mod streamed;
pub(crate) mod tree_writer;
mod unpack;
pub(crate) mod walk;

pub use archive_error::{ArchiveError, Refusal};
pub use existing::ExistingFiles;
pub use limits::Limits;
pub use pack::{PackOptions, PackSummary, pack};
pub use roots::{DeclaredPath, DeclaredPaths};
pub use set_id::SetIdBits;
pub use skipped::{SkipReason, Skipped, Unreadable};
pub use stat_cache::StatCache;
pub use unpack::{UnpackOptions, UnpackSummary, unpack};

pub(crate) use framed::index_digest_of;
pub(crate) use pack::pack_recorded;
pub(crate) use remove_tree::remove_tree;
pub(crate) use unpack::{tree_identity, unpack_onto};

/// What the corpus of hostile archives is made with, and what fuzzers feed.
#[cfg(any(test, feature = "testing"))]
pub(crate) mod testing {
    pub(crate) use super::entry_reader::{EndMark, Entry, EntryKind, EntryReader};
    #[cfg(feature = "zstd")]
    pub(crate) use super::frame_index::FrameIndex;
    pub(crate) use super::header::{BLOCK, HeaderFields, decode, encode, padding};
    pub(crate) use super::pax::{parse as parse_pax, push_record};

    /// An index of frames: packed bytes, length of tar, entries.
    #[cfg(feature = "zstd")]
    pub(crate) fn frame_index(frames: &[(Vec<u8>, u64, u64)]) -> Vec<u8> {
        use super::frame_index::Frame;

        let frames = frames.iter().map(|(packed, raw, entries)| Frame {
            packed: packed.len() as u64,
            raw: *raw,
            entries: *entries,
            digest: crate::store::Sha256Digest::of(packed),
        });
        let index = FrameIndex {
            frames: frames.collect(),
            ..FrameIndex::default()
        };
        index.encode(<[u8]>::to_vec)
    }
}
