//! Builds on a base in a registry, and into one.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use pipeline_core::error_chain;
use pipeline_docker::ImageReference;
use pipeline_docker::builder::{
    BaseImage, BuildError, BuildEvent, BuildObserver, BuildRequest, BuiltImage, DaemonlessBuilder,
    ImageBuilder, ImageLocation, ImageOutput, ImageSpec, LayerCache, LayerOrigin, LayerSpec,
    Support,
};
use pipeline_docker::oci::{Digest, OciLayout, Platform};
use pipeline_docker::registry::{ExistingTag, PushOptions, RegistryErrorKind};

use crate::fixture::{add_image, client, image, layers, reference};
use crate::proxy::{Fault, Proxy};
use crate::server::Server;

const BASE_NAME: &str = "org.opencontainers.image.base.name";
const BASE_DIGEST: &str = "org.opencontainers.image.base.digest";

/// One layer of one file.
fn spec(base: BaseImage, folder: &Path, content: &str) -> ImageSpec {
    let source = folder.join("source");
    fs::create_dir_all(&source).unwrap();
    fs::write(source.join("main.py"), content).unwrap();
    ImageSpec::new(base).with_layer(LayerSpec::copy(source, "/srv"))
}

fn builder() -> DaemonlessBuilder {
    DaemonlessBuilder::new().with_registry(client())
}

async fn build(builder: &DaemonlessBuilder, spec: ImageSpec, layout: &Path) -> BuiltImage {
    let output = ImageOutput::layout(layout, "test");
    let request = BuildRequest::layers(spec, output);
    builder.build(&request).await.unwrap()
}

fn annotation(built: &BuiltImage, layout: &Path, key: &str) -> String {
    let layout = OciLayout::open(layout).unwrap();
    let image = layout.image(&built.manifest, &Platform::host()).unwrap();
    image.manifest.annotations[key].clone()
}

#[derive(Debug, Default)]
struct Ear(Mutex<Vec<BuildEvent>>);

impl BuildObserver for Ear {
    fn event(&self, event: &BuildEvent) {
        self.0.lock().unwrap().push(event.clone());
    }
}

#[tokio::test]
#[ignore = "needs docker-registry"]
async fn a_base_is_looked_up_once_and_pinned() {
    let server = Server::start();
    let proxy = Proxy::start(&server.address).await;
    let folder = tempfile::tempdir().unwrap();
    let (bases, old) = image(&folder.path().join("bases"), &[("base", 300_000)]);
    let new = add_image(&bases, &[("another", 1_000)]);
    bases.set_tag(Some("new"), &new).unwrap();
    let name = reference(format!("{}/team/base:1", proxy.address));
    let push = |image: &str| {
        let options = PushOptions::default()
            .with_image(image)
            .with_existing(ExistingTag::Move);
        let (bases, name) = (bases.clone(), name.clone());
        async move { client().push(&bases, &name, &options).await.unwrap() }
    };
    push("app").await;
    proxy.take_log();

    let ear = Arc::new(Ear::default());
    let observed = builder().observed_by(Arc::clone(&ear) as Arc<dyn BuildObserver>);
    let out = folder.path().join("out");
    let on_base = |content| spec(BaseImage::registry(name.clone()), folder.path(), content);
    let request = BuildRequest::layers(on_base("1"), ImageOutput::layout(&out, "test"));
    let built = observed.build(&request).await.unwrap();
    let asked = proxy.take_log();
    let manifests = asked.iter().filter(|line| line.contains("/manifests/"));
    assert_eq!(manifests.count(), 1, "{asked:?}");
    assert_eq!(built.layers[0].digest.to_string(), layers(&bases)[0]);
    assert_eq!(built.layers[0].origin, LayerOrigin::Base);
    assert_eq!(annotation(&built, &out, BASE_NAME), name.to_string());
    assert_eq!(
        annotation(&built, &out, BASE_DIGEST),
        old.digest.to_string()
    );
    // The layout names the result only.
    let layout = OciLayout::open(&out).unwrap();
    assert_eq!(layout.resolve(None).unwrap().digest, built.manifest.digest);
    {
        let heard = ear.0.lock().unwrap();
        let pinned = name.with_digest(old.digest.clone());
        assert!(heard.contains(&BuildEvent::BaseResolved { reference: pinned }));
        let whole = |event: &&BuildEvent| {
            matches!(event, BuildEvent::LayerProgress { action, current, total, .. }
                if action == "downloading" && current == total && *total >= 300_000)
        };
        assert_eq!(heard.iter().filter(whole).count(), 1, "{heard:?}");
    }

    // Again, the layers are there; the digest is the same.
    let again = build(&builder(), on_base("1"), &out).await;
    assert_eq!(again.manifest.digest, built.manifest.digest);
    let asked = proxy.take_log();
    assert!(!asked.iter().any(|line| line.contains(&layers(&bases)[0])));

    // By its digest it is the old one also when the tag has moved.
    push("new").await;
    let pinned = name.with_digest(old.digest.clone());
    let pinned = spec(BaseImage::registry(pinned), folder.path(), "1");
    let still = build(&builder(), pinned, &out).await;
    assert_eq!(still.layers[0].digest, built.layers[0].digest);
    let moved = build(&builder(), on_base("1"), &out).await;
    assert_eq!(
        annotation(&moved, &out, BASE_DIGEST),
        new.digest.to_string()
    );
    assert_ne!(moved.layers[0].digest, built.layers[0].digest);
}

