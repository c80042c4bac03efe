//! The tools a delivery needs and a project may not list.

use std::fmt;

use super::requirements::Requirements;
use super::version::VersionRange;

/// A Python tool that the pipeline runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Tool {
    /// Runs the tests.
    Pytest,
    /// Lets pytest run Django tests.
    PytestDjango,
    /// Measures coverage from within pytest (`--cov`).
    PytestCov,
    /// Runs tests in several processes (`-n`).
    PytestXdist,
    /// Finds lint.
    Flake8,
    /// Measures which lines the tests reach.
    Coverage,
    /// Serves the site.
    Gunicorn,
}

impl Tool {
    /// Every tool, in the order they are chosen.
    pub const ALL: [Self; 7] = [
        Self::Pytest,
        Self::PytestDjango,
        Self::PytestCov,
        Self::PytestXdist,
        Self::Flake8,
        Self::Coverage,
        Self::Gunicorn,
    ];

    /// The name on the package index.
    #[must_use]
    pub fn distribution(self) -> &'static str {
        match self {
            Self::Pytest => "pytest",
            Self::PytestDjango => "pytest-django",
            Self::PytestCov => "pytest-cov",
            Self::PytestXdist => "pytest-xdist",
            Self::Flake8 => "flake8",
            Self::Coverage => "coverage",
            Self::Gunicorn => "gunicorn",
        }
    }

    /// Versions to choose from, best first, each with what it needs of other distributions
    /// (name, lowest, first that is too high). Taken from the metadata of these releases; all
    /// of them install on Python 3.10 to 3.13.
    fn candidates(self) -> &'static [Candidate] {
        match self {
            Self::Pytest => &[
                Candidate {
                    version: "9.2.0",
                    needs: &[
                        ("iniconfig", "2", ""),
                        ("packaging", "24", ""),
                        ("pluggy", "1.6", "2"),
                        ("pygments", "2.15", ""),
                        ("pytest-django", "4.8", ""),
                    ],
                },
                Candidate {
                    version: "8.3.5",
                    needs: &[("pluggy", "1.5", "2"), ("pytest-django", "4.5", "")],
                },
                Candidate {
                    version: "7.4.4",
                    needs: &[("pluggy", "0.12", "2"), ("pytest-django", "4.5", "")],
                },
                Candidate {
                    version: "6.2.5",
                    needs: &[("pluggy", "0.12", "2")],
                },
            ],
            Self::PytestDjango => &[
                // Tried with Django 3.0 to 5.2 and pytest 7.4 to 9.2.
                Candidate {
                    version: "4.14.0",
                    needs: &[("pytest", "7", ""), ("django", "3", "")],
                },
                // Tried with Django 2.2 and pytest 9.2.
                Candidate {
                    version: "4.11.1",
                    needs: &[("pytest", "7", "")],
                },
                // Tried with Django 3.2 and 5.2 and pytest 6.2.
                Candidate {
                    version: "4.5.2",
                    needs: &[("pytest", "5.4", "")],
                },
                Candidate {
                    version: "3.10.0",
                    needs: &[("pytest", "3.6", "")],
                },
            ],
            Self::PytestCov => &[
                Candidate {
                    version: "7.1.0",
                    needs: &[
                        ("coverage", "7.10.6", ""),
                        ("pluggy", "1.2", ""),
                        ("pytest", "7", ""),
                    ],
                },
                Candidate {
                    version: "4.1.0",
                    needs: &[("coverage", "5.2.1", ""), ("pytest", "4.6", "")],
                },
            ],
            Self::PytestXdist => &[
                Candidate {
                    version: "3.8.0",
                    needs: &[("execnet", "2.1", ""), ("pytest", "7", "")],
                },
                Candidate {
                    version: "2.5.0",
                    needs: &[("execnet", "1.1", ""), ("pytest", "6.2", "")],
                },
            ],
            Self::Flake8 => &[
                Candidate {
                    version: "7.4.1",
                    needs: &[
                        ("mccabe", "0.7", "0.8"),
                        ("pycodestyle", "2.15", "2.16"),
                        ("pyflakes", "4", "4.1"),
                    ],
                },
                Candidate {
                    version: "7.1.2",
                    needs: &[
                        ("mccabe", "0.7", "0.8"),
                        ("pycodestyle", "2.12", "2.13"),
                        ("pyflakes", "3.2", "3.3"),
                    ],
                },
                Candidate {
                    version: "6.1.0",
                    needs: &[
                        ("mccabe", "0.7", "0.8"),
                        ("pycodestyle", "2.11", "2.12"),
                        ("pyflakes", "3.1", "3.2"),
                    ],
                },
                Candidate {
                    version: "5.0.4",
                    needs: &[
                        ("mccabe", "0.7", "0.8"),
                        ("pycodestyle", "2.9", "2.10"),
                        ("pyflakes", "2.5", "2.6"),
                    ],
                },
            ],
            Self::Coverage => &[Candidate {
                version: "7.16.2",
                needs: &[],
            }],
            Self::Gunicorn => &[Candidate {
                version: "27.0.1",
                needs: &[],
            }],
        }
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.distribution())
    }
}

#[derive(Debug)]
struct Candidate {
    version: &'static str,
    needs: &'static [(&'static str, &'static str, &'static str)],
}

/// A tool to add, in the form pip takes. Displays as `pytest==9.2.0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolPin {
    tool: Tool,
    version: Option<&'static str>,
}

impl ToolPin {
    /// The tool.
    #[must_use]
    pub fn tool(&self) -> Tool {
        self.tool
    }

    /// The version; nothing when no known version suits what the project pins, and pip must
    /// find one itself.
    #[must_use]
    pub fn version(&self) -> Option<&'static str> {
        self.version
    }
}

