//! Steps about the release: its files, its image, its deployment.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use pipeline_core::{
    CommandSpec, EnvValue, Input, InputRef, Step, StepContext, StepError, error_chain,
};
use pipeline_deploy::{
    django::{FindOptions, PythonCommand, SiteSettings, StaticFiles},
    health::HttpCheck,
    local::{LocalApp, LocalTarget, SupervisorCommand},
    release::{Release, ReleaseId},
    step::deploy,
    target::DeployOptions,
};
use pipeline_docker::builder::{
    BaseImage, BuiltImage, ConfigSpec, CopySpec, ImageLocation, ImageSpec, LayerSpec,
};
use serde::{Deserialize, Serialize};

use crate::{
    args::Break,
    python::{Inspected, SOURCE, VENV, find_project, in_venv, site_packages},
};

/// Folder of the release's files below the job folder: `app`, `deps` and `start.py`.
const RELEASE: &str = "release";
const APP: &str = "release/app";
/// Server processes of the site.
const WORKERS: std::num::NonZeroU16 = std::num::NonZeroU16::MIN.saturating_add(1);

/// The files of a release and what the project says about itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Staged {
    /// Seconds since 1970 of the commit.
    pub(crate) committed: u64,
    /// What the project answered when it was asked for its settings.
    pub(crate) answer: String,
    /// The name under which the site accepts requests.
    pub(crate) host: String,
}

/// Puts the files of the release together: exactly what git tracks, the installed packages, and
/// the collected static files.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) options: FindOptions,
    pub(crate) project: Input<Inspected>,
    pub(crate) break_at: Option<Break>,
}

#[async_trait]
impl Step for Stage {
    type Output = Staged;

    fn inputs(&self) -> Vec<InputRef> {
        self.project.edge().into_iter().collect()
    }

