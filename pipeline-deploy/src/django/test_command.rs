//! How a project's tests are run.

use std::fmt;
use std::path::{Path, PathBuf};

use super::find_error::FindError;
use super::locate::{self, SETTINGS_VARIABLE};
use super::project::DjangoProject;
use super::python_command::PythonCommand;
use super::requirements::Requirements;
use super::tool::Tool;

/// What runs the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TestRunner {
    /// `python -m pytest`; writes a JUnit file.
    Pytest,
    /// `python manage.py test`; read its output with
    /// [`UnittestReport`](super::UnittestReport).
    ManagePy,
}

impl fmt::Display for TestRunner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pytest => "python -m pytest",
            Self::ManagePy => "python manage.py test",
        })
    }
}

/// The command that runs a project's tests, and why it is that one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestCommand {
    runner: TestRunner,
    reason: String,
    command: PythonCommand,
    tools: Vec<Tool>,
}

impl TestCommand {
    /// What runs the tests.
    #[must_use]
    pub fn runner(&self) -> TestRunner {
        self.runner
    }

    /// Why this runner was chosen, as half a sentence for a log.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The command, without a report file.
    #[must_use]
    pub fn command(&self) -> &PythonCommand {
        &self.command
    }

    /// The command that writes a JUnit file, if the runner can; an absolute path is best, for
    /// a relative one is taken from the command's folder.
    #[must_use]
    pub fn with_junit(&self, file: &Path) -> Option<PythonCommand> {
        let report = format!("--junitxml={}", file.display());
        (self.runner == TestRunner::Pytest).then(|| self.command.clone().arg(report))
    }

    /// The tools that the command needs: those of the runner, and the pytest plugins whose
    /// options the project's configuration always passes.
    #[must_use]
    pub fn tools(&self) -> &[Tool] {
        &self.tools
    }
}

impl DjangoProject {
    /// Chooses how the tests are run.
    ///
    /// pytest runs them when anything says that they are meant for it: a pytest configuration,
    /// pytest or pytest-django among the requirements, a `conftest.py`, or a test file that
    /// imports pytest or has test functions outside classes. Otherwise Django's own runner does,
    /// for then nobody has ever run these tests with anything else.
    ///
    /// pytest is told the settings module (`--ds`) unless the project tells it, and without a
    /// pytest configuration it looks at the files that Django's runner would look at
    /// (`test*.py`), since its own default misses the `tests.py` of every new app.
    ///
    /// # Errors
    /// When a folder or a file of the project cannot be read.
    pub fn test_command(&self, requirements: &Requirements) -> Result<TestCommand, FindError> {
        let evidence = Evidence::collect(self.root(), self.app_dir())?;
        let listed = ["pytest-django", "pytest"]
            .into_iter()
            .find(|name| requirements.lists(name));
        let reason = if let Some(config) = self.pytest() {
            Some(format!("{} configures pytest", config.file().display()))
        } else if let Some(name) = listed {
            Some(format!("the requirements list {name}"))
        } else {
            evidence.reason.clone()
        };
        Ok(match reason {
            Some(reason) => self.with_pytest(reason, &evidence),
            None => TestCommand {
                runner: TestRunner::ManagePy,
                reason: "nothing in the project mentions pytest".to_owned(),
                command: PythonCommand::new(self.app_dir(), ["manage.py", "test", "--noinput"])
                    .env(SETTINGS_VARIABLE, self.settings()),
                tools: Vec::new(),
            },
        })
    }

