//! What tests of this crate and of other stores use.
//!
//! - [`store_contract!`](crate::store_contract): one named test for each promise of
//!   [`CacheStore`](crate::store::CacheStore), for any store.
//! - [`LyingStore`]: a store that hands out wrong bytes, too few, or fails late.
//! - [`hostile_archives`]: archives that must not be unpacked, or must do no harm, each with its
//!   reason. [`hostile_bombs`]: 10 GiB of zeros in little. [`hostile_hoards`]: a lot to remember.
//! - [`noise`]: content that does not compress.
//! - [`readers`]: what reads untrusted bytes, for fuzzers; `chunk_readers` with feature `chunked`.

#[cfg(feature = "chunked")]
pub mod chunk_readers;
pub mod contract;
mod hostile;
mod lying_store;
mod noise;
pub mod readers;
mod tar_maker;

#[cfg(any(feature = "gzip", feature = "zstd"))]
pub use hostile::hostile_bombs;
#[cfg(feature = "zstd")]
pub use hostile::hostile_hoards;
pub use hostile::{Expectation, HostileArchive, hostile_archives};
pub use lying_store::{Lie, LyingStore};
pub use noise::noise;
