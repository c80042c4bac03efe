//! Jobs on a swarm as steps of a pipeline.

use pipeline_core::report::JsonLinesReporter;
use pipeline_core::{
    Event, EventKind, Job, Outcome, Output, Pipeline, RunFacts, RunReport, Runner, Secret, Stream,
    step_fn,
};
use pipeline_docker::ImageReference;
use pipeline_docker::steps::RunSwarmJob;
use pipeline_docker::swarm::SwarmReport;

use crate::fixture::{Ground, image, sh};

const SECRET: &str = "rather-secret-word";

/// Runs a pipeline with a secret; its report, and its events as text.
async fn run(pipeline: &Pipeline) -> (RunReport, Vec<Event>, String) {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("events");
    let run = Runner::new(data.path())
        .with_secret(Secret::new(SECRET))
        .with_reporter(JsonLinesReporter::new(
            std::fs::File::create(&file).unwrap(),
        ))
        .start(pipeline, RunFacts::new())
        .await
        .unwrap();
    let report = run.wait().await.unwrap();
    let text = std::fs::read_to_string(file).unwrap();
    let events = text.lines().map(|line| serde_json::from_str(line).unwrap());
    (report, events.collect(), text)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dockerd, root and busybox-static"]
async fn a_step_runs_the_image_of_an_earlier_one_and_hands_on_what_became_of_it() {
    let ground = Ground::new().await;
    let script = format!("echo out of $PIPELINE_TASK_INDEX; echo {SECRET} >&2");
    let mut job = Job::new("check");
    let choose = step_fn(|_cx| async { Ok(image()) });
    let chosen: Output<ImageReference> = job.step("choose", choose);
    let swarm_job = sh(&script).with_completions(2).with_parallelism(2);
    let mut other = swarm_job.clone();
    other.image = "127.0.0.1:1/not/this:1".parse().unwrap();
    let step = RunSwarmJob::new(ground.swarm(), other).with_image(&chosen);
    let done: Output<SwarmReport> = job.step("swarm", step);
    let read = done.clone();
    let count = step_fn(move |cx| {
        let read = read.clone();
        async move {
            let tasks = cx.value(&read)?.tasks.len();
            cx.log(format!("{tasks} good tasks")).await;
            Ok(())
        }
    });
    job.step("count", count.reads(&done));
    let pipeline = Pipeline::builder("swarm").job(job).build().unwrap();
    let (report, events, text) = run(&pipeline).await;
    assert_eq!(report.outcome, Outcome::Succeeded, "{text}");
    let output = |wanted: Stream| {
        let mut lines: Vec<&str> = events
            .iter()
            .filter_map(|event| match &event.kind {
                EventKind::Output { stream, text } if *stream == wanted => Some(text.as_str()),
                _ => None,
            })
            .collect();
        lines.sort_unstable();
        lines
    };
    assert_eq!(output(Stream::Stdout), ["[0] out of 0", "[1] out of 1"]);
    assert_eq!(output(Stream::Stderr).len(), 2, "{text}");
    assert!(!text.contains(SECRET), "{text}");
    assert!(text.contains("2 good tasks"), "{text}");
    assert_eq!(ground.left(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dockerd, root and busybox-static"]
async fn a_step_fails_when_a_task_does() {
    let ground = Ground::new().await;
    let mut job = Job::new("check");
    let step = RunSwarmJob::new(ground.swarm(), sh(&format!("echo {SECRET}; exit 7")));
    let _: Output<SwarmReport> = job.step("swarm", step);
    let pipeline = Pipeline::builder("swarm").job(job).build().unwrap();
    let (report, _, text) = run(&pipeline).await;
    assert_eq!(report.outcome, Outcome::Failed, "{text}");
    let node = ground.docker(&["info", "--format", "{{.Name}}"]);
    let said = format!("failed: task 0 on {node}: exit code 7");
    assert!(text.contains(&said), "{said}: {text}");
    assert!(!text.contains(SECRET), "{text}");
}
