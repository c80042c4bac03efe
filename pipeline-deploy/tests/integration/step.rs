//! Deploying as a step of a pipeline.

use pipeline_core::{Job, Outcome, Pipeline, RunFacts, RunReport, Runner, step_fn};
use pipeline_deploy::release::Release;
use pipeline_deploy::step::Deploy;
use pipeline_deploy::target::DeployReport;

use crate::site::{Site, version};

/// Runs a pipeline of two jobs; the first produces the release. Returns its journal, too.
async fn run(site: &Site, release: Release) -> (RunReport, String) {
    let mut build = Job::new("build");
    let release = build.step(
        "release",
        step_fn(move |_cx| {
            let release = release.clone();
            async move { Ok(release) }
        }),
    );
    let mut ship = Job::new("ship");
    ship.step("deploy", Deploy::new(site.target(), &release));
    let pipeline = Pipeline::builder("site")
        .job(build)
        .job(ship)
        .build()
        .unwrap();
    let data = tempfile::tempdir().unwrap();
    let runner = Runner::new(data.path());
    let run = runner.start(&pipeline, RunFacts::new()).await.unwrap();
    let folder = run.folder().to_path_buf();
    let report = run.wait().await.unwrap();
    let journal = std::fs::read_to_string(folder.join("journal.jsonl")).unwrap();
    (report, journal)
}

#[tokio::test]
async fn a_release_of_another_job_goes_live_and_the_journal_tells() {
    let site = Site::new();
    let (report, journal) = run(&site, site.release("r1", "ok")).await;
    assert_eq!(report.outcome, Outcome::Succeeded, "{report:?}");
    let live = site
        .target()
        .instance()
        .status()
        .await
        .unwrap()
        .live
        .unwrap();
    assert_eq!(version(&live.address).await, "r1");
    for fact in ["planned", "started", "done", "probed", "finished"] {
        let topic = format!("\"deploy.{fact}\"");
        assert!(journal.contains(&topic), "no {topic} in {journal}");
    }
    let (again, journal) = run(&site, site.release("r1", "ok")).await;
    assert_eq!(again.outcome, Outcome::Succeeded);
    assert!(
        journal.contains("release r1 is live with digest"),
        "{journal}"
    );
}

#[tokio::test]
async fn an_unfit_release_fails_the_step_with_the_report_as_detail() {
    let site = Site::new();
    run(&site, site.release("r1", "ok")).await;
    let (report, _) = run(&site, site.release("r2", "crash")).await;
    assert_eq!(report.outcome, Outcome::Failed);
    let step = report.step("ship", "deploy").unwrap();
    let failure = step.failure.as_ref().unwrap();
    assert_eq!(failure.tail, ["this release crashes"]);
    assert!(
        failure.message.contains("release r1 still serves"),
        "{}",
        failure.message
    );
    assert!(
        !failure.message.contains("this release crashes"),
        "{}",
        failure.message
    );
    let detail = failure.detail["deploy"].clone();
    assert_eq!(detail["outcome"], "rolled-back");
    let report: DeployReport = serde_json::from_value(detail).unwrap();
    assert!(!report.is_success());
}
