//! The binary `coverage_report` on a small project.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn write(folder: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

fn report(folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_coverage_report"))
        .arg("site")
        .args(["--data-dir", "data"])
        .current_dir(folder)
        .output()
        .unwrap()
}

/// What the lint step said in the newest run.
fn lint_log(folder: &Path) -> String {
    let runs = fs::read_dir(folder.join("data/runs")).unwrap();
    let newest = runs
        .map(|run| run.unwrap().path().join("logs/lint/lines.log"))
        .filter(|log| log.is_file())
        .max();
    fs::read_to_string(newest.unwrap()).unwrap()
}

const SHOP: &str = "\
def price(net):
    return net * 119 // 100


def page(name):
    return 'Hello ' + name


def nobody():
    return 1
";

#[test]
#[ignore = "needs python3"]
fn two_jobs_cover_more_than_each_and_an_unchanged_source_is_not_linted_again() {
    let dir = tempfile::tempdir().unwrap();
    let test = |name: &str, check: &str| {
        format!(
            "import unittest\nimport shop\n\n\nclass {name}(unittest.TestCase):\n    \
             def test_it(self):\n        {check}\n"
        )
    };
    let unit = test("Unit", "self.assertEqual(shop.price(100), 119)");
    let web = test("Web", "self.assertIn('Bob', shop.page('Bob'))");
    write(
        &dir.path().join("site"),
        &[
            ("shop.py", SHOP),
            ("tests_unit/__init__.py", ""),
            ("tests_unit/test_shop.py", &unit),
            ("tests_web/__init__.py", ""),
            ("tests_web/test_shop.py", &web),
        ],
    );
    let first = report(dir.path());
    let said = String::from_utf8_lossy(&first.stderr).into_owned();
    assert!(first.status.success(), "{said}");
    // Each job covers one function, together they cover all but the last.
    assert_eq!(
        String::from_utf8_lossy(&first.stdout),
        "src/shop.py: 5 of 6, not 10\n"
    );
    assert!(
        said.contains("Not memoised yet: no result of this step is stored"),
        "{said}"
    );

    let second = report(dir.path());
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(second.status.success(), "{said}");
    assert!(said.contains("Nothing changed since"), "{said}");
    let log = lint_log(dir.path());
    assert!(
        log.contains("0 findings") && log.contains("not run"),
        "{log}"
    );
    assert!(
        said.contains("The store holds this layer already"),
        "{said}"
    );

    write(
        &dir.path().join("site"),
        &[("shop.py", &SHOP.replace("1\n", "1  \n"))],
    );
    let third = report(dir.path());
    let said = String::from_utf8_lossy(&third.stderr).into_owned();
    assert!(
        said.contains("Not memoised yet: file src/shop.py changed"),
        "{said}"
    );
    let log = lint_log(dir.path());
    assert!(
        log.contains("1 findings") && !log.contains("not run"),
        "{log}"
    );

    // A failing test fails the run, and the report is not made.
    let broken = web.replace("'Bob', shop", "'Eve', shop");
    write(
        &dir.path().join("site"),
        &[("tests_web/test_shop.py", &broken)],
    );
    let failed = report(dir.path());
    assert_eq!(failed.status.code(), Some(1));
    assert!(failed.stdout.is_empty());
}
