//! What the benchmarks have in common.

#![expect(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::process::Command;
use std::time::Duration;

/// The median in milliseconds; sorts the times.
pub fn median(times: &mut [Duration]) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1000.0
}

/// Runs the docker command line, with the classic builder.
pub fn docker(arguments: &[&str]) {
    drop(docker_says(arguments));
}

/// Runs the docker command line, with the classic builder; gives what it printed.
#[must_use]
pub fn docker_says(arguments: &[&str]) -> String {
    let output = Command::new("docker")
        .args(arguments)
        .env("DOCKER_BUILDKIT", "0")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "docker {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
