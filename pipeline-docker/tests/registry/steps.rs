//! The registry's steps in real pipelines.

use std::path::Path;
use std::sync::{Arc, Mutex};

use pipeline_core::{Job, Outcome, Output, Pipeline, RunFacts, RunReport, Runner, step_fn};
use pipeline_docker::ImageReference;
use pipeline_docker::builder::{BaseImage, ImageSpec, LayerSpec};
use pipeline_docker::oci::OciLayout;
use pipeline_docker::registry::{
    CopyImage, ExistingTag, ImageInput, PullImage, PulledImage, PushImage, PushedImage, TagImage,
    TagPolicy, TagScheme,
};
use pipeline_docker::steps::BuildImage;

use crate::fixture::{add_image, client, image, reference};
use crate::proxy::{Fault, Proxy};
use crate::server::Server;

fn facts(build: u64) -> RunFacts {
    RunFacts::new()
        .with_branch("main")
        .with_revision("3f2a91c04b7d8899aabbccddeeff001122334455")
        .with_build_number(build)
}

async fn run(folder: &Path, job: Job, facts: RunFacts) -> RunReport {
    let pipeline = Pipeline::builder("delivery").job(job).build().unwrap();
    let runner = Runner::new(folder.join("data"));
    runner
        .start(&pipeline, facts)
        .await
        .unwrap()
        .wait()
        .await
        .unwrap()
}

type Seen<T> = Arc<Mutex<Option<T>>>;

/// Keeps the value of a step for the test.
fn keep<T>(job: &mut Job, name: &str, output: &Output<T>) -> Seen<T>
where
    T: serde::Serialize + serde::de::DeserializeOwned + Clone + Send + Sync + 'static,
{
    let seen: Seen<T> = Arc::default();
    let step = {
        let (seen, output) = (Arc::clone(&seen), output.clone());
        step_fn(move |context| {
            let (seen, output) = (Arc::clone(&seen), output.clone());
            async move {
                *seen.lock().unwrap() = Some(context.value(&output)?);
                Ok(())
            }
        })
    };
    job.step(name, step.reads(output));
    seen
}

fn take<T>(seen: &Seen<T>) -> T {
    seen.lock().unwrap().take().unwrap()
}

#[tokio::test]
#[ignore = "needs docker-registry"]
async fn an_image_goes_through_a_pipeline_by_its_digest() {
    let (staging, production) = (Server::start(), Server::start());
    let folder = tempfile::tempdir().unwrap();
    let (layout, built) = image(
        &folder.path().join("image"),
        &[("base", 100_000), ("app", 10)],
    );
    let repository = reference(format!("{}/team/app", staging.address));
    let registry = client();

    let mut job = Job::new("deliver");
    let tags = TagPolicy::template("0.1.{build}")
        .unwrap()
        .with_alias("latest");
    let push = PushImage::new(
        registry.clone(),
        ImageInput::layout(layout.path()),
        repository.clone(),
    );
    let pushed = job.step("push", push.with_tags(tags));
    let tagged = job.step("tag", TagImage::new(registry.clone(), &pushed, "tested"));
    let target = reference(format!("{}/app", production.address));
    let copied = job.step("copy", CopyImage::new(registry.clone(), &tagged, target));
    let pulled = job.step("pull", PullImage::new(registry.clone(), &copied, "back"));
    let seen_push: Seen<PushedImage> = keep(&mut job, "see push", &pushed);
    let seen_copy: Seen<PushedImage> = keep(&mut job, "see copy", &copied);
    let seen_pull: Seen<PulledImage> = keep(&mut job, "see pull", &pulled);
    let report = run(folder.path(), job, facts(7)).await;
    assert_eq!(
        report.outcome,
        Outcome::Succeeded,
        "{:?}",
        report.first_failure()
    );

    let pushed = take(&seen_push);
    assert_eq!((&pushed.digest, pushed.unchanged), (&built.digest, false));
    assert_eq!(pushed.tags, ["0.1.7", "latest"]);
    let pinned = format!("{repository}:0.1.7@{}", built.digest);
    assert_eq!(pushed.reference.to_string(), pinned);
    for tag in ["0.1.7", "latest", "tested"] {
        let found = registry
            .resolve(&repository.with_tag(tag).unwrap())
            .await
            .unwrap();
        assert_eq!(found.unwrap().digest, built.digest, "{tag}");
    }
    let copied = take(&seen_copy);
    assert_eq!(copied.reference.domain(), production.address);
    assert_eq!(
        (copied.digest, copied.tags),
        (built.digest.clone(), vec!["tested".to_owned()])
    );
    let pulled = take(&seen_pull);
    assert_eq!(pulled.digest, built.digest);
    let back = OciLayout::open(pulled.layout).unwrap();
    assert_eq!(back.resolve(Some("tested")).unwrap().digest, built.digest);
    let summary = report
        .step("deliver", "pull")
        .unwrap()
        .summary
        .clone()
        .unwrap();
    assert!(summary.contains("received in"), "{summary}");
}