    async fn run(&self, cx: &StepContext) -> Result<Staged, StepError> {
        let inspected = cx.resolve(&self.project)?;
        let release = cx.job_dir().join(RELEASE);
        cx.exec(CommandSpec::new("rm").args(["-rf", APP]))
            .await?
            .check()?;
        cx.exec(
            CommandSpec::new("git")
                .args(["checkout-index", "--all", "--force"])
                .arg(format!("--prefix={}/app/", release.display()))
                .cwd(SOURCE),
        )
        .await?
        .check()?;
        // What was checked out of submodules is part of what was tested.
        cx.exec(
            CommandSpec::new("git")
                .args(["submodule", "--quiet", "foreach", "--recursive"])
                .arg(r#"git checkout-index --all --force --prefix="$RELEASE_APP/$displaypath/""#)
                .env("RELEASE_APP", release.join("app").display().to_string())
                .cwd(SOURCE),
        )
        .await?
        .check()?;
        let time = cx
            .exec(
                CommandSpec::new("git")
                    .args(["log", "-1", "--format=%ct"])
                    .cwd(SOURCE),
            )
            .await?;
        let committed = time.stdout().trim().parse().unwrap_or(0);
        time.check()?;
        let packages = site_packages(&cx.job_dir().join(VENV), &inspected.version);
        let deps = release.join("deps");
        tokio::task::spawn_blocking(move || {
            take_packages(&packages, &deps, &inspected.environment)
        })
        .await
        .map_err(|error| StepError::errored("could not copy the packages", error))?
        .map_err(|error| StepError::errored("could not copy the packages", error))?;

        let (project, _) = find_project(cx, &self.options)?;
        let app_dir = project.app_dir().to_owned();
        if self.break_at == Some(Break::Health) {
            let file = release
                .join("app")
                .join(&app_dir)
                .join(BROKEN_MODULE)
                .with_extension("py");
            tokio::fs::write(&file, BROKEN_WSGI)
                .await
                .map_err(|error| {
                    StepError::errored(format!("could not write {}", file.display()), error)
                })?;
            cx.warn("--break health: the release answers every request with 500")
                .await;
        }
        let wsgi = match self.break_at {
            Some(Break::Health) => format!("{BROKEN_MODULE}:application"),
            _ => project.wsgi().to_string(),
        };
        let start = start_script(&app_dir, project.deploy_settings(), &wsgi);
        tokio::fs::write(release.join("start.py"), start)
            .await
            .map_err(|error| StepError::errored("could not write start.py", error))?;

        let asked = cx.exec(staged(cx, &project.ask_settings())).await?;
        let answer = asked.stdout();
        let settings = match SiteSettings::parse(&answer) {
            Ok(settings) => settings,
            Err(error) => return Err(asked.into_failure_because(error_chain(&error))),
        };
        if settings.debug {
            cx.warn("DEBUG is on in the settings of the release").await;
        }
        match settings.static_files() {
            StaticFiles::Collect => {
                if !settings.serves_static_files() {
                    cx.warn("the site does not serve its static files by itself: a web server in front has to")
                        .await;
                }
                cx.exec(staged(cx, &project.collectstatic()))
                    .await?
                    .check()?;
            }
            StaticFiles::NoStaticRoot => {
                cx.warn("collectstatic is skipped: the project sets no STATIC_ROOT")
                    .await;
            }
            _ => {
                cx.warn(
                    "collectstatic is skipped: the project does not use django.contrib.staticfiles",
                )
                .await;
            }
        }
        let host = settings
            .host_for_health_check(&["127.0.0.1", "localhost"])
            .filter(|host| matches!(*host, "127.0.0.1" | "localhost"))
            .unwrap_or("127.0.0.1")
            .to_owned();
        cx.summary("files of the release");
        Ok(Staged {
            committed,
            answer,
            host,
        })
    }
}

/// A command of the project, in the files of the release.
fn staged(cx: &StepContext, command: &PythonCommand) -> CommandSpec {
    in_venv(cx, command).cwd(Path::new(APP).join(command.dir()))
}

/// Copies the installed packages, unless those of this very environment are there.
fn take_packages(from: &Path, to: &Path, environment: &str) -> std::io::Result<()> {
    let marker = to.with_extension("complete");
    if to.is_dir() && std::fs::read_to_string(&marker).is_ok_and(|found| found == environment) {
        return Ok(());
    }
    for removed in [std::fs::remove_file(&marker), std::fs::remove_dir_all(to)] {
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    link_tree(from, to)?;
    std::fs::write(marker, environment)
}

/// Copies installed packages by hard links where the file system can. Byte code carries time
/// stamps, and pip is not for production: both stay behind.
fn link_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        if text == "__pycache__"
            || text == "pip"
            || text == "pipeline-tools.pth"
            || (text.starts_with("pip-") && text.ends_with(".dist-info"))
        {
            continue;
        }
        let target = to.join(&name);
        let kind = entry.file_type()?;
        if kind.is_dir() {
            link_tree(&entry.path(), &target)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(entry.path())?, &target)?;
        } else if text == "RECORD" {
            std::fs::write(&target, own_lines(&std::fs::read_to_string(entry.path())?))?;
        } else if std::fs::hard_link(entry.path(), &target).is_err() {
            std::fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

/// The lines of a distribution's list of files that are about files which are there. The others
/// hold hashes of scripts with the path of the virtual environment in them, so that two machines
/// would never make the same image.
fn own_lines(record: &str) -> String {
    let outside = |line: &&str| line.starts_with("../") || line.contains("__pycache__/");
    record
        .lines()
        .filter(|line| !outside(line))
        .flat_map(|line| [line, "\n"])
        .collect()
}

const BROKEN_MODULE: &str = "broken_on_purpose";
const BROKEN_WSGI: &str = "\
def application(environ, start_response):
    start_response('500 Internal Server Error', [('Content-Type', 'text/plain')])
    return [b'broken on purpose\\n']
";

/// What a container of the image runs: migrations, then the server.
fn start_script(app_dir: &Path, settings: &str, wsgi: &str) -> String {
    let folder = Path::new("/app").join(app_dir);
    format!(
        "\
import os, subprocess, sys

os.chdir({folder:?})
os.environ.setdefault(\"DJANGO_SETTINGS_MODULE\", {settings:?})
if os.environ.get(\"MIGRATE\", \"1\") != \"0\":
    subprocess.run([sys.executable, \"manage.py\", \"migrate\", \"--noinput\"], check=True)
os.execv(sys.executable, [
    sys.executable, \"-m\", \"gunicorn\",
    \"--bind\", \"0.0.0.0:\" + os.environ.get(\"PORT\", \"8000\"),
    \"--workers\", os.environ.get(\"WEB_CONCURRENCY\", \"{WORKERS}\"),
    {wsgi:?},
])
"
    )
}

/// The bottom of the image.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Base {
    pub(crate) image: BaseImage,
    /// The interpreter inside it.
    pub(crate) python: String,
    /// Its version, such as `3.11`, when it is known.
    pub(crate) version: Option<String>,
}

/// Says what the image is made of: the base, the packages, the application.
#[derive(Debug)]
pub(crate) struct Describe {
    pub(crate) project: Input<Inspected>,
    pub(crate) base: Input<Base>,
    pub(crate) staged: Input<Staged>,
}

#[async_trait]
impl Step for Describe {
    type Output = ImageSpec;

    fn inputs(&self) -> Vec<InputRef> {
        [self.project.edge(), self.base.edge(), self.staged.edge()]
            .into_iter()
            .flatten()
            .collect()
    }

    async fn run(&self, cx: &StepContext) -> Result<ImageSpec, StepError> {
        let (base, staged) = (cx.resolve(&self.base)?, cx.resolve(&self.staged)?);
        let own = cx.resolve(&self.project)?.version;
        if let Some(version) = &base.version
            && !own.starts_with(&format!("{version}."))
        {
            cx.warn(format!(
                "the image has Python {version} and its packages were installed by {own}: \
                 compiled packages will not load in it"
            ))
            .await;
        }
        let release = Path::new(RELEASE);
        let facts = cx.facts();
        let revision = facts.revision.clone().unwrap_or_default();
        let config = ConfigSpec::default()
            .with_env("PYTHONPATH", "/opt/deps")
            .with_env("PYTHONUNBUFFERED", "1")
            .with_env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .with_entrypoint([base.python.as_str(), "/opt/pipeline/start.py"])
            .with_workdir("/app")
            .with_port("8000/tcp")
            .with_label("org.opencontainers.image.revision", &revision);
        let application = LayerSpec::copy(release.join("app"), "/app").with_copy(CopySpec::new(
            release.join("start.py"),
            "/opt/pipeline/start.py",
        ));
        let mut spec = ImageSpec::new(base.image)
            .with_created(staged.committed)
            // What changes most seldom lies lowest.
            .with_layer(LayerSpec::copy(release.join("deps"), "/opt/deps").with_comment("packages"))
            .with_layer(application.with_comment("application"))
            .with_config(config)
            .with_annotation("org.opencontainers.image.revision", &revision);
        if let Some(source) = facts
            .repository
            .as_ref()
            .filter(|address| address.contains("://"))
        {
            spec = spec.with_annotation("org.opencontainers.image.source", source);
        }
        Ok(spec)
    }
}

/// Puts the release on the local target.
#[derive(Debug)]
pub(crate) struct DeployLocal {
    pub(crate) options: FindOptions,
    pub(crate) folder: PathBuf,
    pub(crate) supervisor: SupervisorCommand,
    pub(crate) env: Vec<(String, EnvValue)>,
    pub(crate) health_path: String,
    pub(crate) break_at: Option<Break>,
    pub(crate) image: Input<BuiltImage>,
    pub(crate) staged: Input<Staged>,
    pub(crate) project: Input<Inspected>,
}

impl DeployLocal {
    fn app(&self, cx: &StepContext) -> Result<LocalApp, StepError> {
        let (staged, inspected) = (cx.resolve(&self.staged)?, cx.resolve(&self.project)?);
        let (project, requirements) = find_project(cx, &self.options)?;
        let settings = SiteSettings::parse(&staged.answer)
            .map_err(|error| StepError::errored("could not read the settings again", error))?;
        let python = inspected.python.display().to_string();
        let mut app = project.local_app(
            &python,
            &settings,
            &requirements,
            WORKERS,
            &self.health_path,
        );
        // The release's folder holds the packages beside the project.
        for command in app.prepare.iter_mut().chain([&mut app.serve]) {
            command.folder = Path::new("app").join(&command.folder);
        }
        for shared in &mut app.shared {
            shared.path = Path::new("app").join(&shared.path);
        }
        if self.break_at == Some(Break::Health) {
            let application = project.wsgi().to_string();
            for arg in app.serve.args.iter_mut().filter(|arg| **arg == application) {
                *arg = format!("{BROKEN_MODULE}:application");
            }
        }
        let app = app
            .with_env("PYTHONPATH", "{release_dir}/deps")
            .with_env("PYTHONUNBUFFERED", "1")
            .with_env("LANG", "C.UTF-8")
            .with_health(HttpCheck::new(&self.health_path).with_host(&staged.host));
        Ok(self
            .env
            .iter()
            .fold(app, |app, (name, value)| app.with_env(name, value.clone())))
    }
}

#[async_trait]
impl Step for DeployLocal {
    /// Where the site answers.
    type Output = String;

    fn inputs(&self) -> Vec<InputRef> {
        [self.image.edge(), self.staged.edge(), self.project.edge()]
            .into_iter()
            .flatten()
            .collect()
    }

    async fn run(&self, cx: &StepContext) -> Result<String, StepError> {
        let image = cx.resolve(&self.image)?;
        let target = LocalTarget::new(&self.folder, self.supervisor.clone(), self.app(cx)?)
            .map_err(|error| StepError::errored("could not use the deploy target", error))?;
        let ImageLocation::Layout { tag: Some(tag), .. } = &image.location else {
            return Err(StepError::failed(
                "the image has no tag to name the release by",
            ));
        };
        let id = ReleaseId::new(format!("{tag}-{}", cx.facts().build_number))
            .map_err(|error| StepError::errored("could not name the release", error))?;
        let release = Release::new(id, image.digest().to_string())
            .with_revision(cx.facts().revision.clone().unwrap_or_default())
            .with_sequence(cx.facts().build_number)
            .with_source(cx.job_dir().join(RELEASE));
        let report = deploy(cx, &target, &release, &DeployOptions::default()).await?;
        let host = cx.resolve(&self.staged)?.host;
        if host != "127.0.0.1"
            && let Some(live) = report.live()
        {
            let address = live.address.replace("127.0.0.1", &host);
            cx.warn(format!(
                "ALLOWED_HOSTS has {host} and not 127.0.0.1: open {address}"
            ))
            .await;
        }
        Ok(report
            .live()
            .map(|live| live.address.clone())
            .unwrap_or_default())
    }
}
