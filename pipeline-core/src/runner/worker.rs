//! Runs one job: its environment, and its steps in order.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{
    folder::{FolderLease, FolderPool},
    run::StepReport,
};
use crate::{
    cancel::CancelToken,
    event::{EventKind, EventSink, Message},
    executor::{EnvValue, Environment, EnvironmentRequest, Executor, ExecutorError, Scope},
    facts::RunFacts,
    outcome::Outcome,
    pipeline::{JobStep, Pipeline},
    step::{ContextParts, StepContext, StepError, StepNotes, When, error_chain},
    value::InputRef,
};

/// A step that was told to stop is dropped after this long. It is more than
/// the ten seconds that its commands get between polite signal and kill.
const STEP_GRACE: Duration = Duration::from_secs(15);
/// An environment that is being made when the run is cancelled may take this
/// long to be taken apart again.
const PROVISION_GRACE: Duration = Duration::from_secs(60);
/// Finalizers of a cancelled run have this long in all; GitHub's figure.
const FINALIZER_LIMIT: Duration = Duration::from_secs(5 * 60);

pub(super) struct JobTask {
    pub(super) index: usize,
    pub(super) pipeline: Pipeline,
    pub(super) executor: Arc<dyn Executor>,
    pub(super) env: BTreeMap<String, EnvValue>,
    pub(super) folders: Arc<FolderPool>,
    pub(super) scope: Scope,
    pub(super) run: String,
    pub(super) run_folder: PathBuf,
    pub(super) data_dir: PathBuf,
    pub(super) facts: Arc<RunFacts>,
    pub(super) events: EventSink,
    pub(super) cancel: CancelToken,
    pub(super) values: BTreeMap<InputRef, serde_json::Value>,
}

impl JobTask {
    /// Variables of the runner and of the job, without the built-in ones.
    fn declared(&self) -> BTreeMap<String, EnvValue> {
        let mut declared = self.env.clone();
        declared.extend(self.pipeline.jobs[self.index].env.clone());
        declared
    }
}

pub(super) async fn run_job(mut task: JobTask) {
    let started = Instant::now();
    let outcome = match enter(&task).await {
        Ok((lease, environment, env)) => {
            let environment: Arc<dyn Environment> = environment.into();
            let outcome = run_steps(&mut task, &lease, &environment, &env).await;
            let closing = Instant::now();
            match close(&task.events, &*environment).await {
                Ok(()) => outcome,
                Err(error) => {
                    environment_failed(&task, Outcome::Errored, closing, error).await;
                    outcome.worse(Outcome::Errored)
                }
            }
        }
        Err(error) => {
            let outcome = match error {
                StepError::Cancelled => Outcome::Cancelled,
                _ => Outcome::Errored,
            };
            environment_failed(&task, outcome, started, error).await;
            outcome
        }
    };
    let duration = started.elapsed();
    task.events
        .deliver(Message::JobDone {
            job: task.index,
            outcome,
            duration,
        })
        .await;
}

/// Reports the environment's failure as one of a step.
async fn environment_failed(task: &JobTask, outcome: Outcome, started: Instant, error: StepError) {
    let report = StepReport {
        name: "environment".into(),
        outcome,
        duration: started.elapsed(),
        attempts: 1,
        summary: None,
        failure: Some(redacted(&task.events, error.report())),
    };
    task.events
        .deliver(Message::StepDone {
            job: task.index,
            report,
            value: None,
        })
        .await;
}

type Entered = (
    Arc<FolderLease>,
    Box<dyn Environment>,
    BTreeMap<String, EnvValue>,
);

async fn enter(task: &JobTask) -> Result<Entered, StepError> {
    let job = &task.pipeline.jobs[task.index];
    let lease = task.folders.lease(job.folder_name()).map_err(|error| {
        StepError::errored(
            format!("could not make the job folder {}", job.folder_name()),
            error,
        )
    })?;
    let folder = lease.path.display().to_string();
    task.events
        .send(EventKind::JobStarted {
            folder: folder.clone(),
        })
        .await;
    if lease.moved {
        let text = format!(
            "another run is using the folder {}; this one works in {} and finds nothing from before",
            job.folder_name(),
            lease.name
        );
        task.events.warn(text).await;
    }
    let mut variables = task.facts.builtin_variables(&task.run, &job.name, &folder);
    variables.project.extend(task.env.clone());
    task.events
        .fact(
            "environment.variables",
            serde_json::json!({ "groups": variables.groups() }),
        )
        .await;
    let mut env = variables.into_env();
    env.extend(job.env.clone());
    let mut request = EnvironmentRequest::new(
        task.scope.clone(),
        &*job.name,
        lease.path.clone(),
        task.events.clone(),
    );
    request.env = env.clone();
    request.cancel = task.cancel.child();
    let environment = provision(task, &request).await?;
    task.events
        .send(EventKind::EnvironmentReady {
            facts: environment.facts().clone(),
        })
        .await;
    Ok((lease, environment, env))
}

