use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use pipeline_core::{Job, Outcome, Pipeline, RunError, RunFacts, StepError, sh, step_fn};

use crate::runner;

fn pipeline(made: &Arc<AtomicU32>, broken: &Arc<AtomicBool>) -> Pipeline {
    let mut make = Job::new("make");
    let value = make.step(
        "count",
        step_fn({
            let made = Arc::clone(made);
            move |_cx| {
                let number = made.fetch_add(1, Ordering::SeqCst) + 1;
                async move { Ok(number) }
            }
        }),
    );
    let mut use_it = Job::new("use");
    use_it.step(
        "needs it",
        step_fn({
            let (value, broken) = (value.clone(), Arc::clone(broken));
            move |cx| {
                let (value, broken) = (value.clone(), Arc::clone(&broken));
                async move {
                    if broken.load(Ordering::SeqCst) {
                        return Err(StepError::failed("not today"));
                    }
                    cx.summary(cx.value(&value)?.to_string());
                    Ok(())
                }
            }
        })
        .reads(&value),
    );
    Pipeline::builder("p")
        .job(make)
        .job(use_it)
        .build()
        .unwrap()
}

#[tokio::test]
async fn only_what_did_not_succeed_runs_again() {
    let dir = tempfile::tempdir().unwrap();
    let (made, broken) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(true)));
    let pipeline = pipeline(&made, &broken);
    let facts = RunFacts::new().with_branch("main");
    let first = runner(dir.path())
        .start(&pipeline, facts.clone())
        .await
        .unwrap();
    let id = first.id().to_owned();
    assert_eq!(first.wait().await.unwrap().outcome, Outcome::Failed);

    broken.store(false, Ordering::SeqCst);
    let again = runner(dir.path())
        .resume(&pipeline, facts.clone(), &id)
        .await
        .unwrap();
    let second = again.id().to_owned();
    let report = again.wait().await.unwrap();
    assert_eq!(report.outcome, Outcome::Succeeded);
    assert_eq!(made.load(Ordering::SeqCst), 1, "the first job ran again");
    assert_eq!(
        report.step("use", "needs it").unwrap().summary.as_deref(),
        Some("1")
    );

    // A resumed run can be resumed in turn.
    let third = runner(dir.path())
        .resume(&pipeline, facts, &second)
        .await
        .unwrap();
    assert_eq!(third.wait().await.unwrap().outcome, Outcome::Succeeded);
    assert_eq!(made.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_job_runs_again_when_another_run_has_used_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    let (made, broken) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(true)));
    let pipeline = pipeline(&made, &broken);
    let facts = RunFacts::new().with_branch("main");
    let first = runner(dir.path())
        .start(&pipeline, facts.clone())
        .await
        .unwrap();
    let id = first.id().to_owned();
    first.wait().await.unwrap();
    runner(dir.path())
        .start(&pipeline, facts.clone())
        .await
        .unwrap()
        .wait()
        .await
        .unwrap();
    assert_eq!(made.load(Ordering::SeqCst), 2);

    broken.store(false, Ordering::SeqCst);
    let report = runner(dir.path())
        .resume(&pipeline, facts, &id)
        .await
        .unwrap()
        .wait()
        .await
        .unwrap();
    assert_eq!(report.outcome, Outcome::Succeeded);
    assert_eq!(made.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn another_plan_and_an_unknown_run_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut job = Job::new("a");
    job.step("x", sh("true"));
    let pipeline = Pipeline::builder("p").job(job).build().unwrap();
    let first = runner(dir.path())
        .start(&pipeline, RunFacts::new())
        .await
        .unwrap();
    let id = first.id().to_owned();
    first.wait().await.unwrap();
    let other = RunFacts::new().with_revision("abc");
    let refused = runner(dir.path())
        .resume(&pipeline, other, &id)
        .await
        .unwrap_err();
    assert!(matches!(refused, RunError::OtherPlan { .. }), "{refused}");
    for unknown in ["none", "../x", ""] {
        let refused = runner(dir.path())
            .resume(&pipeline, RunFacts::new(), unknown)
            .await;
        assert!(matches!(refused, Err(RunError::NoSuchRun { .. })));
    }
}
