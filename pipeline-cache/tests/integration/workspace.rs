use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use pipeline_cache::cache::Cache;
use pipeline_cache::files::FileSet;
use pipeline_cache::store::{CacheStore as _, FilesystemStore};
use pipeline_cache::workspace::{Attach, Persist, StoreArtifacts, Workspace};
use pipeline_core::{Job, Outcome, Pipeline, RunReport, sh};

use crate::steps::{Recorder, run};

fn workspace(dir: &Path) -> Workspace {
    Workspace::new(Cache::new(FilesystemStore::new(dir.join("cache"))))
}

fn set(patterns: &[&str]) -> FileSet {
    FileSet::new(patterns).unwrap()
}

/// A job that makes files with a script and persists some of them.
fn producer(
    name: &str,
    script: &str,
    workspace: &Workspace,
    patterns: &[&str],
) -> (
    Job,
    pipeline_core::Output<pipeline_cache::workspace::WorkspaceLayer>,
) {
    let mut job = Job::new(name);
    job.step("make", sh(format!("rm -rf ./* .[!.]*; {script}")));
    let layer = job.step("persist", Persist::new(workspace, set(patterns)));
    (job, layer)
}

fn message(report: &RunReport, job: &str, step: &str) -> String {
    let step = report.step(job, step).unwrap();
    step.failure
        .as_ref()
        .map_or_else(String::new, |failure| failure.message.clone())
}

#[tokio::test]
async fn layers_of_several_jobs_are_merged_in_the_order_of_the_graph() {
    let dir = tempfile::tempdir().unwrap();
    let space = workspace(dir.path());
    let (unit, first) = producer(
        "unit",
        "mkdir -p out/deep/empty; echo unit > out/unit.xml; echo old > out/shared; \
         echo same > out/same; : > out/nothing; ln -s unit.xml out/link; \
         echo '#!/bin/sh' > out/run; chmod 755 out/run; echo no > private",
        &space,
        &["out"],
    );
    let (web, second) = producer(
        "web",
        "mkdir -p out; echo web > out/web.xml; echo same > out/same",
        &space,
        &["out/*"],
    );
    // Comes after the first, so that its file wins, in whatever order the two are given.
    let (late, third) = producer(
        "late",
        "mkdir -p out; echo new > out/shared",
        &space,
        &["**/shared"],
    );
    let late = late.requires("unit");
    let mut report = Job::new("report");
    report.step("clean", sh("rm -rf ./*; mkdir -p there/out; echo mine > there/out/own; echo stale > there/out/web.xml"));
    report.step(
        "attach",
        Attach::new(&space, [&third, &second, &first]).with_at("there"),
    );
    report.step(
        "look",
        sh("cd there/out; cat unit.xml web.xml shared same own link; \
            test -x run; test -d deep/empty; test -L link; test -e nothing; \
            test ! -e ../private; test \"$(ls -a .. | wc -l)\" = 3"),
    );
    let pipeline = Pipeline::builder("p")
        .job(unit)
        .job(web)
        .job(late)
        .job(report)
        .build()
        .unwrap();
    let (report, events) = run(dir.path(), &pipeline).await;
    assert_eq!(report.outcome, Outcome::Succeeded, "{report:#?}");
    assert_eq!(
        events.output(),
        ["unit", "web", "new", "same", "mine", "unit"]
    );
    let attached = events.fact("workspace.attached").unwrap();
    assert_eq!(attached["files"], 7);

    // The same content again: nothing is packed.
    let store = FilesystemStore::new(dir.path().join("cache"));
    let before = store.list("").await.unwrap();
    let (report, events) = run(dir.path(), &pipeline).await;
    assert_eq!(report.outcome, Outcome::Succeeded);
    assert_eq!(events.fact("workspace.persisted").unwrap()["reused"], true);
    assert_eq!(store.list("").await.unwrap().len(), before.len());
}

#[tokio::test]
async fn jobs_side_by_side_may_not_persist_different_files_of_one_name() {
    let dir = tempfile::tempdir().unwrap();
    let space = workspace(dir.path());
    let (one, _) = producer("one", "echo 1 > result; echo x > same", &space, &["*"]);
    let (two, _) = producer("two", "echo 2 > result; echo x > same", &space, &["*"]);
    let pipeline = Pipeline::builder("p").job(one).job(two).build().unwrap();
    let (report, events) = run(dir.path(), &pipeline).await;
    assert_eq!(report.outcome, Outcome::Failed, "{report:#?}");
    // Whichever comes second fails, and only that one.
    let failed: Vec<String> = ["one", "two"]
        .iter()
        .map(|job| message(&report, job, "persist"))
        .filter(|message| !message.is_empty())
        .collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    for word in ["one", "two", "result"] {
        assert!(failed[0].contains(word), "{failed:?}");
    }
    assert!(!failed[0].contains("same"), "{failed:?}");
    let conflict = events.fact("workspace.conflict").unwrap();
    assert_eq!(conflict["paths"], serde_json::json!(["result"]));
}

