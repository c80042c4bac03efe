//! The main program, called as people and other programs call it.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::{
    layouts::{self, Expect, Layout},
    load::{Load, LoadOptions},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_django_delivery");

/// A data folder, and the calls that use it. Whatever was deployed ends with it.
struct Delivery {
    dir: tempfile::TempDir,
}

struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Delivery {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // A base of one file: making one of Debian packages is tested by itself.
        std::fs::create_dir_all(dir.path().join("base/etc")).unwrap();
        std::fs::write(dir.path().join("base/etc/issue"), "tiny\n").unwrap();
        Self { dir }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args(args)
            .arg("--data-dir")
            .arg(self.data())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn call(&self, args: &[&str]) -> Ran {
        let output = self.command(args).output().unwrap();
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn run(&self, args: &[&str]) -> Ran {
        let base = self.dir.path().join("base").to_str().unwrap().to_owned();
        let mut all = vec!["run", "--base", &base];
        all.extend(args);
        self.call(&all)
    }

    fn begin(&self, args: &[&str]) -> Child {
        let base = self.dir.path().join("base");
        self.command(args).arg("--base").arg(base).spawn().unwrap()
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.call(&["stop"]);
    }
}

impl Ran {
    #[track_caller]
    fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    fn says(self, text: &str) -> Self {
        assert!(
            self.stderr.contains(text),
            "{text:?} is missing in\n{}",
            self.stderr
        );
        self
    }

    /// A line of the closing block.
    #[track_caller]
    fn closing(&self, label: &str) -> String {
        let line = self.stderr.lines().rev().find_map(|line| {
            let rest = line.strip_prefix("   ")?.strip_prefix(label)?;
            rest.starts_with(' ').then(|| rest.trim().to_owned())
        });
        line.unwrap_or_else(|| panic!("no line {label:?} in\n{}", self.stderr))
    }

    #[track_caller]
    fn digest(&self) -> String {
        let line = self
            .stderr
            .lines()
            .find(|line| line.contains(" tagged "))
            .unwrap();
        let digest = line
            .split_whitespace()
            .find(|word| word.starts_with("sha256:"));
        digest.unwrap().to_owned()
    }
}

/// Status and body of a GET.
fn get(address: &str, path: &str) -> (u16, String) {
    let authority = address.trim_start_matches("http://").trim_end_matches('/');
    let mut stream = TcpStream::connect(authority).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

/// Processes that work in a folder or were called with a path in it.
fn processes_in(folder: &Path) -> Vec<String> {
    let text = folder.to_str().unwrap();
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse::<u32>().ok()?;
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let here = std::fs::read_link(entry.path().join("cwd"))
                .is_ok_and(|cwd| cwd.starts_with(folder));
            (pid != std::process::id() && (here || line.contains(text)))
                .then(|| format!("{pid} {line}"))
        })
        .collect()
}

#[test]
fn usage_errors_exit_with_2() {
    let delivery = Delivery::new();
    for args in [
        &["--no-such-option"][..],
        &["run", "--env", "no equals sign"],
        &["run", "--health-path", "without-slash"],
        &["resume"],
        &["run", "--source", "/no/such/folder"],
        &[
            "run",
            "--branch",
            "no-such-branch",
            "--source",
            "{repository}",
        ],
        &["resume", "no-such-run"],
        &["resume", "../escape"],
    ] {
        let repository = empty_repository(delivery.dir.path());
        let args: Vec<&str> = args
            .iter()
            .map(|arg| {
                if *arg == "{repository}" {
                    repository.to_str().unwrap()
                } else {
                    arg
                }
            })
            .collect();
        delivery.call(&args).exits(2);
    }
    for secret in ["canary-value-without-a-name", "9KEY=canary-value"] {
        let refused = delivery.call(&["plan", "--secret", secret]).exits(2);
        assert!(
            refused.stderr.contains("expected NAME=VALUE"),
            "{}",
            refused.stderr
        );
        assert!(!refused.stderr.contains("canary"), "{}", refused.stderr);
    }
    for image in ["../../escaped", "/absolute", "", "UPPER", "name:tag"] {
        let refused = delivery.call(&["plan", "--image", image]).exits(2);
        assert!(refused.stderr.contains("--image"), "{}", refused.stderr);
    }
    delivery
        .call(&["plan", "--branch", "a..b"])
        .exits(2)
        .says("not a name for a branch");
}

