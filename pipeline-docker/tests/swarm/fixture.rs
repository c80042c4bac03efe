//! A swarm of one engine, and what the tests have in common.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use pipeline_core::Stream;
use pipeline_docker::ImageReference;
use pipeline_docker::engine::Engine;
use pipeline_docker::swarm::{Swarm, SwarmEvent, SwarmJob, SwarmObserver, TaskState};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::own_engine::OwnEngine;

/// The image with busybox; no registry has it.
const IMAGE: &str = "pipeline-tests/busybox:1";
/// The bridge that every engine in a swarm has on its machine, under one name.
const BRIDGE: &str = "docker_gwbridge";

/// A swarm whose only node is an engine of the test's own. The swarm is left and the engine is gone
/// when this is dropped.
pub(crate) struct Ground {
    own: OwnEngine,
    pub(crate) engine: Engine,
    bridge_is_ours: bool,
    _alone: SemaphorePermit<'static>,
}

impl Ground {
    /// An engine in no swarm. One at a time, because they share a bridge.
    pub(crate) async fn alone() -> Self {
        static ONE: Semaphore = Semaphore::const_new(1);
        let alone = ONE.acquire().await.unwrap();
        let (own, engine) = OwnEngine::start().await;
        Self {
            own,
            engine,
            bridge_is_ours: !Path::new("/sys/class/net").join(BRIDGE).exists(),
            _alone: alone,
        }
    }

    pub(crate) async fn new() -> Self {
        Self::at("127.0.0.1", 0).await
    }

    /// A manager whose other nodes find it at this address, if its port is not 0.
    pub(crate) async fn at(address: &str, port: u16) -> Self {
        let ground = Self::alone().await;
        let listen = format!("--listen-addr={address}:{port}");
        let advertise = format!("--advertise-addr={address}:{port}");
        ground.docker(&["swarm", "init", &listen, &advertise]);
        import(&ground.host(), IMAGE);
        ground
    }

    pub(crate) fn swarm(&self) -> Swarm {
        Swarm::new(self.engine.clone())
    }

    pub(crate) fn host(&self) -> String {
        self.own.host()
    }

    /// What the docker command line prints when it talks to this engine; it must succeed.
    pub(crate) fn docker(&self, arguments: &[&str]) -> String {
        docker(&self.host(), arguments)
    }

    pub(crate) fn import(&self, tag: &str) {
        import(&self.host(), tag);
    }

    /// The services and secrets that the swarm has, and the containers that run.
    pub(crate) fn left(&self) -> Vec<String> {
        left(&self.host())
    }

    /// Waits until nothing is left: what a dropped future held is removed in the background.
    pub(crate) async fn nothing_left(&self) {
        for _ in 0..600 {
            if self.left().is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("still there: {:?}", self.left());
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let leave = ["--host", &self.host(), "swarm", "leave", "--force"];
        drop(Command::new("docker").args(leave).output());
        if self.bridge_is_ours {
            drop(Command::new("ip").args(["link", "del", BRIDGE]).output());
        }
    }
}

/// An image with nothing but busybox and its names.
pub(crate) fn import(host: &str, tag: &str) {
    let root = tempfile::tempdir().unwrap();
    let bin = root.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    std::fs::copy("/bin/busybox", bin.join("busybox"))
        .expect("/bin/busybox: install busybox-static");
    let names = Command::new("/bin/busybox").arg("--list").output().unwrap();
    for name in String::from_utf8(names.stdout).unwrap().lines() {
        if name != "busybox" {
            std::os::unix::fs::symlink("busybox", bin.join(name)).unwrap();
        }
    }
    let mut tar = Command::new("tar")
        .args(["--numeric-owner", "--owner=0", "--group=0", "-c", "."])
        .current_dir(root.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let status = Command::new("docker")
        .args(["--host", host, "import", "-", tag])
        .stdin(tar.stdout.take().unwrap())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(tar.wait().unwrap().success() && status.success());
}

pub(crate) fn docker(host: &str, arguments: &[&str]) -> String {
    let mut command = Command::new("docker");
    let output = command.args(["--host", host]).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("docker must be installed: {error}"));
    assert!(
        output.status.success(),
        "docker {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

pub(crate) fn left(host: &str) -> Vec<String> {
    let services = docker(host, &["service", "ls", "--format", "{{.Name}}"]);
    let secrets = docker(host, &["secret", "ls", "--format", "{{.Name}}"]);
    let containers = docker(host, &["ps", "--format", "{{.Names}}"]);
    [services, secrets, containers]
        .iter()
        .flat_map(|text| text.lines())
        .map(str::to_owned)
        .collect()
}

pub(crate) fn image() -> ImageReference {
    IMAGE.parse().unwrap()
}

/// A job that runs a shell script.
pub(crate) fn sh(script: &str) -> SwarmJob {
    SwarmJob::new("job under test", image())
        .with_command(["sh", "-c", script])
        .with_grace(Duration::from_secs(1))
}

/// Remembers what it hears.
#[derive(Debug, Default)]
pub(crate) struct Ear(Mutex<Vec<SwarmEvent>>);

#[async_trait]
impl SwarmObserver for Ear {
    async fn event(&self, event: SwarmEvent) {
        self.0.lock().unwrap().push(event);
    }
}

impl Ear {
    pub(crate) fn heard(&self) -> Vec<SwarmEvent> {
        self.0.lock().unwrap().clone()
    }

    /// What a task wrote.
    pub(crate) fn written(&self, task: u32, wanted: Stream) -> String {
        let mut all = Vec::new();
        for event in self.heard() {
            if let SwarmEvent::Output {
                index,
                stream,
                bytes,
            } = event
                && (index, stream) == (task, wanted)
            {
                all.extend(bytes);
            }
        }
        String::from_utf8(all).unwrap()
    }

    /// The most tasks that were known to run at the same time.
    pub(crate) fn most_at_once(&self) -> usize {
        let mut running = std::collections::BTreeSet::new();
        let mut most = 0;
        for event in self.heard() {
            if let SwarmEvent::Task { index, state, .. } = event {
                if state == TaskState::Running {
                    running.insert(index);
                } else {
                    running.remove(&index);
                }
                most = most.max(running.len());
            }
        }
        most
    }

    /// Waits until something was heard.
    pub(crate) async fn wait_for(&self, wanted: impl Fn(&SwarmEvent) -> bool) {
        for _ in 0..1200 {
            if self.heard().iter().any(&wanted) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("not heard in a minute: {:?}", self.heard());
    }
}

/// Whether a task runs.
pub(crate) fn runs(event: &SwarmEvent) -> bool {
    matches!(
        event,
        SwarmEvent::Task {
            state: TaskState::Running,
            ..
        }
    )
}
