//! Jobs and commands in containers, against the docker command line: one command in a container
//! that is there, a container for one command, and 200 MB of output.
//!
//! Needs a docker engine and busybox-static. Both sides use the same image, of busybox alone, and
//! containers without a log (`--log-driver none`); rounds are interleaved. Before each of our
//! commands the container is there already, as before each `docker exec`; `docker run` and a job
//! include making and removing the container.

#![expect(clippy::print_stdout, reason = "a benchmark prints its result")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark may panic"
)]

#[path = "../../pipeline-docker/tests/container/fixture.rs"]
#[expect(dead_code, reason = "shared with the tests, which need more of it")]
mod fixture;

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pipeline_benches::{docker, docker_says, median};
use pipeline_core::{CommandSpec, Environment, Executor};
use pipeline_docker::container::{ContainerExecutor, ContainerSpec, JobFolder};

use fixture::{Ground, busybox, sh};

const COMMANDS: usize = 20;
const CONTAINERS: usize = 10;
const OUTPUTS: usize = 5;
const OUTPUT: usize = 200_000_000;

/// Times of the docker command line and ours, in pairs.
#[derive(Default)]
struct Pairs {
    theirs: Vec<Duration>,
    ours: Vec<Duration>,
}

impl Pairs {
    fn print(&mut self, title: &str) {
        let (theirs, ours) = (median(&mut self.theirs), median(&mut self.ours));
        let count = self.ours.len();
        println!(
            "{title:40} {count:>3} {theirs:9.1} {ours:9.1} {:6.2}",
            ours / theirs
        );
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(compare());
}

async fn compare() {
    let ground = Ground::new("bench");
    let spec = ContainerSpec::new(busybox()).with_sharing(JobFolder::Shared);
    let executor = fixture::executor(spec).await;
    let environment = provision(&executor, &ground).await;
    let container = ground.left().remove(0);

    println!("milliseconds, medians of pairs; ratio of ours to docker's");
    println!(
        "{:40} {:>3} {:>9} {:>9} {:>6}",
        "", "n", "docker", "ours", "ratio"
    );
    let mut command = Pairs::default();
    for round in 0..=COMMANDS {
        let theirs = timed(|| docker(&["exec", &container, "true"]));
        let started = Instant::now();
        read_all(&*environment, CommandSpec::new("true")).await;
        let ours = started.elapsed();
        // The first pair warms up.
        if round > 0 {
            command.theirs.push(theirs);
            command.ours.push(ours);
        }
    }
    command.print("`true` against docker exec");
    environment.shutdown().await.unwrap();

    let (mut ready, mut whole) = (Pairs::default(), Pairs::default());
    let run = ["run", "--log-driver", "none"];
    for _ in 0..CONTAINERS {
        let detached = ["--detach", "--init", busybox(), "sleep", "1000"];
        let started = Instant::now();
        let id = docker_says(&[&run[..], &detached].concat());
        ready.theirs.push(started.elapsed());
        docker(&["rm", "--force", &id]);
        let started = Instant::now();
        let environment = provision(&executor, &ground).await;
        ready.ours.push(started.elapsed());
        environment.shutdown().await.unwrap();

        let once = ["--rm", "--init", busybox(), "true"];
        whole
            .theirs
            .push(timed(|| docker(&[&run[..], &once].concat())));
        let started = Instant::now();
        let environment = provision(&executor, &ground).await;
        read_all(&*environment, CommandSpec::new("true")).await;
        environment.shutdown().await.unwrap();
        whole.ours.push(started.elapsed());
    }
    ready.print("provision against docker run --detach");
    whole.print("a job of `true` against docker run --rm");

    let mut output = Pairs::default();
    let script = format!("yes 'a line of what a test run has to say' | head -c {OUTPUT}");
    for _ in 0..OUTPUTS {
        let once = ["--rm", "--init", busybox(), "sh", "-c", &script];
        output.theirs.push(timed(|| {
            assert_eq!(count(&[&run[..], &once].concat()), OUTPUT)
        }));
        let started = Instant::now();
        let environment = provision(&executor, &ground).await;
        let length = read_all(&*environment, sh(&script)).await;
        environment.shutdown().await.unwrap();
        output.ours.push(started.elapsed());
        assert_eq!(length, OUTPUT);
    }
    output.print("200 MB of output against docker run --rm");
    let rate = |times: &[Duration]| OUTPUT as f64 / 1000.0 / median(&mut times.to_vec());
    println!(
        "MB/s of it: docker {:.0}, ours {:.0}",
        rate(&output.theirs),
        rate(&output.ours)
    );
    assert!(ground.left().is_empty(), "something is left");
}

async fn provision(executor: &ContainerExecutor, ground: &Ground) -> Box<dyn Environment> {
    executor.provision(&ground.request()).await.unwrap()
}

/// Runs a command; gives how much it wrote.
async fn read_all(environment: &dyn Environment, command: CommandSpec) -> usize {
    let mut process = environment.spawn(&command).await.unwrap();
    let mut length = 0;
    while let Some(chunk) = process.output().await {
        length += chunk.bytes.len();
    }
    assert!(process.wait().await.unwrap().success());
    length
}

fn timed<T>(act: impl FnOnce() -> T) -> Duration {
    let started = Instant::now();
    act();
    started.elapsed()
}

/// How much docker prints. Read in large pieces and dropped.
fn count(arguments: &[&str]) -> usize {
    let mut child = Command::new("docker")
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stdout.take().unwrap();
    let mut buffer = vec![0; 64 * 1024];
    let mut length = 0;
    while let Ok(read @ 1..) = pipe.read(&mut buffer) {
        length += read;
    }
    assert!(child.wait().unwrap().success());
    length
}