fn empty_repository(dir: &Path) -> PathBuf {
    let folder = dir.join("repository");
    if !folder.exists() {
        std::fs::create_dir(&folder).unwrap();
        for args in [
            &["init", "--quiet", "--initial-branch=main"][..],
            &[
                "-c",
                "user.name=t",
                "-c",
                "user.email=t@localhost",
                "commit",
                "--quiet",
                "--allow-empty",
                "-m",
                "x",
            ],
        ] {
            let done = Command::new("git")
                .args(args)
                .current_dir(&folder)
                .status()
                .unwrap();
            assert!(done.success());
        }
    }
    folder
}

#[test]
fn a_plan_names_what_will_not_run_and_why() {
    let delivery = Delivery::new();
    let plan = delivery
        .call(&["plan", "--release-branch", "production", "--deploy", "none"])
        .exits(0);
    assert!(
        plan.stdout
            .contains("- image: will not run: branch main is not among production"),
        "{}",
        plan.stdout
    );
    assert!(
        plan.stdout
            .contains("- deploy: will not run: --deploy none"),
        "{}",
        plan.stdout
    );
    assert!(
        plan.stdout.contains("flake8 (not blocking)"),
        "{}",
        plan.stdout
    );
    let json = delivery.call(&["plan", "--reporter", "json"]).exits(0);
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["jobs"].as_array().unwrap().len(), 6);
}

#[test]
fn a_reader_that_goes_away_changes_no_verdict() {
    let delivery = Delivery::new();
    for args in [&["plan"][..], &["run", "--branch", "a..b"]] {
        let mut child = delivery.command(args).spawn().unwrap();
        drop((child.stdout.take(), child.stderr.take()));
        let code = child.wait().unwrap().code();
        assert_eq!(
            code,
            Some(if args[0] == "plan" { 0 } else { 2 }),
            "{args:?}"
        );
    }
}

#[test]
fn a_stop_without_a_site_is_no_error() {
    Delivery::new()
        .call(&["stop"])
        .exits(0)
        .says("nothing is deployed");
}

#[test]
#[ignore = "needs the package index"]
fn a_site_goes_live_and_a_second_run_changes_nothing() {
    let delivery = Delivery::new();
    let first = delivery
        .run(&[])
        .exits(0)
        .says("CIRCLE_BRANCH=main")
        .says("25 passed");
    assert!(first.stderr.contains("! lint/flake8"), "{}", first.stderr);
    assert!(first.stderr.contains("not blocking:"), "{}", first.stderr);
    assert!(
        first
            .stderr
            .contains("No cache is found for key: deps1-main-"),
        "{}",
        first.stderr
    );
    let site = first.closing("site");
    let (status, page) = get(&site, "/");
    assert_eq!(status, 200);
    let link = page.split('"').find(|part| part.ends_with(".css")).unwrap();
    let (status, css) = get(&site, link);
    assert!(status == 200 && css.contains('{'), "{status} {css}");

    let second = delivery
        .run(&[])
        .exits(0)
        .says("cache hit: deps1-main-")
        .says("nothing to deploy: release");
    assert_eq!(second.digest(), first.digest());
    assert_eq!(second.closing("site"), site);
    assert!(
        second
            .stderr
            .contains("nothing to do: restored from the cache"),
        "{}",
        second.stderr
    );

    delivery.call(&["stop"]).exits(0);
    assert!(TcpStream::connect(site.trim_start_matches("http://").trim_end_matches('/')).is_err());
    assert_eq!(processes_in(&delivery.data()), Vec::<String>::new());

    // The same address after a stop, with nothing else changed.
    let third = delivery.run(&[]).exits(0);
    assert_eq!(third.closing("site"), site);
    assert_eq!(get(&site, "/").0, 200);
}

