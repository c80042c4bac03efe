use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;

use super::{
    Runner,
    folder::{FolderPool, last_owner},
    journal::RunJournal,
    records::Records,
    scheduler,
};
use crate::{
    cancel::CancelToken,
    executor::{EnvValue, Scope},
    facts::RunFacts,
    outcome::{FailureReport, Outcome},
    pipeline::{Pipeline, Plan},
    report::ReporterThread,
    secret::{Redactor, Secret},
};

/// A run that is going on.
///
/// Dropping the handle does not stop the run; [`cancel`](Self::cancel) does.
#[derive(Debug)]
pub struct Run {
    id: String,
    folder: PathBuf,
    plan: Plan,
    cancel: CancelToken,
    task: JoinHandle<RunReport>,
}

impl Run {
    /// Its identity: sortable by time, unique in its data folder.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its folder, with journal, logs, outputs and artifacts.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What it carries out.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The switch that stops it: commands get the polite signal, then the
    /// kill; steps marked `Always` still run.
    #[must_use]
    pub fn cancel(&self) -> &CancelToken {
        &self.cancel
    }

    /// Waits for the end. Every environment is torn down and every reporter
    /// has finished, or was given up on, by then.
    ///
    /// # Errors
    /// Only when the run's own task broke down, which is a defect.
    pub async fn wait(self) -> Result<RunReport, RunError> {
        self.task
            .await
            .map_err(|error| RunError::Broken(error.to_string()))
    }
}

/// Why a run could not be started, or its end not be learnt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The data folder cannot be used.
    #[error("could not use the data folder {}", folder.display())]
    DataFolder {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There is nothing to resume.
    #[error("there is no run {run} to resume ({reason})")]
    NoSuchRun {
        /// What was asked for.
        run: String,
        /// Why it cannot be read.
        reason: String,
    },
    /// The run to resume carried out another plan.
    #[error(
        "run {run} cannot be resumed: the pipeline, branch or commit is another one now (plan {then} then, {now} now); start a new run"
    )]
    OtherPlan {
        /// The run.
        run: String,
        /// Hash of its plan.
        then: String,
        /// Hash of the plan as it would be now.
        now: String,
    },
    /// A defect of this library.
    #[error("the run's task broke down: {0}")]
    Broken(String),
}

/// How a run ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RunReport {
    /// Identity of the run.
    pub run: String,
    /// Name of the pipeline.
    pub pipeline: String,
    /// The verdict.
    pub outcome: Outcome,
    /// From start to end.
    pub duration: Duration,
    /// Jobs in plan order.
    pub jobs: Vec<JobReport>,
    /// All warnings, in order, each once.
    pub warnings: Vec<String>,
    /// Lines for the closing block: label and text.
    pub highlights: Vec<(String, String)>,
    /// Folder of the run.
    pub folder: PathBuf,
}

impl RunReport {
    /// The report of a step.
    #[must_use]
    pub fn step(&self, job: &str, step: &str) -> Option<&StepReport> {
        self.jobs
            .iter()
            .find(|found| found.name == job)?
            .steps
            .iter()
            .find(|found| found.name == step)
    }

    /// The first step that fails the run, with its job.
    #[must_use]
    pub fn first_failure(&self) -> Option<(&JobReport, &StepReport)> {
        self.jobs
            .iter()
            .filter(|job| !matches!(job.outcome, Outcome::FailedAllowed))
            .flat_map(|job| job.steps.iter().map(move |step| (job, step)))
            .find(|(_, step)| {
                matches!(
                    step.outcome,
                    Outcome::Failed | Outcome::TimedOut | Outcome::Errored
                )
            })
    }
}

/// How a job ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct JobReport {
    /// Its name.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it did not run.
    pub skipped: Option<String>,
    /// From start to end; zero when it did not run.
    pub duration: Duration,
    /// Its steps, in order, as far as it came.
    pub steps: Vec<StepReport>,
    /// Its values come from the run that this one resumes.
    pub reused: bool,
}

/// How a step ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StepReport {
    /// Its name.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Over all tries.
    pub duration: Duration,
    /// Tries.
    pub attempts: u32,
    /// One line about the result.
    pub summary: Option<String>,
    /// What went wrong.
    pub failure: Option<FailureReport>,
}

