//! The sample Django site on the local target, with traffic on it all the time.

use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pipeline_deploy::django::{
    DjangoProject, FindOptions, Requirements, SiteSettings, Tool, missing_tools,
};
use pipeline_deploy::health::HealthWindow;
use pipeline_deploy::local::{LocalApp, LocalTarget, SupervisorCommand};
use pipeline_deploy::release::{Release, ReleaseId};
use pipeline_deploy::target::{DeployReport, FailureStage};

use crate::load::{Connections, Load, LoadOptions};
use crate::site::{deploy, live};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the package index"]
async fn nobody_notices_a_good_release_or_a_bad_one() {
    let site = Django::set_up();
    let address = live(&deploy(&site.target(site.app()), &site.release("r1")).await);
    // A page costs Python some milliseconds: more than this is a test of the machine.
    let options = LoadOptions::default()
        .with_rate(20)
        .with_timeout(Duration::from_secs(30));
    let page = format!("{}/lettings/", address.trim_end_matches('/'));
    let loads = [
        Load::start(&page, &options),
        Load::start(
            &page,
            &options.clone().with_connections(Connections::KeepAlive),
        ),
    ];
    let wait = || loads.iter().for_each(|load| load.wait_for_answers(50));
    tokio::task::block_in_place(wait);

    let second = site.app().with_env("RELEASE", "r2");
    let report = deploy(&site.target(second), &site.release("r2")).await;
    assert_eq!(live(&report), address, "{report:?}");
    tokio::task::block_in_place(wait);

    let bad = site
        .app()
        .with_env("ALLOWED_HOSTS", "elsewhere.example")
        .with_window(HealthWindow::default().with_limit(Duration::from_secs(20)));
    let report = deploy(&site.target(bad), &site.release("r3")).await;
    let DeployReport::RolledBack { why, .. } = &report else {
        panic!("{report:?}");
    };
    assert_eq!(why.stage, FailureStage::Health);
    assert!(
        why.cure.as_deref().unwrap().contains("DisallowedHost"),
        "{why}"
    );
    tokio::task::block_in_place(wait);

    let counts = tokio::task::block_in_place(|| loads.map(Load::stop));
    for count in &counts {
        assert_eq!(count.failed, 0, "{count}");
        println!("{count}");
    }
    let front = crate::site::get(&address, "/").await.unwrap();
    assert!(front.contains("release r2"), "{front}");
    let style = crate::site::get(&address, "/static/css/site.css")
        .await
        .unwrap();
    assert!(style.contains("--sea"), "{style}");
    assert!(site.folder().join("shared/db.sqlite3").is_file());
    site.target(site.app()).instance().stop().await.unwrap();
}

/// The sample site, its packages and a target's folder.
struct Django {
    home: tempfile::TempDir,
    project: DjangoProject,
    requirements: Requirements,
    settings: SiteSettings,
}

impl Django {
    fn set_up() -> Self {
        let home = tempfile::tempdir().unwrap();
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/site");
        let checkout = home.path().join("checkout");
        run(Command::new("cp").arg("-r").arg(&sample).arg(&checkout));
        let python = python(&home);
        run(Command::new("python3")
            .args(["-m", "venv"])
            .arg(home.path().join("venv")));
        let project = DjangoProject::find(&checkout, &FindOptions::default()).unwrap();
        let requirements = project.read_requirements().unwrap();
        let added = missing_tools(&requirements, &[Tool::Gunicorn]);
        run(Command::new(&python)
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "-r",
            ])
            .arg(requirements.path())
            .args(added.iter().map(ToString::to_string)));
        let ask = project.ask_settings();
        let answer = run(Command::new(&python)
            .args(ask.args())
            .current_dir(checkout.join(ask.dir()))
            .envs(ask.envs().iter().map(|(name, value)| (name, value))));
        let settings = SiteSettings::parse(&answer).unwrap();
        Self {
            home,
            project,
            requirements,
            settings,
        }
    }

    fn folder(&self) -> PathBuf {
        self.home.path().join("target")
    }

    fn app(&self) -> LocalApp {
        let python = python(&self.home).display().to_string();
        let workers = NonZeroU16::new(2).unwrap();
        self.project.local_app(
            &python,
            &self.settings,
            &self.requirements,
            workers,
            "/healthz",
        )
    }

    fn target(&self, app: LocalApp) -> LocalTarget {
        let supervisor = SupervisorCommand::new(env!("CARGO_BIN_EXE_pipeline-supervisor"));
        LocalTarget::new(self.folder(), supervisor, app).unwrap()
    }

    fn release(&self, name: &str) -> Release {
        let source = self.project.root().canonicalize().unwrap();
        Release::new(ReleaseId::new(name).unwrap(), format!("sha256:{name}")).with_source(source)
    }
}

fn python(home: &tempfile::TempDir) -> PathBuf {
    home.path().join("venv/bin/python")
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}{errors}");
    said
}
