use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use pipeline_cache::cache::Cache;
use pipeline_cache::files::FileSet;
use pipeline_cache::memoise::{Inputs, MemoiseExt as _};
use pipeline_cache::steps::ToolVersion;
use pipeline_cache::store::{CacheStore as _, FilesystemStore};
use pipeline_core::{
    EnvValue, Job, Outcome, Output, Pipeline, RunFacts, Secret, StepError, StepOptions, sh, step_fn,
};
use serde_json::Value;

use crate::steps::{Recorder, prepared, run};

fn cache(dir: &Path) -> Cache {
    Cache::new(FilesystemStore::new(dir.join("cache")))
}

fn files(patterns: &[&str]) -> FileSet {
    FileSet::new(patterns).unwrap()
}

/// A job with a prepared folder and one memoised command.
fn lint(cache: &Cache, prepare: &str, script: &str, inputs: Inputs, outputs: &[&str]) -> Pipeline {
    let mut job = Job::new("lint");
    job.step("prepare", sh(prepare));
    job.step(
        "check",
        sh(script).memoised(cache, inputs, outputs.to_vec()),
    );
    Pipeline::builder("p").job(job).build().unwrap()
}

/// Names of the inputs that changed, as the miss reports them.
fn changed(events: &Recorder) -> Vec<String> {
    let missed = events.fact("memo.missed").unwrap();
    let changes = missed["nearest"]["changes"].as_array().unwrap().clone();
    changes
        .iter()
        .map(|change| change["input"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_hit_restores_outputs_value_and_log_and_a_miss_names_what_changed() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path());
    let counter = dir.path().join("counter");
    let script = format!(
        "echo x >> {}; echo checking; mkdir -p out; ls -l src > out/sizes; echo bad >&2",
        counter.display()
    );
    let inputs = |files: FileSet| Inputs::new().with_files(files);
    let set = || files(&["src"]).without(["**/*.pyc"]).unwrap();
    let prepare = "rm -rf out src; mkdir -p src/deep; echo 1 > src/a; echo 2 > src/deep/b; date +%N > src/x.pyc";
    let pipeline = lint(&cache, prepare, &script, inputs(set()), &["out"]);
    let runs = || fs::read_to_string(&counter).unwrap().lines().count();

    let (report, events) = run(dir.path(), &pipeline).await;
    assert_eq!(report.outcome, Outcome::Succeeded, "{report:#?}");
    assert_eq!(events.fact("memo.missed").unwrap()["nearest"], Value::Null);
    assert!(
        events.fact("memo.stored").is_some(),
        "{:?}",
        report.warnings
    );
    assert_eq!(runs(), 1);

    let (report, events) = run(dir.path(), &pipeline).await;
    assert_eq!(report.outcome, Outcome::Succeeded);
    assert_eq!(runs(), 1, "{:?}", events.lines());
    assert!(dir.path().join("work/lint/out/sizes").is_file());
    assert_eq!(events.output(), ["checking", "bad"]);
    assert_eq!(
        events.fact("memo.hit").unwrap()["producer"]["build_number"],
        7
    );
    let summary = report.step("lint", "check").unwrap().summary.clone();
    assert_eq!(summary.as_deref(), Some("memoised by build 7"));
    let log = fs::read_to_string(report.folder.join("logs/lint/check.log")).unwrap();
    assert!(
        log.contains("checking\n") && log.contains("not run"),
        "{log}"
    );

    // A file, the permission to execute, a file more, a link, another command, another output.
    for (prepare, wanted) in [
        (
            format!("{prepare}; echo 3 > src/deep/b"),
            vec!["file src/deep/b"],
        ),
        (format!("{prepare}; chmod +x src/a"), vec!["file src/a"]),
        (format!("{prepare}; echo > src/new"), vec!["file src/new"]),
        (
            format!("{prepare}; ln -s a src/link"),
            vec!["file src/link"],
        ),
    ] {
        let pipeline = lint(&cache, &prepare, &script, inputs(set()), &["out"]);
        let (_, events) = run(dir.path(), &pipeline).await;
        assert_eq!(changed(&events), wanted);
    }
    assert_eq!(runs(), 5);
    let pipeline = lint(
        &cache,
        prepare,
        &format!("{script}; true"),
        inputs(set()),
        &["out"],
    );
    let (_, events) = run(dir.path(), &pipeline).await;
    assert_eq!(changed(&events), ["step args"]);
    let why = events.fact("memo.missed").unwrap()["why"].clone();
    assert_eq!(why, "step args changed");
    let pipeline = lint(&cache, prepare, &script, inputs(set()), &["out/sizes"]);
    let (_, events) = run(dir.path(), &pipeline).await;
    assert_eq!(changed(&events), ["output out/sizes", "output out"]);
}

#[tokio::test]
async fn variables_tools_images_and_values_count_and_secrets_and_build_numbers_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path());
    let check = |mode: &str, secret: &str, number: u64, version: &str, image: &str, read: &str| {
        let mut job = Job::new("job")
            .env("MODE", mode)
            .env("NOISE", format!("{number}"))
            .env("TOKEN", EnvValue::Secret(Secret::new(secret)));
        let tool = job.step(
            "tool",
            ToolVersion::of("sh").with_args(["-c", &format!("echo sh {version}")]),
        );
        let value: Output<String> = job.step("value", {
            let read = read.to_owned();
            step_fn(move |_| {
                let read = read.clone();
                async move { Ok(read) }
            })
        });
        let handle = value.clone();
        let inner = step_fn(move |cx| {
            let handle = handle.clone();
            async move {
                cx.summary("worked");
                Ok(format!("made of {}", cx.value(&handle)?))
            }
        })
        .reads(&value);
        let inputs = Inputs::new()
            .without_variable("NOISE")
            .with_variable("CIRCLE_BRANCH")
            .with_tool("sh", &tool)
            .with_image(image.to_owned());
        let nothing: [&str; 0] = [];
        let made = job.step("make", inner.memoised_as("v1", &cache, inputs, nothing));
        let handle = made.clone();
        job.step(
            "show",
            step_fn(move |cx| {
                let value = cx.value(&handle);
                async move {
                    cx.log(value?).await;
                    Ok(())
                }
            })
            .reads(&made),
        );
        let pipeline = Pipeline::builder("p").job(job).build().unwrap();
        let folder = dir.path().to_path_buf();
        async move {
            let (runner, events, _) = prepared(&folder);
            let facts = RunFacts::new()
                .with_branch("main")
                .with_build_number(number);
            let run = runner.start(&pipeline, facts).await.unwrap();
            let report = run.wait().await.unwrap();
            assert_eq!(report.outcome, Outcome::Succeeded, "{report:#?}");
            (report, events)
        }
    };
    check("a", "secret-one", 1, "1.0", "sha256:1", "x").await;
    // The number of the build, noise and the secret are others: a hit, with the typed value.
    let (report, events) = check("a", "secret-two", 2, "1.0", "sha256:1", "x").await;
    assert!(events.fact("memo.hit").is_some(), "{:?}", events.lines());
    assert!(events.lines().contains(&"made of x".to_owned()));
    let summary = report.step("job", "make").unwrap().summary.clone();
    assert_eq!(summary.as_deref(), Some("worked (memoised by build 1)"));
    let cases = [
        (
            check("b", "s", 3, "1.0", "sha256:1", "x").await,
            "variable MODE",
        ),
        (check("a", "s", 3, "1.1", "sha256:1", "x").await, "tool sh"),
        (check("a", "s", 3, "1.0", "sha256:2", "x").await, "image"),
        (
            check("a", "s", 3, "1.0", "sha256:1", "y").await,
            "value job/value",
        ),
    ];
    for ((_, events), wanted) in cases {
        assert_eq!(changed(&events), [wanted]);
    }
    let entries = FilesystemStore::new(dir.path().join("cache"))
        .list("")
        .await
        .unwrap();
    assert!(!entries.is_empty());
    for entry in entries {
        let text = String::from_utf8(entry.to_document().unwrap()).unwrap();
        assert!(!text.contains("secret-one"), "{text}");
    }
}

