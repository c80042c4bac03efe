//! Steps of a pipeline: [`RestoreCache`] and [`SaveCache`].
//!
//! A cache is worth having only when it never fails the run: by default a store that cannot be
//! reached, a damaged entry or a key that cannot be rendered is a warning and a fact, and the job
//! goes on without. [`Strictness::Strict`] turns that around.
//!
//! | fact | data |
//! |---|---|
//! | `cache.restored` | `key`, `matched`, `exact`, `size`, `raw_size`, `files`, `paths`, `created`, `digest`, `producer`, `fetch_ms`, `unpack_ms`, `place_ms`, `rejected` |
//! | `cache.missed` | `keys`, `why`, `nearest` (`key`, `changes`), `rejected`, `problems` |
//! | `cache.saved` | `key`, `size`, `raw_size`, `content`, `files`, `paths`, `created`, `digest`, `left_out`, `time_ms` |
//! | `cache.skipped` | `key`, `reason` (`exists`, `refused`, `failed`), `why`; with `exists` also `created`, `size`, `producer` |

mod key_facts;
mod restore_cache;
mod save_cache;

pub use key_facts::Strictness;
pub use restore_cache::{CacheHit, RestoreCache};
pub use save_cache::{CacheSave, SaveCache};
