//! Files chosen by globs below a folder: what a workspace layer holds, what a memoised step reads,
//! what `checksum` counts.

mod digest;
mod file_set;
mod listing;
mod pattern;
mod staging_folder;

pub use file_set::{FileSet, FileSetError};

pub(crate) use digest::{copy_with_digest, digest_of, open_file};
pub(crate) use listing::{Kind, Listing, Stamp};
pub(crate) use pattern::is_glob;
pub(crate) use staging_folder::StagingFolder;
