//! What Django's own test runner says at its end.

/// The totals and failures that `manage.py test` prints.
///
/// Python's unittest has no report file. The package that adds one (unittest-xml-reporting)
/// replaces the project's own test runner and brings a compiled XML library along, so the
/// printed text is read instead: <https://docs.python.org/3/library/unittest.html>.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct UnittestReport {
    /// Tests that were run, skipped ones included.
    pub run: u64,
    /// Tests whose assertion failed; a test counts once for each failing sub-test.
    pub failures: u64,
    /// Tests that raised something else.
    pub errors: u64,
    /// Tests that were skipped.
    pub skipped: u64,
    /// Tests that failed as they were expected to.
    pub expected_failures: u64,
    /// Tests that passed although they were expected to fail; they make the run fail.
    pub unexpected_successes: u64,
    /// The time that the tests took, in seconds.
    pub seconds: f64,
    /// What failed, in order.
    pub failed: Vec<UnittestFailure>,
}

/// One failed test.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnittestFailure {
    /// The test as `package.module.Class.test`.
    pub test: String,
    /// Whether an assertion failed or something else went wrong.
    pub kind: FailureKind,
    /// The traceback and message, without the rules around it.
    pub detail: String,
}

/// How a test failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// An assertion did not hold.
    Failure,
    /// Something was raised that is no assertion.
    Error,
}

impl UnittestReport {
    /// Reads the output of a test run, standard error or both streams together. Nothing when
    /// the output has no totals: the run broke before its end.
    #[must_use]
    pub fn parse(output: &str) -> Option<Self> {
        let lines: Vec<&str> = output.lines().map(str::trim_end).collect();
        let last = lines.iter().rposition(|line| ran(line).is_some())?;
        let (run, seconds) = ran(lines[last])?;
        let mut report = Self {
            run,
            seconds,
            failed: failures(&lines[..last]),
            ..Self::default()
        };
        let verdict = lines[last + 1..].iter().find(|line| {
            ["OK", "FAILED", "NO TESTS RAN"]
                .iter()
                .any(|word| line.starts_with(word))
        });
        let counts = verdict
            .and_then(|line| line.split_once('(')?.1.strip_suffix(')'))
            .unwrap_or_default();
        for count in counts.split(',') {
            let Some((name, number)) = count.trim().split_once('=') else {
                continue;
            };
            let number = number.parse().unwrap_or(0);
            match name {
                "failures" => report.failures = number,
                "errors" => report.errors = number,
                "skipped" => report.skipped = number,
                "expected failures" => report.expected_failures = number,
                "unexpected successes" => report.unexpected_successes = number,
                _ => {}
            }
        }
        Some(report)
    }

    /// Tests that neither failed nor were skipped.
    #[must_use]
    pub fn passed(&self) -> u64 {
        let rest = self.failures + self.errors + self.skipped + self.unexpected_successes;
        self.run.saturating_sub(rest)
    }
}

/// `Ran 25 tests in 0.064s`.
fn ran(line: &str) -> Option<(u64, f64)> {
    let (number, rest) = line.strip_prefix("Ran ")?.split_once(' ')?;
    let seconds = rest
        .strip_prefix("tests in ")
        .or_else(|| rest.strip_prefix("test in "))?
        .strip_suffix('s')?;
    Some((number.parse().ok()?, seconds.parse().ok()?))
}

