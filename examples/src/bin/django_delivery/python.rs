//! Steps about the project's Python: its interpreter, its packages, its tests.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use pipeline_cache::steps::CacheHit;
use pipeline_core::{
    CommandSpec, Input, InputRef, Step, StepContext, StepError, report::junit::TestTotals,
};
use pipeline_deploy::django::{
    DjangoProject, FindOptions, PythonCommand, Requirements, TestRunner, Tool, UnittestReport,
    missing_tools,
};
use serde::{Deserialize, Serialize};

/// Folder of the checkout below the job folder.
pub(crate) const SOURCE: &str = "source";
/// The project's packages and the server: what a release needs.
pub(crate) const VENV: &str = "venv";
/// Test and lint tools, apart from the project's packages so that no image holds them.
pub(crate) const TOOLS: &str = "tools";
/// The project's requirements in UTF-8, below the job folder.
pub(crate) const REQUIREMENTS: &str = "requirements.txt";

/// Finds the project in the checkout.
pub(crate) fn find_project(
    cx: &StepContext,
    options: &FindOptions,
) -> Result<(DjangoProject, Requirements), StepError> {
    let root = cx.job_dir().join(SOURCE);
    let project = DjangoProject::find(&root, options)
        .map_err(|error| StepError::failed(pipeline_core::error_chain(&error)))?;
    let requirements = project
        .read_requirements()
        .map_err(|error| StepError::failed(pipeline_core::error_chain(&error)))?;
    Ok((project, requirements))
}

/// A command of the project for the interpreter of the virtual environment.
pub(crate) fn in_venv(cx: &StepContext, command: &PythonCommand) -> CommandSpec {
    let python = cx.job_dir().join(VENV).join("bin/python");
    let spec = CommandSpec::new(python)
        .args(command.args())
        .cwd(Path::new(SOURCE).join(command.dir()));
    command
        .envs()
        .iter()
        .fold(with_venv(cx, spec), |spec, (name, value)| {
            spec.env(name, value.as_str())
        })
}

/// What `activate` does for a shell.
pub(crate) fn with_venv(cx: &StepContext, spec: CommandSpec) -> CommandSpec {
    let venv = cx.job_dir().join(VENV);
    let path = match std::env::var("PATH") {
        Ok(path) => format!("{}:{path}", venv.join("bin").display()),
        Err(_) => venv.join("bin").display().to_string(),
    };
    spec.env("VIRTUAL_ENV", venv.display().to_string())
        .env("PATH", path)
        .env("PYTHONUNBUFFERED", "1")
        .env("PYTHONDONTWRITEBYTECODE", "1")
}

/// What the project is, and what decides whether installed packages still fit.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Inspected {
    /// Path of the interpreter outside the virtual environment.
    pub(crate) python: PathBuf,
    /// Its version, such as `3.11.7`.
    pub(crate) version: String,
    /// Requirements file, relative to the checkout.
    pub(crate) requirements: PathBuf,
    /// Tools to add, as pip wants them.
    pub(crate) tools: Vec<String>,
    /// Servers to add beside the project's packages, as pip wants them.
    pub(crate) runtime: Vec<String>,
    /// SHA-256, shortened, over what the checksum of one file does not see: included files,
    /// added tools, the interpreter, and the path, since a virtual environment cannot move.
    pub(crate) environment: String,
}

/// Finds the project and its interpreter.
#[derive(Debug)]
pub(crate) struct Inspect {
    pub(crate) options: FindOptions,
    pub(crate) test_command: Option<String>,
    pub(crate) lint_command: Option<String>,
}

#[async_trait]
impl Step for Inspect {
    type Output = Inspected;

    fn inputs(&self) -> Vec<InputRef> {
        Vec::new()
    }

