//! The local target with the server that Django sites use, under load.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use pipeline_deploy::health::{HealthWindow, HttpCheck};
use pipeline_deploy::local::{AppCommand, LocalApp};
use pipeline_deploy::release::Release;
use pipeline_deploy::target::DeployReport;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::site::{Site, deploy, get, live, until};

/// Answers with version and process; `sick` answers 500.
const WSGI: &str = r#"
import os, pathlib, time
mode = pathlib.Path("mode").read_text()
version = pathlib.Path("version").read_text()
if mode == "crash":
    raise SystemExit("this release crashes")

def app(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        time.sleep(0.3)
    body = ("%s %d" % (version, os.getpid())).encode()
    status = "500 Oh" if mode == "sick" else "200 OK"
    start_response(status, [("Content-Length", str(len(body)))])
    return [body]
"#;

/// A virtual environment with gunicorn, made once and kept between runs.
fn gunicorn() -> &'static Path {
    static VENV: OnceLock<PathBuf> = OnceLock::new();
    VENV.get_or_init(|| {
        let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("gunicorn-venv");
        let program = venv.join("bin/gunicorn");
        if !program.exists() {
            let run = |program: &Path, args: &[&str]| {
                let status = Command::new(program).args(args).status().unwrap();
                assert!(status.success(), "{program:?} {args:?}");
            };
            let folder = venv.to_str().unwrap();
            run(Path::new("python3"), &["-m", "venv", "--clear", folder]);
            let pip = ["-m", "pip", "install", "-q", "gunicorn==23.0.0"];
            run(&venv.join("bin/python"), &pip);
        }
        program
    })
}

fn app(worker: &str) -> LocalApp {
    let serve = AppCommand::new("serve", gunicorn().to_str().unwrap()).with_args([
        "--workers=2",
        "--worker-class",
        worker,
        "--threads=4",
        "--bind=127.0.0.1:{port}",
        "wsgi:app",
    ]);
    LocalApp::new(serve)
        .with_health(HttpCheck::new("/"))
        .with_drain(Duration::from_secs(5))
        .with_window(
            HealthWindow::default()
                .with_limit(Duration::from_secs(60))
                .with_interval(Duration::from_millis(50)),
        )
}

fn release(site: &Site, version: &str, mode: &str) -> Release {
    let release = site.release(version, mode);
    let source = release.source.as_ref().unwrap();
    fs::write(source.join("wsgi.py"), WSGI).unwrap();
    release
}

#[derive(Debug, Default)]
struct Tally {
    good: AtomicU64,
    bad: Mutex<Vec<String>>,
    end: AtomicBool,
}

impl Tally {
    fn count(&self, client: &str, result: Result<String, String>) {
        match result {
            Ok(_) => drop(self.good.fetch_add(1, Ordering::Relaxed)),
            Err(error) => self.bad.lock().unwrap().push(format!("{client}: {error}")),
        }
    }

    fn ended(&self) -> bool {
        self.end.load(Ordering::Relaxed)
    }
}

/// More requests than this are not under way at once: a machine that is too slow for the
/// load is not what is tested.
const UNDER_WAY: usize = 64;

/// 200 requests a second, each on a connection of its own.
async fn steady_load(address: String, tally: Arc<Tally>) {
    let mut tick = interval(Duration::from_millis(5));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut requests = tokio::task::JoinSet::new();
    while !tally.ended() {
        tick.tick().await;
        let (address, tally) = (address.clone(), tally.clone());
        requests.spawn(async move { tally.count("new", get(&address, "/").await) });
        while requests.try_join_next().is_some() {}
        if requests.len() >= UNDER_WAY {
            requests.join_next().await;
        }
    }
    requests.join_all().await;
}