#[test]
#[ignore = "needs the package index"]
fn two_data_folders_give_the_same_image() {
    let (one, two) = (Delivery::new(), Delivery::new());
    let args = ["--deploy", "none"];
    // Not even the bases lie at the same path.
    assert_eq!(
        one.run(&args).exits(0).digest(),
        two.run(&args).exits(0).digest()
    );
}

#[test]
#[ignore = "needs the package index"]
fn broken_tests_stop_the_delivery_and_can_be_seen_again() {
    let delivery = Delivery::new();
    let broken = delivery
        .run(&["--break", "tests"])
        .exits(1)
        .says("test_broken_on_purpose")
        .says("image: not run: test failed")
        .says("deploy: not run");
    let line = broken
        .stderr
        .lines()
        .skip_while(|line| !line.contains("test/tests failed"))
        .find_map(|line| line.trim().strip_prefix("reproduce  "))
        .unwrap();
    let again = Command::new("bash").args(["-c", line]).output().unwrap();
    assert_eq!(again.status.code(), Some(1));
    let text = String::from_utf8_lossy(&again.stdout);
    assert!(
        text.contains("test_broken_on_purpose") && text.contains("1 failed"),
        "{text}"
    );
}

#[test]
#[ignore = "needs the package index"]
fn a_switch_loses_no_request_whether_the_release_is_good_or_bad() {
    let delivery = Delivery::new();
    let source = delivery.dir.path().join("source");
    layouts::setup_cfg().write(&source);
    let source_arg = source.to_str().unwrap().to_owned();
    let args = ["--source", source_arg.as_str()];
    let first = delivery.run(&args).exits(0);
    let site = first.closing("site");
    let load = Load::start(&site, &LoadOptions::default().with_rate(200));

    // A good release.
    std::fs::write(source.join("changed.txt"), "one").unwrap();
    let good = delivery.run(&args).exits(0);
    assert_eq!(good.closing("site"), site);
    assert_ne!(good.digest(), first.digest());

    // A release that never becomes healthy.
    let bad: Vec<&str> = args.into_iter().chain(["--break", "health"]).collect();
    let bad = delivery.run(&bad).exits(4).says("rolled back").says("500");
    assert!(bad.stderr.contains("still serves"), "{}", bad.stderr);

    let report = load.stop();
    assert!(report.sent > 1000, "{report:?}");
    assert_eq!(report.failed, 0, "{report:?}");
    assert_eq!(get(&site, "/").0, 200);
}

macro_rules! layouts_are_delivered {
    ($($name:ident)*) => {$(
        #[test]
        #[ignore = "needs the package index"]
        fn $name() {
            delivered(&layouts::$name());
        }
    )*};
}

layouts_are_delivered! {
    utf16_requirements src_folder hashed_requirements pytest_ini no_pytest failing_test
    missing_requirements split_settings disallowed_host latin1_requirements two_projects
}

fn delivered(layout: &Layout) {
    let delivery = Delivery::new();
    let source = delivery.dir.path().join("source");
    layout.write(&source);
    let mut args = vec!["--source", source.to_str().unwrap()];
    args.extend(&layout.args);
    let ran = delivery.run(&args);
    match layout.expect {
        Expect::Live => {
            let ran = ran
                .exits(0)
                .says(&format!("{} tests, {} passed", layout.tests, layout.tests));
            let site = ran.closing("site");
            let (status, page) = get(&site, "/");
            assert!(
                status == 200 && page.contains(layout.page),
                "{status} {page}"
            );
            if let Some(path) = layout.static_path {
                assert_eq!(get(&site, path).0, 200, "{path}");
            }
        }
        Expect::TestsFail => drop(ran.exits(1).says("deploy: not run")),
        Expect::PlanError(text) => drop(ran.exits(1).says(text)),
        Expect::Unhealthy(text) => drop(ran.exits(4).says(text)),
    }
}

