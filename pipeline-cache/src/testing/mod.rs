//! What tests of this crate and of other stores use.
//!
//! - [`store_contract!`](crate::store_contract): one named test for each promise of
//!   [`CacheStore`](crate::store::CacheStore), for any store.
//! - [`LyingStore`]: a store that hands out wrong bytes, too few, or fails late.
//! - [`hostile_archives`]: archives that must not be unpacked, or must do no harm, each with its
//!   reason.

pub mod contract;
mod hostile;
mod lying_store;
mod tar_maker;

pub use hostile::{Expectation, HostileArchive, hostile_archives};
pub use lying_store::{Lie, LyingStore};