    fn with_pytest(&self, reason: String, evidence: &Evidence) -> TestCommand {
        let config = self.pytest();
        // pytest's paths are relative to the folder of its configuration.
        let dir = config
            .and_then(|config| config.file().parent())
            .unwrap_or_else(|| self.app_dir());
        let mut command = PythonCommand::new(dir, ["-m", "pytest"]);
        let told = config.is_some_and(|config| config.settings().is_some());
        if !told && !evidence.conftest_sets_up_django {
            command = command.arg(format!("--ds={}", self.settings()));
        }
        if config.is_none() {
            command = command.arg("-o").arg("python_files=test*.py *_test.py");
        }
        if dir != self.app_dir() {
            // pytest-django finds `manage.py` only one level down, and only by itself.
            let path = self.app_dir().strip_prefix(dir).unwrap_or(self.app_dir());
            command = command.env("PYTHONPATH", &path.display().to_string());
        }
        let addopts = config.map(|config| config.addopts()).unwrap_or_default();
        let has = |start: &str| addopts.iter().any(|option| option.starts_with(start));
        let mut tools = vec![Tool::Pytest, Tool::PytestDjango];
        if has("--cov") {
            tools.push(Tool::PytestCov);
        }
        if has("-n") || has("--numprocesses") || has("--dist") {
            tools.push(Tool::PytestXdist);
        }
        TestCommand {
            runner: TestRunner::Pytest,
            reason,
            command,
            tools,
        }
    }
}

/// What the test files say about their runner.
#[derive(Debug, Default)]
struct Evidence {
    reason: Option<String>,
    conftest_sets_up_django: bool,
}

impl Evidence {
    /// Looks at the test files of the app folder. `tests` beside the app folder counts too.
    fn collect(root: &Path, app_dir: &Path) -> Result<Self, FindError> {
        const MOST_FOLDERS: usize = 2000;
        let mut evidence = Self::default();
        let mut open: Vec<PathBuf> = vec![app_dir.to_owned()];
        if !app_dir.as_os_str().is_empty() {
            evidence.conftest(root, Path::new("conftest.py"))?;
            if root.join("tests").is_dir() {
                open.push(PathBuf::from("tests"));
            }
        }
        let mut seen = 0;
        while let Some(dir) = open.pop() {
            seen += 1;
            if seen > MOST_FOLDERS {
                break;
            }
            evidence.conftest(root, &dir.join("conftest.py"))?;
            if evidence.reason.is_none() {
                for file in test_files(root, &dir)? {
                    evidence.test_file(root, &file)?;
                }
            }
            open.extend(locate::folders(root, &dir)?);
        }
        Ok(evidence)
    }

    fn conftest(&mut self, root: &Path, file: &Path) -> Result<(), FindError> {
        if let Some(source) = locate::python(root, file)? {
            self.reason
                .get_or_insert_with(|| format!("there is {}", file.display()));
            self.conftest_sets_up_django |= source.has_text(SETTINGS_VARIABLE)
                || (source.mentions("settings") && source.mentions("configure"));
        }
        Ok(())
    }

    fn test_file(&mut self, root: &Path, file: &Path) -> Result<(), FindError> {
        if let Some(source) = locate::python(root, file)? {
            let says = if source.imports("pytest") {
                "imports pytest"
            } else if source.defines_function("test") {
                "has test functions outside classes"
            } else {
                return Ok(());
            };
            self.reason
                .get_or_insert_with(|| format!("{} {says}", file.display()));
        }
        Ok(())
    }
}

