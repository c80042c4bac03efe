//! How much memory a large transfer takes.

use std::fs::File;
use std::process::Command;

use pipeline_docker::oci::{
    Descriptor, ImageConfig, ImageManifest, OciLayout, Platform, media_type,
};
use pipeline_docker::registry::{PullOptions, PushOptions};

use crate::fixture::{client, reference};
use crate::server::Server;

/// Tells the test in the child where the registry is.
const REGISTRY: &str = "REGISTRY_OF_THE_MEMORY_TEST";
const GIB: u64 = 1 << 30;
/// The digest of one GiB of zeros.
const ZEROS: &str = "sha256:49bc20df15e412a64472421e13fe86ff1c5165e18b2afccf160d4dc19fe68a14";
const LIMIT_KIB: u64 = 64 * 1024;

/// The most memory that this process ever had in use.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The peak counts for the process, so the transfers happen in one of their own: this test, run
/// again by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs docker-registry and 3 GiB of disk"]
async fn a_gigabyte_goes_and_comes_in_64_mib() {
    let Ok(address) = std::env::var(REGISTRY) else {
        let server = Server::start();
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &name, "--include-ignored", "--nocapture"])
            .env(REGISTRY, &server.address)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        // Or a changed name would run no test in the child, and succeed.
        assert!(text.contains("peak of the pull"), "{text}");
        return;
    };
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
    let report = client()
        .push(&layout, &target, &PushOptions::default())
        .await
        .unwrap();
    assert!(report.bytes_sent > GIB);
    let peak = peak_kib();
    println!("peak of the push: {peak} KiB");
    assert!(peak < LIMIT_KIB, "the push took {peak} KiB");

    let back = OciLayout::create(folder.path().join("in")).unwrap();
    client()
        .pull(&target, &back, &PullOptions::default())
        .await
        .unwrap();
    let peak = peak_kib();
    println!("peak of the pull: {peak} KiB");
    assert!(peak < LIMIT_KIB, "the pull took {peak} KiB");
}
