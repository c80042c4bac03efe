//! Images without a registry, and what the tests have in common.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use pipeline_core::executor::EnvironmentRequest;
use pipeline_core::{CommandSpec, Environment, EventSink, Executor, ExitStatus, Scope, Stream};
use pipeline_docker::container::{ContainerExecutor, ContainerSpec};
use pipeline_docker::engine::Engine;

/// Runs a program and gives what it printed; anything but success fails the test.
pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// An image with busybox, its shell and all its other names. It is made once and stays on the
/// engine.
pub(crate) fn busybox() -> &'static str {
    const TAG: &str = "pipeline-tests/busybox:1";
    static MADE: OnceLock<()> = OnceLock::new();
    MADE.get_or_init(|| {
        if !exists(TAG) {
            let root = tempfile::tempdir().unwrap();
            busybox_into(root.path());
            import(root.path(), TAG, &["CMD [\"/bin/sh\"]"]);
        }
    });
    TAG
}

pub(crate) fn exists(tag: &str) -> bool {
    let output = Command::new("docker")
        .args(["image", "inspect", tag])
        .output()
        .unwrap();
    output.status.success()
}

/// A root file system with busybox alone.
pub(crate) fn busybox_into(root: &Path) {
    for folder in ["bin", "etc", "tmp", "root"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox"))
        .expect("/bin/busybox: install busybox-static");
    for name in run("/bin/busybox", &["--list"]).lines() {
        if name != "busybox" {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
        }
    }
    std::fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nworker:x:1000:1000::/tmp:/bin/sh\n",
    )
    .unwrap();
    std::fs::write(
        root.join("etc/os-release"),
        "PRETTY_NAME=\"Busybox tests\"\n",
    )
    .unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(root.join("tmp"), PermissionsExt::from_mode(0o1777)).unwrap();
}

/// Gives a root file system to the engine as an image.
pub(crate) fn import(root: &Path, tag: &str, changes: &[&str]) {
    use std::process::Stdio;
    let mut tar = Command::new("tar")
        .args(["--numeric-owner", "-C", root.to_str().unwrap(), "-c", "."])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut import = Command::new("docker");
    import.args(["import", "--change", "LABEL pipeline.tests=1"]);
    for change in changes {
        import.args(["--change", change]);
    }
    let imported = import
        .args(["-", tag])
        .stdin(tar.stdout.take().unwrap())
        .output()
        .unwrap();
    assert!(tar.wait().unwrap().success());
    assert!(
        imported.status.success(),
        "{}",
        String::from_utf8_lossy(&imported.stderr)
    );
}

pub(crate) async fn executor(spec: ContainerSpec) -> ContainerExecutor {
    let engine = Engine::from_env().await.expect("a Docker engine");
    ContainerExecutor::new(engine, spec)
}

/// A job folder of its own; what is labelled with its scope on the engine belongs to the test.
pub(crate) struct Ground {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) scope: Scope,
}

impl Ground {
    pub(crate) fn new(name: &str) -> Self {
        let folder = tempfile::Builder::new()
            .prefix(&format!("{name}-"))
            .tempdir()
            .unwrap();
        let scope = Scope::new(&folder.path().file_name().unwrap().to_string_lossy());
        Self { folder, scope }
    }

    pub(crate) fn path(&self) -> PathBuf {
        std::fs::canonicalize(self.folder.path()).unwrap()
    }

    pub(crate) fn request(&self) -> EnvironmentRequest {
        EnvironmentRequest::new(
            self.scope.clone(),
            "job under test",
            self.path(),
            EventSink::discard(),
        )
    }

    pub(crate) async fn provision(&self, spec: ContainerSpec) -> Box<dyn Environment> {
        let executor = executor(spec).await;
        executor.provision(&self.request()).await.unwrap()
    }

    /// Names of the containers and networks that the engine has of this test.
    pub(crate) fn left(&self) -> Vec<String> {
        left(&self.scope)
    }
}

pub(crate) fn left(scope: &Scope) -> Vec<String> {
    let filter = format!("label=pipeline.scope={scope}");
    let containers = run(
        "docker",
        &["ps", "-a", "--filter", &filter, "--format", "{{.Names}}"],
    );
    let networks = run(
        "docker",
        &[
            "network",
            "ls",
            "--filter",
            &filter,
            "--format",
            "{{.Name}}",
        ],
    );
    containers
        .lines()
        .chain(networks.lines())
        .map(str::to_owned)
        .collect()
}

/// Waits until the engine has nothing of a scope any more: clean-up after a dropped future happens
/// in the background.
pub(crate) async fn nothing_left(scope: &Scope) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    for _ in 0..300 {
        let left = {
            let _guard = ONE_AT_A_TIME.lock();
            left(scope)
        };
        if left.is_empty() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("still there: {:?}", left(scope));
}

#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) fn sh(script: &str) -> CommandSpec {
    CommandSpec::new("sh").args(["-c", script])
}

pub(crate) async fn finish(environment: &dyn Environment, command: CommandSpec) -> Finished {
    let mut process = environment.spawn(&command).await.unwrap();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    while let Some(chunk) = process.output().await {
        match chunk.stream {
            Stream::Stdout => stdout.extend(chunk.bytes),
            Stream::Stderr => stderr.extend(chunk.bytes),
        }
    }
    Finished {
        status: process.wait().await.unwrap(),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    }
}
