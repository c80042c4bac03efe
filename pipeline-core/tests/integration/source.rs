use std::{path::Path, process::Command};

use pipeline_core::{
    Job, Outcome, Pipeline,
    source::{Checkout, Repository, SourceError},
};

use crate::{Recorder, environment, run, runner};

fn git(folder: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .args([
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@localhost",
            "-c",
            "init.defaultBranch=main",
        ])
        .args(args)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn a_folder_becomes_the_same_commit_wherever_it_lies() {
    let dir = tempfile::tempdir().unwrap();
    let mut revisions = Vec::new();
    for copy in ["one", "two"] {
        let folder = dir.path().join(copy);
        std::fs::create_dir_all(folder.join("app")).unwrap();
        std::fs::write(folder.join("app/views.py"), "x = 1\n").unwrap();
        std::fs::write(folder.join(".gitignore"), "*.pyc\n").unwrap();
        std::fs::write(folder.join("junk.pyc"), copy).unwrap();
        std::fs::create_dir(folder.join("data")).unwrap();
        std::fs::write(folder.join("data/own"), copy).unwrap();
        let repository = dir.path().join(format!("{copy}.git"));
        for _ in 0..2 {
            let repository = Repository::import_folder(
                &folder,
                &repository,
                "main",
                &["data".into()],
                environment(),
            )
            .await
            .unwrap();
            let commit = repository.find(None).await.unwrap();
            assert_eq!(commit.branch.as_deref(), Some("main"));
            revisions.push(commit.revision);
        }
        assert!(!folder.join(".git").exists(), "the folder is only read");
    }
    assert_eq!(revisions.len(), 4);
    assert!(
        revisions.iter().all(|revision| *revision == revisions[0]),
        "{revisions:?}"
    );
}

#[tokio::test]
async fn branches_tags_and_commits_are_found_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    git(dir.path(), &["init", "--quiet"]);
    git(
        dir.path(),
        &["commit", "--quiet", "--allow-empty", "-m", "one"],
    );
    git(dir.path(), &["tag", "-a", "v1", "-m", "first"]);
    git(dir.path(), &["checkout", "--quiet", "-b", "dev"]);
    git(
        dir.path(),
        &["commit", "--quiet", "--allow-empty", "-m", "two"],
    );
    let repository = Repository::new(dir.path().to_string_lossy(), environment());
    let (main, dev) = (
        git(dir.path(), &["rev-parse", "main"]),
        git(dir.path(), &["rev-parse", "dev"]),
    );
    assert_eq!(repository.find(Some("main")).await.unwrap().revision, main);
    assert_eq!(
        repository.find(None).await.unwrap().branch.as_deref(),
        Some("dev")
    );
    let tag = repository.find(Some("v1")).await.unwrap();
    assert_eq!(
        (tag.revision.as_str(), tag.tag.as_deref()),
        (main.as_str(), Some("v1"))
    );
    assert_eq!(repository.find(Some(&dev)).await.unwrap().branch, None);
    let error = repository.find(Some("nope")).await.unwrap_err();
    assert!(
        matches!(&error, SourceError::NoSuchReference { branches, .. } if branches == "dev, main"),
        "{error}"
    );
    let nowhere = Repository::new("https://user:hunter22@127.0.0.1:1/x.git", environment());
    let text = format!("{}", nowhere.find(None).await.unwrap_err());
    assert!(!text.contains("hunter22"), "{text}");
}

#[tokio::test]
async fn a_checkout_is_clean_exact_and_at_the_same_place_every_time() {
    let dir = tempfile::tempdir().unwrap();
    let origin = dir.path().join("origin");
    std::fs::create_dir(&origin).unwrap();
    git(&origin, &["init", "--quiet"]);
    std::fs::write(origin.join("file"), "one").unwrap();
    git(&origin, &["add", "."]);
    git(&origin, &["commit", "--quiet", "-m", "one"]);
    let repository = Repository::new(origin.to_string_lossy(), environment());
    let data = dir.path().join("data");
    let check_out = async |name: &str| {
        let commit = repository.find(Some(name)).await.unwrap();
        let mut job = Job::new("site");
        job.step("checkout", Checkout::new(&repository, commit, "source"));
        let pipeline = Pipeline::builder("p").job(job).build().unwrap();
        let recorder = Recorder::default();
        let report = run(runner(&data).with_reporter(recorder.clone()), &pipeline).await;
        assert_eq!(report.outcome, Outcome::Succeeded, "{report:?}");
        recorder.lines()
    };
    let lines = check_out("main").await;
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("HEAD is now at") && line.ends_with("one")),
        "{lines:?}"
    );
    let first = git(&origin, &["rev-parse", "HEAD"]);
    let source = data.join("work/site/source");
    std::fs::write(source.join("file"), "changed").unwrap();
    std::fs::write(source.join("left-over"), "x").unwrap();
    std::fs::write(source.join(".git/index.lock"), "").unwrap();

    std::fs::write(origin.join("file"), "two").unwrap();
    git(&origin, &["commit", "--quiet", "-am", "two"]);
    check_out("main").await;
    assert_eq!(std::fs::read_to_string(source.join("file")).unwrap(), "two");
    assert!(!source.join("left-over").exists());

    check_out(&first).await;
    assert_eq!(std::fs::read_to_string(source.join("file")).unwrap(), "one");
}

#[tokio::test]
async fn a_repository_inside_a_folder_is_not_lost_in_silence() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("folder");
    std::fs::create_dir_all(folder.join("lib")).unwrap();
    git(&folder.join("lib"), &["init", "--quiet"]);
    git(
        &folder.join("lib"),
        &["commit", "--quiet", "--allow-empty", "-m", "one"],
    );
    let imported = Repository::import_folder(
        &folder,
        &dir.path().join("x.git"),
        "main",
        &[],
        environment(),
    )
    .await;
    assert!(
        matches!(&imported, Err(SourceError::NestedRepository { path, .. }) if path == "lib"),
        "{imported:?}"
    );
}

#[tokio::test]
async fn imports_of_one_folder_wait_for_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("fol[d]er *");
    // A data folder inside, under a name that is a pattern.
    std::fs::create_dir_all(folder.join("da[t]a *")).unwrap();
    for number in 0..300 {
        std::fs::write(folder.join(format!("file-{number}")), number.to_string()).unwrap();
    }
    let repository = folder.join("da[t]a *").join("x.git");
    let mut imports = tokio::task::JoinSet::new();
    for number in 0..4 {
        let (folder, repository) = (folder.clone(), repository.clone());
        imports.spawn(async move {
            let branch = format!("b{number}");
            let exclude = ["da[t]a *".into()];
            let imported =
                Repository::import_folder(&folder, &repository, &branch, &exclude, environment())
                    .await;
            imported
                .unwrap()
                .find(Some(&branch))
                .await
                .unwrap()
                .revision
        });
    }
    let revisions = imports.join_all().await;
    assert!(
        revisions.iter().all(|revision| *revision == revisions[0]),
        "{revisions:?}"
    );
}
