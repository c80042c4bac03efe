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

#[cfg(feature = "engine")]
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker-registry and a docker engine"]
async fn a_pull_by_the_engine_stops_with_the_job_it_was_for() {
    use pipeline_core::executor::EnvironmentRequest;
    use pipeline_core::{EventSink, Executor, Scope};
    use pipeline_docker::container::{ContainerExecutor, ContainerSpec};
    use pipeline_docker::engine::Engine;

    use crate::proxy::{Fault, Proxy};

    let server = Server::start();
    let proxy = Proxy::start(&server.address).await;
    let folder = tempfile::tempdir().unwrap();
    let (layout, _) = image(&folder.path().join("layout"), &[("base", 900_000)]);
    let target = reference(format!("{}/team/slow:1", proxy.address));
    client()
        .push(&layout, &target, &PushOptions::default())
        .await
        .unwrap();
    let image = Pulled(target.to_string());
    let layer = &crate::fixture::layers(&layout)[0];
    proxy.fault("GET", layer, 1, Fault::SlowAnswer(300_000));

    let engine = Engine::from_env().await.unwrap();
    let executor = ContainerExecutor::new(engine, ContainerSpec::new(&image.0));
    let scope = Scope::new("stopped-pull");
    let job = folder.path().to_owned();
    let request = EnvironmentRequest::new(scope, "stopped", job, EventSink::discard());
    tokio::select! {
        ended = executor.provision(&request) => panic!("{:?}", ended.err()),
        () = proxy.slow(1) => {}
    }
    proxy.hung_up(1).await;
    let inspect = Command::new("docker")
        .args(["image", "inspect", &image.0])
        .output()
        .unwrap();
    assert!(!inspect.status.success());
}
