//! Building an image of a 50 MB layer and a small one and pushing it to a loopback registry, without
//! an engine, against `docker build` and `docker push` of the same files: cold, with nothing changed,
//! with a file of the small layer changed, and with a file of the large layer changed, which then is
//! packed and sent anew.
//!
//! Needs `docker-registry` and a docker engine (classic builder). Rounds are interleaved, and who
//! goes first alternates; each round has registries of its own. The engine's cold builds are told to
//! use no cache.

#![expect(clippy::print_stdout, reason = "a benchmark prints its result")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark may panic"
)]

#[path = "../../pipeline-docker/tests/registry/fixture.rs"]
#[expect(dead_code, reason = "shared with the tests, which need more of it")]
mod fixture;
#[path = "../../pipeline-docker/tests/registry/server.rs"]
#[expect(dead_code, reason = "shared with the tests, which need more of it")]
mod server;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use pipeline_benches::{docker, median};
use pipeline_docker::builder::{
    BaseImage, BuildRequest, DaemonlessBuilder, ImageBuilder, ImageOutput, ImageSpec, LayerCache,
    LayerSpec,
};
use pipeline_docker::oci::OciLayout;
use pipeline_docker::registry::{ExistingTag, PushOptions};

use fixture::{client, reference};
use server::Server;

const ROUNDS: usize = 5;
const FILES: usize = 200;
const FILE: usize = 256 * 1024;
const CASES: [&str; 4] = [
    "cold",
    "unchanged",
    "small layer changed",
    "large layer changed",
];

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    for (name, noise) in [("half compressible", 2), ("incompressible", 1)] {
        runtime.block_on(compare(name, noise));
    }
}

async fn compare(name: &str, noise: usize) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("context");
    sources(&root, noise);
    let mut ours: [Vec<Duration>; CASES.len()] = Default::default();
    let mut engine: [Vec<Duration>; CASES.len()] = Default::default();
    let mut sent = 0;
    for round in 0..ROUNDS {
        let (theirs, mine) = (Server::start(), Server::start());
        let work = folder.path().join(format!("round-{round}"));
        for case in 0..CASES.len() {
            change(&root, case, round);
            for turn in 0..2 {
                if (round + case + turn) % 2 == 0 {
                    engine[case].push(with_engine(&theirs, &root, case));
                } else {
                    let (took, bytes) = without_engine(&mine, &root, &work).await;
                    ours[case].push(took);
                    if case == 1 {
                        sent += bytes;
                    }
                }
            }
        }
        docker(&[
            "image",
            "rm",
            "--force",
            &format!("{}/bench:round", theirs.address),
        ]);
        fs::remove_dir_all(&work).unwrap();
    }
    println!("50 MB, {name}: build and push, median of {ROUNDS}, milliseconds");
    println!("{:20} {:>8} {:>8} {:>6}", "", "engine", "ours", "ratio");
    for (case, title) in CASES.iter().enumerate() {
        let (theirs, ours) = (median(&mut engine[case]), median(&mut ours[case]));
        println!("{title:20} {theirs:8.0} {ours:8.0} {:6.2}", ours / theirs);
    }
    println!("bytes sent when nothing changed: {sent}\n");
}

fn change(root: &Path, case: usize, round: usize) {
    match case {
        2 => fs::write(root.join("app/main.py"), format!("print({round})\n")).unwrap(),
        3 => {
            let path = root.join("deps/module7.so");
            let mut content = fs::read(&path).unwrap();
            content.truncate(FILE);
            content.extend(round.to_le_bytes());
            fs::write(path, content).unwrap();
        }
        _ => {}
    }
}

fn with_engine(registry: &Server, root: &Path, case: usize) -> Duration {
    let target = format!("{}/bench:round", registry.address);
    let started = Instant::now();
    let cache: &[&str] = if case == 0 { &["--no-cache"] } else { &[] };
    docker(
        &[
            &["build", "--quiet", "--tag", &target],
            cache,
            &[root.to_str().unwrap()],
        ]
        .concat(),
    );
    docker(&["push", "--quiet", &target]);
    started.elapsed()
}

/// Answers the time and the bytes that were sent.
async fn without_engine(registry: &Server, root: &Path, work: &Path) -> (Duration, u64) {
    let target = reference(format!("{}/bench:round", registry.address));
    let started = Instant::now();
    let layout = work.join("layout");
    let spec = ImageSpec::new(BaseImage::Scratch)
        .with_layer(LayerSpec::copy(root.join("deps"), "/deps"))
        .with_layer(LayerSpec::copy(root.join("app"), "/app"));
    let cache = LayerCache::open(work.join("cache")).unwrap();
    let request = BuildRequest::layers(spec, ImageOutput::layout(&layout, "round"));
    let built = DaemonlessBuilder::new()
        .with_layer_cache(cache)
        .build(&request)
        .await
        .unwrap();
    let options = PushOptions::default()
        .with_image(built.digest().to_string())
        .with_existing(ExistingTag::Move);
    let report = client()
        .push(&OciLayout::open(&layout).unwrap(), &target, &options)
        .await
        .unwrap();
    (started.elapsed(), report.bytes_sent)
}

fn sources(root: &Path, noise: usize) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for folder in ["deps", "app"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    for number in 0..FILES {
        let content: Vec<u8> = (0..FILE)
            .map(|place| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                // One file in `noise` is noise, the others are text of few words.
                if number % noise == 0 {
                    state as u8
                } else {
                    b"pipeline "[(place + (state % 3) as usize) % 9]
                }
            })
            .collect();
        fs::write(root.join(format!("deps/module{number}.so")), content).unwrap();
    }
    fs::write(root.join("app/main.py"), "print('first')\n").unwrap();
    fs::write(
        root.join("Dockerfile"),
        "FROM scratch\nCOPY deps /deps\nCOPY app /app\n",
    )
    .unwrap();
}
