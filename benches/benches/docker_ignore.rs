//! Matching 100,000 paths against an ignore file, and listing and packing a folder of 100,000 files
//! of which nine in ten lie in one ignored folder, against the docker command line sending the same
//! folder to the engine (classic builder).
//!
//! The command line's figure holds the engine's unpacking of what is left, too.

#![expect(clippy::print_stdout, reason = "a benchmark prints its result")]
#![expect(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use pipeline_benches::{docker, docker_says, median};
use pipeline_docker::context::BuildContext;
use pipeline_docker::ignore::IgnoreRules;

const PATHS: usize = 100_000;
const ROUNDS: usize = 5;

const RULES: &str = "\
.git
**/node_modules
**/__pycache__
**/*.pyc
**/*.log
*.md
!README.md
docs/**
!docs/api/*.json
build?
[Dd]ist
media/*/cache
";

fn main() {
    matching();
    let folder = tempfile::tempdir().unwrap();
    files(folder.path());
    let (mut ours, mut scan, mut engine) = (Vec::new(), Vec::new(), Vec::new());
    let mut kept = (0, 0);
    for _ in 0..ROUNDS {
        let started = Instant::now();
        let found = BuildContext::new(folder.path()).scan().unwrap();
        scan.push(started.elapsed());
        kept = (found.len(), found.size());
        found.write_tar(std::io::sink()).unwrap();
        ours.push(started.elapsed());
        engine.push(engine_build(folder.path()));
    }
    println!(
        "folder of {PATHS} files, {} entries and {} bytes kept, median of {ROUNDS}, milliseconds",
        kept.0, kept.1
    );
    println!("scan                  {:8.0}", median(&mut scan));
    println!("scan and tar          {:8.0}", median(&mut ours));
    println!("docker build, classic {:8.0}", median(&mut engine));
}

fn matching() {
    let rules = IgnoreRules::parse(RULES.as_bytes()).unwrap();
    let paths: Vec<String> = (0..PATHS)
        .map(|number| {
            let folder = [
                "src/app",
                "docs/api/v1",
                "static/node_modules/m",
                "media/x/cache",
                "lib",
            ][number % 5];
            let extension = ["py", "pyc", "md", "json", "log"][number / 5 % 5];
            format!("{folder}/part{}/file{number}.{extension}", number % 97)
        })
        .collect();
    let mut times = Vec::new();
    let mut ignored = 0;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        ignored = paths
            .iter()
            .filter(|path| rules.is_ignored(path).unwrap())
            .count();
        times.push(started.elapsed());
    }
    println!(
        "{PATHS} paths against {} patterns: {:.0} ms, {ignored} ignored",
        RULES.lines().count(),
        median(&mut times)
    );
}

fn files(root: &Path) {
    for number in 0..PATHS {
        let top = if number % 10 == 0 {
            "src"
        } else {
            "node_modules"
        };
        let folder = root.join(top).join(format!("d{}", number % 1000));
        if number < 1000 || !folder.is_dir() {
            fs::create_dir_all(&folder).unwrap();
        }
        fs::write(folder.join(format!("f{number}.txt")), "a few bytes\n").unwrap();
    }
    fs::write(root.join(".dockerignore"), "node_modules\n").unwrap();
    fs::write(root.join("Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n").unwrap();
}

fn engine_build(root: &Path) -> Duration {
    let started = Instant::now();
    let id = docker_says(&["build", "--quiet", "--no-cache", root.to_str().unwrap()]);
    let elapsed = started.elapsed();
    docker(&["rmi", "--force", &id]);
    elapsed
}
