use std::path::Path;
use std::sync::{Arc, Mutex};

use pipeline_cache::cache::Cache;
use pipeline_cache::key::KeyTemplate;
use pipeline_cache::steps::{CacheHit, KeyVariables, RestoreCache, SaveCache, Strictness};
use pipeline_cache::store::FilesystemStore;
use pipeline_core::{
    Event, EventKind, Job, LocalExecutor, Outcome, Pipeline, Reporter, ReporterError, RunFacts,
    RunReport, Runner, sh, step_fn,
};

#[derive(Clone, Debug, Default)]
pub(crate) struct Recorder(Arc<Mutex<Vec<Event>>>);

impl Recorder {
    pub(crate) fn fact(&self, wanted: &str) -> Option<serde_json::Value> {
        let events = self.0.lock().unwrap();
        events.iter().find_map(|event| match &event.kind {
            EventKind::Fact { topic, data } if topic == wanted => Some(data.clone()),
            _ => None,
        })
    }

    /// What commands wrote.
    pub(crate) fn output(&self) -> Vec<String> {
        let events = self.0.lock().unwrap();
        events
            .iter()
            .filter_map(|event| match &event.kind {
                EventKind::Output { text, .. } => Some(text.clone()),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let events = self.0.lock().unwrap();
        events
            .iter()
            .filter_map(|event| match &event.kind {
                EventKind::Log { text } => Some(text.clone()),
                _ => None,
            })
            .collect()
    }
}

impl Reporter for Recorder {
    fn name(&self) -> &str {
        "recorder"
    }

    fn report(&mut self, event: &Event) -> Result<(), ReporterError> {
        self.0.lock().unwrap().push(event.clone());
        Ok(())
    }

    fn finish(&mut self) -> Result<(), ReporterError> {
        Ok(())
    }
}

fn template(text: &str) -> KeyTemplate {
    KeyTemplate::parse(text).unwrap()
}

const KEY: &str = r#"deps1-{{ .Branch }}-{{ checksum "requirements.txt" }}-py{{ tool "python" }}"#;

/// Writes requirements, restores, installs on anything but an exact hit, saves.
pub(crate) fn pipeline(cache: &Cache, requirements: &str, paths: &[&str]) -> Pipeline {
    let mut job = Job::new("test");
    job.step(
        "checkout",
        sh(format!(
            "echo {requirements} > requirements.txt; rm -rf venv"
        )),
    );
    let python = job.step("python", step_fn(|_cx| async { Ok("3.11.7".to_owned()) }));
    let keys = [template(KEY), template("deps1-{{ .Branch }}-")];
    let hit = job.step(
        "restore",
        RestoreCache::new(cache.clone(), keys).with_tool("python", &python),
    );
    job.step(
        "install",
        step_fn({
            let hit = hit.clone();
            move |cx| {
                let hit = hit.clone();
                async move {
                    if !cx.value(&hit)?.is_exact() {
                        std::fs::create_dir_all(cx.job_dir().join("venv")).unwrap();
                        std::fs::write(cx.job_dir().join("venv/installed"), "yes").unwrap();
                    }
                    Ok(std::fs::read_to_string(cx.job_dir().join("venv/installed")).unwrap())
                }
            }
        })
        .reads(&hit),
    );
    job.step(
        "save",
        SaveCache::new(cache.clone(), template(KEY), paths.to_vec()).with_tool("python", &python),
    );
    Pipeline::builder("p").job(job).build().unwrap()
}

/// A runner that records, and facts for a run.
pub(crate) fn prepared(data_dir: &Path) -> (Runner, Recorder, RunFacts) {
    let recorder = Recorder::default();
    let path = std::env::var("PATH").unwrap();
    let executor = LocalExecutor::new().with_env([("PATH", path)]);
    let facts = RunFacts::new().with_branch("main").with_build_number(7);
    let runner = Runner::new(data_dir)
        .with_executor(Arc::new(executor))
        .with_reporter(recorder.clone());
    (runner, recorder, facts)
}

pub(crate) async fn run(data_dir: &Path, pipeline: &Pipeline) -> (RunReport, Recorder) {
    let (runner, recorder, facts) = prepared(data_dir);
    let run = runner.start(pipeline, facts).await.unwrap();
    (run.wait().await.unwrap(), recorder)
}

#[tokio::test]
async fn a_job_saves_once_restores_after_and_explains_its_misses() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(FilesystemStore::new(dir.path().join("cache")));
    let first = pipeline(&cache, "Django==3.0", &["venv"]);
    let (report, events) = run(dir.path(), &first).await;
    assert_eq!(report.outcome, Outcome::Succeeded, "{report:#?}");
    assert_eq!(
        events.fact("cache.missed").unwrap()["nearest"],
        serde_json::Value::Null
    );
    let saved = events.fact("cache.saved").unwrap();
    assert_eq!(saved["paths"][0], "venv");
    assert_eq!(saved["files"], 2);
    let lines = events.lines();
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("No cache is found for key: deps1-main-"))
    );
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("Stored Cache to deps1-main-"))
    );
    assert!(lines.iter().any(|line| line == "Creating cache archive..."));
    assert!(
        lines
            .iter()
            .any(|line| line == "Uploading cache archive...")
    );

    let (report, events) = run(dir.path(), &first).await;
    assert_eq!(report.outcome, Outcome::Succeeded);
    let restored = events.fact("cache.restored").unwrap();
    assert_eq!(restored["exact"], true);
    assert_eq!(restored["producer"]["build_number"], 7);
    assert_eq!(events.fact("cache.skipped").unwrap()["reason"], "exists");
    let lines = events.lines();
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("Found a cache from build 7 at deps1-main-"))
    );
    for phase in [
        "Downloading cache archive...",
        "Download duration for cache file: ",
        "Validating cache...",
        "Unarchiving cache...",
        "Extraction duration: ",
    ] {
        assert!(lines.iter().any(|line| line.starts_with(phase)), "{phase}");
    }
    assert!(
        lines
            .iter()
            .any(|line| line
                .starts_with("Skipping cache generation, cache already exists for key: "))
    );

    // Another requirement: the fallback finds the old entry, and the new one is saved.
    let second = pipeline(&cache, "Django==4.2", &["venv"]);
    let (_, events) = run(dir.path(), &second).await;
    assert_eq!(events.fact("cache.restored").unwrap()["exact"], false);
    assert!(events.fact("cache.saved").is_some());

    // Without the fallback it says what changed.
    let mut job = Job::new("explain");
    job.step("checkout", sh("echo Django==5.0 > requirements.txt"));
    job.step(
        "restore",
        RestoreCache::new(cache.clone(), [template(KEY)]).with_tool("python", "3.11.7".to_owned()),
    );
    let third = Pipeline::builder("p").job(job).build().unwrap();
    let (_, events) = run(dir.path(), &third).await;
    let missed = events.fact("cache.missed").unwrap();
    let change = &missed["nearest"]["changes"][0];
    assert_eq!(change["input"], r#"checksum "requirements.txt""#);
    assert_ne!(change["stored"], change["wanted"]);
}

