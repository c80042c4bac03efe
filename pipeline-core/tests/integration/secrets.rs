use pipeline_core::{
    Environment, EnvironmentRequest, Executor, ExecutorError, Job, Outcome, Pipeline, Secret,
    StepError,
    report::{JsonLinesReporter, PlainReporter, Style, Summary},
    sh, step_fn,
};
use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use crate::{run, runner};

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

const CANARY: &str = "canary-7f3a/9+x y";

#[tokio::test]
async fn a_secret_reaches_the_command_and_no_sink() {
    let dir = tempfile::tempdir().unwrap();
    let mut job = Job::new("test");
    job.step("prints", sh(r#"printf '%s' "$TOKEN" | base64; echo "$TOKEN"; set -x; : "$TOKEN"; test ${#TOKEN} = 17"#));
    job.step(
        "splits",
        sh(r#"printf '%s' "${TOKEN%/*}"; sleep 0.1; printf '/%s\n' "${TOKEN#*/}""#),
    );
    job.step(
        "says",
        step_fn(|cx| async move {
            cx.log(format!("log {CANARY}")).await;
            cx.warn(format!("warn {CANARY}")).await;
            cx.fact("x.y", serde_json::json!({ CANARY: [CANARY] }))
                .await;
            cx.highlight("site", format!("http://{CANARY}")).await;
            cx.summary(format!("summary {CANARY}"));
            Ok(())
        }),
    );
    job.step(
        "fails",
        step_fn(|_cx| async {
            Err::<(), _>(
                StepError::failed(format!("failed with {CANARY}"))
                    .with_detail(serde_json::json!({ "token": CANARY }))
                    .with_tail([format!("tail {CANARY}")]),
            )
        }),
    );
    let pipeline = Pipeline::builder("p").job(job).build().unwrap();
    let (json, plain) = (Shared::default(), Shared::default());
    let report = run(
        runner(dir.path())
            .with_env(
                "TOKEN",
                pipeline_core::EnvValue::Secret(Secret::new(CANARY)),
            )
            .with_reporter(JsonLinesReporter::new(json.clone()))
            .with_reporter(PlainReporter::new(plain.clone(), Style::Plain)),
        &pipeline,
    )
    .await;
    assert_eq!(report.outcome, Outcome::Failed);
    assert_eq!(
        report.step("test", "prints").unwrap().outcome,
        Outcome::Succeeded,
        "{report:?}"
    );

    let mut sinks = vec![
        (
            "json",
            String::from_utf8_lossy(&json.0.lock().unwrap()).into_owned(),
        ),
        (
            "plain",
            String::from_utf8_lossy(&plain.0.lock().unwrap()).into_owned(),
        ),
        ("summary", Summary::new(&report, Style::Plain).to_string()),
        ("debug", format!("{report:?} {pipeline:?}")),
    ];
    let mut folders = vec![report.folder.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                sinks.push((
                    "file",
                    String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned(),
                ));
            }
        }
    }
    assert!(
        sinks.iter().any(|(_, text)| text.contains("***")),
        "nothing was masked at all"
    );
    for (name, text) in sinks {
        for form in [CANARY, "Y2FuYXJ5LTdmM2EvOSt4IH", "canary-7f3a", "9+x y"] {
            assert!(!text.contains(form), "{form} is in {name}:\n{text}");
        }
    }
}

#[tokio::test]
async fn a_value_too_short_to_mask_is_said_aloud() {
    let dir = tempfile::tempdir().unwrap();
    let mut job = Job::new("test");
    job.step("x", sh("true"));
    let pipeline = Pipeline::builder("p").job(job).build().unwrap();
    let report = run(
        runner(dir.path()).with_secret(Secret::new("abc")),
        &pipeline,
    )
    .await;
    assert!(
        report
            .warnings
            .iter()
            .any(|text| text.contains("cannot be masked")),
        "{report:?}"
    );
}

/// Cannot make an environment, and says why in words that it should not use.
#[derive(Debug)]
struct Talkative;

impl std::fmt::Display for Talkative {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("talkative")
    }
}

#[async_trait::async_trait]
impl Executor for Talkative {
    async fn provision(
        &self,
        _request: &EnvironmentRequest,
    ) -> Result<Box<dyn Environment>, ExecutorError> {
        let said = format!("FATAL: wrong password {CANARY}");
        Err(ExecutorError::environment("the service ended", said))
    }

    fn secrets(&self) -> Vec<Secret> {
        vec![Secret::new(CANARY)]
    }
}

#[tokio::test]
async fn an_executors_secret_stays_out_of_the_report_of_a_job_that_could_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut job = Job::new("test").executor(Arc::new(Talkative));
    job.step("never", sh("true"));
    let pipeline = Pipeline::builder("p").job(job).build().unwrap();
    let report = run(runner(dir.path()), &pipeline).await;
    assert_eq!(report.outcome, Outcome::Errored);
    let failure = report.step("test", "environment").unwrap();
    let text = format!("{failure:?}");
    assert!(
        text.contains("wrong password ***") && !text.contains(CANARY),
        "{text}"
    );
    let journal = std::fs::read_to_string(report.folder.join("journal.jsonl")).unwrap();
    assert!(
        journal.contains("wrong password ***") && !journal.contains(CANARY),
        "{journal}"
    );
}
