//! What the tests of builds share.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use pipeline_docker::builder::{BuildEvent, BuildObserver};
use tempfile::TempDir;

/// A name that no other test has.
pub(crate) fn unique(what: &str) -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("pdt{}x{count}-{what}", std::process::id())
}

/// A context whose Dockerfile begins with a shell and nothing else; what comes behind it is given.
pub(crate) fn context(dockerfile: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let shell = "/bin/busybox";
    fs::copy(shell, folder.path().join("busybox"))
        .unwrap_or_else(|error| panic!("busybox-static must be installed: {error}"));
    let text = format!(
        "FROM scratch AS base\nCOPY busybox /bin/busybox\nSHELL [\"/bin/busybox\", \"sh\", \"-c\"]\n{dockerfile}\n"
    );
    fs::write(folder.path().join("Dockerfile"), text).unwrap();
    folder
}

pub(crate) fn write(folder: &Path, name: &str, content: &str) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
}

/// The docker command line, with the engine at `host` or the default one.
pub(crate) fn docker(host: Option<&str>, arguments: &[&str]) -> Output {
    let mut command = Command::new("docker");
    if let Some(host) = host {
        command.args(["--host", host]);
    }
    let output = command.args(arguments).output();
    output.unwrap_or_else(|error| panic!("docker must be installed: {error}"))
}

/// What the docker command line prints, when it must succeed.
pub(crate) fn said(arguments: &[&str]) -> String {
    let output = docker(None, arguments);
    assert!(
        output.status.success(),
        "docker {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Whether the engine knows this image.
pub(crate) fn exists(host: Option<&str>, image: &str) -> bool {
    docker(host, &["image", "inspect", image]).status.success()
}

/// Takes images off the engine again, by name or id.
pub(crate) struct Images(pub(crate) Vec<String>);

impl Drop for Images {
    fn drop(&mut self) {
        for name in &self.0 {
            docker(None, &["image", "rm", "--force", name]);
        }
    }
}

/// Runs an image once.
pub(crate) fn run(image: &str, command: &[&str]) -> String {
    let mut arguments = vec!["run", "--rm", "--network", "none", image];
    arguments.extend(command);
    said(&arguments)
}

/// Whether a process with this text in its command line runs on this machine.
pub(crate) fn runs(mark: &str) -> bool {
    fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let name = entry.file_name();
        let own = name.to_str() == Some(&std::process::id().to_string());
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        // The mark is part of this test's own file names at most.
        !own && String::from_utf8_lossy(&line).contains(mark)
    })
}

/// Remembers what a build tells, and does something at each event.
pub(crate) struct Ear {
    pub(crate) heard: Mutex<Vec<BuildEvent>>,
    act: Box<dyn Fn(&BuildEvent) + Send + Sync>,
}

impl std::fmt::Debug for Ear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ear").finish_non_exhaustive()
    }
}

impl Ear {
    pub(crate) fn new() -> Arc<Self> {
        Self::acting(|_| {})
    }

    pub(crate) fn acting(act: impl Fn(&BuildEvent) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            heard: Mutex::default(),
            act: Box::new(act),
        })
    }

    pub(crate) fn has(&self, wanted: impl Fn(&BuildEvent) -> bool) -> bool {
        self.heard.lock().unwrap().iter().any(wanted)
    }

    pub(crate) fn printed(&self, line: &str) -> bool {
        self.has(|event| matches!(event, BuildEvent::Line { text } if text.trim() == line))
    }

    pub(crate) fn warned(&self, part: &str) -> bool {
        self.has(|event| matches!(event, BuildEvent::Warning { message } if message.contains(part)))
    }
}

impl BuildObserver for Ear {
    fn event(&self, event: &BuildEvent) {
        self.heard.lock().unwrap().push(event.clone());
        (self.act)(event);
    }
}
