//! A small site of Python's standard library, and a target to deploy it to.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pipeline_deploy::health::{HealthWindow, HttpCheck};
use pipeline_deploy::local::{AppCommand, LocalApp, LocalTarget, SharedPath, SupervisorCommand};
use pipeline_deploy::release::{Release, ReleaseId};
use pipeline_deploy::target::{DeployOptions, DeployReport, DeployTargetExt, Unobserved};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

/// `mode` says how it behaves: `ok`, `crash` (ends at once), `late` (listens after half a
/// second), `sick` (answers 500), `host` (answers like Django to a strange host),
/// `shared` (as the shared file `health` says).
const APP: &str = r#"
import http.server, os, pathlib, signal, sys, threading, time
mode = pathlib.Path("mode").read_text()
version = pathlib.Path("version").read_text()
if mode == "crash":
    sys.exit("this release crashes")
if mode == "late":
    time.sleep(0.5)

born = open("health").read() if mode == "shared" else ""

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/slow":
            time.sleep(1.0)
        body = version + " " + str(os.getpid())
        status = 200
        if mode == "shared":
            health = open("health").read()
            # `once`: sick in the process that is there, well in the next one.
            status = 200 if health == "200" or born == "once" else 500
        if mode == "sick":
            status, body = 500, "no database"
        if mode == "host":
            status, body = 400, "<h1>Bad Request (400)</h1>"
            print("Invalid HTTP_HOST header: 'x'. You may need to add it", file=sys.stderr)
        if self.path == "/count":
            with open("db.txt", "a") as db:
                db.write("x")
            body = str(len(open("db.txt").read()))
        if self.path == "/die":
            os._exit(3)
        data = body.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def log_message(self, *args):
        pass

class Server(http.server.ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 128

server = Server(("127.0.0.1", int(sys.argv[1])), Handler)
signal.signal(signal.SIGTERM, lambda *a: threading.Thread(target=server.shutdown).start())
server.serve_forever(poll_interval=0.02)
server.server_close()
"#;

/// A site's folders; all its processes end when it is dropped, because its folder goes.
#[derive(Debug)]
pub(crate) struct Site {
    root: TempDir,
    /// Below the root; may be deep.
    pub(crate) folder: PathBuf,
}

impl Site {
    pub(crate) fn new() -> Self {
        Self::below("target")
    }

    pub(crate) fn below(path: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().canonicalize().unwrap().join(path);
        Self { root, folder }
    }

    /// The files of a version.
    pub(crate) fn source(&self, version: &str, mode: &str) -> PathBuf {
        let app = self.root.path().join("apps").join(version);
        fs::create_dir_all(&app).unwrap();
        for (name, text) in [("app.py", APP), ("version", version), ("mode", mode)] {
            fs::write(app.join(name), text).unwrap();
        }
        app
    }

    pub(crate) fn release(&self, version: &str, mode: &str) -> Release {
        let digest = format!("sha256:{version}-{mode}");
        Release::new(ReleaseId::new(version).unwrap(), digest)
            .with_source(self.source(version, mode))
    }

    pub(crate) fn app() -> LocalApp {
        let serve = AppCommand::new("serve", "python3").with_args(["app.py", "{port}"]);
        LocalApp::new(serve)
            .with_shared(SharedPath::file("db.txt"))
            .with_health(HttpCheck::new("/"))
            .with_stop_grace(Duration::from_secs(5))
            .with_window(
                HealthWindow::default()
                    .with_limit(Duration::from_secs(60))
                    .with_interval(Duration::from_millis(50)),
            )
    }

    pub(crate) fn target(&self) -> LocalTarget {
        self.target_of(Self::app())
    }

    pub(crate) fn target_of(&self, app: LocalApp) -> LocalTarget {
        let supervisor = SupervisorCommand::new(env!("CARGO_BIN_EXE_pipeline-supervisor"));
        LocalTarget::new(&self.folder, supervisor, app).unwrap()
    }

    pub(crate) async fn deploy(&self, version: &str, mode: &str) -> DeployReport {
        deploy(&self.target(), &self.release(version, mode)).await
    }

    /// Every process that carries the target's tag.
    pub(crate) fn processes(&self) -> Vec<String> {
        let tag = format!("PIPELINE_DEPLOY_TARGET={}", self.folder.display());
        let supervisor = self.folder.display().to_string();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let read = |name| fs::read(entry.path().join(name)).unwrap_or_default();
            let has = |bytes: &[u8], text: &str| {
                bytes.split(|b| *b == 0).any(|part| part == text.as_bytes())
            };
            let command = read("cmdline");
            if has(&read("environ"), &tag) || has(&command, &supervisor) {
                found.push(String::from_utf8_lossy(&command).replace('\0', " "));
            }
        }
        found
    }

    /// Waits until no process of it is left.
    pub(crate) async fn gone(&self) {
        until("its processes to end", || self.processes().is_empty()).await;
    }
}

pub(crate) async fn deploy(target: &LocalTarget, release: &Release) -> DeployReport {
    let options = DeployOptions::default();
    target.deploy(release, &options, &Unobserved).await.unwrap()
}

/// The address of a report that must be a success.
pub(crate) fn live(report: &DeployReport) -> String {
    assert!(matches!(report, DeployReport::Live { .. }), "{report:?}");
    report.live().unwrap().address.clone()
}

/// Polls a condition; the limit only ends a test that would fail.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// The body of an answer, on a connection of its own.
pub(crate) async fn get(address: &str, path: &str) -> Result<String, String> {
    let at = address.trim_start_matches("http://").trim_end_matches('/');
    let request = async {
        let mut stream = TcpStream::connect(at).await?;
        let text = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        stream.write_all(text.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = request.await.map_err(|error| error.to_string())?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or(format!("cut: {answer:?}"))?;
    if head.contains(" 200 ") {
        Ok(body.to_owned())
    } else {
        Err(head.to_owned())
    }
}

/// The version that answers.
pub(crate) async fn version(address: &str) -> String {
    let body = get(address, "/").await.unwrap();
    body.split(' ').next().unwrap().to_owned()
}

pub(crate) fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
