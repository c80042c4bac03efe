//! Steps in a pipeline.

use std::fs;
use std::path::{Path, PathBuf};

use pipeline_core::{Job, Outcome, Pipeline, RunFacts, RunReport, Runner, step_fn};
use pipeline_docker::builder::{BaseImage, BuiltImage, ConfigSpec, ImageSpec, LayerSpec};
use pipeline_docker::oci::OciLayout;
use pipeline_docker::steps::BuildImage;
use pipeline_docker::{TagPolicy, TagScheme};
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
    let pipeline = Pipeline::builder("images").job(job).build().unwrap();
    let facts = RunFacts::new()
        .with_branch("main")
        .with_revision("4f2c1e7aa0b1c2d3e4f5");
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
        let report = run(dir.path(), site(), "same").await;
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
    // Built, but nothing points at it by a name.
    let layout = OciLayout::open(dir.path().join("images/site")).unwrap();
    assert!(layout.tags().unwrap().is_empty());
}
