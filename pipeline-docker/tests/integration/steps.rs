//! Steps in a pipeline.

use std::fs;
use std::path::{Path, PathBuf};

use pipeline_core::{Job, Outcome, Pipeline, RunFacts, RunReport, Runner, step_fn};
use pipeline_docker::builder::{BaseImage, BuiltImage, ConfigSpec, ImageSpec, LayerSpec};
use pipeline_docker::oci::{LayoutImage, OciLayout, Platform};
use pipeline_docker::steps::{BuildImage, OriginLabels};
use pipeline_docker::{ExistingTag, TagPolicy, TagScheme};
use tempfile::tempdir;

async fn run(data: &Path, step: BuildImage, content: &'static str) -> RunReport {
    let mut job = Job::new("image");
    job.step(
        "make",
        step_fn(move |cx| async move {
            fs::create_dir_all(cx.job_dir().join("app")).unwrap();
            fs::write(cx.job_dir().join("app/main"), content).unwrap();
            Ok(())
        }),
    );
    let built = job.step("build", step);
    let read = built.clone();
    job.step(
        "use",
        step_fn(move |cx| {
            let built: Result<BuiltImage, _> = cx.value(&read);
            async move { Ok(built?.digest().to_string()) }
        })
        .reads(&built),
    );
    let facts = RunFacts::new()
        .with_branch("main")
        .with_revision("4f2c1e7aa0b1c2d3e4f5");
    start(data, job, facts).await
}

async fn start(data: &Path, job: Job, facts: RunFacts) -> RunReport {
    let pipeline = Pipeline::builder("images").job(job).build().unwrap();
    Runner::new(data)
        .start(&pipeline, facts)
        .await
        .unwrap()
        .wait()
        .await
        .unwrap()
}

fn site() -> BuildImage {
    let spec = ImageSpec::new(BaseImage::Scratch)
        .with_layer(LayerSpec::copy("app", "/app"))
        .with_config(ConfigSpec::default().with_cmd(["/app/main"]));
    BuildImage::new(spec, PathBuf::from("images/site"))
}

#[tokio::test]
async fn an_image_is_built_tagged_and_passed_on() {
    let dir = tempdir().unwrap();
    for _ in 0..2 {
        // With the number of the build in a label, each would be an image of its own.
        let step = site().with_labels(OriginLabels::None);
        let report = run(dir.path(), step, "same").await;
        assert_eq!(report.outcome, Outcome::Succeeded, "{report:?}");
    }
    let layout = OciLayout::open(dir.path().join("images/site")).unwrap();
    assert_eq!(
        layout.tags().unwrap(),
        ["main-4f2c1e7aa0b1-1", "main-4f2c1e7aa0b1-2"]
    );
    let index = layout.index().unwrap();
    assert_eq!(index.manifests[0].digest, index.manifests[1].digest);
    run(
        dir.path(),
        site().with_tags(TagPolicy::of(TagScheme::Content)),
        "changed",
    )
    .await;
    let changed = layout.index().unwrap().manifests[2].clone();
    assert_ne!(changed.digest, index.manifests[0].digest);
    assert_eq!(
        layout.tags().unwrap()[2],
        format!("sha256-{}", changed.digest.short())
    );
}

#[tokio::test]
async fn what_is_wrong_is_a_failure_of_the_step() {
    let dir = tempdir().unwrap();
    let spec = ImageSpec::new(BaseImage::Scratch).with_layer(LayerSpec::copy("nothing", "/app"));
    let report = run(dir.path(), BuildImage::new(spec, "images"), "").await;
    assert_eq!(report.outcome, Outcome::Failed);
    let (_, step) = report.first_failure().unwrap();
    let message = &step.failure.as_ref().unwrap().message;
    assert!(message.contains("nothing: No such file"), "{message}");

    let report = run(
        dir.path(),
        site().with_tags(TagPolicy::of(TagScheme::SemanticVersion)),
        "",
    )
    .await;
    let (_, step) = report.first_failure().unwrap();
    assert!(step.failure.as_ref().unwrap().message.contains("tag"));
    // That is known before anything is built.
    assert!(!dir.path().join("images/site").exists());
}

fn tagged(data: &Path, tag: &str) -> LayoutImage {
    let layout = OciLayout::open(data.join("images/site")).unwrap();
    let image = layout.resolve(Some(tag)).unwrap();
    layout.image(&image, &Platform::host()).unwrap()
}