#[tokio::test]
async fn nothing_to_persist_and_a_missing_root_are_failures() {
    let dir = tempfile::tempdir().unwrap();
    let space = workspace(dir.path());
    let mut job = Job::new("job");
    job.step("persist", Persist::new(&space, set(&["no/*.xml"])));
    let pipeline = Pipeline::builder("p").job(job).build().unwrap();
    let (report, _) = run(dir.path(), &pipeline).await;
    let text = message(&report, "job", "persist");
    assert!(text.contains("no/*.xml did not match any files"), "{text}");

    let mut job = Job::new("job");
    job.step(
        "persist",
        Persist::new(&space, set(&["."])).with_root("missing"),
    );
    let pipeline = Pipeline::builder("p").job(job).build().unwrap();
    let (report, _) = run(dir.path(), &pipeline).await;
    let text = message(&report, "job", "persist");
    assert!(
        text.contains("workspace root") && text.contains("No such file"),
        "{text}"
    );
}

#[tokio::test]
async fn links_in_the_way_are_not_followed_and_a_lost_layer_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let space = workspace(dir.path());
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let (make, layer) = producer("make", "mkdir d; echo x > d/file", &space, &["d"]);
    let mut take = Job::new("take");
    take.step(
        "link",
        sh(format!("rm -rf ./*; ln -s {} d", outside.display())),
    );
    take.step("attach", Attach::new(&space, [&layer]));
    let pipeline = Pipeline::builder("p").job(make).job(take).build().unwrap();
    let (report, _) = run(dir.path(), &pipeline).await;
    let text = message(&report, "take", "attach");
    assert!(text.contains("as a folder"), "{text}");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    // No staging is left behind.
    let left: Vec<_> = fs::read_dir(dir.path().join("work/take"))
        .unwrap()
        .collect();
    assert_eq!(left.len(), 1, "{left:?}");

    let (make, layer) = producer("make", "echo y > file", &space, &["file"]);
    let mut take = Job::new("take");
    let cache = dir.path().join("cache");
    take.step("lose", sh(format!("rm -rf ./* {}", cache.display())));
    take.step("attach", Attach::new(&space, [&layer]));
    let pipeline = Pipeline::builder("p").job(make).job(take).build().unwrap();
    let (report, _) = run(dir.path(), &pipeline).await;
    let text = message(&report, "take", "attach");
    assert!(
        text.contains("layer of job make") && text.contains("run that job again"),
        "{text}"
    );
}

#[tokio::test]
async fn artifacts_are_kept_in_the_runs_folder_with_their_digests() {
    let dir = tempfile::tempdir().unwrap();
    let mut job = Job::new("docs");
    job.step("make", sh("mkdir -p html/sub; printf abc > html/index.html; printf x > html/sub/a; ln -sf index.html html/link; ln -sfn sub html/folder"));
    job.step(
        "store",
        StoreArtifacts::new(set(&["html", "absent"])).with_destination("site"),
    );
    let pipeline = Pipeline::builder("p").job(job).build().unwrap();
    let (report, events): (RunReport, Recorder) = run(dir.path(), &pipeline).await;
    assert_eq!(report.outcome, Outcome::Succeeded, "{report:#?}");
    let folder = report.folder.join("artifacts/docs/site/html");
    assert_eq!(fs::read(folder.join("index.html")).unwrap(), b"abc");
    assert_eq!(fs::read(folder.join("link")).unwrap(), b"abc");
    assert!(fs::symlink_metadata(folder.join("link")).unwrap().is_file());
    assert!(
        fs::metadata(folder.join("sub/a"))
            .unwrap()
            .permissions()
            .mode()
            & 0o400
            != 0
    );
    let stored = events.fact("artifacts.stored").unwrap();
    assert_eq!(stored["bytes"], 7);
    assert_eq!(stored["files"][0]["path"], "docs/site/html/index.html");
    assert_eq!(
        stored["files"][0]["digest"],
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
    for word in ["absent", "html/folder"] {
        assert!(
            report.warnings.iter().any(|warning| warning.contains(word)),
            "{:?}",
            report.warnings
        );
    }
}

#[tokio::test]
async fn a_resumed_run_attaches_layers_of_the_run_it_resumes() {
    let dir = tempfile::tempdir().unwrap();
    let space = workspace(dir.path());
    let marker = dir.path().join("fixed");
    let (make, layer) = producer("make", "echo made > file", &space, &["file"]);
    let mut take = Job::new("take");
    take.step("attach", Attach::new(&space, [&layer]));
    take.step(
        "check",
        sh(format!("cat file; test -e {}", marker.display())),
    );
    let pipeline = Pipeline::builder("p").job(make).job(take).build().unwrap();
    let (report, _) = run(dir.path(), &pipeline).await;
    assert_eq!(report.outcome, Outcome::Failed);
    fs::write(&marker, "").unwrap();
    let (runner, events, facts) = crate::steps::prepared(dir.path());
    let resumed = runner.resume(&pipeline, facts, &report.run).await.unwrap();
    let report = resumed.wait().await.unwrap();
    assert_eq!(report.outcome, Outcome::Succeeded, "{report:#?}");
    assert!(
        report
            .jobs
            .iter()
            .any(|job| job.name == "make" && job.reused)
    );
    assert_eq!(events.output(), ["made"]);
}
