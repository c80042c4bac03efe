//! Reading what test runners write: JUnit XML.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use quick_junit::{NonSuccessKind, Report, TestCaseStatus};
use serde::{Deserialize, Serialize};

/// The totals of a test run, with the tests that did not pass.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TestTotals {
    /// Tests that passed.
    pub passed: usize,
    /// Tests whose assertion failed.
    pub failed: usize,
    /// Tests that broke down before they could say.
    pub errors: usize,
    /// Tests that were left out.
    pub skipped: usize,
    /// Failed and broken tests, in the order of the report.
    pub not_passed: Vec<FailedTest>,
}

/// A test that did not pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FailedTest {
    /// Class or module and name, as the runner wrote them.
    pub name: String,
    /// The first line of the reason.
    pub message: String,
}

/// Why a report says nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JunitError {
    /// The runner did not write it.
    #[error("the test runner wrote no report at {}", .0.display())]
    Missing(PathBuf),
    /// It cannot be read.
    #[error("could not read the test report {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It is not JUnit XML.
    #[error("the test report {} is not JUnit XML", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the parser says, with the place.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl FailedTest {
    /// A test that did not pass, for readers of other reports.
    #[must_use]
    pub fn new(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            message: message.into(),
        }
    }
}

impl TestTotals {
    /// Reads one file.
    ///
    /// The counters on the root element are not believed: pytest leaves them
    /// out. The test cases are counted.
    ///
    /// # Errors
    /// [`JunitError`] when the file is missing, unreadable or something else.
    pub fn read(path: &Path) -> Result<Self, JunitError> {
        let xml = std::fs::read_to_string(path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => JunitError::Missing(path.to_owned()),
            _ => JunitError::Read {
                path: path.to_owned(),
                source,
            },
        })?;
        let report =
            Report::deserialize_from_str(&xml).map_err(|source| JunitError::Malformed {
                path: path.to_owned(),
                source: source.into(),
            })?;
        let mut totals = Self::default();
        for case in report
            .test_suites
            .iter()
            .flat_map(|suite| &suite.test_cases)
        {
            match &case.status {
                TestCaseStatus::Success { .. } => totals.passed += 1,
                TestCaseStatus::Skipped { .. } => totals.skipped += 1,
                TestCaseStatus::NonSuccess {
                    kind,
                    message,
                    description,
                    ..
                } => {
                    match kind {
                        NonSuccessKind::Failure => totals.failed += 1,
                        NonSuccessKind::Error => totals.errors += 1,
                    }
                    let name = match &case.classname {
                        Some(class) => format!("{}::{}", class.as_str(), case.name.as_str()),
                        None => case.name.as_str().to_owned(),
                    };
                    let message = message.as_ref().or(description.as_ref());
                    let message = message.and_then(|text| text.as_str().lines().next());
                    totals.not_passed.push(FailedTest {
                        name,
                        message: message.unwrap_or_default().trim().to_owned(),
                    });
                }
            }
        }
        Ok(totals)
    }

    /// All tests of the report.
    #[must_use]
    pub fn total(&self) -> usize {
        self.passed + self.failed + self.errors + self.skipped
    }
}

impl fmt::Display for TestTotals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tests, {} passed", self.total(), self.passed)?;
        for (count, what) in [
            (self.failed, "failed"),
            (self.errors, "broken"),
            (self.skipped, "skipped"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pytest_writes_no_totals_on_the_root_and_is_counted_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("junit.xml");
        std::fs::write(
            &path,
            r#"<?xml version="1.0" encoding="utf-8"?><testsuites name="pytest tests"><testsuite
            name="pytest" errors="0" failures="1" skipped="1" tests="3" time="0.1"
            timestamp="2026-01-01T00:00:00.000000+00:00" hostname="h">
            <testcase classname="a.tests" name="test_one" time="0.01" />
            <testcase classname="a.tests" name="test_two" time="0.01"><failure
            message="assert 500 == 200&#10;more">trace</failure></testcase>
            <testcase classname="a.tests" name="test_three" time="0.0"><skipped
            type="pytest.skip" message="later">x</skipped></testcase>
            </testsuite></testsuites>"#,
        )
        .unwrap();
        let totals = TestTotals::read(&path).unwrap();
        assert_eq!(totals.to_string(), "3 tests, 1 passed, 1 failed, 1 skipped");
        assert_eq!(totals.not_passed[0].name, "a.tests::test_two");
        assert_eq!(totals.not_passed[0].message, "assert 500 == 200");
    }

    #[test]
    fn a_missing_report_and_a_broken_one_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("junit.xml");
        assert!(matches!(
            TestTotals::read(&path),
            Err(JunitError::Missing(_))
        ));
        std::fs::write(&path, "<html>").unwrap();
        assert!(matches!(
            TestTotals::read(&path),
            Err(JunitError::Malformed { .. })
        ));
    }
}
