//! The cache through its public interface, on real files.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[cfg(all(feature = "s3", feature = "testing"))]
mod buckets;
#[cfg(all(feature = "chunked", feature = "testing"))]
mod chunked;
#[cfg(all(feature = "gzip", feature = "zstd"))]
mod damage;
#[cfg(feature = "testing")]
mod differential;
#[cfg(all(feature = "gzip", feature = "testing", feature = "zstd"))]
mod hostile;
#[cfg(feature = "zstd")]
mod incremental;
#[cfg(feature = "gzip")]
mod index_server;
mod memoise;
#[path = "../../src/testing/noise.rs"]
#[expect(
    unreachable_pub,
    reason = "the crate exports it with its feature `testing`"
)]
mod noise;
#[cfg(feature = "gzip")]
mod presets;
#[cfg(all(feature = "gzip", feature = "zstd"))]
mod random_trees;
#[cfg(all(feature = "gzip", feature = "testing", feature = "zstd"))]
mod restoring;
mod round_trip;
#[cfg(all(feature = "gzip", feature = "testing", feature = "zstd"))]
mod safety;
mod set_id;
#[cfg(all(feature = "signed", feature = "testing"))]
mod signed;
mod steps;
#[cfg(all(feature = "gzip", feature = "testing", feature = "zstd"))]
mod stores;
#[cfg(all(feature = "chunked", feature = "testing"))]
mod tiered_chunks;
mod trees;
#[cfg(all(feature = "chunked", feature = "testing"))]
mod vanishing;
mod workspace;
#[cfg(feature = "testing")]
mod wrappers;
mod writers;

use std::path::Path;

/// A file that nobody declares is never compiled, and never fails.
#[test]
fn every_file_here_is_declared() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration");
    let main = std::fs::read_to_string(folder.join("main.rs")).unwrap();
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let module = name.trim_end_matches(".rs");
        assert!(
            module == "main" || main.contains(&format!("mod {module};")),
            "{name} is not declared in main.rs"
        );
    }
}