#[tokio::test]
async fn trouble_is_a_warning_unless_strict() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(FilesystemStore::new(dir.path().join("cache")));
    let nothing = pipeline(&cache, "Django==3.0", &["venv", "node_modules"]);
    let (report, events) = run(dir.path(), &nothing).await;
    assert_eq!(report.outcome, Outcome::Succeeded);
    let skipped = events.fact("cache.skipped").unwrap();
    assert_eq!(skipped["reason"], "refused");
    assert!(
        skipped["why"]
            .as_str()
            .unwrap()
            .contains("node_modules: is missing")
    );
    assert!(
        report
            .warnings
            .iter()
            .any(|warning| warning.contains("node_modules"))
    );

    let strict = |text: &str, strictness| {
        let mut job = Job::new("test");
        job.step(
            "restore",
            RestoreCache::new(cache.clone(), [template(text)]).with_strictness(strictness),
        );
        Pipeline::builder("p").job(job).build().unwrap()
    };
    let missing = r#"{{ checksum "no-such-file" }}"#;
    let (report, events) = run(dir.path(), &strict(missing, Strictness::Lenient)).await;
    assert_eq!(report.outcome, Outcome::Succeeded);
    assert!(
        events.fact("cache.missed").unwrap()["why"]
            .as_str()
            .unwrap()
            .contains("no-such-file")
    );
    assert!(
        report
            .warnings
            .iter()
            .any(|warning| warning.contains("no-such-file"))
    );
    let (report, _) = run(dir.path(), &strict(missing, Strictness::Strict)).await;
    assert_ne!(report.outcome, Outcome::Succeeded);
    // A plain miss is an answer, also when strict.
    let (report, _) = run(dir.path(), &strict("nothing-here", Strictness::Strict)).await;
    assert_eq!(report.outcome, Outcome::Succeeded);
}

