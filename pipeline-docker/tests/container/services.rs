//! Services of small images: readiness, names, failures.

use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use pipeline_core::report::{Style, Summary};
use pipeline_core::{
    CommandStep, EnvValue, Executor as _, ExitStatus, Job, Outcome, Pipeline, RunFacts, RunReport,
    Runner, Secret, error_chain,
};
use pipeline_docker::container::{ContainerExecutor, ContainerSpec, Limits, Network};
use pipeline_docker::engine::{Engine, EngineAddress};
use pipeline_docker::service::{
    HealthReadiness, HttpReadiness, LogReadiness, Readiness, ServiceSpec,
};
use tokio::net::TcpStream;

use crate::cable::Cable;
use crate::fixture::{self, Ground, finish, sh};
use crate::own_engine::OwnEngine;

fn script(name: &str, text: &str) -> ServiceSpec {
    ServiceSpec::new(name, fixture::busybox()).with_command(["sh", "-c", text])
}

/// A web server whose state is said to be `false` first, and `true` a moment later.
const SLOW: &str = "mkdir -p /www; echo '{\"value\":{\"ready\":false}}' > /www/status; \
                    (sleep 1; echo '{\"value\":{\"ready\":true}}' > /www/status) & \
                    echo server starts; echo server starts >&2; exec httpd -f -p 80 -h /www";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Docker engine and busybox-static"]
async fn every_kind_of_readiness_lets_the_job_begin() {
    let ground = Ground::new("ready");
    let http = HttpReadiness::new(80, "/status").with_json("/value/ready", true);
    let spec = ContainerSpec::new(fixture::busybox())
        .with_service(
            script("web", SLOW)
                .with_alias("www")
                .with_ready(Readiness::tcp(80))
                .with_ready(Readiness::Log(
                    LogReadiness::text("server starts").with_times(2),
                ))
                .with_ready(Readiness::Log(
                    LogReadiness::regex("^server s.*s$").unwrap(),
                ))
                .with_ready(Readiness::Http(http)),
        )
        .with_service(
            script("missing-page", "exec httpd -f -p 81 -h /tmp").with_ready(Readiness::Http(
                HttpReadiness::new(81, "/nothing").with_status(404),
            )),
        )
        .with_service(
            script("worker", "sleep 0.5; id -u > /run-here/up; sleep 1000")
                .with_user("1000")
                .with_env("PASSWORD", EnvValue::Secret(Secret::new("db-password")))
                .with_tmpfs("/run-here", "size=1m,mode=1777")
                .with_shm_size(3 << 20)
                .with_ready(Readiness::exec(["test", "-s", "/run-here/up"]))
                .with_ready(Readiness::exec([
                    "sh",
                    "-c",
                    "test $PASSWORD = db-password && df -k /dev/shm | grep -q ' 3072 '",
                ])),
        )
        .with_service(
            script("checked", "sleep 0.5; touch /tmp/up; sleep 1000").with_ready(
                Readiness::Health(HealthReadiness::command(["test", "-e", "/tmp/up"])),
            ),
        );
    let environment = ground.provision(spec).await;
    let seen = finish(
        &*environment,
        sh(
            "wget -qO- http://web/status; wget -qO- http://www/status; hostname -i | wc -w; \
            nslookup job >/dev/null && echo known",
        ),
    )
    .await;
    assert_eq!(seen.status, ExitStatus::Exited(0), "{seen:?}");
    let ready = "{\"value\":{\"ready\":true}}\n";
    assert_eq!(seen.stdout, format!("{ready}{ready}1\nknown\n"));
    assert_eq!(ground.left().len(), 6);
    environment.shutdown().await.unwrap();
    assert_eq!(ground.left(), [""; 0]);
}

/// In which also a busy machine looks at a service once.
const LONG_ENOUGH: Duration = Duration::from_secs(30);

