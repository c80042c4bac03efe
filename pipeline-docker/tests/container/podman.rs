//! The contract of executors on podman's compatible socket: a service of each test's own, with its
//! own store and without networks, so that nothing of the machine is touched.

use std::fmt;
use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pipeline_core::executor::EnvironmentRequest;
use pipeline_core::{Environment, Executor, ExecutorError, Secret};
use pipeline_docker::container::{ContainerExecutor, ContainerSpec, JobFolder, Network};
use pipeline_docker::engine::{Engine, EngineAddress, EngineKind};
use tempfile::TempDir;

use crate::fixture::{Ground, busybox, run};
use crate::own_engine::processes;

/// podman's service; ended with all its containers when dropped.
#[derive(Debug)]
struct Podman {
    folder: TempDir,
    child: Child,
}

impl Podman {
    async fn start() -> (Self, Engine) {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().display().to_string();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        // Plain folders: no mount has to be undone.
        write(
            "storage.conf",
            &format!(
                "[storage]\ndriver = \"vfs\"\ngraphroot = \"{place}/root\"\nrunroot = \"{place}/run\"\n"
            ),
        );
        // Its default limits, runtime and cgroup manager need more than a plain root may have.
        write(
            "containers.conf",
            &format!(
                "[containers]\ndefault_ulimits = [\"nofile=4096:4096\", \"nproc=4096:4096\"]\n\
                 [engine]\ncgroup_manager = \"cgroupfs\"\nruntime = \"runc\"\n\
                 events_logger = \"file\"\ntmp_dir = \"{place}/tmp\"\n\
                 [network]\nnetwork_backend = \"netavark\"\nnetwork_config_dir = \"{place}/net\"\n"
            ),
        );
        let child = command(&folder)
            .args(["system", "service", "--time=0"])
            .arg(format!("unix://{place}/p.sock"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(folder.path().join("log")).unwrap())
            .spawn();
        let child = child.unwrap_or_else(|error| panic!("podman must be there: {error}"));
        let mut podman = Self { folder, child };
        let engine = podman.connect().await;
        (podman, engine)
    }

    async fn connect(&mut self) -> Engine {
        let address = EngineAddress::Socket(self.folder.path().join("p.sock"));
        let limit = Instant::now() + Duration::from_secs(90);
        loop {
            match Engine::connect(&address).await {
                Ok(engine) => return engine,
                Err(error)
                    if Instant::now() > limit || !matches!(self.child.try_wait(), Ok(None)) =>
                {
                    let log = fs::read_to_string(self.folder.path().join("log")).unwrap();
                    panic!("{error}: {log}")
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

/// podman with the store of a test.
fn command(folder: &TempDir) -> Command {
    let mut command = Command::new("podman");
    for (name, file) in [
        ("CONTAINERS_STORAGE_CONF", "storage.conf"),
        ("CONTAINERS_CONF", "containers.conf"),
    ] {
        command.env(name, folder.path().join(file));
    }
    command
}

impl Drop for Podman {
    fn drop(&mut self) {
        let remove = ["rm", "--all", "--force", "--time=0"];
        drop(command(&self.folder).args(remove).output());
        drop(self.child.kill());
        drop(self.child.wait());
        // The keepers of commands stay when their container is removed by force.
        let folder = self.folder.path().display().to_string();
        let limit = Instant::now() + Duration::from_secs(10);
        loop {
            let left = processes(&folder);
            if left.is_empty() || Instant::now() > limit {
                break;
            }
            drop(Command::new("kill").arg("-9").args(&left).output());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// An executor that brings its podman along.
#[derive(Debug)]
struct OnPodman {
    executor: ContainerExecutor,
    podman: Podman,
}

impl OnPodman {
    async fn new(sharing: JobFolder) -> Self {
        let (podman, engine) = Podman::start().await;
        assert_eq!(engine.info().kind, EngineKind::Podman);
        let archive = podman.folder.path().join("image.tar").display().to_string();
        run("docker", &["save", "-o", &archive, busybox()]);
        let loaded = command(&podman.folder)
            .args(["load", "--quiet", "--input", &archive])
            .output();
        assert!(loaded.unwrap().status.success(), "loading the image");
        let spec = ContainerSpec::new(format!("localhost/{}", busybox()))
            .with_network(Network::None)
            .with_sharing(sharing);
        Self {
            executor: ContainerExecutor::new(engine, spec),
            podman,
        }
    }
}

impl fmt::Display for OnPodman {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "podman({})", self.executor)
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Executor for OnPodman {
    async fn provision(
        &self,
        request: &EnvironmentRequest,
    ) -> Result<Box<dyn Environment>, ExecutorError> {
        self.executor.provision(request).await
    }

    fn secrets(&self) -> Vec<Secret> {
        self.executor.secrets()
    }
}

/// Everything in its store, also what it lost track of; a store that is damaged cannot be listed.
async fn nothing_left(podman: &Podman) {
    let list = ["ps", "--all", "--external", "--quiet"];
    let mut seen = String::new();
    for _ in 0..300 {
        let output = command(&podman.folder).args(list).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{error}");
        seen = String::from_utf8_lossy(&output.stdout).into_owned();
        if seen.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("still there: {seen}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs podman, runc, root, a Docker engine and busybox-static"]
async fn a_job_that_is_given_up_leaves_nothing() {
    let place = OnPodman::new(JobFolder::Shared).await;
    let ground = Ground::new("given-up");
    // At several moments of making it.
    for delay in [1, 30, 80, 150, 300, 600, 900] {
        let request = ground.request();
        let limit = Duration::from_millis(delay);
        drop(tokio::time::timeout(limit, place.provision(&request)).await);
    }
    nothing_left(&place.podman).await;
}

mod shared {
    use pipeline_docker::container::JobFolder;

    pipeline_core::executor_contract!(
        #[ignore = "needs podman, runc, root, a Docker engine and busybox-static"]
        async {
            super::OnPodman::new(JobFolder::Shared).await
        }
    );
}

mod copied {
    use pipeline_docker::container::JobFolder;

    pipeline_core::executor_contract!(
        #[ignore = "needs podman, runc, root, a Docker engine and busybox-static"]
        async {
            super::OnPodman::new(JobFolder::Copied).await
        }
    );
}
