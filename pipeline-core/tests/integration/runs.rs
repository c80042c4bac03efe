use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use pipeline_core::{
    EventKind, Job, Outcome, Pipeline, RetryPolicy, RunFacts, StepError, StepOptions, When,
    report::Style, report::Summary, sh, step_fn,
};

use crate::{Recorder, run, runner};

fn one(job: Job) -> Pipeline {
    Pipeline::builder("p").job(job).build().unwrap()
}

#[tokio::test]
async fn values_flow_along_the_edges() {
    let dir = tempfile::tempdir().unwrap();
    let mut make = Job::new("make");
    let number = make.step("number", step_fn(|_cx| async { Ok(20_u32) }));
    let doubled = make.step(
        "double",
        step_fn({
            let number = number.clone();
            move |cx| {
                let number = number.clone();
                async move { Ok(cx.value(&number)? * 2) }
            }
        })
        .reads(&number),
    );
    let mut use_it = Job::new("use");
    use_it.step(
        "say",
        step_fn({
            let doubled = doubled.clone();
            move |cx| {
                let doubled = doubled.clone();
                async move {
                    cx.summary(format!("got {}", cx.value(&doubled)?));
                    Ok(())
                }
            }
        })
        .reads(&doubled),
    );
    let pipeline = Pipeline::builder("p")
        .job(use_it)
        .job(make)
        .build()
        .unwrap();
    let report = run(runner(dir.path()), &pipeline).await;
    assert_eq!(report.outcome, Outcome::Succeeded);
    assert_eq!(
        report.step("use", "say").unwrap().summary.as_deref(),
        Some("got 40")
    );
}

#[tokio::test]
async fn a_failure_stops_what_depends_on_it_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let mut test = Job::new("test");
    test.step("fails", sh("echo before; echo the reason >&2; exit 3"));
    test.step("never", sh("true"));
    test.step_with("report", sh("true"), StepOptions::new().when(When::Always));
    test.step_with(
        "on failure",
        sh("true"),
        StepOptions::new().when(When::OnFailure),
    );
    let mut deploy = Job::new("deploy").requires("test");
    deploy.step("go", sh("true"));
    let mut other = Job::new("other");
    other.step("go", sh("true"));
    let pipeline = Pipeline::builder("p")
        .job(test)
        .job(deploy)
        .job(other)
        .build()
        .unwrap();
    let report = run(runner(dir.path()), &pipeline).await;

    assert_eq!(report.outcome, Outcome::Failed);
    let failure = report
        .step("test", "fails")
        .unwrap()
        .failure
        .clone()
        .unwrap();
    assert!(
        failure.message.contains("exited with code 3"),
        "{}",
        failure.message
    );
    assert!(failure.tail.contains(&"the reason".to_owned()));
    assert!(failure.reproduce.unwrap().contains("exit 3"));
    assert!(report.step("test", "never").is_none());
    assert_eq!(
        report.step("test", "report").unwrap().outcome,
        Outcome::Succeeded
    );
    assert_eq!(
        report.step("test", "on failure").unwrap().outcome,
        Outcome::Succeeded
    );
    let deploy = report.jobs.iter().find(|job| job.name == "deploy").unwrap();
    assert_eq!(deploy.skipped.as_deref(), Some("test failed"));
    assert_eq!(
        report.step("other", "go").unwrap().outcome,
        Outcome::Succeeded
    );

    let block = Summary::new(&report, Style::Plain).to_string();
    assert!(
        block.contains("FAILED in") && block.contains(" at test/fails"),
        "{block}"
    );
    assert!(
        block.contains("| the reason") && block.contains("reproduce  cd "),
        "{block}"
    );
}

#[tokio::test]
async fn the_reproduce_line_shows_the_failure_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut job = Job::new("test").env("CODE", "7 'x");
    job.step("fails", sh("echo \"code $CODE\"; exit ${CODE%% *}"));
    let report = run(runner(dir.path()), &one(job)).await;
    let line = report
        .step("test", "fails")
        .unwrap()
        .failure
        .clone()
        .unwrap()
        .reproduce
        .unwrap();
    let again = std::process::Command::new("bash")
        .args(["-c", &line])
        .output()
        .unwrap();
    assert_eq!(again.status.code(), Some(7));
    assert_eq!(String::from_utf8_lossy(&again.stdout), "code 7 'x\n");
}