#[tokio::test]
async fn failures_changed_inputs_and_missing_outputs_are_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path());
    let inputs = || Inputs::new().with_files(files(&["in"]));
    let store = FilesystemStore::new(dir.path().join("cache"));

    let pipeline = lint(&cache, "echo 1 > in", "echo no; exit 3", inputs(), &["out"]);
    for _ in 0..2 {
        let (report, events) = run(dir.path(), &pipeline).await;
        assert_eq!(report.outcome, Outcome::Failed);
        assert_eq!(events.output(), ["no"]);
    }
    let pipeline = lint(
        &cache,
        "echo 1 > in",
        "echo 2 > in; echo 2 > out",
        inputs(),
        &["out"],
    );
    let (report, events) = run(dir.path(), &pipeline).await;
    assert_eq!(report.outcome, Outcome::Succeeded);
    let why = events.fact("memo.skipped").unwrap()["why"].to_string();
    assert!(why.contains("file in"), "{why}");

    let pipeline = lint(&cache, "rm -f out; echo 1 > in", "true", inputs(), &["out"]);
    let (report, events) = run(dir.path(), &pipeline).await;
    assert_eq!(report.outcome, Outcome::Succeeded);
    let why = events.fact("memo.skipped").unwrap()["why"].to_string();
    assert!(why.contains("out: is missing"), "{why}");
    assert!(store.list("").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_damaged_or_unreachable_cache_only_costs_time() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path());
    let inputs = || Inputs::new().with_files(files(&["in"]));
    let pipeline = lint(
        &cache,
        "echo 1 > in; rm -f out",
        "echo ran; echo 2 > out",
        inputs(),
        &["out"],
    );
    run(dir.path(), &pipeline).await;
    // Every payload is damaged.
    let store = FilesystemStore::new(dir.path().join("cache"));
    let mut damaged = 0;
    for entry in walk(&dir.path().join("cache")) {
        let bytes = fs::read(&entry).unwrap();
        if bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || entry.to_string_lossy().contains(".tar")
        {
            let mut bytes = bytes;
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0xff;
            fs::write(&entry, bytes).unwrap();
            damaged += 1;
        }
    }
    assert_eq!(damaged, 2);
    let (report, events) = run(dir.path(), &pipeline).await;
    assert_eq!(report.outcome, Outcome::Succeeded);
    assert_eq!(events.output(), ["ran"]);
    let missed = events.fact("memo.missed").unwrap();
    let rejected = missed["rejected"].as_array().unwrap();
    assert_eq!(rejected.len(), 1, "{missed:#} {:#?}", report.warnings);
    // It was replaced.
    let (_, events) = run(dir.path(), &pipeline).await;
    assert!(events.fact("memo.hit").is_some(), "{:?}", events.lines());
    // Outputs that are gone are a miss as well.
    for entry in store.list("outputs-of-").await.unwrap() {
        store.delete(&entry.key).await.unwrap();
    }
    let (_, events) = run(dir.path(), &pipeline).await;
    assert!(events.fact("memo.missed").is_some());

    // A file in place of the folder: nothing can be read or written.
    let broken = dir.path().join("broken");
    fs::write(&broken, "").unwrap();
    let broken = Cache::new(FilesystemStore::new(broken));
    let pipeline = lint(
        &broken,
        "echo 1 > in; rm -f out",
        "echo ran; echo 2 > out",
        inputs(),
        &["out"],
    );
    let (report, events) = run(dir.path(), &pipeline).await;
    assert_eq!(report.outcome, Outcome::Succeeded, "{report:#?}");
    assert_eq!(events.output(), ["ran"]);
    assert!(events.fact("memo.skipped").is_some());
}

fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(walk(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_at_the_same_time_compute_once_and_a_failed_one_hands_on() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path());
    let computed = Arc::new(AtomicU32::new(0));
    let fails_first = Arc::new(AtomicU32::new(1));
    let pipeline = || {
        let mut job = Job::new("job");
        let (computed, fails_first) = (Arc::clone(&computed), Arc::clone(&fails_first));
        let slow = step_fn(move |_| {
            let (computed, fails_first) = (Arc::clone(&computed), Arc::clone(&fails_first));
            async move {
                computed.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(std::time::Duration::from_millis(300)).await;
                if fails_first.swap(0, Ordering::SeqCst) == 1 {
                    return Err(StepError::failed("the first one fails"));
                }
                Ok(42_u32)
            }
        });
        let nothing: [&str; 0] = [];
        job.step_with(
            "slow",
            slow.memoised_as("1", &cache, Inputs::new(), nothing),
            StepOptions::new(),
        );
        Pipeline::builder("p").job(job).build().unwrap()
    };
    let mut runs = Vec::new();
    for _ in 0..6 {
        let (runner, events, facts) = prepared(dir.path());
        runs.push((runner.start(&pipeline(), facts).await.unwrap(), events));
    }
    let mut failed = 0;
    let mut hits = 0;
    for (run, events) in runs {
        failed += u32::from(run.wait().await.unwrap().outcome == Outcome::Failed);
        hits += u32::from(events.fact("memo.hit").is_some());
    }
    // One failed, one computed, and the others took its result.
    assert_eq!((failed, hits, computed.load(Ordering::SeqCst)), (1, 4, 2));
    let left: Vec<_> = fs::read_dir(dir.path().join("memo")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}
