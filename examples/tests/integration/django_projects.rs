//! Every layout is understood, and does what it is there for when run with nothing but Python.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use pipeline_deploy::django::{
    DjangoProject, FindOptions, PythonCommand, SiteSettings, StaticFiles, TestRunner, Tool,
    UnittestReport, missing_tools,
};

use crate::layouts::{self, Expect, Layout};

fn options(layout: &Layout) -> FindOptions {
    let mut options = FindOptions::default();
    for pair in layout.args.chunks(2) {
        if pair[0] == "--app-dir" {
            options = options.with_app_dir(pair[1]);
        }
    }
    options
}

fn variables(layout: &Layout) -> Vec<(&'static str, &'static str)> {
    let pairs = layout.args.chunks(2);
    pairs
        .filter(|pair| ["--env", "--secret"].contains(&pair[0]))
        .map(|pair| pair[1].split_once('=').unwrap())
        .collect()
}

#[test]
fn every_layout_is_understood() {
    for layout in layouts::all() {
        let dir = tempfile::tempdir().unwrap();
        layout.write(dir.path());
        let found = DjangoProject::find(dir.path(), &options(&layout));
        match (layout.expect, found) {
            (Expect::PlanError(text), Err(error)) => {
                assert!(error.to_string().contains(text), "{}: {error}", layout.name);
            }
            (Expect::PlanError(_), Ok(_)) => panic!("{} should not be found", layout.name),
            (_, found) => {
                let project = found.unwrap_or_else(|error| panic!("{}: {error}", layout.name));
                let requirements = project.read_requirements().unwrap();
                assert!(requirements.lists("Django"), "{}", layout.name);
            }
        }
    }
}

#[test]
fn the_sample_site_is_understood() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("site");
    let project = DjangoProject::find(&root, &FindOptions::default()).unwrap();
    assert_eq!(project.wsgi().to_string(), "harbour.wsgi:application");
    let requirements = project.read_requirements().unwrap();
    let tests = project.test_command(&requirements).unwrap();
    assert_eq!(tests.command().to_string(), "python -m pytest");
    let wanted = [
        Tool::Pytest,
        Tool::PytestDjango,
        Tool::Flake8,
        Tool::Coverage,
        Tool::Gunicorn,
    ];
    assert_eq!(missing_tools(&requirements, &wanted).len(), wanted.len());
}

macro_rules! lives {
    ($($layout:ident)*) => {$(
        #[test]
        #[ignore = "needs the package index"]
        fn $layout() {
            live(&layouts::$layout());
        }
    )*};
}

lives! {
    utf16_requirements src_folder hashed_requirements setup_cfg pytest_ini no_pytest failing_test
    split_settings disallowed_host latin1_requirements
}

/// Installs, tests, migrates, collects and serves a project by the commands that
/// [`DjangoProject`] gives, and nothing else of ours.
fn live(layout: &Layout) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("checkout");
    layout.write(&root);
    let project = DjangoProject::find(&root, &options(layout)).unwrap();
    let requirements = project.read_requirements().unwrap();
    let tests = project.test_command(&requirements).unwrap();
    let machine = Machine::set_up(dir.path(), &root, variables(layout));
    machine.install(&requirements, tests.tools());

    let junit = dir.path().join("junit.xml");
    let command = tests
        .with_junit(&junit)
        .unwrap_or_else(|| tests.command().clone());
    let output = machine.run(&command);
    let passes = layout.expect != Expect::TestsFail;
    assert_eq!(
        output.status.success(),
        passes,
        "{}: {}",
        layout.name,
        text(&output)
    );
    let run = match tests.runner() {
        TestRunner::Pytest => count_test_cases(&std::fs::read_to_string(junit).unwrap()),
        _ => UnittestReport::parse(&text(&output)).unwrap().run,
    };
    assert_eq!(
        run,
        u64::from(layout.tests),
        "{}: {}",
        layout.name,
        text(&output)
    );
    if !passes {
        return;
    }

    let answer = machine.run(&project.ask_settings());
    let settings =
        SiteSettings::parse(&text(&answer)).unwrap_or_else(|e| panic!("{e}: {}", text(&answer)));
    assert_eq!(
        settings.settings.as_deref(),
        Some(project.deploy_settings())
    );
    let app_dir = root.join(project.app_dir()).canonicalize().unwrap();
    assert_eq!(settings.folder, app_dir);
    assert_eq!(
        settings.sqlite_files(),
        [("default", app_dir.join("db.sqlite3"))]
    );
    machine.must(&project.migrate());
    match settings.static_files() {
        StaticFiles::Collect => machine.must(&project.collectstatic()),
        other => {
            assert_eq!(
                (other, layout.static_path),
                (StaticFiles::NoStaticRoot, None)
            );
            assert!(!machine.run(&project.collectstatic()).status.success());
        }
    }
    assert_eq!(
        settings.serves_static_files(),
        settings.static_root.is_some()
    );

    let server = Server::start(&machine, &project);
    let (status, page) = server.get("/");
    match layout.expect {
        Expect::Unhealthy(reason) => {
            let why = settings.explain_bad_request(status, "127.0.0.1").unwrap();
            assert!(why.contains(reason), "{why}");
            // Django keeps it to itself, which is why the settings have to be asked.
            assert!(!server.stop().contains(reason));
        }
        _ => {
            assert_eq!(status, 200, "{page}");
            assert!(settings.accepts_host("127.0.0.1"));
            assert!(
                page.contains(&format!("First of {}", layout.page)),
                "{page}"
            );
            if let Some(path) = layout.static_path {
                let (status, style) = server.get(path);
                assert_eq!(status, 200);
                assert!(style.contains("font-family"), "{style}");
            }
        }
    }
}