pub(super) async fn start(
    runner: Runner,
    pipeline: &Pipeline,
    mut facts: RunFacts,
    resumes: Option<&str>,
) -> Result<Run, RunError> {
    let plan_hash = pipeline.plan(&facts).hash();
    let failed = |source| RunError::DataFolder {
        folder: runner.data_dir.clone(),
        source,
    };
    let data_dir = prepare(&runner.data_dir).map_err(failed)?;
    let earlier = match resumes {
        None => None,
        Some(run) => {
            let records = Records::read(&data_dir, run)?;
            if records.plan != plan_hash {
                return Err(RunError::OtherPlan {
                    run: run.to_owned(),
                    then: short(&records.plan),
                    now: short(&plan_hash),
                });
            }
            Some(records)
        }
    };
    let scope = scope_of(&data_dir);
    end_leftovers(&data_dir, &scope).await;
    let (number, id, folder, lock) = allocate(&data_dir).map_err(failed)?;
    if facts.build_number == 0 {
        facts.build_number = number;
    }
    let plan = pipeline.plan(&facts);
    let journal = RunJournal::create(&folder).map_err(failed)?;
    let reusable = earlier
        .as_ref()
        .map(|records| reusable(records, &data_dir))
        .unwrap_or_default();
    let redactor = Redactor::new(&secrets_of(&runner, pipeline));
    let cancel = CancelToken::new();
    let task = tokio::spawn(scheduler::run(scheduler::Setup {
        pipeline: pipeline.clone(),
        plan: plan.clone(),
        plan_hash,
        redactor,
        reporters: runner
            .reporters
            .into_iter()
            .map(ReporterThread::start)
            .collect(),
        executor: runner.executor,
        env: runner.env,
        limit: runner.jobs,
        folders: Arc::new(FolderPool::new(&data_dir, &id)),
        scope: scope.child(&id),
        run: id.clone(),
        folder: folder.clone(),
        data_dir,
        journal,
        cancel: cancel.clone(),
        resumes: earlier.map(|records| records.run),
        reusable,
        lock,
    }));
    Ok(Run {
        id,
        folder,
        plan,
        cancel,
        task,
    })
}

/// What the runner, the jobs' variables and the executors have to hide.
fn secrets_of(runner: &Runner, pipeline: &Pipeline) -> Vec<Secret> {
    let mut secrets = runner.secrets.clone();
    secrets.extend(runner.executor.secrets());
    for job in pipeline.jobs.iter() {
        secrets.extend(job.executor.iter().flat_map(|executor| executor.secrets()));
        secrets.extend(job.env.values().filter_map(EnvValue::secret).cloned());
    }
    secrets
}

fn prepare(data_dir: &Path) -> io::Result<PathBuf> {
    fs::create_dir_all(data_dir.join("runs"))?;
    fs::canonicalize(data_dir)
}

/// One name per data folder, so that two folders never end each other's
/// processes.
fn scope_of(data_dir: &Path) -> Scope {
    use std::os::unix::ffi::OsStrExt;
    let digest = Sha256::digest(data_dir.as_os_str().as_bytes());
    let name: String = digest
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Scope::new(&format!("pipeline-{name}"))
}

/// Ends what runs of killed programs left behind: a run whose lock is free has
/// no program any more.
async fn end_leftovers(data_dir: &Path, scope: &Scope) {
    let Ok(runs) = fs::read_dir(data_dir.join("runs")) else {
        return;
    };
    if scope.processes().is_empty() {
        return;
    }
    for run in runs.flatten() {
        let Ok(lock) = File::options().write(true).open(run.path().join("lock")) else {
            continue;
        };
        if lock.try_lock().is_ok() {
            let name = run.file_name();
            scope
                .child(&name.to_string_lossy())
                .kill(Duration::from_secs(5))
                .await;
        }
    }
}

/// Takes the next build number and makes the run's folder, locked.
fn allocate(data_dir: &Path) -> io::Result<(u64, String, PathBuf, File)> {
    let runs = data_dir.join("runs");
    let counter_lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(runs.join(".lock"))?;
    counter_lock.lock()?;
    let counter = runs.join(".last-number");
    let last = fs::read_to_string(&counter)
        .ok()
        .and_then(|text| text.trim().parse::<u64>().ok());
    let number = last.unwrap_or(0) + 1;
    let temporary = runs.join(".last-number.tmp");
    let mut file = File::create(&temporary)?;
    writeln!(file, "{number}")?;
    file.sync_data()?;
    fs::rename(&temporary, &counter)?;
    let id = format!(
        "{}-{number}",
        jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S")
    );
    let folder = runs.join(&id);
    fs::create_dir(&folder)?;
    fs::create_dir(folder.join("logs"))?;
    fs::create_dir(folder.join("artifacts"))?;
    let lock = File::create(folder.join("lock"))?;
    lock.lock()?;
    Ok((number, id, folder, lock))
}

/// Values of jobs that need not run again: they succeeded, and nobody else has
/// used their folder since.
fn reusable(records: &Records, data_dir: &Path) -> BTreeMap<String, super::records::JobRecord> {
    records
        .jobs
        .iter()
        .filter(|(_, job)| {
            job.outcome == Some(Outcome::Succeeded)
                && last_owner(data_dir, &job.folder).as_deref() == Some(&records.run)
        })
        .map(|(name, job)| (name.clone(), job.clone()))
        .collect()
}

fn short(hash: &str) -> String {
    hash.chars().take(12).collect()
}
