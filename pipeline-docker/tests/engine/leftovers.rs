//! What a build that fails leaves in the engine, and what output without end costs.

use std::process::Command;
use std::time::Duration;

use pipeline_core::error_chain;
use pipeline_docker::builder::{
    BaseImage, BuildError, BuildEvent, BuildNetwork, BuildRequest, DaemonlessBuilder,
    DockerfileSpec, EngineBuilder, ImageBuilder, ImageOutput, ImageSpec, LayerSpec,
};
use pipeline_docker::engine::Engine;

use crate::build::BACKENDS;
use crate::gate::Gate;
use crate::support::{Ear, Images, context, exists, said, unique, write};

/// A file system without room for an image.
struct Small(tempfile::TempDir);

impl Small {
    fn mount() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=512k", "tmpfs"])
            .arg(folder.path())
            .status();
        assert!(status.unwrap().success(), "mounting needs root");
        Self(folder)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        drop(Command::new("umount").arg(self.0.path()).status());
    }
}

/// Images with this label, by id.
fn labelled(mark: &str) -> String {
    let filter = format!("label=mark={mark}");
    said(&["image", "ls", "--all", "--quiet", "--filter", &filter])
}

#[tokio::test]
#[ignore = "needs a Docker engine, root to mount and busybox-static"]
async fn a_full_disk_for_the_layout_leaves_no_image_in_the_engine() {
    let engine = Engine::from_env().await.unwrap();
    let small = Small::mount();
    for backend in BACKENDS {
        let mark = unique("full");
        let folder = context(&format!("LABEL mark={mark}"));
        let mut spec = DockerfileSpec::new(folder.path()).with_network(BuildNetwork::None);
        if cfg!(feature = "buildkit")
            && *backend == pipeline_docker::builder::BuildBackend::BuildKit
        {
            // With a secret the image has a name until it is taken out.
            write(folder.path(), "token", "secret");
            spec = spec.with_secret_file("token", folder.path().join("token"));
        }
        let output = ImageOutput::layout(small.0.path().join("layout"), "x");
        let builder = EngineBuilder::new(engine.clone()).with_backend(*backend);
        let error = builder.build(&BuildRequest::dockerfile(spec, output)).await;
        let error = error.unwrap_err();
        let text = error_chain(&error);
        assert!(matches!(error, BuildError::Write { .. }), "{text}");
        assert!(text.contains("No space left"), "{text}");
        assert_eq!(labelled(&mark), "");
        let names = said(&["image", "ls", "--format", "{{.Repository}}"]);
        assert!(!names.contains("pipeline-docker-build"), "{names}");
    }
}

#[tokio::test]
#[ignore = "needs a Docker engine"]
async fn names_that_are_refused_leave_no_image_in_the_engine() {
    let engine = Engine::from_env().await.unwrap();
    let mark = unique("refused");
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "file", &mark);
    let taken = unique("taken");
    let images = Images(vec![taken.clone()]);
    let build = |content: &str, output| {
        write(folder.path(), "file", content);
        let mut spec = ImageSpec::new(BaseImage::Scratch)
            .with_layer(LayerSpec::copy(folder.path().join("file"), "/file"));
        spec.config = spec.config.with_label("mark", mark.clone());
        let builder = DaemonlessBuilder::new().with_engine(engine.clone());
        async move { builder.build(&BuildRequest::layers(spec, output)).await }
    };
    let first = build("1", ImageOutput::engine(&taken)).await.unwrap();
    let free = unique("free");
    let output = ImageOutput::Engine {
        tags: vec![free.clone()],
        unique: vec![taken.clone()],
    };
    let error = build("2", output).await.unwrap_err();
    assert!(matches!(error, BuildError::NameTaken { .. }), "{error}");
    assert!(!exists(None, &free));
    let filter = format!("label=mark={mark}");
    let left = said(&[
        "image",
        "ls",
        "--all",
        "--no-trunc",
        "--quiet",
        "--filter",
        &filter,
    ]);
    assert_eq!(left, first.config_digest.to_string());
    drop(images);
}

#[tokio::test]
#[ignore = "needs a Docker engine and busybox-static"]
async fn output_without_line_ends_is_told_in_parts() {
    let engine = Engine::from_env().await.unwrap();
    for backend in BACKENDS {
        let name = unique("long-line");
        let images = Images(vec![name.clone()]);
        // BuildKit shows less of it.
        let folder = context(&format!(
            "RUN : {name}; /bin/busybox yes | /bin/busybox head -c 3000000 | /bin/busybox tr -d '\\n'"
        ));
        let spec = DockerfileSpec::new(folder.path()).with_network(BuildNetwork::None);
        let ear = Ear::new();
        let observer = std::sync::Arc::clone(&ear);
        let builder = EngineBuilder::new(engine.clone())
            .with_backend(*backend)
            .observed_by(observer);
        let request = BuildRequest::dockerfile(spec, ImageOutput::engine(&name));
        builder.build(&request).await.unwrap();
        let heard = ear.heard.lock().unwrap();
        let lines = heard.iter().filter_map(|event| match event {
            BuildEvent::Line { text } if text.contains("yyyy") => Some(text.len()),
            _ => None,
        });
        let lines: Vec<usize> = lines.collect();
        assert!(lines.iter().sum::<usize>() > 100_000, "{lines:?}");
        assert!(lines.iter().all(|length| *length <= 64 * 1024), "{lines:?}");
        drop(images);
    }
}

/// Begins to bring an image into the engine under two names, and gives up while the request to
/// `path` is under way. Nothing is left when the engine has answered it.
async fn given_up_at(path: &'static str) {
    let engine = Engine::from_env().await.unwrap();
    let mark = unique("given-up");
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "file", &mark);
    let mut spec = ImageSpec::new(BaseImage::Scratch)
        .with_layer(LayerSpec::copy(folder.path().join("file"), "/file"));
    spec.config = spec.config.with_label("mark", mark.clone());
    let layout = ImageOutput::layout(folder.path().join("layout"), "x");
    let request = BuildRequest::layers(spec.clone(), layout);
    let known = DaemonlessBuilder::new().build(&request).await.unwrap();

    let names = [format!("{mark}:first"), format!("{mark}:second")];
    let images = Images(names.to_vec());
    let gate = Gate::before(&engine.address().to_string(), path);
    let builder = DaemonlessBuilder::new().with_engine(gate.engine().await);
    let output = ImageOutput::Engine {
        tags: names.to_vec(),
        unique: Vec::new(),
    };
    let request = BuildRequest::layers(spec, output);
    let building = tokio::spawn(async move { builder.build(&request).await });
    gate.holds().await;
    building.abort();
    assert!(building.await.unwrap_err().is_cancelled());
    // It was there, and is removed.
    let filter = format!("image={}", known.config_digest);
    let removed = [
        "events",
        "--since",
        "2h",
        "--until",
        "0s",
        "--filter",
        "event=delete",
        "--filter",
        &filter,
    ];
    assert_eq!(said(&removed), "");
    gate.let_through().await;
    let gone = async {
        while said(&removed).is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone)
        .await
        .unwrap();
    assert_eq!(labelled(&mark), "");
    assert!(names.iter().all(|name| !exists(None, name)));
    drop(images);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Docker engine"]
async fn a_load_that_is_given_up_leaves_no_image() {
    given_up_at("/images/load").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Docker engine"]
async fn an_image_that_is_given_up_while_it_is_named_keeps_no_name() {
    given_up_at("tag=second").await;
}
