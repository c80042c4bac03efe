//! A near store in front of a far one.

mod behind;
#[cfg(feature = "chunked")]
mod parts;
mod report;
mod tiered_store;

pub use report::{DrainReport, Tier, TierProblem};
pub use tiered_store::TieredStore;
