//! Making a plan happen.

mod folder;
mod journal;
mod records;
mod run;
mod scheduler;
mod worker;

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use run::{JobReport, Run, RunError, RunReport, StepReport};

use crate::{
    executor::{EnvValue, Executor, LocalExecutor},
    facts::RunFacts,
    pipeline::Pipeline,
    report::Reporter,
    secret::Secret,
};

/// Runs pipelines below one data folder.
///
/// The folder holds `work/<folder>` for jobs, whose paths are the same from
/// run to run, and `runs/<id>` with `journal.jsonl`, `logs/<job>/<step>.log`,
/// `outputs.json` and `artifacts/`. Several runs, of several processes, can
/// use it at the same time.
#[derive(Debug)]
pub struct Runner {
    data_dir: PathBuf,
    executor: Arc<dyn Executor>,
    reporters: Vec<Box<dyn Reporter>>,
    secrets: Vec<Secret>,
    env: BTreeMap<String, EnvValue>,
    jobs: NonZeroUsize,
}

impl Runner {
    /// A runner with the local executor and an empty environment.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            executor: Arc::new(LocalExecutor::new()),
            reporters: Vec::new(),
            secrets: Vec::new(),
            env: BTreeMap::new(),
            jobs: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
        }
    }

    /// Sets the executor of jobs that name none.
    #[must_use]
    pub fn with_executor(mut self, executor: Arc<dyn Executor>) -> Self {
        self.executor = executor;
        self
    }

    /// Adds a reader of the event stream.
    #[must_use]
    pub fn with_reporter(mut self, reporter: impl Reporter) -> Self {
        self.reporters.push(Box::new(reporter));
        self
    }

    /// Masks a value in everything that leaves the run.
    #[must_use]
    pub fn with_secret(mut self, secret: Secret) -> Self {
        self.secrets.push(secret);
        self
    }

    /// Sets a variable for every command of every job. A secret value is
    /// masked as well.
    #[must_use]
    pub fn with_env(mut self, name: impl Into<String>, value: impl Into<EnvValue>) -> Self {
        let value = value.into();
        if let EnvValue::Secret(secret) = &value {
            self.secrets.push(secret.clone());
        }
        self.env.insert(name.into(), value);
        self
    }

    /// Sets how many jobs run at the same time; as many as there are cores by
    /// default.
    #[must_use]
    pub fn with_jobs(mut self, jobs: NonZeroUsize) -> Self {
        self.jobs = jobs;
        self
    }

    /// Starts a run. It goes on by itself; [`Run::wait`] tells how it ended.
    ///
    /// Processes that an earlier run of this data folder left behind, because
    /// its program was killed, are ended first.
    ///
    /// # Errors
    /// [`RunError`] when the data folder cannot be used.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn start(self, pipeline: &Pipeline, facts: RunFacts) -> Result<Run, RunError> {
        run::start(self, pipeline, facts, None).await
    }

    /// Runs again what did not succeed in an earlier run: jobs that succeeded
    /// keep their recorded values.
    ///
    /// A job that succeeded runs again when its folder has been used by
    /// another run since.
    ///
    /// # Errors
    /// [`RunError`] when there is no such run, or when the pipeline or the
    /// facts now give another plan.
    pub async fn resume(
        self,
        pipeline: &Pipeline,
        facts: RunFacts,
        run: &str,
    ) -> Result<Run, RunError> {
        run::start(self, pipeline, facts, Some(run)).await
    }

    /// What is known of an earlier run: the facts it was started with.
    ///
    /// # Errors
    /// [`RunError`] when there is no such run.
    pub fn facts_of(data_dir: &Path, run: &str) -> Result<RunFacts, RunError> {
        Ok(records::Records::read(data_dir, run)?.facts)
    }
}
