//! Integration tests; one module per topic.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic, too")]
#![expect(clippy::print_stdout, reason = "the load tests show what they counted")]

#[path = "../../../examples/tests/load/mod.rs"]
mod load;

mod django_site;
mod gunicorn;
#[cfg(feature = "testing")]
mod local_contract;
mod local_deploy;
mod local_faults;
mod seams;
mod site;
mod step;

/// A file here that no `mod` line names would never run.
#[test]
fn every_file_here_is_declared() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration");
    let main = std::fs::read_to_string(folder.join("main.rs")).unwrap();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Some(module) = name.strip_suffix(".rs").filter(|m| *m != "main") else {
            continue;
        };
        assert!(
            main.contains(&format!("\nmod {module};")),
            "{name} is not declared in main.rs"
        );
    }
}
