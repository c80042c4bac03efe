//! A step that runs another one, and what the graph says about a job.

use async_trait::async_trait;
use pipeline_core::{
    EventKind, InputRef, Job, Outcome, Pipeline, Secret, Step, StepContext, StepError, sh, step_fn,
};

use crate::{Recorder, run, runner};

/// Runs a step, and then reports all of it once more.
#[derive(Debug)]
struct Twice<S>(S);

#[async_trait]
impl<S: Step> Step for Twice<S> {
    type Output = usize;

    fn inputs(&self) -> Vec<InputRef> {
        self.0.inputs()
    }

    async fn run(&self, cx: &StepContext) -> Result<usize, StepError> {
        let (inner, recorder) = cx.recording();
        self.0.run(&inner).await?;
        let recording = recorder.recording().unwrap();
        // What is kept can be written down.
        let text = serde_json::to_string(&recording).unwrap();
        let recording = serde_json::from_str(&text).unwrap();
        cx.replay(&recording).await;
        Ok(recording.events.len())
    }
}

#[tokio::test]
async fn what_a_step_reports_is_recorded_and_reported_again_without_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let mut job = Job::new("work").env(
        "TOKEN",
        pipeline_core::EnvValue::Secret(Secret::new("tok-en-12345")),
    );
    job.step(
        "twice",
        Twice(Twice(sh("echo one; echo $TOKEN; echo two >&2"))),
    );
    job.step(
        "say",
        Twice(step_fn(|cx| async move {
            cx.log("a line").await;
            cx.warn("look here").await;
            cx.fact("it.is", serde_json::json!({ "n": 1 })).await;
            cx.highlight("site", "http://localhost").await;
            cx.summary("all of it");
            Ok(())
        })),
    );
    let pipeline = Pipeline::builder("p").job(job).build().unwrap();
    let recorder = Recorder::default();
    let report = run(
        runner(dir.path())
            .with_reporter(recorder.clone())
            .with_secret(Secret::new("tok-en-12345")),
        &pipeline,
    )
    .await;
    assert_eq!(report.outcome, Outcome::Succeeded, "{report:#?}");

    let lines = recorder.lines();
    // Run once, replayed by the inner and, with that, by the outer recorder.
    for (line, times) in [("one", 4), ("two", 4), ("a line", 2)] {
        assert_eq!(
            lines.iter().filter(|found| *found == line).count(),
            times,
            "{line}: {lines:?}"
        );
    }
    assert!(!lines.iter().any(|line| line.contains("tok-en-12345")));
    let log = report.folder.join("logs/work/twice.log");
    let log = std::fs::read_to_string(log).unwrap();
    assert_eq!(log.matches("one\n").count(), 4, "{log}");
    assert_eq!(log.matches("$ bash").count(), 4, "{log}");

    let facts = recorder
        .events()
        .iter()
        .filter(|event| matches!(&event.kind, EventKind::Fact { topic, .. } if topic == "it.is"))
        .count();
    assert_eq!(facts, 2);
    assert_eq!(report.warnings, ["look here"]);
    let say = report.step("work", "say").unwrap();
    assert_eq!(say.summary.as_deref(), Some("all of it"));
}

#[tokio::test]
async fn a_step_knows_its_place_in_the_graph() {
    let dir = tempfile::tempdir().unwrap();
    let place = || {
        step_fn(|cx| async move {
            let upstream: Vec<String> = cx.upstream_jobs().into_iter().collect();
            let declared: Vec<&String> = cx.declared_env().keys().collect();
            assert_eq!(declared, ["STAGE"]);
            Ok(format!(
                "{}/{} after {}",
                cx.job(),
                cx.step(),
                upstream.join(",")
            ))
        })
    };
    let mut builder = Pipeline::builder("p");
    for (name, requires) in [
        ("a", ""),
        ("b", "a"),
        ("other", ""),
        ("c", "b"),
        ("d", "c other"),
    ] {
        let mut job = Job::new(name).env("STAGE", "test");
        for required in requires.split_whitespace() {
            job = job.requires(required);
        }
        let place = job.step("place", place());
        job.step(
            "say",
            step_fn({
                let place = place.clone();
                move |cx| {
                    let place = place.clone();
                    async move {
                        assert_eq!(
                            cx.recorded(place.source()).cloned(),
                            Some(serde_json::Value::String(cx.value(&place)?))
                        );
                        cx.summary(cx.value(&place)?);
                        Ok(())
                    }
                }
            })
            .reads(&place),
        );
        builder = builder.job(job);
    }
    let pipeline = builder.build().unwrap();
    let report = run(runner(dir.path()), &pipeline).await;
    assert_eq!(report.outcome, Outcome::Succeeded, "{report:#?}");
    for (job, wanted) in [
        ("a", "a/place after "),
        ("b", "b/place after a"),
        ("c", "c/place after a,b"),
        ("d", "d/place after a,b,c,other"),
    ] {
        let step = report.step(job, "say").unwrap();
        assert_eq!(step.summary.as_deref(), Some(wanted));
    }
}
