//! Images behind a password, pulled by the engine for a job and its service.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use pipeline_core::report::JsonLinesReporter;
use pipeline_core::{
    CommandSpec, CommandStep, Event, EventKind, Job, Outcome, Pipeline, RunFacts, Runner, Secret,
};
use pipeline_docker::container::{ContainerExecutor, ContainerSpec, PullPolicy};
use pipeline_docker::credentials::{
    Anonymous, CredentialSource, Credentials, DockerConfig, StaticCredentials,
};
use pipeline_docker::engine::Engine;
use pipeline_docker::service::{Readiness, ServiceSpec};

use crate::fixture::{busybox_into, import, run};
use crate::server::{Server, Setup};

const PASSWORD: &str = "rather-secret-word";
/// Of noise, in a layer that nothing else has.
const SIZE: usize = 3 << 20;

/// Takes the image off the engine again.
struct Image(String);

impl Image {
    fn remove(&self) {
        let mut remove = Command::new("docker");
        drop(remove.args(["image", "rm", "--force", &self.0]).output());
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Runs a job in the image with a service of the same image; gives its outcome and its events.
async fn job(image: &Image, credentials: impl CredentialSource + 'static) -> (Outcome, String) {
    let data = tempfile::tempdir().unwrap();
    let service = ServiceSpec::new("beside", &image.0)
        .with_pull(PullPolicy::Always)
        .with_command(["httpd", "-f", "-p", "80"])
        .with_ready(Readiness::tcp(80));
    let spec = ContainerSpec::new(&image.0).with_service(service);
    let engine = Engine::from_env().await.expect("a Docker engine");
    let executor = ContainerExecutor::new(engine, spec).with_credentials(credentials);
    let mut job = Job::new("test");
    job.step(
        "look",
        CommandStep::from(CommandSpec::new("cat").arg("/own")),
    );
    let pipeline = Pipeline::builder("pulls").job(job).build().unwrap();
    let file = data.path().join("events");
    let events = std::fs::File::create(&file).unwrap();
    let run = Runner::new(data.path())
        .with_executor(Arc::new(executor))
        .with_reporter(JsonLinesReporter::new(events))
        .start(&pipeline, RunFacts::new())
        .await
        .unwrap();
    let report = run.wait().await.unwrap();
    (report.outcome, std::fs::read_to_string(file).unwrap())
}

/// Pushes an image that nobody else has, and takes it off the engine.
fn push(server: &Server, config: &Path) -> Image {
    let root = tempfile::tempdir().unwrap();
    busybox_into(root.path());
    std::fs::write(root.path().join("own"), "its own\n").unwrap();
    let mut state = u64::from(std::process::id()) | 1 << 40;
    let noise = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    });
    std::fs::write(
        root.path().join("noise"),
        noise.take(SIZE).collect::<Vec<u8>>(),
    )
    .unwrap();
    let image = Image(format!("{}/team/tools:1", server.address));
    import(root.path(), &image.0, &[]);
    let config = ["--config", config.to_str().unwrap()];
    let login = ["login", "--username", "robot", "--password", PASSWORD];
    run(
        "docker",
        &[&config[..], &login, &[&server.address]].concat(),
    );
    run(
        "docker",
        &[&config[..], &["push", "--quiet", &image.0]].concat(),
    );
    image.remove();
    image
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Docker engine, docker-registry, htpasswd and busybox-static"]
async fn an_image_behind_a_password_is_pulled_with_the_credentials_of_docker() {
    let server = Server::start_with(&Setup {
        password: Some(("robot".to_owned(), PASSWORD.to_owned())),
        ..Setup::default()
    });
    let config = tempfile::tempdir().unwrap();
    let image = push(&server, config.path());

    let (outcome, events) = job(&image, Anonymous).await;
    assert_ne!(outcome, Outcome::Succeeded);
    for part in [
        &format!("pulling {} without credentials", image.0),
        "no basic auth credentials",
        "give credentials for this registry",
    ] {
        assert!(events.contains(part), "{part}: {events}");
    }

    let wrong = Credentials::password("robot", Secret::new("another-word"));
    let (outcome, events) = job(&image, StaticCredentials::new(&server.address, wrong)).await;
    assert_ne!(outcome, Outcome::Succeeded);
    assert!(events.contains("check the credentials"), "{events}");
    assert!(!events.contains("without credentials"), "{events}");

    let stored = DockerConfig::load(config.path().join("config.json")).unwrap();
    let (outcome, events) = job(&image, stored).await;
    assert_eq!(outcome, Outcome::Succeeded, "{events}");
    assert!(!events.contains("without credentials"), "{events}");
    assert!(!events.contains(PASSWORD), "{events}");
    let pulls: Vec<serde_json::Value> = events
        .lines()
        .map(|line| serde_json::from_str::<Event>(line).unwrap())
        .filter_map(|event| match event.kind {
            EventKind::Fact { topic, data } if topic == "container.pulled" => Some(data),
            _ => None,
        })
        .collect();
    // The job's, and the service's, which finds everything there.
    assert_eq!(pulls.len(), 2, "{pulls:?}");
    assert!(
        pulls[0]["bytes"].as_u64().unwrap() >= SIZE as u64,
        "{pulls:?}"
    );
    let bytes = pulls[0]["bytes"].as_f64().unwrap();
    let told = format!("pull stats: download {:.1} MiB in ", bytes / 1048576.0);
    assert!(events.contains(&told), "{told}: {events}");
    assert_eq!(pulls[0]["layers"][0]["existed"], false, "{pulls:?}");
    assert_eq!(pulls[1]["bytes"], 0, "{pulls:?}");
}