    async fn run(&self, cx: &StepContext) -> Result<Inspected, StepError> {
        let (project, requirements) = find_project(cx, &self.options)?;
        let question =
            "import sys; print(sys.executable); print('%d.%d.%d' % sys.version_info[:3])";
        let asked = cx
            .exec(CommandSpec::new("python3").args(["-c", question]))
            .await?;
        let answer = asked.stdout();
        asked.check()?;
        let (python, version) = answer
            .trim()
            .split_once('\n')
            .ok_or_else(|| StepError::failed("python3 did not say what it is"))?;

        cx.log(format!(
            "project: settings {}, {}",
            project.settings(),
            project.wsgi()
        ))
        .await;
        cx.log(format!(
            "requirements: {}",
            project.requirements().display()
        ))
        .await;
        for warning in requirements.warnings() {
            cx.warn(warning).await;
        }
        let tests = project
            .test_command(&requirements)
            .map_err(|error| StepError::failed(pipeline_core::error_chain(&error)))?;
        let mut wanted = vec![Tool::Coverage];
        if self.lint_command.is_none() {
            wanted.push(Tool::Flake8);
        }
        match &self.test_command {
            Some(command) => {
                cx.log(format!("tests: {command}")).await;
                wanted.extend([Tool::Pytest, Tool::PytestDjango]);
            }
            None => {
                cx.log(format!(
                    "tests: {}, because {}",
                    tests.runner(),
                    tests.reason()
                ))
                .await;
                wanted.extend(tests.tools());
            }
        }
        let names = |tools: &[Tool]| -> Vec<String> {
            missing_tools(&requirements, tools)
                .iter()
                .map(ToString::to_string)
                .collect()
        };
        let (tools, runtime) = (names(&wanted), names(&[Tool::Gunicorn]));
        for (added, what) in [(&tools, "tools"), (&runtime, "server")] {
            if !added.is_empty() {
                cx.log(format!(
                    "the project does not list these {what}: {}",
                    added.join(" ")
                ))
                .await;
            }
        }
        // What pip and the cache key read: one encoding, whatever the project's is.
        write(&cx.job_dir().join(REQUIREMENTS), requirements.normalised()).await?;
        let mut parts = vec![python.to_owned(), version.to_owned()];
        parts.push(cx.job_dir().display().to_string());
        parts.extend(tools.iter().chain(&runtime).cloned());
        parts.push(requirements.normalised().to_owned());
        cx.summary(format!("{}, Python {version}", project.wsgi()));
        Ok(Inspected {
            python: python.into(),
            version: version.to_owned(),
            requirements: project.requirements().to_owned(),
            tools,
            runtime,
            environment: pipeline_examples::short_hash(&parts),
        })
    }
}

/// Makes the virtual environment and installs what is missing in it.
#[derive(Debug)]
pub(crate) struct Install {
    pub(crate) options: FindOptions,
    pub(crate) project: Input<Inspected>,
    pub(crate) restored: Input<CacheHit>,
}

/// Says that an installation was finished; a killed one leaves it out.
const COMPLETE: &str = ".complete";

#[async_trait]
impl Step for Install {
    /// How many distributions there are now.
    type Output = u64;

    fn inputs(&self) -> Vec<InputRef> {
        [self.project.edge(), self.restored.edge()]
            .into_iter()
            .flatten()
            .collect()
    }

