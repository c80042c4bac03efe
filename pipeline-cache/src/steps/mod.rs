//! Steps of a pipeline: [`RestoreCache`] and [`SaveCache`], [`ToolVersion`] for their keys, and a
//! [`CachePreset`] for each of the usual package managers.
//!
//! A cache is worth having only when it never fails the run: by default a store that cannot be
//! reached, a damaged entry or a key that cannot be rendered is a warning and a fact, and the job
//! goes on without. [`Strictness::Strict`] turns that around.
//!
//! | fact | data |
//! |---|---|
//! | `cache.restored` | `key`, `matched`, `exact`, `position` (of the key that matched, from 0), `size`, `raw_size`, `files`, `paths`, `created`, `digest`, `producer`, `fetch_ms`, `unpack_ms`, `place_ms`, `rejected`, `problems` |
//! | `cache.missed` | `keys`, `reason` (`absent`, `rejected`, `no_key`, `unavailable`), `why`, `nearest` (`key`, `changes`), `rejected` (`key`, `why`, `quarantined`), `problems` (keys left out: `template`, `kind`, `path`, `located`, `why`) |
//! | `cache.saved` | `key`, `size`, `raw_size`, `content`, `stored`, `files`, `paths`, `created`, `digest`, `left_out`, `time_ms` |
//! | `cache.skipped` | `key`, `reason` (`exists`, `refused`, `failed`), `why`; with `exists` also `created`, `size`, `producer` |

mod blocking;
mod key_facts;
mod preset;
mod restore_cache;
mod save_cache;
mod tool_version;

pub(crate) use blocking::blocking;
pub(crate) use key_facts::{host, producer, size, stamp};

pub use key_facts::{KeyVariables, Strictness};
pub use preset::CachePreset;
pub use restore_cache::{CacheHit, RestoreCache};
pub use save_cache::{CacheSave, SaveCache};
pub use tool_version::ToolVersion;