#[tokio::test]
async fn what_does_not_block_is_marked_and_does_not_fail_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let mut job = Job::new("test");
    job.step_with("lint", sh("exit 1"), StepOptions::new().non_blocking());
    job.step("after", sh("true"));
    let mut coverage = Job::new("coverage").non_blocking();
    coverage.step("measure", sh("exit 2"));
    let mut deploy = Job::new("deploy").requires("coverage").requires("test");
    deploy.step("go", sh("true"));
    let pipeline = Pipeline::builder("p")
        .job(job)
        .job(coverage)
        .job(deploy)
        .build()
        .unwrap();
    let report = run(runner(dir.path()), &pipeline).await;
    assert_eq!(report.outcome, Outcome::Succeeded);
    assert_eq!(
        report.step("test", "lint").unwrap().outcome,
        Outcome::FailedAllowed
    );
    assert_eq!(
        report.step("test", "after").unwrap().outcome,
        Outcome::Succeeded
    );
    assert_eq!(
        report.step("deploy", "go").unwrap().outcome,
        Outcome::Succeeded
    );
    let block = Summary::new(&report, Style::Plain).to_string();
    assert!(
        block.contains("! test/lint") && block.contains("not blocking"),
        "{block}"
    );
}

#[tokio::test]
async fn retries_are_in_the_stream_and_end_with_the_first_success() {
    let dir = tempfile::tempdir().unwrap();
    let tries = Arc::new(AtomicU32::new(0));
    let mut job = Job::new("flaky");
    job.step_with(
        "third time",
        step_fn({
            let tries = Arc::clone(&tries);
            move |_cx| {
                let attempt = tries.fetch_add(1, Ordering::Relaxed) + 1;
                async move {
                    if attempt < 3 {
                        Err(StepError::failed("not yet"))
                    } else {
                        Ok(attempt)
                    }
                }
            }
        }),
        StepOptions::new().retry(RetryPolicy::attempts(5).with_delay(Duration::from_millis(1))),
    );
    let recorder = Recorder::default();
    let report = run(
        runner(dir.path()).with_reporter(recorder.clone()),
        &one(job),
    )
    .await;
    assert_eq!(report.outcome, Outcome::Succeeded);
    assert_eq!(report.step("flaky", "third time").unwrap().attempts, 3);
    let retried = recorder
        .events()
        .iter()
        .filter(|event| matches!(event.kind, EventKind::StepRetried { .. }))
        .count();
    assert_eq!(retried, 2);
}

#[tokio::test]
async fn a_panic_stays_inside_its_step() {
    let dir = tempfile::tempdir().unwrap();
    let mut bad = Job::new("bad");
    bad.step(
        "panics",
        step_fn(|cx| async move {
            assert!(cx.run_id().is_empty(), "on purpose");
            Ok(())
        }),
    );
    let mut good = Job::new("good");
    good.step("goes on", sh("true"));
    let pipeline = Pipeline::builder("p").job(bad).job(good).build().unwrap();
    let report = run(runner(dir.path()), &pipeline).await;
    assert_eq!(report.outcome, Outcome::Errored);
    let failure = report
        .step("bad", "panics")
        .unwrap()
        .failure
        .clone()
        .unwrap();
    assert!(
        failure.message.contains("on purpose"),
        "{}",
        failure.message
    );
    assert_eq!(
        report.step("good", "goes on").unwrap().outcome,
        Outcome::Succeeded
    );
}

#[tokio::test]
async fn limits_end_a_step_and_have_their_own_outcome() {
    let dir = tempfile::tempdir().unwrap();
    let mut job = Job::new("slow");
    job.step_with(
        "too long",
        sh("echo begun; sleep 1000"),
        StepOptions::new()
            .timeout(Duration::from_millis(300))
            .non_blocking(),
    );
    let silent = pipeline_core::CommandSpec::shell("echo begun; sleep 1000")
        .no_output_timeout(Some(Duration::from_millis(300)));
    job.step("too silent", pipeline_core::CommandStep::from(silent));
    let report = run(runner(dir.path()), &one(job)).await;
    assert_eq!(report.outcome, Outcome::TimedOut);
    let failure = |step| {
        report
            .step("slow", step)
            .unwrap()
            .failure
            .clone()
            .unwrap()
            .message
    };
    assert!(
        failure("too long").contains("took longer than 0.3s"),
        "{}",
        failure("too long")
    );
    assert!(
        failure("too silent").contains("too long with no output"),
        "{}",
        failure("too silent")
    );
}