    async fn run(&self, cx: &StepContext) -> Result<u64, StepError> {
        let project = cx.resolve(&self.project)?;
        let restored = cx.resolve(&self.restored)?;
        let venv = cx.job_dir().join(VENV);
        let complete = venv.join(COMPLETE);
        let finished = tokio::fs::read_to_string(&complete).await.ok();
        if finished.as_deref() == Some(project.environment.as_str()) {
            cx.summary(match restored {
                CacheHit::Exact { .. } => "nothing to do: restored from the cache",
                _ => "nothing to do: there since an earlier run",
            });
            return self.count(cx).await;
        }
        let same_python = tokio::fs::read_to_string(venv.join("pyvenv.cfg"))
            .await
            .is_ok_and(|text| {
                text.lines()
                    .any(|line| line.replace(' ', "") == format!("version={}", project.version))
            });
        let older =
            matches!(restored, CacheHit::Prefix { .. }) && finished.is_some() && same_python;
        if older {
            cx.log("an older environment was restored: bringing it up to date")
                .await;
            remove_file(&complete).await?;
            remove(&cx.job_dir().join(TOOLS)).await?;
        } else {
            // What is there is not known to be whole, or is of another interpreter.
            for folder in [VENV, TOOLS] {
                remove(&cx.job_dir().join(folder)).await?;
            }
        }
        let make = CommandSpec::new(&project.python)
            .args(["-m", "venv"])
            .arg(&venv);
        let made = cx.exec(make).await?;
        if !made.exit.success() {
            return Err(made.into_failure_because(
                "python3 could not make a virtual environment; on Debian and Ubuntu install python3-venv",
            ));
        }
        let (_, requirements) = find_project(cx, &self.options)?;
        let file = cx.job_dir().join(REQUIREMENTS);
        let app = project.requirements.parent().unwrap_or(Path::new(""));
        let pip = |args: &[&str]| {
            with_venv(cx, CommandSpec::new(venv.join("bin/python")))
                .args(["-m", "pip", "--disable-pip-version-check", "--no-input"])
                .args(args)
                .cwd(Path::new(SOURCE).join(app))
                .env("PYTHONDONTWRITEBYTECODE", "")
        };
        cx.exec(pip(&["install", "-r"]).arg(&file)).await?.check()?;
        if !project.runtime.is_empty() {
            // A second command: in hash-checking mode pip takes nothing that has no hash. It must
            // not move what the project has chosen.
            let pins = cx.job_dir().join("constraints.txt");
            write(&pins, &requirements.pins()).await?;
            cx.exec(pip(&["install", "-c"]).arg(&pins).args(&project.runtime))
                .await?
                .check()?;
        }
        if older {
            self.remove_strangers(cx, &requirements, &project, &pip)
                .await?;
        }
        if !project.tools.is_empty() {
            let tools = cx.job_dir().join(TOOLS);
            cx.exec(
                pip(&["install", "--target"])
                    .arg(&tools)
                    .args(&project.tools),
            )
            .await?
            .check()?;
            // After the project's own packages on the path, so that these win.
            let site = site_packages(&venv, &project.version);
            write(
                &site.join("pipeline-tools.pth"),
                &format!("{}\n", tools.display()),
            )
            .await?;
        }
        write(&complete, &project.environment).await?;
        let count = self.count(cx).await?;
        cx.summary(format!("{count} distributions"));
        Ok(count)
    }
}

impl Install {
    async fn count(&self, cx: &StepContext) -> Result<u64, StepError> {
        let version = cx.resolve(&self.project)?.version;
        let site = site_packages(&cx.job_dir().join(VENV), &version);
        let mut entries = tokio::fs::read_dir(&site).await.map_err(|error| {
            StepError::errored(format!("could not read {}", site.display()), error)
        })?;
        let mut count = 0;
        while let Ok(Some(entry)) = entries.next_entry().await {
            count += u64::from(
                entry
                    .path()
                    .extension()
                    .is_some_and(|found| found == "dist-info"),
            );
        }
        Ok(count)
    }

    /// What an older requirements file had brought and nobody needs now.
    async fn remove_strangers(
        &self,
        cx: &StepContext,
        requirements: &Requirements,
        project: &Inspected,
        pip: &(dyn Fn(&[&str]) -> CommandSpec + Sync),
    ) -> Result<(), StepError> {
        let mut names: Vec<String> = requirements
            .names()
            .iter()
            .map(|&name| name.to_owned())
            .collect();
        if names.len() < requirements.entries().len() {
            cx.warn("packages that were removed from the requirements may remain: some lines have no name").await;
            return Ok(());
        }
        names.extend(
            project
                .runtime
                .iter()
                .filter_map(|pin| pin.split("==").next())
                .map(str::to_owned),
        );
        let python = cx.job_dir().join(VENV).join("bin/python");
        let asked = cx
            .exec(CommandSpec::new(python).args(["-c", UNNEEDED]).args(names))
            .await?;
        let answer = asked.stdout();
        asked.check()?;
        let unneeded: Vec<&str> = answer.lines().filter(|line| !line.is_empty()).collect();
        if !unneeded.is_empty() {
            cx.exec(pip(&["uninstall", "--yes"]).args(unneeded))
                .await?
                .check()?;
        }
        Ok(())
    }
}