async fn failure(ground: &Ground, spec: ContainerSpec) -> String {
    let executor = fixture::executor(spec).await;
    let error = executor.provision(&ground.request()).await.unwrap_err();
    assert_eq!(ground.left(), [""; 0]);
    error_chain(&error)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Docker engine and busybox-static"]
async fn a_service_that_does_not_come_up_fails_the_job_with_its_last_lines() {
    let ground = Ground::new("failing");
    let job = || ContainerSpec::new(fixture::busybox());
    // It dies: nobody waits for the time limit, or this would take an hour.
    let dies = script("dies", "echo opening the data; echo no space >&2; exit 4")
        .with_timeout(Duration::from_secs(3600))
        .with_ready(Readiness::tcp(1));
    let text = failure(&ground, job().with_service(dies)).await;
    for part in [
        "service dies",
        "exit code 4",
        "opening the data",
        "no space",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let late = script("late", "echo still loading; sleep 1000")
        .with_timeout(LONG_ENOUGH)
        .with_ready(Readiness::Http(HttpReadiness::new(9, "/status")));
    let unhealthy = script("odd", "sleep 1000")
        .with_timeout(LONG_ENOUGH)
        .with_ready(Readiness::exec([
            "sh",
            "-c",
            "yes | head -c 1000000; echo not today; exit 9",
        ]));
    let other = Ground::new("failing-too");
    let (text, unhealthy) = tokio::join!(
        failure(&ground, job().with_service(late)),
        failure(&other, job().with_service(unhealthy)),
    );
    for part in [
        "service late",
        "not ready within 30s",
        "HTTP /status",
        "still loading",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    for part in ["exit code 9: ", "not today"] {
        assert!(unhealthy.contains(part), "{part}: {unhealthy}");
    }
    assert!(unhealthy.len() < 8 << 10, "a talkative probe is cut");
    let absent = ServiceSpec::new("absent", fixture::busybox())
        .with_command(["no-such-program"])
        .with_ready(Readiness::tcp(1));
    let text = failure(&ground, job().with_service(absent)).await;
    assert!(
        text.contains("absent") && text.contains("no-such-program"),
        "{text}"
    );
    let hungry = script("hungry", "x=0123456789abcdef; while :; do x=$x$x; done")
        .with_limits(Limits::default().with_memory(32 << 20))
        .with_ready(Readiness::tcp(1));
    let text = failure(&ground, job().with_service(hungry)).await;
    assert!(text.contains("hungry ran out of memory"), "{text}");
    // What cannot work is said before anything is started.
    let twice = job()
        .with_service(script("db", "true"))
        .with_service(script("db", "true"));
    assert!(
        failure(&ground, twice)
            .await
            .contains("two services are called db")
    );
    let elsewhere = job()
        .with_service(script("db", "true"))
        .with_network(Network::Named("bridge".to_owned()));
    assert!(
        failure(&ground, elsewhere)
            .await
            .contains("private network")
    );
    assert!(
        LogReadiness::regex("(")
            .unwrap_err()
            .to_string()
            .contains("\"(\"")
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Docker engine and busybox-static"]
async fn a_service_that_dies_during_the_job_ends_the_running_command() {
    let ground = Ground::new("dying");
    let service = script(
        "queue",
        "echo up; while [ ! -e /tmp/stop ]; do sleep 0.1; done; echo lost the disk; exit 5",
    )
    .with_ready(Readiness::Log(LogReadiness::text("up")));
    let environment = ground
        .provision(ContainerSpec::new(fixture::busybox()).with_service(service))
        .await;
    let mut process = environment
        .spawn(&sh("echo ready; sleep 1000"))
        .await
        .unwrap();
    assert!(process.output().await.is_some());
    let name = ground
        .left()
        .into_iter()
        .find(|name| name.contains("-queue-"))
        .unwrap();
    fixture::run("docker", &["exec", &name, "touch", "/tmp/stop"]);
    while process.output().await.is_some() {}
    let text = error_chain(&process.wait().await.unwrap_err());
    for part in ["service queue", "exit code 5", "lost the disk"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let text = error_chain(&environment.spawn(&sh("true")).await.unwrap_err());
    assert!(text.contains("service queue"), "{text}");
    environment.shutdown().await.unwrap();
    assert_eq!(ground.left(), [""; 0]);
}

/// Runs a job of one command beside a service; the report and the journal.
async fn run_beside(service: ServiceSpec, command: &str) -> (RunReport, String) {
    let data = tempfile::tempdir().unwrap();
    let spec = ContainerSpec::new(fixture::busybox()).with_service(service);
    let executor = fixture::executor(spec).await;
    let mut job = Job::new("test");
    job.step("command", CommandStep::from(sh(command)));
    let pipeline = Pipeline::builder("beside").job(job).build().unwrap();
    let run = Runner::new(data.path())
        .with_executor(Arc::new(executor))
        .start(&pipeline, RunFacts::new())
        .await
        .unwrap();
    let report = run.wait().await.unwrap();
    let journal = std::fs::read_to_string(report.folder.join("journal.jsonl")).unwrap();
    (report, journal)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Docker engine and busybox-static"]
async fn a_services_password_is_masked_when_it_prints_it_and_dies() {
    const PASSWORD: &str = "pa55word-of-the-database";
    let service = script("db", "echo FATAL: wrong password $PASSWORD; exit 1")
        .with_env("PASSWORD", EnvValue::Secret(Secret::new(PASSWORD)))
        .with_ready(Readiness::tcp(1));
    let (report, journal) = run_beside(service, "true").await;
    assert_eq!(report.outcome, Outcome::Errored);
    let summary = Summary::new(&report, Style::Plain).to_string();
    for text in [journal, summary, format!("{report:?}")] {
        assert!(text.contains("FATAL: wrong password ***"), "{text}");
        assert!(!text.contains(PASSWORD), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Docker engine and busybox-static"]
async fn what_was_started_and_what_a_service_wrote_is_in_the_journal() {
    let service = script("web", "echo serving; exec httpd -f -p 80 -h /tmp")
        .with_ready(Readiness::Log(LogReadiness::text("serving")));
    let (report, journal) = run_beside(service, "exit 3").await;
    assert_eq!(report.outcome, Outcome::Failed);
    let fact = |topic: &str| {
        let events = journal
            .lines()
            .map(|line| line.parse::<serde_json::Value>().unwrap());
        let mut found = events.filter(|event| event["topic"] == topic);
        found.next().unwrap_or_else(|| panic!("{topic}: {journal}"))["data"].take()
    };
    let id = fixture::run(
        "docker",
        &["image", "inspect", "-f", "{{.Id}}", fixture::busybox()],
    );
    let started = fact("container.started");
    assert_eq!(started["image"], fixture::busybox());
    assert_eq!(started["digest"], id.as_str());
    assert_eq!(started["folder"], "shared");
    assert_eq!(started["services"][0]["name"], "web");
    assert_eq!(started["services"][0]["digest"], id.as_str());
    assert_eq!(
        fact("container.service_log"),
        serde_json::json!({ "service": "web", "tail": ["serving"] })
    );
}

fn at(host: &str) -> EngineAddress {
    let host = format!("tcp://{host}");
    EngineAddress::from_lookup(|name| (name == "DOCKER_HOST").then(|| (&host).into())).unwrap()
}

/// By an address of this machine that says so, and by one that may be anybody's.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, dockerd, iproute2 and busybox-static"]
async fn a_port_is_reached_whatever_the_address_of_the_engine_is() {
    let addresses = fixture::run("hostname", &["-I"]);
    let lan = addresses.split(' ').next().unwrap();
    let hosts = ["127.0.0.1", lan].map(OwnEngine::free_at);
    let options = hosts.each_ref().map(|host| format!("--host=tcp://{host}"));
    let mut own = OwnEngine::prepare().with(&options.each_ref().map(String::as_str));
    own.run().await;
    own.load(fixture::busybox());
    for host in &hosts {
        let engine = Engine::connect(&at(host)).await.unwrap();
        let service = script("web", SLOW)
            .with_ready(Readiness::tcp(80))
            .with_ready(Readiness::Http(
                HttpReadiness::new(80, "/status").with_json("/value/ready", true),
            ));
        let spec = ContainerSpec::new(fixture::busybox()).with_service(service);
        let executor = ContainerExecutor::new(engine, spec);
        let ground = Ground::new("by-tcp");
        let environment = executor.provision(&ground.request()).await.unwrap();
        // Rules of the machine's own engine may keep containers of this one apart: only we connect.
        let seen = finish(&*environment, sh("echo begun")).await;
        assert_eq!(seen.stdout, "begun\n", "{seen:?}");
        environment.shutdown().await.unwrap();
        assert_eq!(
            fixture::run("docker", &["-H", &own.host(), "ps", "-aq"]),
            ""
        );
    }
}

/// A program that ends with its test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// What has the service's address here is not the service.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, dockerd, nsenter, iproute2 and busybox-static"]
async fn a_service_on_another_machine_is_not_taken_for_one_here() {
    let id = std::process::id() % 250;
    let away = Cable::new(&format!("10.217.{id}"));
    let namesake = Cable::new(&format!("10.218.{id}"));
    for number in 3..6 {
        namesake.add(number);
    }
    let answers = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{}", namesake.namespace))
        .args(["/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/tmp"])
        .spawn()
        .unwrap();
    let mut answers = Ended(answers);
    while TcpStream::connect((namesake.address(2), 80)).await.is_err() {
        assert_eq!(answers.0.try_wait().unwrap(), None);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let host = format!("{}:2375", away.address(2));
    let pool = format!("base={}/24,size=24", namesake.address(0));
    let mut own = OwnEngine::prepare_in(Some(&away.namespace)).with(&[
        &format!("--host=tcp://{host}"),
        &format!("--default-address-pool={pool}"),
    ]);
    // A socket may lead to another machine as well, as one that ssh forwards.
    let by_socket = own.run().await;
    own.load(fixture::busybox());
    let by_tcp = Engine::connect(&at(&host)).await.unwrap();
    for engine in [by_tcp, by_socket] {
        let elsewhere = format!("{} may be on another machine", engine.address());
        let service = script("web", "echo not listening; sleep 1000")
            .with_ready(Readiness::tcp(80))
            .with_timeout(Duration::from_secs(10));
        let spec = ContainerSpec::new(fixture::busybox()).with_service(service);
        let executor = ContainerExecutor::new(engine, spec);
        let ground = Ground::new("elsewhere");
        let error = executor.provision(&ground.request()).await.unwrap_err();
        let text = error_chain(&error);
        for part in [
            "service web was not ready within 10s",
            "another network of this machine",
            &elsewhere,
            "Readiness::exec",
            "not listening",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(
            fixture::run("docker", &["-H", &own.host(), "ps", "-aq"]),
            ""
        );
    }
    drop(own);
}