#[tokio::test]
#[ignore = "needs docker-registry"]
async fn layers_of_a_base_come_from_the_layer_cache() {
    let server = Server::start();
    let proxy = Proxy::start(&server.address).await;
    let folder = tempfile::tempdir().unwrap();
    let (bases, _) = image(
        &folder.path().join("bases"),
        &[("one", 1_000), ("two", 2_000)],
    );
    let name = reference(format!("{}/team/base:1", proxy.address));
    client()
        .push(&bases, &name, &PushOptions::default())
        .await
        .unwrap();
    let cache = LayerCache::open(folder.path().join("cache")).unwrap();
    let builder = builder().with_layer_cache(cache);
    let on_base = || spec(BaseImage::registry(name.clone()), folder.path(), "1");
    let first = build(&builder, on_base(), &folder.path().join("first")).await;
    proxy.take_log();
    let second = build(&builder, on_base(), &folder.path().join("second")).await;
    assert_eq!(second.manifest.digest, first.manifest.digest);
    let asked = proxy.take_log();
    for layer in layers(&bases) {
        assert!(!asked.iter().any(|line| line.contains(&layer)), "{asked:?}");
    }
}

#[tokio::test]
#[ignore = "needs docker-registry"]
async fn a_base_that_lies_or_is_missing_leaves_no_image() {
    let server = Server::start();
    let proxy = Proxy::start(&server.address).await;
    let folder = tempfile::tempdir().unwrap();
    let (bases, _) = image(&folder.path().join("bases"), &[("base", 3_000)]);
    let name = reference(format!("{}/team/base:1", proxy.address));
    client()
        .push(&bases, &name, &PushOptions::default())
        .await
        .unwrap();
    let fail = |name: ImageReference, out: &str| {
        let spec = spec(BaseImage::registry(name), folder.path(), "1");
        let output = ImageOutput::layout(folder.path().join(out), "test");
        async move {
            let request = BuildRequest::layers(spec, output);
            let error = builder().build(&request).await.unwrap_err();
            let BuildError::Registry(error) = error else {
                panic!("{}", error_chain(&error))
            };
            error.kind()
        }
    };
    let kind = fail(name.with_tag("2").unwrap(), "missing").await;
    assert_eq!(kind, RegistryErrorKind::NotFound);
    assert!(!folder.path().join("missing").exists());
    proxy.fault("GET", &layers(&bases)[0], 9, Fault::FlipBit);
    let kind = fail(name.clone(), "lies").await;
    assert_eq!(kind, RegistryErrorKind::Untrustworthy);
    let layout = OciLayout::open(folder.path().join("lies")).unwrap();
    assert!(layout.tags().unwrap().is_empty());
}

#[tokio::test]
#[ignore = "needs docker-registry"]
async fn an_image_goes_straight_into_a_registry() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let (bases, _) = image(&folder.path().join("bases"), &[("base", 3_000)]);
    let base = reference(format!("{}/team/base:1", server.address));
    let registry = client();
    registry
        .push(&bases, &base, &PushOptions::default())
        .await
        .unwrap();
    let target = reference(format!("{}/team/app:1", server.address));
    let to_registry = |content| {
        let spec = spec(BaseImage::registry(base.clone()), folder.path(), content);
        BuildRequest::layers(spec, ImageOutput::registry(target.clone()))
    };
    for _ in 0..2 {
        let built = builder().build(&to_registry("1")).await.unwrap();
        let pinned = target.with_digest(built.manifest.digest.clone());
        assert_eq!(
            built.location,
            ImageLocation::Registry { reference: pinned }
        );
        let there = registry.resolve(&target).await.unwrap().unwrap();
        assert_eq!(there.digest, built.manifest.digest);
        // It is the image that a layout would hold.
        let spec = spec(BaseImage::registry(base.clone()), folder.path(), "1");
        let same = build(&builder(), spec, &folder.path().join("out")).await;
        assert_eq!(same.manifest.digest, built.manifest.digest);
    }
    // Another image does not take its tag.
    let before = registry.resolve(&target).await.unwrap().unwrap().digest;
    let error = builder().build(&to_registry("2")).await.unwrap_err();
    let BuildError::Registry(error) = error else {
        panic!("{}", error_chain(&error))
    };
    assert_eq!(error.kind(), RegistryErrorKind::TagExists);
    let after = registry.resolve(&target).await.unwrap().unwrap().digest;
    assert_eq!(after, before);
}

#[tokio::test]
async fn without_a_client_no_registry_is_touched() {
    let folder = tempfile::tempdir().unwrap();
    // Nothing listens on the discard port.
    let name = reference("127.0.0.1:9/team/app:1");
    let out = folder.path().join("out");
    let plain = DaemonlessBuilder::new();
    assert_eq!(plain.capabilities().registry_output, Support::No);
    assert_eq!(plain.capabilities().registry_base, Support::No);
    let scratch = spec(BaseImage::Scratch, folder.path(), "1");
    let based = spec(BaseImage::registry(name.clone()), folder.path(), "1");
    let requests = [
        BuildRequest::layers(scratch.clone(), ImageOutput::registry(name.clone())),
        BuildRequest::layers(based, ImageOutput::layout(&out, "test")),
    ];
    for request in &requests {
        let errors = [
            plain.build(request).await.unwrap_err(),
            builder().build_blocking(request).unwrap_err(),
        ];
        for error in errors {
            let text = error_chain(&error);
            assert!(matches!(error, BuildError::Unsupported { .. }), "{text}");
            assert!(text.contains("feature `registry`"), "{text}");
        }
    }
    // A destination that cannot be one is found before the work.
    let digest = Digest::sha256(b"x");
    for name in [reference("127.0.0.1:9/app"), name.with_digest(digest)] {
        let request = BuildRequest::layers(scratch.clone(), ImageOutput::registry(name));
        let error = builder().build(&request).await.unwrap_err();
        assert!(matches!(error, BuildError::Invalid { .. }), "{error}");
    }
}