/// Names of installed distributions that none of the given ones needs.
const UNNEEDED: &str = r#"
import re, sys, sysconfig
from importlib.metadata import distributions
norm = lambda name: re.sub(r"[-_.]+", "-", name).lower()
found = {norm(d.metadata["Name"]): d for d in distributions(path=[sysconfig.get_path("purelib")])}
keep, todo = {"pip", "setuptools", "wheel"}, [norm(name) for name in sys.argv[1:]]
while todo:
    name = todo.pop()
    if name in found and name not in keep:
        keep.add(name)
        for line in found[name].requires or ():
            todo.append(norm(re.match(r"[A-Za-z0-9._-]+", line.strip()).group()))
print("\n".join(sorted(set(found) - keep)))
"#;

/// Runs the tests, and reads what they wrote.
#[derive(Debug)]
pub(crate) struct RunTests {
    pub(crate) options: FindOptions,
    pub(crate) command: Option<String>,
}

#[async_trait]
impl Step for RunTests {
    type Output = TestTotals;

    fn inputs(&self) -> Vec<InputRef> {
        Vec::new()
    }

    async fn run(&self, cx: &StepContext) -> Result<TestTotals, StepError> {
        let (project, requirements) = find_project(cx, &self.options)?;
        let tests = project
            .test_command(&requirements)
            .map_err(|error| StepError::failed(pipeline_core::error_chain(&error)))?;
        let junit = cx.artifact_dir().join("junit.xml");
        let (command, pytest) = match &self.command {
            Some(command) => {
                let spec =
                    CommandSpec::shell(command).cwd(Path::new(SOURCE).join(project.app_dir()));
                (with_venv(cx, spec), false)
            }
            None => (
                in_venv(cx, tests.command()),
                tests.runner() == TestRunner::Pytest,
            ),
        };
        // Through the environment, so that it reaches pytest in whatever command calls it.
        let command = command.env("PYTEST_ADDOPTS", format!("--junitxml={}", junit.display()));
        let ran = cx.exec(command).await?;
        let exit = ran.exit;
        let totals = if junit.exists() {
            TestTotals::read(&junit)
                .map_err(|error| StepError::errored("could not read the test report", error))?
        } else {
            // Django's own runner speaks on standard error, which the tail holds.
            let text = format!("{}\n{}", ran.stdout(), ran.tail().join("\n"));
            from_unittest(&text)
        };
        cx.fact("tests.finished", serde_json::json!(totals)).await;
        for test in &totals.not_passed {
            cx.log(format!("FAILED {}  {}", test.name, test.message))
                .await;
        }
        if exit.success() {
            if totals.total() == 0 {
                cx.warn("no test ran: the tests pass because there are none")
                    .await;
            }
            cx.summary(totals.to_string());
            return Ok(totals);
        }
        let message = match totals.not_passed.as_slice() {
            [] if pytest && exit == pipeline_core::ExitStatus::Exited(5) => {
                "pytest found no tests; name a command with --test-command".to_owned()
            }
            [] => return Err(ran.into_failure()),
            [first, rest @ ..] => {
                let more = if rest.is_empty() {
                    String::new()
                } else {
                    format!(" and {} more", rest.len())
                };
                format!("{totals}: {}{more}", first.name)
            }
        };
        let detail = serde_json::json!({ "tests": totals });
        Err(ran.into_failure_because(message).with_detail(detail))
    }
}

fn from_unittest(text: &str) -> TestTotals {
    let mut totals = TestTotals::default();
    if let Some(report) = UnittestReport::parse(text) {
        totals.passed = usize::try_from(report.passed()).unwrap_or(usize::MAX);
        totals.failed = usize::try_from(report.failures).unwrap_or(usize::MAX);
        totals.errors = usize::try_from(report.errors).unwrap_or(usize::MAX);
        totals.skipped = usize::try_from(report.skipped).unwrap_or(usize::MAX);
        totals.not_passed = report
            .failed
            .iter()
            .map(|failure| pipeline_core::report::junit::FailedTest::new(&failure.test, ""))
            .collect();
    }
    totals
}