#[tokio::test]
#[ignore = "needs docker-registry"]
async fn the_same_build_is_recognised_and_another_is_refused() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let (layout, _) = image(&folder.path().join("image"), &[("base", 1_000)]);
    let other = add_image(&layout, &[("application", 1_000)]);
    layout.set_tag(Some("other"), &other).unwrap();
    let repository = reference(format!("{}/team/app", server.address));
    let push = |name: &str, tag: Option<&str>| {
        let target = match tag {
            Some(tag) => repository.with_tag(tag).unwrap(),
            None => repository.clone(),
        };
        let path = layout.path().to_owned();
        let image = ImageInput::layout(path).named(name);
        PushImage::new(client(), image, target)
    };
    for (expected, name, tag) in [
        ("sent", "app", None),
        ("already there", "app", None),
        ("sent", "other", Some("by-hand")),
    ] {
        let mut job = Job::new("deliver");
        job.step("push", push(name, tag));
        let report = run(folder.path(), job, facts(7)).await;
        assert_eq!(
            report.outcome,
            Outcome::Succeeded,
            "{:?}",
            report.first_failure()
        );
        let summary = report
            .step("deliver", "push")
            .unwrap()
            .summary
            .clone()
            .unwrap();
        assert!(summary.contains(expected), "{summary}");
    }
    let mut job = Job::new("deliver");
    job.step("push", push("other", None));
    let report = run(folder.path(), job, facts(7)).await;
    assert_eq!(report.outcome, Outcome::Failed);
    let (_, step) = report.first_failure().unwrap();
    let failure = step.failure.clone().unwrap();
    assert!(
        failure.message.contains("exists with another content"),
        "{}",
        failure.message
    );
    assert_eq!(failure.detail["kind"], "TagExists");
    let found = client()
        .resolve(&repository.with_tag("main-3f2a91c04b7d-7").unwrap())
        .await;
    assert_ne!(found.unwrap().unwrap().digest, other.digest);
}

#[tokio::test]
#[ignore = "needs docker-registry"]
async fn an_alias_that_cannot_move_is_a_warning() {
    let server = Server::start();
    let proxy = Proxy::start(&server.address).await;
    let folder = tempfile::tempdir().unwrap();
    let (layout, built) = image(&folder.path().join("image"), &[("base", 1_000)]);
    let repository: ImageReference = reference(format!("{}/team/app", proxy.address));
    let body = r#"{"errors":[{"code":"DENIED","message":"tag is immutable"}]}"#.to_owned();
    proxy.fault(
        "PUT",
        "/manifests/latest",
        1,
        Fault::Answer(403, Vec::new(), body),
    );
    let mut job = Job::new("deliver");
    let push = PushImage::new(
        client(),
        ImageInput::layout(layout.path()),
        repository.clone(),
    );
    let pushed = job.step(
        "push",
        push.with_tags(TagPolicy::unique().with_alias("latest")),
    );
    let seen: Seen<PushedImage> = keep(&mut job, "see", &pushed);
    let report = run(folder.path(), job, facts(3)).await;
    assert_eq!(
        report.outcome,
        Outcome::Succeeded,
        "{:?}",
        report.first_failure()
    );
    assert!(
        report
            .warnings
            .iter()
            .any(|text| text.contains("tag is immutable")),
        "{report:?}"
    );
    let pushed = take(&seen);
    assert_eq!(pushed.tags, ["main-3f2a91c04b7d-3"]);
    assert_eq!(pushed.failed_aliases[0].0, "latest");
    assert_eq!(pushed.digest, built.digest);
    // And later, when it may:
    let digest = client()
        .tag(&pushed.reference, "latest", ExistingTag::Move)
        .await
        .unwrap();
    assert_eq!(digest, built.digest);
}

