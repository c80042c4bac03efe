//! The cache program under faults: processes that are killed, run at once, run out of room, meet
//! a failing disk or lose their power. The store stays whole, nothing wrong is restored, and
//! nothing is left behind.
//!
//! Tests that take long do a part of their rounds; with `PIPELINE_FAULTS=full` all of them:
//!
//! ```text
//! PIPELINE_FAULTS=full cargo test --workspace --all-features --test cache_faults -- \
//!     --include-ignored --nocapture
//! ```
//!
//! Kills come at random moments, and only those count that met a process which was still running:
//! in full, 300 for each way of restoring over a tree, 100 first restores, 200 saves, 200 evictions,
//! 200 collections and 200 chunked saves; else an eighth of each. The seed is printed.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod clock;
mod crowd;
mod disk;
mod disk_contents;
mod disk_faults;
mod disk_mount;
mod full_disk;
mod kills;
#[path = "../../../pipeline-cache/src/testing/noise.rs"]
#[expect(unreachable_pub, reason = "the cache crate exports it")]
mod noise;
mod place;
mod power;
mod real_disk;
mod survives;

/// How many of these rounds are done: all, or a part when nobody asked for all.
fn rounds(full: u64) -> u64 {
    if is_full() { full } else { full.div_ceil(8) }
}

fn is_full() -> bool {
    std::env::var_os("PIPELINE_FAULTS").is_some_and(|asked| asked == "full")
}
