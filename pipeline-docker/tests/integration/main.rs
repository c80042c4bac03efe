//! Tests through the public interface.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod archive;
mod context;
mod daemonless;
mod debian;
mod engine;
mod faults;
mod room;
mod steps;
mod support;
mod tools;

/// A file that nobody declares would never run.
#[test]
fn every_file_here_is_declared() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration");
    let main = std::fs::read_to_string(folder.join("main.rs")).unwrap();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(
            name == "main" || main.contains(&format!("mod {name};")),
            "{} is not declared in main.rs",
            path.display()
        );
    }
}
