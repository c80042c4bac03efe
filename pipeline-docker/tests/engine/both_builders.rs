//! Images of both builders, in the engine and in layouts.

use std::time::Duration;

use pipeline_docker::builder::{
    BaseImage, BuildNetwork, BuildRequest, ConfigSpec, DaemonlessBuilder, DockerfileSpec,
    EngineBuilder, HealthcheckSpec, ImageBuilder, ImageLocation, ImageOutput, ImageSpec, LayerSpec,
    Support,
};
use pipeline_docker::engine::Engine;
use pipeline_docker::oci::OciLayout;

use crate::support::{Images, context, exists, run, said, unique, write};

#[tokio::test]
#[ignore = "needs a Docker engine and busybox-static"]
async fn layers_without_dockerfile_run_in_the_engine() {
    let engine = Engine::from_env().await.unwrap();
    let folder = context("");
    write(folder.path(), "hello", "hello\n");
    let spec = ImageSpec::new(BaseImage::Scratch)
        .with_layer(LayerSpec::copy(
            folder.path().join("busybox"),
            "/bin/busybox",
        ))
        .with_layer(LayerSpec::copy(folder.path().join("hello"), "/hello"))
        .with_config(ConfigSpec::default().with_cmd(["/bin/busybox", "cat", "/hello"]));
    let names = [unique("layers") + ":1", unique("layers") + ":2"];
    let images = Images(names.to_vec());
    let output = ImageOutput::Engine {
        tags: names.to_vec(),
        unique: Vec::new(),
    };
    let builder = DaemonlessBuilder::new().with_engine(engine);
    assert_eq!(builder.capabilities().engine_output, Support::Yes);
    let built = builder
        .build(&BuildRequest::layers(spec.clone(), output))
        .await
        .unwrap();
    for name in &names {
        assert_eq!(run(name, &[]), "hello");
        let id = said(&["image", "inspect", "--format", "{{.Id}}", name]);
        assert_eq!(id, built.config_digest.to_string());
    }
    // It is the same image that a layout would hold.
    let layout = folder.path().join("layout");
    let again = builder
        .build(&BuildRequest::layers(
            spec,
            ImageOutput::layout(&layout, "x"),
        ))
        .await
        .unwrap();
    assert_eq!(again.config_digest, built.config_digest);
    drop(images);
}

#[tokio::test]
#[ignore = "needs a Docker engine and busybox-static"]
async fn a_dockerfile_becomes_a_layout() {
    let engine = Engine::from_env().await.unwrap();
    let mark = unique("layout");
    let folder = context(&format!(
        "RUN echo {mark} > /mark\nCMD [\"/bin/busybox\", \"cat\", \"/mark\"]"
    ));
    let out = tempfile::tempdir().unwrap();
    let spec = DockerfileSpec::new(folder.path()).with_network(BuildNetwork::None);
    let request = BuildRequest::dockerfile(spec, ImageOutput::layout(out.path(), "made"));
    let built = EngineBuilder::new(engine.clone())
        .build(&request)
        .await
        .unwrap();
    assert!(
        matches!(&built.location, ImageLocation::Layout { tag: Some(tag), .. } if tag == "made")
    );
    let layout = OciLayout::open(out.path()).unwrap();
    let image = layout.image(&built.manifest, &built.platform).unwrap();
    assert_eq!(image.config.config.cmd.len(), 3);
    // Nothing of it is left in the engine, nor beside the layout.
    let left = said(&["image", "ls", "--all", "--quiet", "--no-trunc"]);
    assert!(!left.contains(&built.config_digest.to_string()));
    let names: Vec<_> = std::fs::read_dir(out.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(".saved"))
        .collect();
    assert!(names.is_empty(), "{names:?}");
    // And it is an image like any other: a base for layers, run by the engine.
    let name = unique("from-layout");
    let images = Images(vec![name.clone()]);
    let spec = ImageSpec::new(BaseImage::Layout {
        path: out.path().into(),
        name: Some("made".to_owned()),
    });
    let request = BuildRequest::layers(spec, ImageOutput::engine(&name));
    let builder = DaemonlessBuilder::new().with_engine(engine);
    builder.build(&request).await.unwrap();
    assert_eq!(run(&name, &[]), mark);
    drop(images);
}

#[tokio::test]
#[ignore = "needs a Docker engine and busybox-static"]
async fn a_dockerfile_becomes_an_archive() {
    let engine = Engine::from_env().await.unwrap();
    let mark = unique("archive");
    let folder = context(&format!(
        "RUN echo {mark} > /mark\nCMD [\"/bin/busybox\", \"cat\", \"/mark\"]"
    ));
    let out = tempfile::tempdir().unwrap();
    let (path, name) = (out.path().join("image.tar"), unique("archived") + ":1");
    let images = Images(vec![name.clone()]);
    let spec = DockerfileSpec::new(folder.path()).with_network(BuildNetwork::None);
    let request = BuildRequest::dockerfile(spec, ImageOutput::docker_archive(&path, &name));
    let built = EngineBuilder::new(engine).build(&request).await.unwrap();
    assert!(matches!(
        &built.location,
        ImageLocation::DockerArchive { names, .. } if *names == [name.clone()]
    ));
    assert!(!exists(None, &name));
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 1);
    said(&["load", "--quiet", "--input", path.to_str().unwrap()]);
    assert_eq!(run(&name, &[]), mark);
    drop(images);
}

#[tokio::test]
#[ignore = "needs a Docker engine and busybox-static"]
async fn the_engine_runs_the_health_check_of_layers() {
    let engine = Engine::from_env().await.unwrap();
    let folder = context("");
    let check = HealthcheckSpec::new(["/bin/busybox", "true"])
        .with_interval(Duration::from_millis(100))
        .with_timeout(Duration::from_secs(7))
        .with_start_period(Duration::from_secs(2))
        .with_retries(5);
    let config = ConfigSpec::default()
        .with_cmd(["/bin/busybox", "sleep", "1000"])
        .with_healthcheck(check);
    let spec = ImageSpec::new(BaseImage::Scratch)
        .with_layer(LayerSpec::copy(
            folder.path().join("busybox"),
            "/bin/busybox",
        ))
        .with_config(config);
    let name = unique("healthy");
    let images = Images(vec![name.clone()]);
    let builder = DaemonlessBuilder::new().with_engine(engine);
    let request = BuildRequest::layers(spec, ImageOutput::engine(&name));
    builder.build(&request).await.unwrap();
    let format = "{{json .Config.Healthcheck}}";
    let seen = said(&["image", "inspect", "--format", format, &name]);
    let seen: serde_json::Value = serde_json::from_str(&seen).unwrap();
    let wanted = serde_json::json!({
        "Test": ["CMD", "/bin/busybox", "true"],
        "Interval": 100_000_000,
        "Timeout": 7_000_000_000_i64,
        "StartPeriod": 2_000_000_000,
        "Retries": 5,
    });
    assert_eq!(seen, wanted);
    let id = said(&["run", "--detach", "--network", "none", &name]);
    let healthy = async {
        let state = || said(&["inspect", "--format", "{{.State.Health.Status}}", &id]);
        while state() != "healthy" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let became = tokio::time::timeout(Duration::from_secs(60), healthy).await;
    said(&["rm", "--force", &id]);
    became.unwrap();
    drop(images);
}
