//! What we push, the engine of this machine runs with.

use std::process::Command;

use pipeline_docker::oci::{OciLayout, media_type};
use pipeline_docker::registry::{CopyOptions, PullOptions, PushOptions};

use crate::fixture::{client, image, reference};
use crate::server::{Server, run};

/// Takes the image off the engine again.
struct Pulled(String);

impl Drop for Pulled {
    fn drop(&mut self) {
        drop(
            Command::new("docker")
                .args(["image", "rm", "--force", &self.0])
                .output(),
        );
    }
}

#[tokio::test]
#[ignore = "needs docker-registry and a docker engine"]
async fn the_engine_pulls_the_same_digest() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let (layout, pushed) = image(folder.path(), &[("base", 300_000), ("application", 5_000)]);
    let target = reference(format!("{}/team/app:1", server.address));
    client()
        .push(&layout, &target, &PushOptions::default())
        .await
        .unwrap();
    let name = target.to_string();
    let pulled = Pulled(name.clone());
    run(Command::new("docker").args(["pull", "--quiet", &name]));
    let inspect = [
        "image",
        "inspect",
        "--format",
        "{{index .RepoDigests 0}}",
        &name,
    ];
    let seen = String::from_utf8(run(Command::new("docker").args(inspect))).unwrap();
    assert_eq!(seen.trim(), format!("{}@{}", target.name(), pushed.digest));
    drop(pulled);
}

#[tokio::test]
#[ignore = "needs docker-registry and a docker engine"]
async fn what_the_engine_pushes_keeps_its_digest_through_a_layout() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let tar = folder.path().join("root.tar");
    let mut builder = tar::Builder::new(std::fs::File::create(&tar).unwrap());
    let content = crate::fixture::noise(200_000, 1);
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    builder
        .append_data(&mut header, "content", content.as_slice())
        .unwrap();
    builder.finish().unwrap();
    let target = reference(format!("{}/from/engine:1", server.address));
    let name = target.to_string();
    let imported = Pulled(name.clone());
    let tar = tar.display().to_string();
    run(Command::new("docker").args(["import", &tar, &name]));
    let said = String::from_utf8(run(Command::new("docker").args(["push", &name]))).unwrap();
    drop(imported);

    let registry = client();
    let layout = OciLayout::create(folder.path().join("layout")).unwrap();
    let pulled = registry
        .pull(&target, &layout, &PullOptions::default())
        .await
        .unwrap();
    // The engine's manifests are of Docker's own type, and stay so.
    assert_eq!(pulled.manifest.media_type, media_type::DOCKER_MANIFEST);
    let digest = pulled.manifest.digest.to_string();
    assert!(said.contains(&digest), "{digest} {said}");
    let from_layout = reference(format!("{}/from/layout:1", server.address));
    let report = registry
        .push(&layout, &from_layout, &PushOptions::default())
        .await
        .unwrap();
    assert_eq!(report.digest, pulled.manifest.digest);
    let copied = reference(format!("{}/copied:1", server.address));
    let report = registry
        .copy(&target, &copied, &CopyOptions::default())
        .await
        .unwrap();
    assert_eq!(report.digest, pulled.manifest.digest);
}
