//! Programs and engines that die.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use pipeline_core::{CommandStep, Executor as _, Job, Outcome, Pipeline, RunFacts, Runner, Scope};
use pipeline_docker::container::{ContainerSpec, PullPolicy, reap};
use pipeline_docker::engine::Engine;
use pipeline_docker::service::{Readiness, ServiceSpec};

use crate::fixture::{self, Ground, left, sh};

/// Set in the process that is killed: its job folder.
const DOOMED: &str = "PIPELINE_TESTS_DOOMED";

fn with_service() -> ContainerSpec {
    let service = ServiceSpec::new("web", fixture::busybox())
        .with_command(["httpd", "-f", "-p", "80"])
        .with_ready(Readiness::tcp(80));
    ContainerSpec::new(fixture::busybox()).with_service(service)
}

/// A job that would never end. `a_killed_program_is_cleaned_up_after` starts it in a program of its
/// own and kills that; else it is ended politely.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Docker engine and busybox-static"]
async fn doomed() {
    let ground = Ground::new("doomed");
    let killed = std::env::var_os(DOOMED).map(PathBuf::from);
    let folder = killed.clone().unwrap_or_else(|| ground.path());
    let scope = Scope::new(&folder.file_name().unwrap().to_string_lossy());
    let request = pipeline_core::executor::EnvironmentRequest::new(
        scope.clone(),
        "doomed",
        folder.clone(),
        pipeline_core::EventSink::discard(),
    );
    let executor = fixture::executor(with_service()).await;
    let environment = executor.provision(&request).await.unwrap();
    let mut process = environment
        .spawn(&sh("while :; do echo x >> alive; sleep 0.05; done"))
        .await
        .unwrap();
    if killed.is_some() {
        process.output().await;
        panic!("it was to be killed");
    }
    while !folder.join("alive").exists() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(process);
    environment.shutdown().await.unwrap();
    assert_eq!(left(&scope), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Docker engine and busybox-static"]
async fn a_killed_program_is_cleaned_up_after() {
    let ground = Ground::new("killed");
    let mut program = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "leftovers::doomed",
            "--include-ignored",
            "--nocapture",
        ])
        .env(DOOMED, ground.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let alive = ground.path().join("alive");
    while !alive.exists() {
        assert_eq!(program.try_wait().unwrap(), None, "it ended by itself");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let engine = Engine::from_env().await.unwrap();
    // While the program lives, its things are its own.
    reap(&engine).await.unwrap();
    assert_eq!(left(&ground.scope).len(), 3, "job, service and network");
    let filter = format!("label=pipeline.scope={}", ground.scope);
    let running = [
        "ps",
        "-q",
        "--filter",
        &filter,
        "--filter",
        "label=pipeline.role=job",
    ];
    // Somebody keeps the job's container as an image, which hands its labels on.
    let kept = Kept(format!("pdt-kept-{}", std::process::id()));
    let job = fixture::run("docker", &running);
    fixture::run("docker", &["commit", "--pause=false", &job, &kept.0]);

    program.kill().unwrap();
    program.wait().unwrap();
    // The job's container ends without anybody's help.
    while !fixture::run("docker", &running).is_empty() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let length = || std::fs::metadata(&alive).unwrap().len();
    let before = length();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(length(), before, "a command still writes");

    let sleep = ["--entrypoint", "/bin/sleep", &kept.0, "1000"];
    fixture::run(
        "docker",
        &[&["run", "-d", "--name", &kept.0][..], &sleep].concat(),
    );

    // The next start removes the rest, before its own first job.
    let other = Ground::new("next");
    let environment = other
        .provision(ContainerSpec::new(fixture::busybox()))
        .await;
    assert_eq!(ground.left(), [kept.0.as_str()]);
    environment.shutdown().await.unwrap();
    assert_eq!(other.left(), [""; 0]);
    drop(kept);
}

/// An image and a container of it, which have the same name.
struct Kept(String);

impl Drop for Kept {
    fn drop(&mut self) {
        for args in [["rm", "--force"], ["rmi", "--force"]] {
            drop(Command::new("docker").args(args).arg(&self.0).output());
        }
    }
}

/// The engine goes on making the job's container when the service has failed already.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Docker engine and busybox-static"]
async fn a_service_that_fails_early_leaves_nothing_of_the_job() {
    let ground = Ground::new("early");
    let missing = ServiceSpec::new("missing", "localhost:1/pipeline-tests/no-such-image:1")
        .with_pull(PullPolicy::Never);
    let spec = ContainerSpec::new(fixture::busybox()).with_service(missing);
    let executor = fixture::executor(spec).await;
    for _ in 0..5 {
        let error = executor.provision(&ground.request()).await.unwrap_err();
        let text = pipeline_core::error_chain(&error);
        assert!(text.contains("no-such-image"), "{text}");
        assert_eq!(ground.left(), [""; 0]);
    }
    // Nor does something turn up later: the engine has answered all that it was asked.
    let engine = Engine::from_env().await.unwrap();
    engine.ping().await.unwrap();
    assert_eq!(ground.left(), [""; 0]);
}

/// A run that is cancelled while a service is waited for has cleaned up when it is over.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Docker engine and busybox-static"]
async fn a_run_that_is_cancelled_while_it_waits_for_a_service_leaves_nothing() {
    let data = tempfile::tempdir().unwrap();
    let service = ServiceSpec::new("late", fixture::busybox())
        .with_command(["sleep", "1000"])
        .with_ready(Readiness::tcp(9))
        .with_timeout(Duration::from_secs(3600));
    let spec = ContainerSpec::new(fixture::busybox()).with_service(service);
    let executor = fixture::executor(spec).await;
    let name = format!("waiting-{}", std::process::id());
    let mut job = Job::new(name.as_str());
    job.step("never", CommandStep::from(sh("true")));
    let pipeline = Pipeline::builder("cancelled").job(job).build().unwrap();
    let run = Runner::new(data.path())
        .with_executor(Arc::new(executor))
        .start(&pipeline, RunFacts::new())
        .await
        .unwrap();
    let filter = format!("label=pipeline.job={name}");
    let there = |what: &[&str]| {
        let args = [what, &["-q", "--filter", &filter]].concat();
        fixture::run("docker", &args)
    };
    while there(&["ps"]).lines().count() < 2 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    run.cancel().cancel();
    let report = run.wait().await.unwrap();
    assert_eq!(report.outcome, Outcome::Cancelled, "{report:?}");
    assert_eq!(there(&["ps", "-a"]), "");
    assert_eq!(there(&["network", "ls"]), "");
}