/// A file that is missing is told by kind and place, also when another key finds something. That
/// other key is no exact hit, though it is stored exactly.
#[tokio::test]
async fn a_key_left_out_is_told_and_a_fallback_is_not_exact() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(FilesystemStore::new(dir.path().join("cache")));
    let mut job = Job::new("test");
    job.step("make", sh("mkdir -p venv && echo x > venv/x"));
    job.step(
        "save",
        SaveCache::new(cache.clone(), template("deps-latest"), ["venv"]),
    );
    let keys = [
        template(r#"deps-{{ checksum "gone.lock" }}"#),
        template("deps-other"),
        template("deps-latest"),
    ];
    let hit = job.step("restore", RestoreCache::new(cache.clone(), keys));
    job.step(
        "look",
        step_fn({
            let hit = hit.clone();
            move |cx| {
                let hit = hit.clone();
                async move { Ok(cx.value(&hit)?.is_exact()) }
            }
        })
        .reads(&hit),
    );
    let pipeline = Pipeline::builder("p").job(job).build().unwrap();
    let (report, events) = run(dir.path(), &pipeline).await;
    assert_eq!(report.outcome, Outcome::Succeeded, "{report:#?}");
    let restored = events.fact("cache.restored").unwrap();
    assert_eq!(restored["exact"], false);
    assert_eq!(restored["matched"], "deps-latest");
    let problem = &restored["problems"][0];
    assert_eq!(problem["kind"], "checksum_missing");
    assert_eq!(problem["path"], "gone.lock");
    let located = problem["located"].as_str().unwrap();
    assert!(located.ends_with("/gone.lock"), "{located}");
}

/// A pipe that nobody writes to holds up neither the step nor its cancellation.
#[tokio::test]
async fn a_pipe_in_a_key_is_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(FilesystemStore::new(dir.path().join("cache")));
    let mut job = Job::new("test");
    job.step("make", sh("mkfifo pipe"));
    let key = template(r#"deps-{{ checksum "pipe" }}"#);
    job.step("restore", RestoreCache::new(cache, [key]));
    let pipeline = Pipeline::builder("p").job(job).build().unwrap();
    let (report, events) = run(dir.path(), &pipeline).await;
    assert_eq!(report.outcome, Outcome::Succeeded, "{report:#?}");
    let problem = &events.fact("cache.missed").unwrap()["problems"][0];
    assert_eq!(problem["kind"], "checksum_unreadable");
}

/// Variables of the job are not known where keys come from `CircleCI`.
#[tokio::test]
async fn keys_know_the_variables_that_were_chosen() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(FilesystemStore::new(dir.path().join("cache")));
    for (variables, wanted) in [
        (KeyVariables::OfJob, "k-of-job-given-id_rsa"),
        (KeyVariables::Given, "k-<no value>-given-id_rsa"),
    ] {
        let key = "k-{{ .Environment.A }}-{{ .Environment.B }}-{{ .CheckoutKey }}";
        let mut job = Job::new("test").env("A", "of-job");
        let restore = RestoreCache::new(cache.clone(), [template(key)])
            .with_environment("B", "given")
            .with_checkout_key("id_rsa")
            .with_key_variables(variables);
        job.step("restore", restore);
        let pipeline = Pipeline::builder("p").job(job).build().unwrap();
        let (_, events) = run(dir.path(), &pipeline).await;
        assert_eq!(events.fact("cache.missed").unwrap()["keys"][0], wanted);
    }
}

#[test]
fn the_value_of_a_restore_can_be_recorded() {
    let hit = CacheHit::Prefix {
        candidate: "a".to_owned(),
        key: "ab".to_owned(),
    };
    let text = serde_json::to_string(&hit).unwrap();
    assert_eq!(text, r#"{"hit":"prefix","candidate":"a","key":"ab"}"#);
    assert_eq!(serde_json::from_str::<CacheHit>(&text).unwrap(), hit);
}
