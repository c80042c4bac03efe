//! The binary `container_job`, with and without an engine.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Output};

fn start(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_container_job"));
    command.args(["--data-dir", "data"]).current_dir(folder);
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Containers of the example's image, running or not.
fn left() -> String {
    let list = [
        "ps",
        "-aq",
        "--filter",
        "ancestor=pipeline-examples/notice:1",
    ];
    let output = Command::new("docker").args(list).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Takes the example's image off the engine again.
struct Image;

impl Drop for Image {
    fn drop(&mut self) {
        let remove = ["image", "rm", "--force", "pipeline-examples/notice:1"];
        drop(Command::new("docker").args(remove).output());
    }
}

#[test]
#[ignore = "needs a Docker engine and busybox-static"]
fn a_job_reads_the_page_of_the_service_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let _image = Image;
    let notice = ["--notice", "Closed until Monday"];
    let output = start(folder.path())
        .args(notice)
        .args(["--wanted", "until Monday"])
        .output()
        .unwrap();
    let said = stderr(&output);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("the service notices is ready after"),
        "{said}"
    );
    assert!(said.contains("container executor"), "{said}");
    let page = std::fs::read_to_string(folder.path().join("data/work/read/page.html")).unwrap();
    assert_eq!(page, "<!doctype html><p>Closed until Monday\n");
    assert_eq!(left(), "");

    // Another word than the page has: the step fails, and nothing is left either.
    let output = start(folder.path()).args(notice).output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("look") && said.contains("exited with code 1"),
        "{said}"
    );
    assert_eq!(left(), "");
}

#[test]
fn without_an_engine_one_line_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let output = start(folder.path())
        .env(
            "DOCKER_HOST",
            format!("unix://{}/none", folder.path().display()),
        )
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("start the engine"), "{said}");
}