/// A client that keeps its connection as long as the server lets it, and never tries again:
/// a connection that ends without `Connection: close` is a failure.
async fn keep_alive_load(address: String, tally: Arc<Tally>) {
    let at = address
        .trim_start_matches("http://")
        .trim_end_matches('/')
        .to_owned();
    let mut connection = None;
    while !tally.ended() {
        let mut stream = match connection.take() {
            Some(stream) => stream,
            None => TcpStream::connect(&at).await.unwrap(),
        };
        match keep_alive_request(&mut stream).await {
            Ok(keeps) => {
                tally.count("kept", Ok(String::new()));
                connection = keeps.then_some(stream);
            }
            Err(error) => tally.count("kept", Err(error)),
        }
        sleep(Duration::from_millis(20)).await;
    }
}

async fn keep_alive_request(stream: &mut TcpStream) -> Result<bool, String> {
    let text = |error: std::io::Error| error.to_string();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .map_err(text)?;
    let mut answer = Vec::new();
    loop {
        let seen = String::from_utf8_lossy(&answer).into_owned();
        if let Some((head, body)) = seen.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head.split("content-length: ").nth(1).unwrap();
            let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
            if body.len() >= length {
                assert!(head.contains(" 200 "), "{head}");
                return Ok(!head.contains("connection: close"));
            }
        }
        if stream.read_buf(&mut answer).await.map_err(text)? == 0 {
            return Err(format!("ended after {} bytes", answer.len()));
        }
    }
}

async fn switches_under_load(worker: &'static str, keep_alive_clients: usize) {
    let site = Site::new();
    let target = site.target_of(app(worker));
    let address = live(&deploy(&target, &release(&site, "r0", "ok")).await);
    let tally = Arc::new(Tally::default());
    let mut clients = tokio::task::JoinSet::new();
    clients.spawn(steady_load(address.clone(), tally.clone()));
    for _ in 0..keep_alive_clients {
        clients.spawn(keep_alive_load(address.clone(), tally.clone()));
    }
    let short = HealthWindow::default()
        .with_limit(Duration::from_secs(60))
        .with_bad_answers(3)
        .with_interval(Duration::from_millis(100));
    let hasty = site.target_of(app(worker).with_window(short));
    for round in 1..=5 {
        let version = format!("r{round}");
        let report = deploy(&target, &release(&site, &version, "ok")).await;
        assert_eq!(live(&report), address);
        let mode = if round % 2 == 0 { "crash" } else { "sick" };
        let report = deploy(&hasty, &release(&site, &format!("bad{round}"), mode)).await;
        assert!(
            matches!(report, DeployReport::RolledBack { .. }),
            "{report:?}"
        );
        assert!(get(&address, "/").await.unwrap().starts_with(&version));
    }
    // Until the last former release has ended: one gunicorn with its two workers, the
    // supervisor.
    until("former releases to end", || site.processes().len() == 4).await;
    tally.end.store(true, Ordering::Relaxed);
    clients.join_all().await;
    let (good, bad) = (
        tally.good.load(Ordering::Relaxed),
        tally.bad.lock().unwrap().clone(),
    );
    println!("{worker}: {good} answered, {} failed", bad.len());
    assert!(good > 1000, "{good}");
    assert!(
        bad.is_empty(),
        "{} of {good} failed: {:?}",
        bad.len(),
        &bad[..bad.len().min(5)]
    );
    target.instance().stop().await.unwrap();
    assert_eq!(site.processes(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs gunicorn from PyPI"]
async fn no_request_fails_over_ten_switches_with_sync_workers() {
    switches_under_load("sync", 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs gunicorn from PyPI"]
async fn no_request_fails_over_ten_switches_with_kept_connections() {
    switches_under_load("gthread", 8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs gunicorn from PyPI"]
async fn a_slow_request_is_finished_by_the_release_that_began_it() {
    let site = Site::new();
    let target = site.target_of(app("gthread"));
    let address = live(&deploy(&target, &release(&site, "r1", "ok")).await);
    for round in 2..5 {
        let slow = tokio::spawn({
            let address = address.clone();
            async move { get(&address, "/slow").await }
        });
        sleep(Duration::from_millis(50)).await;
        live(&deploy(&target, &release(&site, &format!("r{round}"), "ok")).await);
        let answer = slow.await.unwrap().unwrap();
        assert!(answer.starts_with(&format!("r{}", round - 1)), "{answer}");
    }
}
