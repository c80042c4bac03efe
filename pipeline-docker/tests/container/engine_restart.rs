//! An engine that stops or dies in the middle of a step and comes back: one of the test's own, so
//! that nobody else notices.

use std::time::{Duration, Instant};

use pipeline_core::{Executor as _, error_chain};
use pipeline_docker::container::{ContainerExecutor, ContainerSpec, Network};

use crate::fixture::{self, Ground, finish, run, sh};
use crate::own_engine::OwnEngine;

/// Ends it politely, so that it ends its containers.
async fn stop(own: &mut OwnEngine) {
    let file = own.path("pid");
    let pid = std::fs::read_to_string(&file).unwrap();
    run("kill", &[pid.trim()]);
    // It takes the file away when it ends.
    while file.exists() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    own.kill();
}

/// Loses the engine while a command runs, by `lose`; gives what the command's end was said to be.
async fn lost_in_a_step(lose: impl AsyncFnOnce(&mut OwnEngine)) -> String {
    let (mut own, engine) = OwnEngine::start().await;
    own.load(fixture::busybox());
    let host = own.host();
    let spec = ContainerSpec::new(fixture::busybox()).with_network(Network::None);
    let executor = ContainerExecutor::new(engine, spec);
    let ground = Ground::new("restart");
    let environment = executor.provision(&ground.request()).await.unwrap();
    let mut process = environment
        .spawn(&sh("echo ready; sleep 1000"))
        .await
        .unwrap();
    assert!(process.output().await.is_some());
    lose(&mut own).await;
    while process.output().await.is_some() {}
    let text = error_chain(&process.wait().await.unwrap_err());

    // The same executor goes on with the engine that is there now.
    own.run().await;
    environment.shutdown().await.unwrap();
    let all = ["-H", &host, "ps", "-aq"];
    assert_eq!(run("docker", &all), "");
    let environment = executor.provision(&ground.request()).await.unwrap();
    let again = finish(&*environment, sh("echo again")).await;
    assert_eq!(again.stdout, "again\n", "{again:?}");
    environment.shutdown().await.unwrap();
    assert_eq!(run("docker", &all), "");
    text
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, dockerd, iproute2 and busybox-static"]
async fn an_engine_that_restarts_ends_the_step_and_nothing_is_left() {
    let text = lost_in_a_step(stop).await;
    for part in ["the job's container is gone", "engine", "`sh` ran"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, dockerd, iproute2 and busybox-static"]
async fn an_engine_that_dies_ends_the_step_and_nothing_is_left() {
    let text = lost_in_a_step(async |own: &mut OwnEngine| own.kill()).await;
    for part in ["the job's container is gone", "engine was lost", "`sh` ran"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, dockerd, iproute2 and busybox-static"]
async fn an_engine_that_hangs_holds_up_the_end_of_a_job_for_a_minute_at_most() {
    let (mut own, engine) = OwnEngine::start().await;
    own.load(fixture::busybox());
    let host = own.host();
    let spec = ContainerSpec::new(fixture::busybox()).with_network(Network::None);
    let executor = ContainerExecutor::new(engine, spec);
    let ground = Ground::new("hangs");
    let environment = executor.provision(&ground.request()).await.unwrap();
    let pid = std::fs::read_to_string(own.path("pid")).unwrap();
    run("kill", &["-STOP", pid.trim()]);
    let begun = Instant::now();
    let ended = tokio::time::timeout(Duration::from_secs(90), environment.shutdown()).await;
    let waited = begun.elapsed();
    run("kill", &["-CONT", pid.trim()]);
    let text = error_chain(&ended.expect("it waits for ever").unwrap_err());
    assert!(waited < Duration::from_secs(60), "{waited:?}");
    assert!(text.contains("remove the container"), "{text}");
    // What was asked for is done in the end.
    let gone = async {
        while !run("docker", &["-H", &host, "ps", "-aq"]).is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone)
        .await
        .unwrap();
    own.kill();
}
