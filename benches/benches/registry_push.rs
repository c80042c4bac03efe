//! Pushing an image from an OCI layout, against `docker push` and `skopeo copy` of the same image
//! to the same registry: to an empty registry, again, and under a new tag. Then the peak memory
//! of a push of 1 GiB.
//!
//! Needs `docker-registry`, `skopeo` and a docker engine. Every tool's rounds are interleaved, and
//! each cold round has a registry of its own, so that nobody finds blobs of anybody else. The
//! engine keeps layers unpacked and compresses them in every cold push; a layout holds them
//! compressed, which is why skopeo, which also pushes from the layout, is the closer comparison.
//! The other two are programs that are started; ours is a call with a new client each time.

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

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use pipeline_benches::{docker, median};
use pipeline_docker::oci::{
    Descriptor, ImageConfig, ImageManifest, OciLayout, Platform, media_type,
};
use pipeline_docker::registry::{PullOptions, PushOptions};

use fixture::{client, image, reference};
use server::{Server, run};

const ROUNDS: usize = 5;
const LAYER: usize = 50 * 1024 * 1024;
const GIB: u64 = 1 << 30;
/// The digest of one GiB of zeros.
const ZEROS: &str = "sha256:49bc20df15e412a64472421e13fe86ff1c5165e18b2afccf160d4dc19fe68a14";
const MEMORY: &str = "REGISTRY_OF_THE_MEMORY_BENCH";

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    if let Ok(address) = std::env::var(MEMORY) {
        runtime.block_on(gigabyte(&address));
        return;
    }
    runtime.block_on(compare());
    let server = Server::start();
    let child = Command::new(std::env::current_exe().unwrap())
        .env(MEMORY, &server.address)
        .output()
        .unwrap();
    assert!(
        child.status.success(),
        "{}",
        String::from_utf8_lossy(&child.stderr)
    );
    print!("\n{}", String::from_utf8_lossy(&child.stdout));
}

/// The times of one tool: cold, again, new tag.
#[derive(Default)]
struct Times([Vec<Duration>; 3]);

impl Times {
    fn median(&self, case: usize) -> f64 {
        median(&mut self.0[case].clone())
    }
}

async fn compare() {
    let folder = tempfile::tempdir().unwrap();
    let (layout, _) = image(
        &folder.path().join("layout"),
        &[("base", 5_000_000), ("application", LAYER)],
    );
    // The engine gets the image by pulling it.
    let source = Server::start();
    let original = format!("{}/bench:source", source.address);
    client()
        .push(&layout, &reference(&original), &PushOptions::default())
        .await
        .unwrap();
    docker(&["pull", "--quiet", &original]);
    let (mut ours, mut engine, mut skopeo) = (Times::default(), Times::default(), Times::default());
    let mut sent_again = 0;
    for _ in 0..ROUNDS {
        // A client of its own each time, as a program that pushes once has.
        let server = Server::start();
        for (case, tag) in ["cold", "cold", "new"].iter().enumerate() {
            let target = reference(format!("{}/bench:{tag}", server.address));
            let started = Instant::now();
            let report = client()
                .push(&layout, &target, &PushOptions::default())
                .await
                .unwrap();
            ours.0[case].push(started.elapsed());
            if case == 1 {
                sent_again += report.bytes_sent;
            }
        }
        drop(server);

        let server = Server::start();
        for (case, tag) in ["cold", "cold", "new"].iter().enumerate() {
            let target = format!("{}/bench:{tag}", server.address);
            docker(&["tag", &original, &target]);
            let started = Instant::now();
            docker(&["push", "--quiet", &target]);
            engine.0[case].push(started.elapsed());
            docker(&["image", "rm", &target]);
        }
        drop(server);

        let server = Server::start();
        let from = format!("oci:{}:app", layout.path().display());
        for (case, tag) in ["cold", "cold", "new"].iter().enumerate() {
            let to = format!("docker://{}/bench:{tag}", server.address);
            let started = Instant::now();
            run(Command::new("skopeo").args([
                "copy",
                "--quiet",
                "--dest-tls-verify=false",
                &from,
                &to,
            ]));
            skopeo.0[case].push(started.elapsed());
        }
    }
    docker(&["image", "rm", "--force", &original]);
    println!("push of a 50 MiB incompressible layer and a 5 MB base, median of {ROUNDS}, ms");
    println!(
        "{:<26}{:>8}{:>14}{:>14}",
        "", "ours", "docker push", "skopeo copy"
    );
    for (case, name) in ["empty registry", "again, same tag", "again, new tag"]
        .iter()
        .enumerate()
    {
        let (own, docker, skopeo) = (ours.median(case), engine.median(case), skopeo.median(case));
        println!(
            "{name:<26}{own:>8.0}{docker:>8.0} {:>4.2}x{skopeo:>8.0} {:>4.2}x",
            own / docker,
            own / skopeo
        );
    }
    println!("bytes sent by ours again under the same tag: {sent_again}");
}

async fn gigabyte(address: &str) {
    let folder = tempfile::tempdir().unwrap();
    let layout = OciLayout::create(folder.path().join("out")).unwrap();
    let layer = Descriptor::new(media_type::LAYER_TAR, ZEROS.parse().unwrap(), GIB);
    File::create(layout.blob_path(&layer.digest))
        .unwrap()
        .set_len(GIB)
        .unwrap();
    let config = serde_json::to_vec(&ImageConfig::new(Platform::host())).unwrap();
    let config = layout
        .write_blob(media_type::IMAGE_CONFIG, &config)
        .unwrap();
    let manifest = serde_json::to_vec(&ImageManifest::new(config, vec![layer])).unwrap();
    let manifest = layout
        .write_blob(media_type::IMAGE_MANIFEST, &manifest)
        .unwrap();
    layout.set_tag(Some("large"), &manifest).unwrap();
    let target = reference(format!("{address}/large:1"));
    let started = Instant::now();
    client()
        .push(&layout, &target, &PushOptions::default())
        .await
        .unwrap();
    println!(
        "push of 1 GiB: {:.1} s, peak memory of the process {}",
        started.elapsed().as_secs_f64(),
        peak()
    );
    let back = OciLayout::create(folder.path().join("in")).unwrap();
    let started = Instant::now();
    client()
        .pull(&target, &back, &PullOptions::default())
        .await
        .unwrap();
    println!(
        "pull of 1 GiB: {:.1} s, peak memory of the process {}",
        started.elapsed().as_secs_f64(),
        peak()
    );
}

/// The most memory that this process ever had in use.
fn peak() -> String {
    let status = std::fs::read_to_string(Path::new("/proc/self/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    format!("{:.1} MiB", kib / 1024.0)
}
