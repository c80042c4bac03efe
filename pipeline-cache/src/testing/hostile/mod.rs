//! Archives that try something.

#[cfg(any(feature = "gzip", feature = "zstd"))]
mod compression;
mod corpus;
mod extensions;
mod framing;
mod hostile_archive;
mod links;
mod names;
mod sparse;
mod types;

pub use corpus::hostile_archives;
use hostile_archive::List;
pub use hostile_archive::{Expectation, HostileArchive};