#[tokio::test]
async fn a_tag_of_its_own_never_moves_and_an_alias_does() {
    let dir = tempdir().unwrap();
    let step = || {
        let policy = TagPolicy::fixed("one").with(TagScheme::Content);
        site()
            .with_tags(policy.with_alias("latest"))
            .with_labels(OriginLabels::None)
    };
    // The same image again is the same image.
    for _ in 0..2 {
        let report = run(dir.path(), step(), "first").await;
        assert_eq!(report.outcome, Outcome::Succeeded, "{report:?}");
    }
    let first = tagged(dir.path(), "one").descriptor.digest;
    let report = run(dir.path(), step(), "second").await;
    assert_eq!(report.outcome, Outcome::Failed);
    let (_, failed) = report.first_failure().unwrap();
    let message = &failed.failure.as_ref().unwrap().message;
    assert!(message.contains("names another image"), "{message}");
    // All or none: the tag of its content would have been free.
    let layout = OciLayout::open(dir.path().join("images/site")).unwrap();
    let content = format!("sha256-{}", first.short());
    assert_eq!(layout.tags().unwrap(), ["one", &content, "latest"]);
    assert_eq!(tagged(dir.path(), "one").descriptor.digest, first);
    assert_eq!(tagged(dir.path(), "latest").descriptor.digest, first);

    let report = run(
        dir.path(),
        step().with_existing(ExistingTag::Move),
        "second",
    )
    .await;
    assert_eq!(report.outcome, Outcome::Succeeded, "{report:?}");
    let second = tagged(dir.path(), "one").descriptor.digest;
    assert_ne!(second, first);
    assert_eq!(tagged(dir.path(), "latest").descriptor.digest, second);
}

/// A repository around `folder` with one commit; answers the commit.
fn commit(folder: &Path, time: u64) -> String {
    let date = format!("{time} +0200");
    let git = |arguments: &[&str]| {
        let output = std::process::Command::new("git")
            .args(["-c", "user.name=a", "-c", "user.email=a@example.com"])
            .args(arguments)
            .current_dir(folder)
            .env("GIT_AUTHOR_DATE", "1000000000 +0000")
            .env("GIT_COMMITTER_DATE", &date)
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    git(&["init", "--quiet"]);
    git(&["commit", "--quiet", "--allow-empty", "--message", "first"]);
    git(&["rev-parse", "HEAD"])
}

#[tokio::test]
async fn an_image_says_where_it_comes_from() {
    let dir = tempdir().unwrap();
    let revision = commit(dir.path(), 1_700_000_000);
    let facts = || {
        RunFacts::new()
            .with_revision(&revision)
            .with_repository("https://example.com/site.git")
            .with_build_number(7)
    };
    let build = |step: BuildImage, facts: RunFacts| {
        let mut job = Job::new("image");
        if facts.tag.is_some() {
            job = job.only_tags(["v1.2.3"]);
        }
        job.step(
            "make",
            step_fn(|cx| async move {
                fs::create_dir_all(cx.job_dir().join("app")).unwrap();
                fs::write(cx.job_dir().join("app/main"), "x").unwrap();
                Ok(())
            }),
        );
        job.step("build", step);
        let data = dir.path();
        async move {
            let report = start(data, job, facts).await;
            assert_eq!(report.outcome, Outcome::Succeeded, "{report:?}");
        }
    };
    let label = |image: &LayoutImage, name: &str| {
        let name = format!("org.opencontainers.image.{name}");
        let label = image.config.config.labels.get(&name).cloned();
        // In both places the same.
        assert_eq!(image.manifest.annotations.get(&name), label.as_ref());
        label.unwrap_or_default()
    };
    let policy = TagPolicy::template("0.1.{build}").unwrap();
    build(site().with_tags(policy.clone()), facts()).await;
    let image = tagged(dir.path(), "0.1.7");
    assert_eq!(label(&image, "revision"), revision);
    assert_eq!(label(&image, "source"), "https://example.com/site.git");
    assert_eq!(label(&image, "version"), "0.1.7");
    assert_eq!(label(&image, "created"), "2023-11-14T22:13:20Z");
    assert_eq!(
        image.config.created.as_deref(),
        Some("2023-11-14T22:13:20Z")
    );

    // The git tag goes before, and what the request says before everything.
    let mut spec = ImageSpec::new(BaseImage::Scratch)
        .with_created(1)
        .with_annotation("org.opencontainers.image.source", "elsewhere");
    spec.config = spec
        .config
        .with_label("org.opencontainers.image.revision", "r1");
    let step = BuildImage::new(spec, "images/site").with_tags(TagPolicy::fixed("tagged"));
    build(step, facts().with_tag("v1.2.3")).await;
    let image = tagged(dir.path(), "tagged");
    assert_eq!(label(&image, "version"), "v1.2.3");
    assert_eq!(label(&image, "revision"), "r1");
    assert_eq!(label(&image, "source"), "elsewhere");
    assert_eq!(label(&image, "created"), "1970-01-01T00:00:01Z");

    // A tag of the content cannot be part of the content.
    let content = site().with_tags(TagPolicy::of(TagScheme::Content).with_alias("by-content"));
    build(content, facts()).await;
    let image = tagged(dir.path(), "by-content");
    assert_eq!(label(&image, "version"), "");

    let plain = site()
        .with_labels(OriginLabels::None)
        .with_tags(TagPolicy::fixed("plain"));
    build(plain, facts()).await;
    let image = tagged(dir.path(), "plain");
    assert!(image.config.config.labels.is_empty() && image.manifest.annotations.is_empty());
    assert_eq!(image.config.created, None);
}
