//! Archives: an ordinary tar in zstd, gzip or nothing, packed and unpacked on every core.
//!
//! A zstd archive is a sequence of frames of about 4 MiB of tar, each of which can be decoded by
//! itself, with an index in a trailing skippable frame that other tools pass over.

mod archive_error;
mod compressor;
mod entry_reader;
#[cfg_attr(
    all(not(feature = "zstd"), not(test)),
    expect(dead_code, reason = "only zstd archives have an index")
)]
mod frame_index;
mod framed;
mod header;
mod limits;
mod pack;
mod pax;
mod plan;
mod remove_tree;
mod roots;
mod staging;
mod streamed;
mod tree_writer;
mod unpack;
mod walk;

pub use archive_error::{ArchiveError, Refusal};
pub use limits::Limits;
pub use pack::{PackOptions, PackSummary, pack};
pub use roots::{DeclaredPath, DeclaredPaths};
pub use unpack::{UnpackOptions, UnpackSummary, unpack};

pub(crate) use framed::index_digest_of;

/// What the corpus of hostile archives is made with.
#[cfg(feature = "testing")]
pub(crate) mod testing {
    pub(crate) use super::header::{BLOCK, HeaderFields, encode, padding};
    pub(crate) use super::pax::push_record;
}
