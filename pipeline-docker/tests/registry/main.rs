//! Tests of the registry client against the real `docker-registry` of Debian.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail as tests do"
)]

mod authentication;
mod engine;
mod faults;
mod fixture;
mod helper;
mod memory;
mod proxy;
mod server;
mod steps;
mod token_service;
mod transfer;
mod wire;

/// A file that is not declared above is not compiled, and its tests pass by not running.
#[test]
fn every_file_is_declared() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/registry");
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
