//! The cache through its public interface, on real files.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[cfg(all(feature = "gzip", feature = "testing", feature = "zstd"))]
mod hostile;
mod round_trip;
#[cfg(all(feature = "gzip", feature = "zstd"))]
mod safety;
mod steps;
#[cfg(all(feature = "gzip", feature = "testing", feature = "zstd"))]
mod stores;
mod trees;
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
