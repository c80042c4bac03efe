//! Steps that build in an engine and push with it.

use std::path::Path;
use std::sync::Arc;

use pipeline_core::{Job, Outcome, Pipeline, RunFacts, RunReport, Runner};
use pipeline_docker::builder::{
    BaseImage, BuildRequest, ImageBuilder, ImageOutput, ImageSpec, LayerSpec,
};
use pipeline_docker::builder::{BuildNetwork, DaemonlessBuilder, DockerfileSpec, EngineBuilder};
use pipeline_docker::credentials::Anonymous;
use pipeline_docker::engine::Engine;
use pipeline_docker::registry::{
    PlatformChoice, PushImage, PushOptions, Registry, RegistryOptions,
};
use pipeline_docker::steps::BuildImage;
use pipeline_docker::{ImageReference, TagPolicy, TagScheme};

use crate::slow_registry::SlowRegistry;
use crate::support::{Images, context, exists, run, said, unique, write};

const REVISION: &str = "4f2c1e7aa0b1c2d3e4f5";

async fn start(data: &Path, job: Job) -> RunReport {
    let pipeline = Pipeline::builder("images").job(job).build().unwrap();
    let facts = RunFacts::new()
        .with_revision(REVISION)
        .with_repository("https://example.com/site.git");
    let running = Runner::new(data).start(&pipeline, facts).await.unwrap();
    running.wait().await.unwrap()
}

fn dockerfile(context: &Path, engine: &Engine) -> BuildImage {
    let spec = DockerfileSpec::new(context).with_network(BuildNetwork::None);
    let builder = Arc::new(EngineBuilder::new(engine.clone()));
    BuildImage::dockerfile(spec, builder, "unused")
}

fn id(name: &str) -> String {
    said(&["image", "inspect", "--format", "{{.Id}}", name])
}