#[tokio::test]
#[ignore = "needs docker-registry"]
async fn what_a_step_builds_the_next_pushes_under_the_tag_of_its_content() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("main.py"), "print(1)\n").unwrap();
    let spec = ImageSpec::new(BaseImage::Scratch).with_layer(LayerSpec::copy(&source, "/srv"));
    let repository = reference(format!("{}/team/app", server.address));
    let policy = TagPolicy::of(TagScheme::Content);
    let mut pushes = Vec::new();
    for build in 1..=2 {
        let mut job = Job::new("image");
        let build_image = BuildImage::new(spec.clone(), "images/app").with_tags(policy.clone());
        let built = job.step("build", build_image);
        let push = PushImage::new(client(), &built, repository.clone());
        let pushed = job.step("push", push.with_tags(policy.clone()));
        let seen: Seen<PushedImage> = keep(&mut job, "see", &pushed);
        let report = run(folder.path(), job, facts(build)).await;
        assert_eq!(
            report.outcome,
            Outcome::Succeeded,
            "{:?}",
            report.first_failure()
        );
        pushes.push(take(&seen));
    }
    // Another build of the same content is the same image under the same tag.
    assert_eq!(pushes[0].digest, pushes[1].digest);
    assert_eq!(pushes[0].tags, pushes[1].tags);
    assert_eq!((pushes[0].unchanged, pushes[1].unchanged), (false, true));
    assert_eq!(pushes[1].bytes_sent, 0);
}

#[tokio::test]
#[ignore = "needs docker-registry"]
async fn an_image_is_pushed_by_its_digest_when_its_tag_in_the_layout_has_moved() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let mut job = Job::new("image");
    let tag = TagPolicy::fixed("same");
    let mut build = |name: &str| {
        let source = folder.path().join(name);
        std::fs::create_dir(&source).unwrap();
        std::fs::write(source.join("name"), name).unwrap();
        let spec = ImageSpec::new(BaseImage::Scratch).with_layer(LayerSpec::copy(&source, "/srv"));
        let build = BuildImage::new(spec, "images/app")
            .with_tags(tag.clone())
            .with_existing(ExistingTag::Move);
        job.step(name, build)
    };
    let (first, second) = (build("first"), build("second"));
    let target = reference(format!("{}/team/app:1", server.address));
    let pushed = job.step("push", PushImage::new(client(), &first, target));
    let seen_first = keep(&mut job, "see first", &first);
    let seen_second = keep(&mut job, "see second", &second);
    let seen: Seen<PushedImage> = keep(&mut job, "see", &pushed);
    let report = run(folder.path(), job, facts(1)).await;
    assert_eq!(
        report.outcome,
        Outcome::Succeeded,
        "{:?}",
        report.first_failure()
    );
    let (first, second) = (take(&seen_first), take(&seen_second));
    assert_ne!(first.manifest.digest, second.manifest.digest);
    assert_eq!(take(&seen).digest, first.manifest.digest);
}

#[tokio::test]
#[ignore = "needs docker-registry"]
async fn of_several_tags_none_is_set_when_one_is_taken() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let (layout, built) = image(&folder.path().join("image"), &[("base", 1_000)]);
    let other = add_image(&layout, &[("application", 1_000)]);
    let repository = reference(format!("{}/team/app", server.address));
    let registry = client();
    let push = |image: String, policy: TagPolicy| {
        let image = ImageInput::layout(layout.path()).named(image);
        PushImage::new(client(), image, repository.clone()).with_tags(policy)
    };
    layout.set_tag(Some("other"), &other).unwrap();
    let mut job = Job::new("deliver");
    job.step(
        "push",
        push("other".to_owned(), TagPolicy::of(TagScheme::Revision)),
    );
    let report = run(folder.path(), job, facts(7)).await;
    assert_eq!(report.outcome, Outcome::Succeeded, "{report:?}");

    let policy = TagPolicy::template("0.1.{build}").unwrap();
    let mut job = Job::new("deliver");
    let both = policy.with(TagScheme::Revision);
    job.step("push", push(built.digest.to_string(), both));
    let report = run(folder.path(), job, facts(7)).await;
    assert_eq!(report.outcome, Outcome::Failed);
    assert_eq!(registry.tags(&repository).await.unwrap(), ["3f2a91c04b7d"]);
}
