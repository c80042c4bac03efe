//! Sending a context of 100,000 small files to the engine's classic builder, against the docker
//! command line and the same builder, and the memory that sending one of 500 MB takes.
//!
//! Needs a docker engine. The Dockerfile copies one file, so that what is measured is the way of
//! the context. Rounds are interleaved.

#![expect(clippy::print_stdout, reason = "a benchmark prints its result")]
#![expect(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use pipeline_benches::{docker, median};
use pipeline_docker::builder::{
    BuildBackend, BuildRequest, DockerfileSpec, EngineBuilder, ImageBuilder, ImageOutput,
};
use pipeline_docker::engine::Engine;

const ROUNDS: usize = 3;
const FOLDERS: usize = 100;
const FILES: usize = 1_000;
const LARGE: usize = 500;
const NAME: &str = "pipeline-bench-context:round";

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(run());
}

async fn run() {
    let engine = Engine::from_env().await.unwrap();
    let builder = EngineBuilder::new(engine).with_backend(BuildBackend::Classic);
    memory(&builder).await;
    let folder = tempfile::tempdir().unwrap();
    for number in 0..FOLDERS {
        let below = folder.path().join(format!("module{number}"));
        fs::create_dir(&below).unwrap();
        for number in 0..FILES {
            let content = format!("file {number} of some text that is not much\n").repeat(4);
            fs::write(below.join(format!("file{number}.py")), content).unwrap();
        }
    }
    dockerfile(folder.path());
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let started = Instant::now();
        docker(&[
            "build",
            "--quiet",
            "--tag",
            NAME,
            folder.path().to_str().unwrap(),
        ]);
        let took = started.elapsed();
        let started = Instant::now();
        build(&builder, folder.path()).await;
        // The first round reads the files into the system's cache.
        if round > 0 {
            theirs.push(took);
            ours.push(started.elapsed());
        }
    }
    let (theirs, ours) = (median(&mut theirs), median(&mut ours));
    let files = FOLDERS * FILES;
    println!("context of {files} files, median of {ROUNDS}, milliseconds");
    println!(
        "docker build {theirs:.0}, ours {ours:.0}, ratio {:.2}",
        ours / theirs
    );
    docker(&["image", "rm", "--force", NAME]);
}

async fn memory(builder: &EngineBuilder) {
    let folder = tempfile::tempdir().unwrap();
    dockerfile(folder.path());
    let mut file = fs::File::create(folder.path().join("one")).unwrap();
    let block = vec![7; 1_000_000];
    for _ in 0..LARGE {
        file.write_all(&block).unwrap();
    }
    drop(file);
    let peak = || getrusage(UsageWho::RUSAGE_SELF).unwrap().max_rss() / 1024;
    let before = peak();
    build(builder, folder.path()).await;
    println!(
        "context of {LARGE} MB: peak memory {} MiB, {before} before",
        peak()
    );
}

async fn build(builder: &EngineBuilder, folder: &Path) {
    let spec = DockerfileSpec::new(folder);
    let request = BuildRequest::dockerfile(spec, ImageOutput::engine(NAME));
    builder.build(&request).await.unwrap();
}

fn dockerfile(folder: &Path) {
    fs::write(folder.join("one"), "one\n").unwrap();
    fs::write(folder.join("Dockerfile"), "FROM scratch\nCOPY one /one\n").unwrap();
}