/// An environment that the run still wants when it is there.
async fn provision(
    task: &JobTask,
    request: &EnvironmentRequest,
) -> Result<Box<dyn Environment>, StepError> {
    let mut provisioning = task.executor.provision(request);
    tokio::select! {
        provisioned = &mut provisioning => return provisioned.map_err(|error| {
            // It may have heard of the cancellation first.
            if request.cancel.is_cancelled() {
                return StepError::Cancelled;
            }
            StepError::errored(format!("could not make an environment with {}", task.executor), error)
        }),
        () = request.cancel.cancelled() => {}
    }
    // The executor was told, and removes what it has made.
    match tokio::time::timeout(PROVISION_GRACE, provisioning).await {
        Ok(Ok(environment)) => {
            // Nothing ran in it, so no files are missed.
            close(&task.events, &*environment).await.ok();
        }
        Ok(Err(_)) => {}
        Err(_) => {
            let text = format!(
                "{} did not stop making the environment within {}s; something of it may be left",
                task.executor,
                PROVISION_GRACE.as_secs()
            );
            task.events.warn(text).await;
        }
    }
    Err(StepError::Cancelled)
}

/// Tears the environment down. Files that do not come back are an error of the job, what could not
/// be removed is told.
async fn close(events: &EventSink, environment: &dyn Environment) -> Result<(), StepError> {
    match environment.shutdown().await {
        Ok(survivors) => {
            if !survivors.alive.is_empty() {
                events
                    .warn(format!(
                        "processes outlived their job: {:?}",
                        survivors.alive
                    ))
                    .await;
            }
            events
                .send(EventKind::EnvironmentClosed { survivors })
                .await;
            Ok(())
        }
        Err(error @ ExecutorError::Copy { .. }) => Err(StepError::errored(
            format!("{environment} did not give the job's files back"),
            error,
        )),
        Err(error) => {
            let why = error_chain(&error);
            let text = format!("{environment} was not torn down: {why}");
            events.warn(text).await;
            Ok(())
        }
    }
}

async fn run_steps(
    task: &mut JobTask,
    lease: &FolderLease,
    environment: &Arc<dyn Environment>,
    env: &BTreeMap<String, EnvValue>,
) -> Outcome {
    let pipeline = task.pipeline.clone();
    let job = &pipeline.jobs[task.index];
    let mut outcome = Outcome::Succeeded;
    let finalizers = CancelToken::new();
    let mut finalizer_clock = None;
    for step in &job.steps {
        let cancelled = task.cancel.is_cancelled();
        if cancelled {
            outcome = outcome.worse(Outcome::Cancelled);
        }
        let skip = match step.options.when {
            When::Always => None,
            _ if cancelled => Some("the run was cancelled"),
            When::OnSuccess if !outcome.lets_pass() => Some("a step before it failed"),
            When::OnFailure if outcome.lets_pass() => Some("nothing before it failed"),
            When::OnSuccess | When::OnFailure => None,
        };
        if let Some(reason) = skip {
            skipped(task, step, reason).await;
            continue;
        }
        if cancelled && finalizer_clock.is_none() {
            let token = finalizers.clone();
            finalizer_clock = Some(tokio::spawn(async move {
                tokio::time::sleep(FINALIZER_LIMIT).await;
                token.cancel();
            }));
        }
        let token = if cancelled {
            finalizers.child()
        } else {
            task.cancel.child()
        };
        let bench = Bench {
            task,
            lease,
            environment,
            env,
            step,
        };
        let (report, value) = bench.run(token).await;
        outcome = outcome.worse(report.outcome);
        if let Some(value) = &value {
            let source = InputRef {
                job: Arc::clone(&job.name),
                step: Arc::clone(&step.name),
            };
            task.values.insert(source, value.clone());
        }
        task.events
            .deliver(Message::StepDone {
                job: task.index,
                report,
                value,
            })
            .await;
    }
    if let Some(clock) = finalizer_clock {
        clock.abort();
    }
    outcome
}

async fn skipped(task: &JobTask, step: &JobStep, reason: &str) {
    task.events
        .for_step(&step.name)
        .send(EventKind::StepSkipped {
            reason: reason.to_owned(),
        })
        .await;
}

/// Everything one step needs.
struct Bench<'a> {
    task: &'a JobTask,
    lease: &'a FolderLease,
    environment: &'a Arc<dyn Environment>,
    env: &'a BTreeMap<String, EnvValue>,
    step: &'a JobStep,
}

