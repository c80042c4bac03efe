//! An engine of a test's own, which may be killed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use pipeline_docker::engine::{Engine, EngineAddress};
use tempfile::TempDir;

/// A `dockerd` with its own socket, store and bridge; killed and cleaned away when dropped.
pub(crate) struct OwnEngine {
    folder: TempDir,
    bridge: String,
    more: Vec<String>,
    /// The network namespace that it lives in, if it is another machine as far as networks go.
    namespace: Option<String>,
    child: Option<Child>,
}

impl OwnEngine {
    /// Prepares one. Another engine's own bridge would go away with `--bridge=none`, so it gets a
    /// named one.
    pub(crate) fn prepare() -> Self {
        Self::prepare_in(None)
    }

    /// As [`prepare`](Self::prepare), in a network namespace that exists.
    pub(crate) fn prepare_in(namespace: Option<&str>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = std::process::id();
        let bridge = format!("pdt{id}x{number}");
        let subnet = (id.wrapping_mul(7).wrapping_add(number * 53)) % 250;
        let own = Self {
            folder: tempfile::tempdir().unwrap(),
            bridge,
            more: Vec::new(),
            namespace: namespace.map(str::to_owned),
            child: None,
        };
        own.ip(&["link", "add", &own.bridge, "type", "bridge"]);
        let address = format!("10.213.{subnet}.1/24");
        own.ip(&["address", "add", &address, "dev", &own.bridge]);
        own.ip(&["link", "set", &own.bridge, "up"]);
        own
    }

    fn ip(&self, arguments: &[&str]) {
        match &self.namespace {
            Some(namespace) => ip(&[&["-netns", namespace][..], arguments].concat()),
            None => ip(arguments),
        }
    }

    pub(crate) async fn start() -> (Self, Engine) {
        let mut own = Self::prepare();
        let engine = own.run().await;
        (own, engine)
    }

    /// Adds arguments of the engine's command line.
    pub(crate) fn with(mut self, arguments: &[&str]) -> Self {
        self.more.extend(arguments.iter().map(|&text| text.into()));
        self
    }

    /// A port of an address that nobody uses, as `address:port`.
    pub(crate) fn free_at(address: &str) -> String {
        let free = std::net::TcpListener::bind((address, 0)).unwrap();
        free.local_addr().unwrap().to_string()
    }

    /// Gives its store a disk of this size.
    pub(crate) fn with_disk(self, size: &str) -> Self {
        let root = self.path("root");
        fs::create_dir(&root).unwrap();
        let options = format!("size={size}");
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(&root)
            .status();
        assert!(status.unwrap().success(), "mounting needs root");
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Gives it an image of the machine's own engine.
    pub(crate) fn load(&self, image: &str) {
        let archive = self.path("image.tar");
        let docker = |arguments: &[&str]| {
            let output = Command::new("docker")
                .args(arguments)
                .arg(&archive)
                .output();
            let output = output.unwrap_or_else(|error| panic!("docker must be there: {error}"));
            assert!(output.status.success(), "{arguments:?}: {output:?}");
        };
        docker(&["save", image, "-o"]);
        docker(&["-H", &self.host(), "load", "-i"]);
    }

    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.path("d.sock").display())
    }

    /// Starts it, again if need be, and waits for it.
    pub(crate) async fn run(&mut self) -> Engine {
        let log = File::create(self.path("log")).unwrap();
        let option = |name: &str, path: &str| format!("--{name}={}", self.path(path).display());
        // What the machine's own engine is told would contradict.
        fs::write(self.path("daemon.json"), "{}").unwrap();
        let mut command = match &self.namespace {
            // Not by ip, which would hide the control groups.
            Some(namespace) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{namespace}"));
                command.arg("dockerd");
                command
            }
            None => Command::new("dockerd"),
        };
        let child = command
            .arg(option("config-file", "daemon.json"))
            .arg(format!("--host={}", self.host()))
            .arg(option("data-root", "root"))
            .arg(option("exec-root", "exec"))
            .arg(option("pidfile", "pid"))
            .arg(format!("--bridge={}", self.bridge))
            .args(["--iptables=false", "--ip6tables=false", "--ip-masq=false"])
            .arg("--userland-proxy=false")
            .args(&self.more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.child = Some(child.unwrap_or_else(|error| panic!("dockerd must be there: {error}")));
        let address = EngineAddress::Socket(self.path("d.sock"));
        let limit = Instant::now() + Duration::from_secs(90);
        loop {
            match Engine::connect(&address).await {
                Ok(engine) => return engine,
                Err(error) if Instant::now() > limit || self.ended() => {
                    let log = fs::read_to_string(self.path("log")).unwrap();
                    panic!("{error}: {log}")
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    fn ended(&mut self) -> bool {
        let child = self.child.as_mut();
        child.is_none_or(|child| !matches!(child.try_wait(), Ok(None)))
    }

    /// What a power failure does.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        // Its helper dies with it; where nobody takes care of orphans it would seem to live on.
        let pid = self.path("exec/containerd/containerd.pid");
        if let Ok(text) = fs::read_to_string(&pid) {
            drop(Command::new("kill").args(["-9", text.trim()]).status());
            fs::remove_file(pid).unwrap();
        }
    }
}

impl Drop for OwnEngine {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(Command::new("kill").arg(child.id().to_string()).status());
            let limit = Instant::now() + Duration::from_secs(20);
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < limit {
                std::thread::sleep(Duration::from_millis(20));
            }
            drop(child.kill());
            drop(child.wait());
        }
        // What it started names its folder, which is nobody else's.
        let folder = self.folder.path().display().to_string();
        for pid in processes(&folder) {
            drop(Command::new("kill").args(["-9", &pid]).status());
        }
        let limit = Instant::now() + Duration::from_secs(10);
        while !processes(&folder).is_empty() && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(20));
        }
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        for line in mounts.lines().rev() {
            let place = line.split(' ').nth(1).unwrap_or_default();
            if Path::new(place).starts_with(self.folder.path()) {
                drop(Command::new("umount").args(["--lazy", place]).status());
            }
        }
        let mut command = Command::new("ip");
        if let Some(namespace) = &self.namespace {
            command.args(["-netns", namespace]);
        }
        drop(command.args(["link", "del", &self.bridge]).status());
    }
}

pub(crate) fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "ip {arguments:?} needs iproute2 and root"
    );
}

/// Other processes with this text in their command line.
pub(crate) fn processes(text: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        .filter(|pid| *pid != std::process::id().to_string())
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(text)
        })
        .collect()
}