fn failure(report: &RunReport) -> String {
    assert_eq!(report.outcome, Outcome::Failed, "{report:?}");
    let (_, step) = report.first_failure().unwrap();
    step.failure.clone().unwrap().message
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Docker engine, docker-registry and busybox-static"]
async fn a_dockerfile_is_built_and_pushed_by_the_engine() {
    let registry = SlowRegistry::start().await;
    registry.flow();
    let engine = Engine::from_env().await.unwrap();
    let data = tempfile::tempdir().unwrap();
    let target: ImageReference = format!("{}/team/site", registry.address).parse().unwrap();
    let tagged = target.with_tag("one").unwrap();
    let local = unique("steps-local");
    let client = Registry::new(RegistryOptions::default()).unwrap();
    let deliver = |folder: &Path, local: &str| {
        let mut job = Job::new("image");
        let built = job.step(
            "build",
            dockerfile(folder, &engine)
                .into_engine(local.parse().unwrap())
                .with_tags(TagPolicy::fixed("one")),
        );
        let policy = TagPolicy::fixed("one")
            .with(TagScheme::Revision)
            .with_alias("latest");
        job.step(
            "push",
            PushImage::new(client.clone(), &built, target.clone())
                .with_tags(policy)
                .with_engine(engine.clone(), Arc::new(Anonymous)),
        );
        start(data.path(), job)
    };
    let names = ["one", "latest", "4f2c1e7aa0b1"].map(|tag| target.with_tag(tag).unwrap());
    let mut images: Vec<_> = names.iter().map(ToString::to_string).collect();
    let other = unique("steps-other");
    images.extend([format!("{local}:one"), format!("{other}:one")]);
    let images = Images(images);

    let folder = context("RUN echo built > /mark\nCMD [\"/bin/busybox\", \"cat\", \"/mark\"]");
    let first = deliver(folder.path(), &local).await;
    assert_eq!(first.outcome, Outcome::Succeeded, "{first:?}");
    assert_eq!(run(&tagged.to_string(), &[]), "built");
    let config = client.config(&tagged, &PlatformChoice::default()).await;
    let labels = config.unwrap().config.labels;
    assert_eq!(labels["org.opencontainers.image.revision"], REVISION);
    let there = client.resolve(&tagged).await.unwrap().unwrap();
    for name in &names {
        let found = client.resolve(name).await.unwrap();
        assert_eq!(found.unwrap().digest, there.digest, "{name}");
    }
    // The very same image is no other one.
    let again = deliver(folder.path(), &local).await;
    assert_eq!(again.outcome, Outcome::Succeeded, "{again:?}");
    let summary = again.step("image", "push").unwrap().summary.clone();
    assert!(summary.unwrap().contains("already there"));

    // Another one is, and nothing of it gets a name.
    let changed = context("RUN echo changed > /mark");
    let message = failure(&deliver(changed.path(), &other).await);
    assert!(message.contains("exists with another content"), "{message}");
    let still = client.resolve(&tagged).await.unwrap().unwrap();
    assert_eq!(still.digest, there.digest);
    let list = said(&["image", "ls", "--format", "{{.Repository}}:{{.Tag}}"]);
    assert!(
        !list.contains(&format!("{}:upload-", target.name())),
        "{list}"
    );
    drop(images);
}

#[tokio::test]
#[ignore = "needs a Docker engine and busybox-static"]
async fn a_name_of_its_own_is_not_taken_from_another_image() {
    let engine = Engine::from_env().await.unwrap();
    let data = tempfile::tempdir().unwrap();
    let local = unique("own-name");
    let (one, latest) = (format!("{local}:one"), format!("{local}:latest"));
    let images = Images(vec![one.clone(), latest.clone()]);
    let tags = TagPolicy::fixed("one").with_alias("latest");
    let repository: ImageReference = local.parse().unwrap();
    let mark = unique("mark");
    let first = context(&format!("LABEL mark={mark}"));
    for _ in 0..2 {
        let mut job = Job::new("image");
        let step = dockerfile(first.path(), &engine).into_engine(repository.clone());
        job.step("build", step.with_tags(tags.clone()));
        let report = start(data.path(), job).await;
        assert_eq!(report.outcome, Outcome::Succeeded, "{report:?}");
    }
    let before = id(&one);
    let second = context(&format!("LABEL mark={mark} second=yes"));
    let layers = ImageSpec::new(BaseImage::Scratch)
        .with_layer(LayerSpec::copy(second.path().join("Dockerfile"), "/file"));
    let without_engine = Arc::new(DaemonlessBuilder::new().with_engine(engine.clone()));
    for step in [
        dockerfile(second.path(), &engine),
        BuildImage::new(layers, "unused").with_builder(without_engine),
    ] {
        let mut job = Job::new("image");
        let step = step.into_engine(repository.clone());
        job.step("build", step.with_tags(tags.clone()));
        let message = failure(&start(data.path(), job).await);
        assert!(message.contains("names another image"), "{message}");
        assert_eq!((id(&one), id(&latest)), (before.clone(), before.clone()));
    }
    drop(images);
}

#[tokio::test]
#[ignore = "needs a Docker engine and busybox-static"]
async fn an_image_of_a_dockerfile_says_where_it_comes_from() {
    let engine = Engine::from_env().await.unwrap();
    let data = tempfile::tempdir().unwrap();
    let local = unique("labels");
    let images = Images(vec![format!("{local}:one")]);
    let folder = tempfile::tempdir().unwrap();
    write(
        folder.path(),
        "Dockerfile",
        "FROM scratch\nCOPY Dockerfile /\n",
    );
    let mut job = Job::new("image");
    let spec = DockerfileSpec::new(folder.path())
        .with_label("org.opencontainers.image.source", "elsewhere");
    let builder = Arc::new(EngineBuilder::new(engine));
    let step = BuildImage::dockerfile(spec, builder, "unused")
        .into_engine(local.parse().unwrap())
        .with_tags(TagPolicy::fixed("one"))
        .with_created(1_700_000_000);
    job.step("build", step);
    let report = start(data.path(), job).await;
    assert_eq!(report.outcome, Outcome::Succeeded, "{report:?}");
    let format = "{{json .Config.Labels}}";
    let labels = said(&["image", "inspect", "--format", format, &images.0[0]]);
    let labels: serde_json::Value = serde_json::from_str(&labels).unwrap();
    for (name, value) in [
        ("revision", REVISION),
        ("source", "elsewhere"),
        ("version", "one"),
        ("created", "2023-11-14T22:13:20Z"),
    ] {
        assert_eq!(labels[format!("org.opencontainers.image.{name}")], value);
    }
    drop(images);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Docker engine, docker-registry and busybox-static"]
async fn an_engine_takes_no_tag_that_the_push_did_not_get() {
    let registry = SlowRegistry::start().await;
    let engine = Engine::from_env().await.unwrap();
    let data = tempfile::tempdir().unwrap();
    let target: ImageReference = format!("{}/team/site", registry.address).parse().unwrap();
    let [one, latest] = ["one", "latest"].map(|tag| target.with_tag(tag).unwrap());
    let client = Registry::new(RegistryOptions::default()).unwrap();
    let local = unique("push-race");
    let names = [format!("{local}:one"), one.to_string(), latest.to_string()];
    let images = Images(names.to_vec());
    // Another image, in a layout, and in the engine as what was delivered last.
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "file", &local);
    let other = ImageSpec::new(BaseImage::Scratch)
        .with_layer(LayerSpec::copy(folder.path().join("file"), "/file"));
    let path = folder.path().join("layout");
    let builder = DaemonlessBuilder::new().with_engine(engine.clone());
    let outputs = [
        ImageOutput::layout(&path, "x"),
        ImageOutput::engine(latest.to_string()),
    ];
    for output in outputs {
        let request = BuildRequest::layers(other.clone(), output);
        builder.build(&request).await.unwrap();
    }
    let before = id(&names[2]);
    let dockerfile_context = context(&format!("LABEL mark={local}"));
    let deliver = || {
        let mut job = Job::new("image");
        let built = job.step(
            "build",
            dockerfile(dockerfile_context.path(), &engine)
                .into_engine(local.parse().unwrap())
                .with_tags(TagPolicy::fixed("one")),
        );
        let policy = TagPolicy::fixed("one").with_alias("latest");
        job.step(
            "push",
            PushImage::new(client.clone(), &built, target.clone())
                .with_tags(policy)
                .with_engine(engine.clone(), Arc::new(Anonymous)),
        );
        start(data.path(), job)
    };
    // Somebody else is faster.
    let first = async {
        registry.stuck().await;
        let layout = pipeline_docker::oci::OciLayout::open(&path).unwrap();
        let options = PushOptions::default();
        client.push(&layout, &one, &options).await.unwrap();
        registry.flow();
    };
    let (report, ()) = tokio::join!(deliver(), first);
    let message = failure(&report);
    assert!(message.contains("exists with another content"), "{message}");
    assert!(!exists(None, &names[1]));
    assert_eq!(id(&names[2]), before);
    // A tag that is taken in the engine is refused before anything is in the registry.
    let free = target.with_tag("two").unwrap();
    said(&["tag", &names[2], &free.to_string()]);
    let images = Images([images.0.clone(), vec![free.to_string()]].concat());
    let mut job = Job::new("image");
    let built = job.step(
        "build",
        dockerfile(dockerfile_context.path(), &engine)
            .into_engine(local.parse().unwrap())
            .with_tags(TagPolicy::fixed("one")),
    );
    job.step(
        "push",
        PushImage::new(client.clone(), &built, free.clone())
            .with_engine(engine.clone(), Arc::new(Anonymous)),
    );
    let message = failure(&start(data.path(), job).await);
    assert!(message.contains("names another image"), "{message}");
    assert_eq!(id(&free.to_string()), before);
    assert!(client.resolve(&free).await.unwrap().is_none());
    drop(images);
}
