//! The integration tests of the examples.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

#[path = "../layouts/mod.rs"]
mod layouts;
#[path = "../load/mod.rs"]
mod load;

mod delivery;
mod django_projects;
mod load_client;

/// A file that no `mod` line names is never compiled, and its tests never run.
#[test]
fn every_file_is_declared() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration");
    let main = std::fs::read_to_string(folder.join("main.rs")).unwrap();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let declared = name == "main" || main.contains(&format!("mod {name};"));
        assert!(declared, "{} is not declared in main.rs", path.display());
    }
}
