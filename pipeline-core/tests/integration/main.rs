//! Whole runs through the public interface.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod contract;
mod object_safety;
mod plan;
mod processes;
mod recording;
mod resume;
mod runs;
mod secrets;
mod source;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
};

use pipeline_core::{
    Event, EventKind, LocalExecutor, Pipeline, Reporter, ReporterError, RunFacts, RunReport, Runner,
};

/// What commands of the tests need: a `PATH`, and a `HOME` without settings.
pub(crate) fn environment() -> BTreeMap<String, pipeline_core::EnvValue> {
    let path = std::env::var("PATH").expect("the tests need PATH");
    BTreeMap::from([
        ("PATH".to_owned(), path.into()),
        ("HOME".to_owned(), "/nonexistent".into()),
    ])
}

pub(crate) fn runner(data_dir: &Path) -> Runner {
    Runner::new(data_dir).with_executor(Arc::new(LocalExecutor::new().with_env(environment())))
}

/// Keeps all events.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorder(Arc<Mutex<Vec<Event>>>);

impl Recorder {
    pub(crate) fn events(&self) -> Vec<Event> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.events()
            .into_iter()
            .filter_map(|event| match event.kind {
                EventKind::Output { text, .. } | EventKind::Log { text } => Some(text),
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

pub(crate) async fn run(runner: Runner, pipeline: &Pipeline) -> RunReport {
    let facts = RunFacts::new().with_branch("main").with_revision("abc");
    runner
        .start(pipeline, facts)
        .await
        .unwrap()
        .wait()
        .await
        .unwrap()
}

/// A file that nobody declares is never compiled, and never fails.
#[test]
fn every_file_here_is_declared() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration");
    let main = std::fs::read_to_string(folder.join("main.rs")).unwrap();
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let module = name.trim_end_matches(".rs");
        assert!(
            module == "main" || main.contains(&format!("mod {module};")),
            "{name} is not declared in main.rs"
        );
    }
}
