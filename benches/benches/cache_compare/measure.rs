//! What a command costs, all its processes included.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use pipeline_cache::store::Sha256Digest;

/// Wall clock and processor time in seconds, and the largest process in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) wall: f64,
    pub(crate) cpu: f64,
    pub(crate) peak: u64,
}

/// Runs a shell command in a process of its own, so that its children's use is nobody else's.
pub(crate) fn run(command: &str, folder: &Path) -> Cost {
    flush(folder);
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["measured-child", command])
        .current_dir(folder)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{command}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let numbers: Vec<f64> = text
        .lines()
        .last()
        .unwrap()
        .split(' ')
        .map(|number| number.parse().unwrap())
        .collect();
    Cost {
        wall: numbers[0],
        cpu: numbers[1],
        peak: numbers[2] as u64,
    }
}

/// Writes out what others have left in memory.
pub(crate) fn flush(folder: &Path) {
    let _ = Command::new("sync").arg("-f").arg(folder).status();
}

/// The process in between.
pub(crate) fn child(arguments: &[String]) {
    let started = Instant::now();
    let status = Command::new("bash")
        .args(["-o", "pipefail", "-c", &arguments[0]])
        .process_group(0)
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    let wall = started.elapsed().as_secs_f64();
    assert!(status.success(), "{status}");
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    let seconds = |time: nix::sys::time::TimeVal| {
        time.tv_sec() as f64 + f64::from(time.tv_usec() as i32) / 1e6
    };
    let cpu = seconds(usage.user_time()) + seconds(usage.system_time());
    // Linux counts in KiB.
    println!("{wall} {cpu} {}", usage.max_rss() * 1024);
}

/// Seconds of processor time that SHA-256 takes for some bytes, by its rate in this moment.
pub(crate) fn sha256_time(bytes: u64) -> f64 {
    let sample = vec![0x5a; 64 << 20];
    let fastest = (0..5)
        .map(|_| {
            let started = Instant::now();
            std::hint::black_box(Sha256Digest::of(&sample));
            started.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min);
    fastest * bytes as f64 / sample.len() as f64
}
