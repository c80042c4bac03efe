use std::time::Duration;

use pipeline_core::{Job, Outcome, Pipeline, RunFacts, Scope, sh};

use crate::{run, runner};

#[tokio::test]
async fn what_a_step_leaves_behind_ends_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut job = Job::new("leaky");
    // One keeps the pipe open, one leaves the group and the session.
    job.step(
        "leaves",
        sh("sleep 1000 & setsid -f sleep 1001 >/dev/null 2>&1; echo left"),
    );
    job.step("next", sh("true"));
    let pipeline = Pipeline::builder("p").job(job).build().unwrap();
    let started = std::time::Instant::now();
    let report = run(runner(dir.path()), &pipeline).await;
    assert_eq!(report.outcome, Outcome::Succeeded);
    assert!(
        started.elapsed() < Duration::from_secs(500),
        "it waited for the sleepers"
    );
    let path = std::fs::canonicalize(dir.path()).unwrap();
    assert!(alive_in(&path).is_empty());
}

/// Processes whose working directory lies below `folder`.
fn alive_in(folder: &std::path::Path) -> Vec<u32> {
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(folder))
        })
        .collect()
}

#[tokio::test]
async fn a_program_that_was_killed_leaves_nothing_in_the_next_ones_way() {
    let dir = tempfile::tempdir().unwrap();
    let mut job = Job::new("long");
    job.step(
        "works",
        sh("setsid -f sleep 1000 >/dev/null 2>&1; touch begun; sleep 1000"),
    );
    let pipeline = Pipeline::builder("p").job(job).build().unwrap();
    let abandoned = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let folder = dir.path().to_owned();
    // The runtime is dropped in the middle of the run: nobody cleans up, as
    // after `kill -9`, and the lock of the run is free again.
    abandoned.spawn(async move {
        runner(&folder)
            .start(&pipeline, RunFacts::new())
            .await
            .unwrap()
            .wait()
            .await
            .unwrap();
    });
    let begun = dir.path().join("work/long/begun");
    while !begun.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::task::spawn_blocking(move || abandoned.shutdown_timeout(Duration::from_millis(100)))
        .await
        .unwrap();
    let folder = std::fs::canonicalize(dir.path()).unwrap();
    assert!(
        !alive_in(&folder).is_empty(),
        "the test needs something left behind"
    );

    let mut job = Job::new("long");
    job.step("works", sh("test -e begun"));
    let pipeline = Pipeline::builder("p").job(job).build().unwrap();
    let report = run(runner(dir.path()), &pipeline).await;
    assert_eq!(report.outcome, Outcome::Succeeded, "{report:?}");
    assert!(alive_in(&folder).is_empty());
}

#[tokio::test]
async fn a_scope_kills_its_own_and_spares_others() {
    let mine = Scope::new("test-mine").child("1");
    let sleeper = |scope: &Scope| {
        std::process::Command::new("sleep")
            .arg("1000")
            .env(pipeline_core::executor::SCOPE_VARIABLE, scope.as_str())
            .spawn()
            .unwrap()
    };
    let (mut inside, mut outside) = (
        sleeper(&mine.child("a")),
        sleeper(&Scope::new("test-other")),
    );
    let survivors = mine.kill(Duration::from_secs(10)).await;
    assert!(survivors.alive.is_empty());
    assert!(inside.wait().unwrap().code().is_none(), "ended by a signal");
    assert!(outside.try_wait().unwrap().is_none(), "still there");
    outside.kill().unwrap();
    outside.wait().unwrap();
}