/// Runs the tests once more, counting the lines that they reach.
#[derive(Debug)]
pub(crate) struct Coverage {
    pub(crate) options: FindOptions,
    pub(crate) test_command: Option<String>,
}

#[async_trait]
impl Step for Coverage {
    /// Percent of lines.
    type Output = u32;

    fn inputs(&self) -> Vec<InputRef> {
        Vec::new()
    }

    async fn run(&self, cx: &StepContext) -> Result<u32, StepError> {
        if self.test_command.is_some() {
            return Err(StepError::failed(
                "coverage is not measured with a test command of your own",
            ));
        }
        let (project, requirements) = find_project(cx, &self.options)?;
        let tests = project
            .test_command(&requirements)
            .map_err(|error| StepError::failed(pipeline_core::error_chain(&error)))?;
        let data = cx.artifact_dir().join("coverage.db");
        let python = in_venv(cx, tests.command());
        let with = |args: &[&str]| {
            let mut spec = python
                .clone()
                .env("COVERAGE_FILE", data.display().to_string());
            spec.args = ["-m", "coverage"]
                .iter()
                .chain(args)
                .map(Into::into)
                .collect();
            spec
        };
        let mut measure = with(&["run", "--source=."]);
        measure.args.extend(python.args.clone());
        cx.exec(measure).await?.check()?;
        let total = cx.exec(with(&["report", "--format=total"])).await?;
        let text = total.stdout();
        total.check()?;
        let percent = text.trim().parse().map_err(|error| {
            StepError::errored(
                format!("coverage said {:?}, not a percentage", text.trim()),
                error,
            )
        })?;
        cx.exec(with(&["report"])).await?.check()?;
        cx.summary(format!("{percent} % of lines"));
        Ok(percent)
    }
}

/// Looks for lint.
#[derive(Debug)]
pub(crate) struct Lint {
    pub(crate) options: FindOptions,
    pub(crate) command: Option<String>,
}

#[async_trait]
impl Step for Lint {
    type Output = ();

    fn inputs(&self) -> Vec<InputRef> {
        Vec::new()
    }

    async fn run(&self, cx: &StepContext) -> Result<(), StepError> {
        let (project, _) = find_project(cx, &self.options)?;
        let folder = Path::new(SOURCE).join(project.app_dir());
        let command = match &self.command {
            Some(command) => CommandSpec::shell(command).cwd(folder),
            None => CommandSpec::new(cx.job_dir().join(VENV).join("bin/python"))
                .args(["-m", "flake8"])
                .cwd(folder),
        };
        let ran = cx.exec(with_venv(cx, command)).await?;
        if ran.exit.success() {
            cx.summary("clean");
            return Ok(());
        }
        let findings = ran
            .stdout()
            .lines()
            .filter(|line| !line.trim().is_empty())
            .count();
        let first = ran.stdout().lines().next().unwrap_or_default().to_owned();
        if findings == 0 {
            return Err(ran.into_failure());
        }
        Err(ran.into_failure_because(format!("{findings} finding(s), first {first}")))
    }
}

pub(crate) fn site_packages(venv: &Path, version: &str) -> PathBuf {
    let minor: Vec<&str> = version.split('.').take(2).collect();
    venv.join(format!("lib/python{}/site-packages", minor.join(".")))
}

async fn write(path: &Path, text: &str) -> Result<(), StepError> {
    tokio::fs::write(path, text)
        .await
        .map_err(|error| StepError::errored(format!("could not write {}", path.display()), error))
}

async fn remove(folder: &Path) -> Result<(), StepError> {
    match tokio::fs::remove_dir_all(folder).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(StepError::errored(
            format!("could not remove {}", folder.display()),
            error,
        )),
        _ => Ok(()),
    }
}

async fn remove_file(path: &Path) -> Result<(), StepError> {
    tokio::fs::remove_file(path)
        .await
        .map_err(|error| StepError::errored(format!("could not remove {}", path.display()), error))
}
