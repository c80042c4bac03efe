//! Archives that try something.

#[cfg(any(feature = "gzip", feature = "zstd"))]
mod bombs;
#[cfg(any(feature = "gzip", feature = "zstd"))]
mod compression;
mod corpus;
mod extensions;
mod framing;
#[cfg(feature = "zstd")]
mod hoards;
mod hostile_archive;
mod links;
mod names;
mod sparse;
mod types;

#[cfg(any(feature = "gzip", feature = "zstd"))]
pub use bombs::hostile_bombs;
pub use corpus::hostile_archives;
#[cfg(feature = "zstd")]
pub use hoards::hostile_hoards;
use hostile_archive::List;
pub use hostile_archive::{Expectation, HostileArchive};