#[test]
#[ignore = "needs the package index"]
fn a_program_that_is_killed_at_any_moment_is_in_nobodys_way() {
    let delivery = Delivery::new();
    let source = delivery.dir.path().join("source");
    layouts::pytest_ini().write(&source);
    let source_arg = source.to_str().unwrap().to_owned();
    // Until the first run is through it costs minutes; where it is killed is what varies.
    let mut seed = std::process::id();
    for round in 0..10 {
        std::fs::write(source.join("round.txt"), round.to_string()).unwrap();
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let mut child = delivery.begin(&["run", "--source", &source_arg]);
        let moment = Duration::from_millis(u64::from(seed >> 16) % (1000 * (round + 2)));
        std::thread::sleep(moment);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let last = delivery.run(&["--source", &source_arg]).exits(0);
    assert!(
        !last.stderr.contains("another run is using the folder"),
        "{}",
        last.stderr
    );
    let site = last.closing("site");
    assert_eq!(get(&site, "/").0, 200);
    delivery.call(&["stop"]).exits(0);
    assert_eq!(processes_in(&delivery.data()), Vec::<String>::new());
    let stray: Vec<_> = std::fs::read_dir(delivery.data().join("work"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "site" && !name.starts_with(".site."))
        .collect();
    assert_eq!(stray, Vec::<String>::new());
}

#[test]
#[ignore = "needs the package index"]
fn an_interrupt_cleans_up_and_exits_with_130() {
    let delivery = Delivery::new();
    let child = delivery.begin(&[
        "run",
        "--test-command",
        "echo begun > ../../begun; sleep 1000",
    ]);
    let marker = delivery.data().join("work/begun");
    while !marker.exists() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert!(text.contains("CANCELLED"), "{text}");
    assert_eq!(processes_in(&delivery.data()), Vec::<String>::new());
}

#[test]
#[ignore = "needs the package index"]
fn a_secret_is_in_no_file_but_the_one_that_starts_the_site() {
    const CANARY: &str = "canary-5e1d/77+x";
    let delivery = Delivery::new();
    let secret = format!("TOKEN={CANARY}");
    let ran = delivery
        .run(&[
            "--secret",
            &secret,
            "--reporter",
            "json",
            "--test-command",
            "printf '%s' \"$TOKEN\"; printf '%s' \"$TOKEN\" | base64; python -m pytest",
        ])
        .exits(0);
    for event in ran.stdout.lines() {
        serde_json::from_str::<serde_json::Value>(event).unwrap();
    }
    assert!(ran.stdout.contains("***") && ran.stdout.contains("TOKEN=**REDACTED**"));
    let mut sinks = vec![
        ("stdout".to_owned(), ran.stdout),
        ("stderr".to_owned(), ran.stderr),
    ];
    let mut folders = vec![delivery.data()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let Ok(kind) = path.symlink_metadata().map(|found| found.file_type()) else {
                continue;
            };
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                use std::os::unix::fs::PermissionsExt;
                let private = path.metadata().unwrap().permissions().mode() & 0o077 == 0;
                let inside = path.starts_with(delivery.data().join("deploy"));
                // The supervisor needs it to start the site again; only its owner can read it.
                if !(private && inside) {
                    let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
                    sinks.push((path.display().to_string(), text));
                }
            }
        }
    }
    for (name, text) in sinks {
        assert!(!text.contains(CANARY), "the secret is in {name}");
        assert!(
            !text.contains("Y2FuYXJ5LTVlMWQvNzcr"),
            "the secret is in {name}, encoded"
        );
    }
}