#[tokio::test]
async fn cancel_runs_finalizers_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let mut job = Job::new("long");
    job.step("works", sh("echo begun > begun; sleep 1000"));
    job.step("next", sh("true"));
    job.step_with(
        "clean up",
        sh("echo done > cleaned"),
        StepOptions::new().when(When::Always),
    );
    let run = runner(dir.path())
        .start(&one(job), RunFacts::new().with_branch("main"))
        .await
        .unwrap();
    let folder = dir.path().join("work/long");
    while !folder.join("begun").exists() {
        tokio::task::yield_now().await;
    }
    run.cancel().cancel();
    let report = run.wait().await.unwrap();
    assert_eq!(report.outcome, Outcome::Cancelled);
    assert_eq!(
        report.step("long", "works").unwrap().outcome,
        Outcome::Cancelled
    );
    assert!(report.step("long", "next").is_none());
    assert_eq!(
        std::fs::read_to_string(folder.join("cleaned")).unwrap(),
        "done\n"
    );
}

#[tokio::test]
async fn no_more_jobs_run_at_once_than_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let (now, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let mut builder = Pipeline::builder("many");
    for number in 0..24 {
        let (now, most) = (Arc::clone(&now), Arc::clone(&most));
        let mut job = Job::new(format!("job {number}"));
        job.step(
            "count",
            step_fn(move |_cx| {
                let (now, most) = (Arc::clone(&now), Arc::clone(&most));
                async move {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    now.fetch_sub(1, Ordering::SeqCst);
                    Ok(())
                }
            }),
        );
        builder = builder.job(job);
    }
    let runner = runner(dir.path()).with_jobs(NonZeroUsize::new(3).unwrap());
    let report = run(runner, &builder.build().unwrap()).await;
    assert_eq!(report.outcome, Outcome::Succeeded);
    assert_eq!(most.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn the_journal_and_the_logs_are_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut job = Job::new("test");
    job.step("speaks", sh("echo out; echo err >&2; printf 'no newline'"));
    let recorder = Recorder::default();
    let report = run(
        runner(dir.path()).with_reporter(recorder.clone()),
        &one(job),
    )
    .await;
    let log = std::fs::read_to_string(report.folder.join("logs/test/speaks.log")).unwrap();
    for line in ["out\n", "err\n", "no newline"] {
        assert!(log.contains(line), "{log}");
    }
    let journal = std::fs::read_to_string(report.folder.join("journal.jsonl")).unwrap();
    let events: Vec<pipeline_core::Event> = journal
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(matches!(
        events.first().unwrap().kind,
        EventKind::RunStarted { .. }
    ));
    assert!(matches!(
        events.last().unwrap().kind,
        EventKind::RunFinished { .. }
    ));
    let seen: Vec<u64> = recorder.events().iter().map(|event| event.seq).collect();
    assert_eq!(seen, (0..seen.len() as u64).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_reporter_that_fails_or_panics_never_touches_the_run() {
    #[derive(Debug)]
    struct Bad(&'static str);
    impl pipeline_core::Reporter for Bad {
        fn name(&self) -> &str {
            self.0
        }
        fn report(&mut self, _: &pipeline_core::Event) -> Result<(), pipeline_core::ReporterError> {
            assert_ne!(self.0, "panics", "on purpose");
            Err(std::io::Error::other("disk full").into())
        }
        fn finish(&mut self) -> Result<(), pipeline_core::ReporterError> {
            Ok(())
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let mut job = Job::new("test");
    job.step("works", sh("true"));
    let runner = runner(dir.path())
        .with_reporter(Bad("fails"))
        .with_reporter(Bad("panics"));
    let report = run(runner, &one(job)).await;
    assert_eq!(report.outcome, Outcome::Succeeded);
    assert_eq!(report.warnings.len(), 2, "{:?}", report.warnings);
    assert!(report.warnings[0].contains("disk full") && report.warnings[1].contains("panicked"));
}

#[tokio::test]
async fn a_message_of_several_lines_stays_readable() {
    let dir = tempfile::tempdir().unwrap();
    let mut job = Job::new("deploy");
    job.step(
        "go",
        step_fn(|_cx| async {
            Err::<(), _>(StepError::failed(
                "not healthy\n  last answer: 500\nrolled back",
            ))
        }),
    );
    let report = run(runner(dir.path()), &one(job)).await;
    let block = Summary::new(&report, Style::Plain).to_string();
    assert!(
        block.contains("failed: not healthy\n   last answer: 500\n   rolled back\n"),
        "{block}"
    );
    assert!(!block.contains('\u{fffd}'), "{block}");
}