impl Bench<'_> {
    async fn run(&self, cancel: CancelToken) -> (StepReport, Option<serde_json::Value>) {
        let started = Instant::now();
        let events = self.task.events.for_step(&self.step.name);
        let attempts = self.step.options.retry.map_or(1, |policy| policy.attempts);
        let mut attempt = 1;
        let (result, notes) = loop {
            events.send(EventKind::StepStarted { attempt }).await;
            let (result, notes) = self.attempt(&events, &cancel).await;
            let failure = match &result {
                Err(StepError::Cancelled) | Ok(_) => break (result, notes),
                Err(error) if attempt < attempts && !cancel.is_cancelled() => error.report(),
                Err(_) => break (result, notes),
            };
            let delay = self
                .step
                .options
                .retry
                .map_or(Duration::ZERO, |p| p.pause_after(attempt));
            let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
            let failure = redacted(&events, failure);
            events
                .send(EventKind::StepRetried {
                    attempt,
                    delay_ms,
                    failure,
                })
                .await;
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = cancel.cancelled() => break (Err(StepError::Cancelled), notes),
            }
            attempt += 1;
        };
        if notes.log_failed {
            events
                .warn("the step's log is incomplete: it could not be written")
                .await;
        }
        let (outcome, failure, value) = match result {
            Ok(value) => (Outcome::Succeeded, None, Some(value)),
            Err(error) => {
                let outcome = match &error {
                    StepError::Failed(_) => Outcome::Failed,
                    StepError::Errored { .. } => Outcome::Errored,
                    StepError::Cancelled => Outcome::Cancelled,
                    StepError::TimedOut { .. } => Outcome::TimedOut,
                };
                let mut report = redacted(&events, error.report());
                if report.tail.is_empty() {
                    report.tail = notes.tail.iter().cloned().collect();
                }
                (outcome, Some(report), None)
            }
        };
        let outcome = match outcome {
            Outcome::Failed | Outcome::TimedOut | Outcome::Errored
                if self.step.options.non_blocking =>
            {
                Outcome::FailedAllowed
            }
            outcome => outcome,
        };
        let report = StepReport {
            name: self.step.name.to_string(),
            outcome,
            duration: started.elapsed(),
            attempts: attempt,
            summary: notes.summary,
            failure,
        };
        (report, value)
    }

    async fn attempt(
        &self,
        events: &EventSink,
        cancel: &CancelToken,
    ) -> (Result<serde_json::Value, StepError>, StepNotes) {
        let token = cancel.child();
        let parts = Arc::new(ContextParts {
            environment: Arc::clone(self.environment),
            env: self.env.clone(),
            declared: self.task.declared(),
            job_dir: self.lease.path.clone(),
            artifact_dir: self.task.run_folder.join("artifacts"),
            data_dir: self.task.data_dir.clone(),
            log: Mutex::new(self.open_log()),
            facts: Arc::clone(&self.task.facts),
            run: self.task.run.clone(),
            values: self
                .step
                .inputs
                .iter()
                .filter_map(|input| Some((input.clone(), self.task.values.get(input)?.clone())))
                .collect(),
            pipeline: self.task.pipeline.clone(),
            job: self.task.index,
            step: Arc::clone(&self.step.name),
            cancel: token.clone(),
            notes: Mutex::default(),
        });
        let cx = StepContext::new(Arc::clone(&parts), events.clone());
        let step = Arc::clone(&self.step.step);
        // A task of its own: a panic stays inside, and it can be abandoned.
        let mut running = tokio::spawn(async move { step.run_erased(&cx).await });
        let limit = async {
            match self.step.options.timeout {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        let mut timed_out = false;
        let mut joined = tokio::select! {
            joined = &mut running => Some(joined),
            () = limit => {
                timed_out = true;
                None
            }
            () = cancel.cancelled() => None,
        };
        if joined.is_none() {
            token.cancel();
            joined = tokio::time::timeout(STEP_GRACE, &mut running).await.ok();
            if joined.is_none() {
                running.abort();
                running.await.ok();
            }
        }
        let result = match joined {
            Some(Ok(result)) => result,
            Some(Err(error)) if error.is_panic() => Err(StepError::errored(
                "the step panicked, which is a defect of the step",
                panic_text(error),
            )),
            Some(Err(_)) | None => Err(StepError::Cancelled),
        };
        let result = match (result, self.step.options.timeout) {
            (Err(StepError::Cancelled), Some(limit)) if timed_out => Err(StepError::TimedOut {
                what: format!("took longer than {}s", limit.as_secs_f64()),
                report: Box::default(),
            }),
            (result, _) => result,
        };
        let notes =
            std::mem::take(&mut *parts.notes.lock().unwrap_or_else(PoisonError::into_inner));
        (result, notes)
    }

    fn open_log(&self) -> Option<File> {
        let job = &self.task.pipeline.jobs[self.task.index].name;
        let folder = self.task.run_folder.join("logs").join(Path::new(&**job));
        std::fs::create_dir_all(&folder).ok()?;
        let path = folder.join(format!("{}.log", self.step.name));
        File::options().create(true).append(true).open(path).ok()
    }
}

fn panic_text(error: tokio::task::JoinError) -> String {
    let payload = error.into_panic();
    payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".into())
}

fn redacted(
    events: &EventSink,
    report: crate::outcome::FailureReport,
) -> crate::outcome::FailureReport {
    let redactor = events.redactor();
    crate::outcome::FailureReport {
        message: redactor.redact(&report.message),
        exit: report.exit,
        tail: report
            .tail
            .iter()
            .map(|line| redactor.redact(line))
            .collect(),
        reproduce: report.reproduce.map(|line| redactor.redact(&line)),
        detail: redactor.redact_json(report.detail),
    }
}
