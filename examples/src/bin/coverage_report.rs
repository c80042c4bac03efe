//! Tests a Python project in two jobs side by side and merges what they covered.
//!
//! The source is persisted once and attached by every job; each test job persists its line counts;
//! the last job attaches both, merges them and keeps the report in the run's folder. The lint step
//! is memoised: it runs again only when a source file or the interpreter has changed.
//!
//! Needs Python 3 and nothing else: tests run with `unittest`, lines are counted with `trace`.

#![expect(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a program that speaks to people"
)]

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use pipeline_cache::cache::Cache;
use pipeline_cache::files::FileSet;
use pipeline_cache::memoise::{Inputs, MemoiseExt as _};
use pipeline_cache::steps::ToolVersion;
use pipeline_cache::store::FilesystemStore;
use pipeline_cache::workspace::{Attach, Persist, StoreArtifacts, Workspace, WorkspaceLayer};
use pipeline_core::report::{PlainReporter, Style, Summary};
use pipeline_core::{
    CommandSpec, CommandStep, Job, LocalExecutor, Outcome, Output, Pipeline, RunFacts, Runner,
    error_chain,
};

#[derive(Debug, Parser)]
#[command(name = "coverage_report", version)]
struct Options {
    /// Folder of the project: packages beside folders `tests_unit` and `tests_web`.
    project: PathBuf,
    /// Where runs and the cache are kept.
    #[arg(long, default_value = ".pipeline")]
    data_dir: PathBuf,
}

/// Runs one folder of tests under `trace`, which counts executed lines into a file.
const TEST: &str = r#"
import os, sys, trace, unittest
name = sys.argv[1]
sys.path.insert(0, "src")
tracer = trace.Trace(count=1, trace=0, ignoredirs=[sys.prefix, sys.exec_prefix])
def run():
    suite = unittest.defaultTestLoader.discover("src/" + name, top_level_dir="src")
    return unittest.TextTestRunner(stream=sys.stdout).run(suite)

result = tracer.runfunc(run)
os.makedirs("coverage", exist_ok=True)
counts = {}
for (path, line), hits in tracer.results().counts.items():
    path = os.path.relpath(path)
    if path.startswith("src" + os.sep):
        counts.setdefault(path, {})[line] = hits
import json
json.dump(counts, open("coverage/%s.json" % name, "w"), sort_keys=True)
sys.exit(not result.wasSuccessful())
"#;

/// Adds line counts up and says which lines with code nobody executed.
const MERGE: &str = r#"
import ast, glob, json, os
merged = {}
for name in sorted(glob.glob("coverage/*.json")):
    for path, lines in json.load(open(name)).items():
        merged.setdefault(path, set()).update(int(line) for line in lines)
os.makedirs("report", exist_ok=True)
with open("report/coverage.txt", "w") as report:
    for path in sorted(glob.glob("src/**/*.py", recursive=True)):
        if os.path.basename(os.path.dirname(path)).startswith("tests_"):
            continue
        tree = ast.parse(open(path).read())
        code = {node.lineno for node in ast.walk(tree) if isinstance(node, ast.stmt)}
        missed = sorted(code - merged.get(path, set()))
        text = "%s: %d of %d" % (path, len(code) - len(missed), len(code))
        if missed:
            text += ", not " + " ".join(map(str, missed))
        print(text)
        print(text, file=report)
"#;

const LINT: &str = r#"
import glob, sys
found = 0
with open("lint.txt", "w") as out:
    for path in sorted(glob.glob("src/**/*.py", recursive=True)):
        for number, line in enumerate(open(path), 1):
            if len(line.rstrip("\n")) > 99 or line.rstrip("\n") != line.rstrip():
                found += 1
                print("%s:%d: too long, or spaces at its end" % (path, number), file=out)
    print(found, "findings", file=out)
sys.stdout.write(open("lint.txt").read())
"#;

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Options::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("coverage_report: {}", error_chain(&*error));
            ExitCode::from(2)
        }
    }
}

async fn run(options: &Options) -> Result<ExitCode, Box<dyn Error>> {
    let project = std::fs::canonicalize(&options.project)
        .map_err(|error| format!("{}: {error}", options.project.display()))?;
    let cache = Cache::new(FilesystemStore::new(options.data_dir.join("cache")));
    let pipeline = pipeline(project, &cache)?;
    let path = std::env::var("PATH").unwrap_or_default();
    let executor = LocalExecutor::new().with_env([("PATH", path)]);
    let run = Runner::new(&options.data_dir)
        .with_executor(Arc::new(executor))
        .with_reporter(PlainReporter::new(std::io::stderr(), Style::Plain))
        .start(&pipeline, RunFacts::new())
        .await?;
    let report = run.wait().await?;
    eprint!("{}", Summary::new(&report, Style::Plain));
    let merged = report.folder.join("artifacts/report/report/coverage.txt");
    if let Ok(text) = std::fs::read_to_string(merged) {
        print!("{text}");
    }
    Ok(match report.outcome {
        Outcome::Succeeded => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

fn pipeline(project: PathBuf, cache: &Cache) -> Result<Pipeline, Box<dyn Error>> {
    let workspace = Workspace::new(cache.clone());

    let mut source = Job::new("source");
    source.step(
        "copy",
        CommandStep::from(CommandSpec::shell(r#"rm -rf src && cp -R "$0" src"#).arg(project)),
    );
    let sources = source.step(
        "persist",
        Persist::new(
            &workspace,
            FileSet::new(["src/**/*.py"])?.without(["**/.*", "**/__pycache__"])?,
        ),
    );

    let mut lint = Job::new("lint").non_blocking();
    fresh(&mut lint, &workspace, [&sources]);
    let python = lint.step("python", ToolVersion::of("python3"));
    lint.step(
        "lines",
        python_step(LINT, &[]).memoised(
            cache,
            Inputs::new()
                .with_files(FileSet::new(["src"])?)
                .with_tool("python", python),
            ["lint.txt"],
        ),
    );

    let mut pipeline = Pipeline::builder("coverage-report").job(source).job(lint);
    let mut counts = Vec::new();
    for name in ["tests_unit", "tests_web"] {
        let mut test = Job::new(name);
        fresh(&mut test, &workspace, [&sources]);
        test.step("test", python_step(TEST, &[name]));
        counts.push(test.step(
            "persist",
            Persist::new(&workspace, FileSet::new(["coverage/*.json"])?),
        ));
        pipeline = pipeline.job(test);
    }

    let mut report = Job::new("report");
    fresh(&mut report, &workspace, counts.iter().chain([&sources]));
    report.step("merge", python_step(MERGE, &[]));
    report.step("keep", StoreArtifacts::new(FileSet::new(["report"])?));
    Ok(pipeline.job(report).build()?)
}

/// A job's folder has what it had in the last run; these jobs start from the layers alone.
fn fresh<'a>(
    job: &mut Job,
    workspace: &Workspace,
    layers: impl IntoIterator<Item = &'a Output<WorkspaceLayer>>,
) {
    job.step(
        "clean",
        CommandStep::from(CommandSpec::new("rm").args(["-rf", "src", "coverage", "report"])),
    );
    job.step("attach", Attach::new(workspace, layers));
}

fn python_step(program: &str, args: &[&str]) -> CommandStep {
    CommandSpec::new("python3")
        .args(["-B", "-c", program])
        .args(args.iter().copied())
        .into()
}