fn test_files(root: &Path, dir: &Path) -> Result<Vec<PathBuf>, FindError> {
    let path = root.join(dir);
    let read = |source| FindError::Read {
        path: path.clone(),
        source,
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&path).map_err(read)? {
        let entry = entry.map_err(read)?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.ends_with("_test.py") || (name.starts_with("test") && name.ends_with(".py")) {
            files.push(dir.join(name));
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use crate::django::FindOptions;

    use super::*;

    fn choose(files: &[(&str, &str)]) -> TestCommand {
        let dir = tempfile::tempdir().unwrap();
        let at_root = !files.iter().any(|(name, _)| *name == "src/manage.py");
        let app = if at_root { "" } else { "src/" };
        let usual = [
            (
                format!("{app}manage.py"),
                "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop.settings')",
            ),
            (format!("{app}shop/wsgi.py"), ""),
            ("requirements.txt".to_owned(), "Django\n"),
        ];
        let usual = usual.iter().map(|(name, text)| (name.as_str(), *text));
        for (name, text) in usual.chain(files.iter().copied()) {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            if !text.is_empty() || !path.exists() {
                std::fs::write(path, text).unwrap();
            }
        }
        let project = DjangoProject::find(dir.path(), &FindOptions::default()).unwrap();
        project
            .test_command(&project.read_requirements().unwrap())
            .unwrap()
    }

    const TEST_CASES: (&str, &str) = (
        "goods/tests.py",
        "from django.test import TestCase\n\nclass T(TestCase):\n    def test_a(self):\n        pass\n",
    );

    #[test]
    fn without_a_sign_of_pytest_django_runs_its_own_tests() {
        let chosen = choose(&[TEST_CASES]);
        assert_eq!(chosen.runner(), TestRunner::ManagePy);
        assert_eq!(
            chosen.command().to_string(),
            "DJANGO_SETTINGS_MODULE=shop.settings python manage.py test --noinput"
        );
        assert_eq!(chosen.with_junit("r.xml".as_ref()), None);
        assert!(chosen.tools().is_empty());
    }

    #[test]
    fn any_sign_of_pytest_chooses_it() {
        for (file, text, reason) in [
            (
                "requirements.txt",
                "Django\npytest-django\n",
                "list pytest-django",
            ),
            ("requirements.txt", "Django\nPyTest>=7\n", "list pytest"),
            ("conftest.py", "import os\n", "there is conftest.py"),
            (
                "goods/test_a.py",
                "import pytest\n",
                "goods/test_a.py imports pytest",
            ),
            ("goods/a_test.py", "def test_a(db): ...\n", "test functions"),
        ] {
            let chosen = choose(&[TEST_CASES, (file, text)]);
            assert_eq!(chosen.runner(), TestRunner::Pytest, "{file}");
            assert!(chosen.reason().contains(reason), "{}", chosen.reason());
            assert_eq!(
                chosen.command().to_string(),
                "python -m pytest --ds=shop.settings -o 'python_files=test*.py *_test.py'"
            );
        }
    }

    #[test]
    fn what_the_project_configures_is_not_told_again() {
        let chosen = choose(&[(
            "setup.cfg",
            "[tool:pytest]\nDJANGO_SETTINGS_MODULE = shop.settings\n",
        )]);
        assert_eq!(chosen.command().to_string(), "python -m pytest");
        assert_eq!(chosen.reason(), "setup.cfg configures pytest");
        let junit = chosen.with_junit("/r/j.xml".as_ref()).unwrap();
        assert_eq!(junit.to_string(), "python -m pytest --junitxml=/r/j.xml");
        let chosen = choose(&[("pytest.ini", "[pytest]\naddopts = -q\n")]);
        assert_eq!(
            chosen.command().to_string(),
            "python -m pytest --ds=shop.settings"
        );
        let chosen = choose(&[
            ("pytest.ini", "[pytest]\n"),
            (
                "conftest.py",
                "os.environ['DJANGO_SETTINGS_MODULE'] = 'shop.test'\n",
            ),
        ]);
        assert_eq!(chosen.command().to_string(), "python -m pytest");
    }

    #[test]
    fn a_configuration_above_the_app_folder_runs_there() {
        let chosen = choose(&[
            ("src/manage.py", ""),
            (
                "pytest.ini",
                "[pytest]\nDJANGO_SETTINGS_MODULE = shop.settings\n",
            ),
        ]);
        assert_eq!(
            chosen.command().to_string(),
            "PYTHONPATH=src python -m pytest"
        );
        let chosen = choose(&[("src/manage.py", ""), ("src/conftest.py", "x = 1")]);
        assert!(
            chosen
                .command()
                .to_string()
                .starts_with("cd src && python -m pytest --ds=")
        );
    }

    #[test]
    fn plugins_come_from_the_options() {
        let chosen = choose(&[(
            "pytest.ini",
            "[pytest]\naddopts = --cov=shop -n auto --reuse-db\n",
        )]);
        assert_eq!(
            chosen.tools(),
            [
                Tool::Pytest,
                Tool::PytestDjango,
                Tool::PytestCov,
                Tool::PytestXdist
            ]
        );
    }
}
