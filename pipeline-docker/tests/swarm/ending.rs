//! Jobs that do not come to their end: nothing stays.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use pipeline_core::{CancelToken, Secret};
use pipeline_docker::engine::{Engine, EngineAddress};
use pipeline_docker::swarm::{Swarm, SwarmError, SwarmEvent, Unobserved, reap};

use crate::fixture::{Ear, Ground, runs, sh};
use crate::gate::Gate;

/// Set in the process that is killed: the engine's socket.
const DOOMED: &str = "PIPELINE_TESTS_DOOMED";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dockerd, root and busybox-static"]
async fn cancelling_stops_the_tasks_before_it_returns() {
    let ground = Ground::new().await;
    let (ear, cancel) = (Ear::default(), CancelToken::new());
    let job = sh("sleep 1000").with_secret("token", Secret::new("a word"));
    let swarm = ground.swarm();
    let (result, ()) = tokio::join!(swarm.run_until(&job, &ear, &cancel), async {
        ear.wait_for(runs).await;
        cancel.cancel();
    });
    let error = result.unwrap_err();
    assert!(matches!(error, SwarmError::Cancelled { .. }), "{error:?}");
    assert_eq!(ground.left(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dockerd, root and busybox-static"]
async fn a_deadline_stops_the_tasks() {
    let ground = Ground::new().await;
    let job = sh("sleep 1000").with_deadline(Duration::from_secs(2));
    let error = ground.swarm().run(&job, &Unobserved).await.unwrap_err();
    assert!(matches!(error, SwarmError::Deadline { .. }), "{error:?}");
    assert_eq!(ground.left(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dockerd, root and busybox-static"]
async fn a_job_that_is_dropped_is_removed() {
    let ground = Ground::new().await;
    let ear = Arc::new(Ear::default());
    let (swarm, heard) = (ground.swarm(), Arc::clone(&ear));
    let running = tokio::spawn(async move { swarm.run(&sh("sleep 1000"), &*heard).await });
    ear.wait_for(runs).await;
    running.abort();
    ground.nothing_left().await;
}

/// The swarm makes what it was asked for also when nobody waits for the answer any more.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dockerd, root and busybox-static"]
async fn a_job_that_is_dropped_while_the_swarm_is_asked_leaves_nothing() {
    let ground = Ground::new().await;
    for path in ["/secrets/create", "/services/create"] {
        let gate = Gate::before(&ground.host(), path);
        let swarm = Swarm::new(gate.engine().await);
        let job = sh("sleep 1000").with_secret("token", Secret::new("a word"));
        let running = tokio::spawn(async move { swarm.run(&job, &Unobserved).await });
        gate.holds().await;
        running.abort();
        assert!(running.await.unwrap_err().is_cancelled());
        gate.let_through().await;
        ground.nothing_left().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dockerd, root and busybox-static"]
async fn a_service_that_somebody_removes_is_an_error() {
    let ground = Ground::new().await;
    let ear = Ear::default();
    let (job, swarm) = (sh("sleep 1000"), ground.swarm());
    let (result, ()) = tokio::join!(swarm.run(&job, &ear), async {
        ear.wait_for(runs).await;
        let id = ground.docker(&["service", "ls", "--quiet"]);
        ground.docker(&["service", "rm", &id]);
    });
    let error = result.unwrap_err();
    assert!(matches!(error, SwarmError::Lost { .. }), "{error:?}");
    ground.nothing_left().await;
}

/// Not a test of its own: the program that `a_killed_program_is_cleaned_up_after` starts and kills.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dockerd, root and busybox-static"]
async fn doomed() {
    let Some(socket) = std::env::var_os(DOOMED) else {
        return;
    };
    let engine = Engine::connect(&EngineAddress::Socket(socket.into())).await;
    let job = sh("sleep 1000").with_secret("token", Secret::new("a word"));
    let report = Swarm::new(engine.unwrap()).run(&job, &Unobserved).await;
    panic!("it was to be killed: {report:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dockerd, root and busybox-static"]
async fn a_killed_program_is_cleaned_up_after() {
    let ground = Ground::new().await;
    let socket = ground.host().replace("unix://", "");
    let mut program = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "ending::doomed",
            "--include-ignored",
            "--nocapture",
        ])
        .env(DOOMED, socket)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // Its service, its secret and its container.
    while ground.left().len() < 3 {
        assert_eq!(program.try_wait().unwrap(), None, "it ended by itself");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // While the program lives, its things are its own.
    assert!(reap(&ground.engine).await.unwrap().is_empty());
    program.kill().unwrap();
    program.wait().unwrap();
    assert_eq!(ground.left().len(), 3, "{:?}", ground.left());

    // The next job removes them first.
    let ear = Ear::default();
    let report = ground.swarm().run(&sh("true"), &ear).await.unwrap();
    assert!(report.succeeded(), "{report:?}");
    let reaped = |event: &SwarmEvent| matches!(event, SwarmEvent::Reaped { services, secrets } if services.len() == 1 && secrets.len() == 1);
    assert!(ear.heard().iter().any(reaped), "{:?}", ear.heard());
    ground.nothing_left().await;
}