#[test]
#[ignore = "needs docker-registry"]
fn a_pushed_image_is_not_pushed_again_and_a_failed_push_is_resumed() {
    let delivery = Delivery::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let registry = format!("127.0.0.1:{port}");
    const CANARY: &str = "canary-9c1f-6b";
    let secret = format!("TOKEN={CANARY}");
    let check = format!("test \"$TOKEN\" = {CANARY}");
    let args = [
        "--registry",
        &registry,
        "--deploy",
        "none",
        "--secret",
        &secret,
        "--test-command",
        &check,
    ];
    let failed = delivery.run(&args).exits(3).says("push");
    let resume = failed.closing("resume");

    let config = delivery.dir.path().join("registry.yml");
    let storage = delivery.dir.path().join("registry");
    std::fs::write(
        &config,
        format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {registry}}}\n",
            storage.display()
        ),
    )
    .unwrap();
    let server = Command::new("docker-registry")
        .args(["serve", config.to_str().unwrap()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _server = Ends(server);
    while TcpStream::connect(&registry).is_err() {
        std::thread::sleep(Duration::from_millis(20));
    }
    // The printed line is all that is needed, besides the secret itself.
    let output = Command::new("bash")
        .args(["-c", &resume])
        .env("TOKEN", CANARY)
        .output()
        .unwrap();
    let resumed = Ran {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    };
    let resumed = resumed.exits(0).says("prepare: kept").says("test: kept");
    assert!(resumed.stderr.contains(" sent in "), "{}", resumed.stderr);
    let again = delivery
        .run(&args)
        .exits(0)
        .says("already there, nothing sent");
    assert_eq!(again.digest(), resumed.digest());

    // A base from the registry: what was just pushed.
    let tag = again
        .stderr
        .lines()
        .find_map(|line| line.split(" tagged ").nth(1))
        .unwrap();
    let reference = format!("{registry}/site:{}", tag.trim());
    delivery
        .call(&["run", "--deploy", "none", "--base", &reference])
        .exits(0)
        .says(&format!("{reference} at sha256:"));
}

/// Kills a child when it is dropped.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
#[ignore = "needs docker, skopeo and umoci"]
fn the_image_is_accepted_elsewhere_and_serves_the_site() {
    let delivery = Delivery::new();
    let ran = delivery.call(&["run", "--deploy", "none"]).exits(0);
    let layout = delivery.data().join("images/site");
    let tag = ran
        .stderr
        .lines()
        .find_map(|line| line.split(" tagged ").nth(1))
        .unwrap()
        .trim();
    let source = format!("oci:{}:{tag}", layout.display());
    let run = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{program} {args:?}: {text}");
        String::from_utf8(output.stdout).unwrap()
    };
    let inspected: serde_json::Value =
        serde_json::from_str(&run("skopeo", &["inspect", &source])).unwrap();
    assert_eq!(inspected["Digest"].as_str().unwrap(), ran.digest());
    let bundle = delivery.dir.path().join("bundle");
    run(
        "umoci",
        &[
            "unpack",
            "--rootless",
            "--image",
            &format!("{}:{tag}", layout.display()),
            bundle.to_str().unwrap(),
        ],
    );
    assert!(bundle.join("rootfs/app/manage.py").exists());

    let archive = delivery.dir.path().join("image.tar");
    let name = format!("django-delivery-test:{}", std::process::id());
    run(
        "skopeo",
        &[
            "copy",
            "--quiet",
            &source,
            &format!("docker-archive:{}:{name}", archive.display()),
        ],
    );
    run(
        "docker",
        &["load", "--quiet", "--input", archive.to_str().unwrap()],
    );
    let container = run(
        "docker",
        &["run", "--detach", "--publish", "127.0.0.1::8000", &name],
    );
    let container = container.trim();
    let address = run("docker", &["port", container, "8000"]);
    let address = format!("http://{}/", address.lines().next().unwrap());
    let answered = (0..300).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        std::panic::catch_unwind(|| get(&address, "/").0 == 200).unwrap_or(false)
    });
    let css = answered.then(|| {
        let page = get(&address, "/").1;
        let link = page
            .split('"')
            .find(|part| part.ends_with(".css"))
            .unwrap()
            .to_owned();
        get(&address, &link).0
    });
    let logs = Command::new("docker")
        .args(["logs", container])
        .output()
        .unwrap();
    run("docker", &["rm", "--force", container]);
    run("docker", &["rmi", "--force", &name]);
    assert_eq!(css, Some(200), "{}", String::from_utf8_lossy(&logs.stderr));
}