impl fmt::Display for ToolPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            Some(version) => write!(f, "{}=={version}", self.tool),
            None => write!(f, "{}", self.tool),
        }
    }
}

/// The wanted tools that the project does not list, each at a version that suits the versions
/// the project does list.
///
/// Install them in one pip command after the project's own, with [`Requirements::pins`] as
/// constraints (`-c`): then adding a tool never moves what the project pinned.
#[must_use]
pub fn missing_tools(requirements: &Requirements, wanted: &[Tool]) -> Vec<ToolPin> {
    let mut added: Vec<ToolPin> = Vec::new();
    for tool in Tool::ALL.into_iter().filter(|tool| wanted.contains(tool)) {
        if requirements.lists(tool.distribution()) {
            continue;
        }
        let allowed = |name: &str| {
            let pin = added.iter().find(|pin| pin.tool.distribution() == name);
            match pin.and_then(ToolPin::version) {
                Some(version) => VersionRange::of_specifiers(&format!("=={version}")),
                None => requirements.range(name),
            }
        };
        let suits = |candidate: &&Candidate| {
            let itself = VersionRange::of_specifiers(&format!("=={}", candidate.version));
            !allowed(tool.distribution()).meet(&itself).is_empty()
                && candidate.needs.iter().all(|(name, lowest, too_high)| {
                    let needed = VersionRange::between(lowest, too_high);
                    !allowed(name).meet(&needed).is_empty()
                })
        };
        let version = tool
            .candidates()
            .iter()
            .find(suits)
            .map(|candidate| candidate.version);
        added.push(ToolPin { tool, version });
    }
    added
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: [Tool; 5] = [
        Tool::Pytest,
        Tool::PytestDjango,
        Tool::Flake8,
        Tool::Coverage,
        Tool::Gunicorn,
    ];

    fn added(text: &str, wanted: &[Tool]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("requirements.txt"), text).unwrap();
        let requirements = Requirements::read(dir.path(), "requirements.txt".as_ref()).unwrap();
        missing_tools(&requirements, wanted)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_plain_project_gets_the_newest() {
        assert_eq!(
            added("Django==5.2.19\nwhitenoise==6.12.0\n", &USUAL),
            [
                "pytest==9.2.0",
                "pytest-django==4.14.0",
                "flake8==7.4.1",
                "coverage==7.16.2",
                "gunicorn==27.0.1"
            ]
        );
    }

    #[test]
    fn what_is_listed_or_not_wanted_is_not_added() {
        assert_eq!(
            added(
                "django\nPytest_Django>=4\nGUNICORN[gevent]==23.0.0\n",
                &USUAL
            ),
            ["pytest==9.2.0", "flake8==7.4.1", "coverage==7.16.2"]
        );
        assert_eq!(added("django\n", &[Tool::Gunicorn]), ["gunicorn==27.0.1"]);
    }

    #[test]
    fn pytest_django_suits_the_listed_pytest() {
        let wanted = [Tool::Pytest, Tool::PytestDjango];
        for (listed, expected) in [
            ("pytest==9.2.0", "pytest-django==4.14.0"),
            ("pytest==7.4.4", "pytest-django==4.14.0"),
            ("pytest==6.2.5", "pytest-django==4.5.2"),
            ("pytest~=6.2", "pytest-django==4.5.2"),
            ("pytest<7", "pytest-django==4.5.2"),
            ("pytest==5.3.5", "pytest-django==3.10.0"),
            ("pytest", "pytest-django==4.14.0"),
            ("django==2.2.28\npytest", "pytest-django==4.11.1"),
        ] {
            assert_eq!(
                added(&format!("{listed}\n"), &wanted),
                [expected],
                "{listed}"
            );
        }
    }

    #[test]
    fn pytest_suits_the_listed_plugin_and_libraries() {
        for (listed, expected) in [
            ("pytest-django==4.11.1", "pytest==9.2.0"),
            ("pytest-django==4.5.2", "pytest==8.3.5"),
            ("pytest-django==3.9.0", "pytest==6.2.5"),
            ("packaging==21.3", "pytest==8.3.5"),
            ("pluggy==1.0.0", "pytest==7.4.4"),
            ("pluggy==3.0", "pytest"),
        ] {
            assert_eq!(
                added(&format!("{listed}\n"), &[Tool::Pytest]),
                [expected],
                "{listed}"
            );
        }
    }

    #[test]
    fn flake8_suits_the_listed_checkers() {
        assert_eq!(
            added("pycodestyle==2.11.1\npyflakes==3.1.0\n", &[Tool::Flake8]),
            ["flake8==6.1.0"]
        );
        assert_eq!(added("pycodestyle==2.6.0\n", &[Tool::Flake8]), ["flake8"]);
    }

    #[test]
    fn plugins_suit_pytest() {
        let plugins = [Tool::PytestCov, Tool::PytestXdist];
        assert_eq!(
            added("django\n", &plugins),
            ["pytest-cov==7.1.0", "pytest-xdist==3.8.0"]
        );
        assert_eq!(
            added("pytest==6.2.5\n", &plugins),
            ["pytest-cov==4.1.0", "pytest-xdist==2.5.0"]
        );
    }

    #[test]
    fn constraints_limit_what_is_added() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("requirements.txt"),
            "django\n-c limits.txt\n",
        )
        .unwrap();
        std::fs::write(dir.path().join("limits.txt"), "pytest<8\n").unwrap();
        let requirements = Requirements::read(dir.path(), "requirements.txt".as_ref()).unwrap();
        let pins = missing_tools(&requirements, &[Tool::PytestDjango, Tool::Pytest]);
        assert_eq!(pins[0].to_string(), "pytest==7.4.4");
        assert_eq!(pins[1].to_string(), "pytest-django==4.14.0");
    }
}