/// The blocks between a rule of `=` and the next rule of `=` or the end.
fn failures(lines: &[&str]) -> Vec<UnittestFailure> {
    let is_rule = |line: &str, mark: char| line.len() == 70 && line.chars().all(|c| c == mark);
    let mut failed = Vec::new();
    let mut at = 0;
    while at + 1 < lines.len() {
        let head = is_rule(lines[at], '=').then(|| lines[at + 1]);
        let found = head.and_then(|head| {
            let kinds = [
                ("FAIL: ", FailureKind::Failure),
                ("ERROR: ", FailureKind::Error),
            ];
            kinds
                .iter()
                .find_map(|(word, kind)| Some((*kind, head.strip_prefix(word)?)))
        });
        let Some((kind, name)) = found else {
            at += 1;
            continue;
        };
        let mut end = at + 2;
        while end < lines.len() && !is_rule(lines[end], '=') {
            end += 1;
        }
        let body = &lines[at + 2..end];
        let start = body
            .iter()
            .position(|line| is_rule(line, '-'))
            .map_or(0, |rule| rule + 1);
        let detail: Vec<&str> = body[start..]
            .iter()
            .copied()
            .filter(|line| !is_rule(line, '-'))
            .collect();
        failed.push(UnittestFailure {
            test: test_name(name),
            kind,
            detail: detail.join("\n").trim().to_owned(),
        });
        at = end;
    }
    failed
}

/// `test_x (shop.tests.T.test_x)`, before Python 3.11 `test_x (shop.tests.T)`, either with the
/// sub-test behind it; an import that failed is `shop.tests (unittest.loader._FailedTest…)`.
fn test_name(head: &str) -> String {
    let Some((method, rest)) = head.split_once(" (") else {
        return head.to_owned();
    };
    let Some((place, sub_test)) = rest.split_once(')') else {
        return head.to_owned();
    };
    let full = if place.starts_with("unittest.loader.") {
        method.to_owned()
    } else if place.rsplit('.').next() == Some(method) {
        place.to_owned()
    } else {
        format!("{place}.{method}")
    };
    format!("{full}{sub_test}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(mark: &str) -> String {
        mark.repeat(70)
    }

    #[test]
    fn a_good_run() {
        let report = UnittestReport::parse(
            "Found 3 test(s).\n...\n----------\nRan 3 tests in 0.064s\n\nOK (skipped=1)\nDestroying\n",
        )
        .unwrap();
        assert_eq!((report.run, report.skipped, report.passed()), (3, 1, 2));
        assert!((report.seconds - 0.064).abs() < 1e-9);
        assert!(UnittestReport::parse("Ran 1 test in 0.1s\r\n\r\nOK\r\n").is_some());
    }

    #[test]
    fn a_bad_run_names_its_tests() {
        let (double, single) = (rule("="), rule("-"));
        let output = format!(
            "F.E\n{double}\nERROR: test_b (shop.tests.T)\n{single}\nTraceback:\nValueError: x\n\n\
             {double}\nFAIL: test_a (shop.tests.T.test_a) (i=1)\nA docstring.\n{single}\n\
             AssertionError: 1 != 2\n\n{double}\nERROR: shop.more (unittest.loader._FailedTest.shop.more)\n\
             {single}\nImportError: y\n\n{single}\nRan 3 tests in 1.500s\n\n\
             FAILED (failures=1, errors=2, expected failures=1, unexpected successes=0)\n"
        );
        let report = UnittestReport::parse(&output).unwrap();
        assert_eq!(
            (report.failures, report.errors, report.expected_failures),
            (1, 2, 1)
        );
        let named: Vec<_> = report
            .failed
            .iter()
            .map(|f| (f.test.as_str(), f.kind))
            .collect();
        assert_eq!(
            named,
            [
                ("shop.tests.T.test_b", FailureKind::Error),
                ("shop.tests.T.test_a (i=1)", FailureKind::Failure),
                ("shop.more", FailureKind::Error),
            ]
        );
        assert_eq!(report.failed[1].detail, "AssertionError: 1 != 2");
        assert_eq!(report.failed[2].detail, "ImportError: y");
    }

    #[test]
    fn no_totals_no_report() {
        assert_eq!(UnittestReport::parse("ImportError: no module\n"), None);
        assert_eq!(UnittestReport::parse("Ran away in 3s\n"), None);
        let none = UnittestReport::parse("Ran 0 tests in 0.000s\n\nNO TESTS RAN\n").unwrap();
        assert_eq!(none.run, 0);
    }
}
