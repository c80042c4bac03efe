//! Other people's programs accept what we write.

use std::path::Path;

use pipeline_docker::builder::{BaseImage, ConfigSpec, ImageSpec, LayerSpec};
use pipeline_docker::oci::{OciLayout, Platform, write_docker_archive};
use serde_json::Value;
use tempfile::tempdir;

use crate::support::{build, run, tree};

fn spec(source: &Path) -> ImageSpec {
    tree(source, &["a/b", "a/run *", "link -> a/b"]);
    std::fs::hard_link(source.join("a/b"), source.join("hard")).unwrap();
    // Needs a pax record.
    tree(source, &[&format!("{}/file", "long".repeat(40))]);
    ImageSpec::new(BaseImage::Scratch)
        .with_layer(LayerSpec::copy(source, "/srv"))
        .with_config(
            ConfigSpec::default()
                .with_cmd(["/srv/a/run"])
                .with_env("A", "1"),
        )
        .with_created(1_700_000_000)
}

#[test]
#[ignore = "needs skopeo"]
fn skopeo_copies_with_the_same_digest() {
    let dir = tempdir().unwrap();
    let out = dir.path().join("out");
    let built = build(spec(&dir.path().join("src")), &out);
    let from = format!("oci:{}:test", out.display());
    let inspected = run("skopeo", &["inspect", &from]);
    let inspected: Value = serde_json::from_slice(&inspected.stdout).unwrap();
    assert_eq!(inspected["Digest"], built.manifest.digest.to_string());
    assert_eq!(inspected["Created"], "2023-11-14T22:13:20Z");
    let copy = dir.path().join("copy");
    run(
        "skopeo",
        &[
            "copy",
            "--insecure-policy",
            &from,
            &format!("oci:{}:again", copy.display()),
        ],
    );
    let copied = OciLayout::open(&copy).unwrap();
    // What another tool wrote is readable here.
    let descriptor = copied.resolve(Some("again")).unwrap();
    assert_eq!(descriptor.digest, built.manifest.digest);
    copied.image(&descriptor, &Platform::host()).unwrap();
}

#[test]
#[ignore = "needs skopeo"]
fn skopeo_reads_the_docker_archive() {
    let dir = tempdir().unwrap();
    let out = dir.path().join("out");
    let built = build(spec(&dir.path().join("src")), &out);
    let layout = OciLayout::open(&out).unwrap();
    let image = layout.image(&built.manifest, &Platform::host()).unwrap();
    let archive =
        || write_docker_archive(&layout, &image, &["site:1.0".to_owned()], Vec::new()).unwrap();
    assert!(archive() == archive(), "equal images give equal archives");
    let path = dir.path().join("image.tar");
    std::fs::write(&path, archive()).unwrap();
    let inspected = run(
        "skopeo",
        &[
            "inspect",
            "--config",
            &format!("docker-archive:{}", path.display()),
        ],
    );
    let inspected: Value = serde_json::from_slice(&inspected.stdout).unwrap();
    assert_eq!(
        inspected["rootfs"]["diff_ids"][0],
        built.layers[0].diff_id.to_string()
    );
}

#[test]
#[ignore = "needs umoci"]
fn umoci_unpacks() {
    let dir = tempdir().unwrap();
    let (source, out) = (dir.path().join("src"), dir.path().join("out"));
    build(spec(&source), &out);
    let bundle = dir.path().join("bundle");
    let image = format!("{}:test", out.display());
    run(
        "umoci",
        &[
            "unpack",
            "--rootless",
            "--image",
            &image,
            bundle.to_str().unwrap(),
        ],
    );
    let root = bundle.join("rootfs/srv");
    run(
        "diff",
        &["-r", source.to_str().unwrap(), root.to_str().unwrap()],
    );
    // It also takes new images into the layout, and we still read it.
    run("umoci", &["tag", "--image", &image, "second"]);
    let layout = OciLayout::open(&out).unwrap();
    assert_eq!(layout.tags().unwrap(), ["test", "second"]);
    run("umoci", &["gc", "--layout", out.to_str().unwrap()]);
    layout
        .image(&layout.resolve(Some("second")).unwrap(), &Platform::host())
        .unwrap();
}
