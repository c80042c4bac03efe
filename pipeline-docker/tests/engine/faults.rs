//! Engines that die or have no room.

use std::sync::Arc;
use std::time::Duration;

use pipeline_core::error_chain;
use pipeline_docker::builder::{
    BuildError, BuildEvent, BuildNetwork, BuildRequest, DockerfileSpec, EngineBuilder,
    ImageBuilder, ImageOutput,
};
use pipeline_docker::engine::EngineErrorKind;
use tokio::sync::Notify;

use crate::build::BACKENDS;
use crate::own_engine::OwnEngine;
use crate::support::{Ear, context, docker, exists};

fn request(folder: &tempfile::TempDir, name: &str) -> BuildRequest {
    let spec = DockerfileSpec::new(folder.path()).with_network(BuildNetwork::None);
    BuildRequest::dockerfile(spec, ImageOutput::engine(name))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dockerd, root and busybox-static"]
async fn an_engine_that_dies_in_a_build() {
    let (mut own, mut engine) = OwnEngine::start().await;
    for backend in BACKENDS {
        let folder = context("RUN echo begun; /bin/busybox sleep 1000; echo ended");
        let begun = Arc::new(Notify::new());
        let signal = Arc::clone(&begun);
        let ear = Ear::acting(move |event| {
            if matches!(event, BuildEvent::Line { text } if text == "begun") {
                signal.notify_one();
            }
        });
        let builder = EngineBuilder::new(engine)
            .with_backend(*backend)
            .observed_by(ear);
        let torn = request(&folder, "torn:1");
        let building = tokio::spawn(async move { builder.build(&torn).await });
        begun.notified().await;
        own.kill();
        let error = building.await.unwrap().unwrap_err();
        let text = error_chain(&error);
        let BuildError::Engine(error) = error else {
            panic!("{text}")
        };
        assert_eq!(error.kind(), EngineErrorKind::Unavailable, "{text}");
        assert!(
            text.contains("lost the connection to the engine at unix://")
                && text.contains("try again"),
            "{text}"
        );
        // While it is away, that is said; when it is back, the next build is like any other.
        let whole = context("LABEL a=b");
        engine = {
            let host = own.host();
            assert!(!docker(Some(&host), &["version"]).status.success());
            own.run().await
        };
        let host = own.host();
        assert!(!exists(Some(&host), "torn:1"));
        let builder = EngineBuilder::new(engine.clone()).with_backend(*backend);
        builder.build(&request(&whole, "whole:1")).await.unwrap();
        assert!(exists(Some(&host), "whole:1"));
        // The engine ends what it finds of the build; it answers before it has heard of that end.
        let ended = async {
            while !docker(Some(&host), &["ps", "--quiet"]).stdout.is_empty() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), ended)
            .await
            .unwrap();
    }
    drop(own);
}

#[tokio::test]
#[ignore = "needs dockerd, root and busybox-static"]
async fn an_engine_without_room() {
    for backend in BACKENDS {
        let mut own = OwnEngine::prepare().with_disk("40m");
        let engine = own.run().await;
        let host = own.host();
        let folder = context("COPY . /all\nRUN /bin/busybox cp /all/large /again");
        let large = std::fs::File::create(folder.path().join("large")).unwrap();
        large.set_len(14_000_000).unwrap();
        drop(large);
        let builder = EngineBuilder::new(engine.clone()).with_backend(*backend);
        let error = builder
            .build(&request(&folder, "large:1"))
            .await
            .unwrap_err();
        let text = error_chain(&error);
        assert!(text.contains("no space left on device"), "{text}");
        assert!(!exists(Some(&host), "large:1"));
        drop(own);
    }
}

#[cfg(feature = "registry")]
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dockerd, docker-registry, root and busybox-static"]
async fn an_engine_that_dies_in_a_push() {
    use pipeline_docker::ImageReference;
    use pipeline_docker::credentials::Anonymous;
    use pipeline_docker::registry::{Registry, RegistryOptions};

    use crate::slow_registry::SlowRegistry;

    let (mut own, engine) = OwnEngine::start().await;
    let folder = context("COPY . /all");
    // Nothing that compression makes small.
    let noise: Vec<u8> = (0..600_000_u32)
        .flat_map(|number| {
            number
                .wrapping_mul(2_654_435_761)
                .rotate_left(number % 31)
                .to_le_bytes()
        })
        .collect();
    std::fs::write(folder.path().join("noise"), noise).unwrap();
    let registry = SlowRegistry::start().await;
    let name: ImageReference = format!("{}/team/app:1", registry.address).parse().unwrap();
    let builder = EngineBuilder::new(engine.clone());
    builder
        .build(&request(&folder, &name.to_string()))
        .await
        .unwrap();
    let pushed = name.clone();
    let pushing = tokio::spawn(async move { engine.push(&pushed, &Anonymous).await });
    registry.stuck().await;
    own.kill();
    let error = pushing.await.unwrap().unwrap_err();
    let text = error_chain(&error);
    assert_eq!(error.kind(), EngineErrorKind::Unavailable, "{text}");
    assert!(text.contains(&format!("could not push {name}")), "{text}");
    registry.flow();
    let client = Registry::new(RegistryOptions::default()).unwrap();
    assert!(client.resolve(&name).await.unwrap().is_none());
    let engine = own.run().await;
    let report = engine.push(&name, &Anonymous).await.unwrap();
    assert!(report.anonymous);
    let there = client.resolve(&name).await.unwrap().unwrap();
    assert_eq!(there.digest, report.digest);
    // A tag that it has not is an answer with a kind.
    let error = engine
        .push(&name.with_tag("2").unwrap(), &Anonymous)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), EngineErrorKind::NotFound, "{error}");
    drop(own);
}

#[cfg(feature = "engine-tls")]
#[tokio::test]
#[ignore = "needs dockerd, root and openssl"]
async fn an_engine_behind_tls() {
    use pipeline_docker::engine::Engine;

    use crate::tls_engine::TlsEngine;

    let own = TlsEngine::start().await;
    let engine = Engine::connect(&own.address()).await.unwrap();
    engine.ping().await.unwrap();
    assert_eq!(engine.to_string(), format!("engine(https://{})", own.host));
    // Without a certificate it is said which file is missing.
    std::fs::remove_file(own.certificates.join("key.pem")).unwrap();
    let error = Engine::connect(&own.address()).await.unwrap_err();
    let text = error_chain(&error);
    assert!(
        text.contains("key.pem") && text.contains("DOCKER_CERT_PATH"),
        "{text}"
    );
}