fn count_test_cases(junit: &str) -> u64 {
    junit.matches("<testcase ").count() as u64
}

fn text(output: &Output) -> String {
    let streams = [&output.stdout, &output.stderr];
    streams
        .map(|bytes| String::from_utf8_lossy(bytes))
        .join("\n")
}

/// A virtual environment and the variables of a trial.
struct Machine {
    root: PathBuf,
    home: PathBuf,
    python: PathBuf,
    variables: Vec<(&'static str, &'static str)>,
}

impl Machine {
    fn set_up(dir: &Path, root: &Path, variables: Vec<(&'static str, &'static str)>) -> Self {
        let venv = dir.join("venv");
        let made = Command::new("python3")
            .args(["-m", "venv"])
            .arg(&venv)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", text(&made));
        Self {
            root: root.to_owned(),
            home: dir.to_owned(),
            python: venv.join("bin/python"),
            variables,
        }
    }

    fn install(&self, requirements: &pipeline_deploy::django::Requirements, tools: &[Tool]) {
        let file = self.home.join("requirements.txt");
        std::fs::write(&file, requirements.normalised()).unwrap();
        let pins = self.home.join("pins.txt");
        std::fs::write(&pins, requirements.pins()).unwrap();
        let wanted: Vec<Tool> = tools
            .iter()
            .copied()
            .chain([Tool::Flake8, Tool::Gunicorn])
            .collect();
        let added = missing_tools(requirements, &wanted);
        let added: Vec<String> = added.iter().map(ToString::to_string).collect();
        let pip = [
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ];
        for args in [
            vec!["-r".to_owned(), file.display().to_string()],
            [vec!["-c".to_owned(), pins.display().to_string()], added].concat(),
        ] {
            let output = Command::new(&self.python)
                .args(pip)
                .args(args)
                .current_dir(&self.root)
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", text(&output));
        }
    }

    fn command(&self, command: &PythonCommand) -> Command {
        let mut ready = Command::new(&self.python);
        ready
            .args(command.args())
            .current_dir(self.root.join(command.dir()))
            .envs(self.variables.iter().copied())
            .envs(command.envs().iter().map(|(name, value)| (name, value)))
            .env("PYTHONDONTWRITEBYTECODE", "1");
        ready
    }

    fn run(&self, command: &PythonCommand) -> Output {
        self.command(command).output().unwrap()
    }

    fn must(&self, command: &PythonCommand) {
        let output = self.run(command);
        assert!(output.status.success(), "{command}: {}", text(&output));
    }
}

/// A gunicorn that ends with its test.
struct Server {
    child: Child,
    port: u16,
    log: std::thread::JoinHandle<String>,
}

impl Server {
    fn start(machine: &Machine, project: &DjangoProject) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let serve = project.serve(&format!("127.0.0.1:{port}"), std::num::NonZeroU16::MIN);
        let mut child = machine
            .command(&serve)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        while !said.contains("Listening at") {
            assert!(
                log.read_line(&mut said).unwrap() > 0,
                "gunicorn ended: {said}"
            );
        }
        let log = std::thread::spawn(move || {
            // What is no text is no message either.
            let _ = log.read_to_string(&mut said);
            said
        });
        Self { child, port, log }
    }

    fn get(&self, path: &str) -> (u16, String) {
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream
            .set_read_timeout(Some(deadline - Instant::now()))
            .unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\n\r\n",
            self.port
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer)
    }

    /// Ends the server and gives what it logged.
    fn stop(mut self) -> String {
        terminate(&mut self.child);
        let log = std::mem::replace(&mut self.log, std::thread::spawn(String::new));
        log.join().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        terminate(&mut self.child);
    }
}

/// Ends gunicorn politely, since only then it ends its workers.
fn terminate(child: &mut Child) {
    if child.try_wait().ok().flatten().is_none() {
        let _ = Command::new("kill").arg(child.id().to_string()).status();
    }
    let _ = child.wait();
}
