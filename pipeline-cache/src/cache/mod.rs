//! Key, archive and store together: restore and save.

#[expect(
    clippy::module_inception,
    reason = "the file is named for the type it holds"
)]
mod cache;
mod cache_error;
mod import;
mod lookup;
mod miss;
mod restore;
mod save;

pub use cache::Cache;
pub use cache_error::CacheError;
pub use import::detect_codec;
pub(crate) use miss::nearest;

pub use lookup::{Match, MatchPolicy};
pub use miss::{InputChange, Miss, MissedCandidate, NearestEntry, Rejected};
pub use restore::{RestoreOptions, Restored, RestoredEntry};
pub use save::{SaveOptions, SaveReport, Saved, Validator};
