//! One task owns all state of a run and is the only sender of events; workers
//! answer by message.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    num::NonZeroUsize,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{
    folder::FolderPool,
    journal::RunJournal,
    records::{JobRecord, RECORDS_SCHEMA, Records, StepRecord},
    run::{JobReport, RunReport},
    worker::{self, JobTask},
};
use crate::{
    cancel::CancelToken,
    event::{Event, EventKind, EventSink, Message, SCHEMA_VERSION},
    executor::{EnvValue, Executor, Scope},
    outcome::Outcome,
    pipeline::{Pipeline, Plan},
    report::ReporterThread,
    secret::Redactor,
    value::InputRef,
};

/// Messages that may wait for the owner before workers have to.
const MESSAGES_IN_FLIGHT: usize = 1024;
/// How far the records on disk may fall behind; a program that is killed loses no more.
const SAVE_SOON: Duration = Duration::from_millis(50);

pub(super) struct Setup {
    pub(super) pipeline: Pipeline,
    pub(super) plan: Plan,
    pub(super) plan_hash: String,
    pub(super) redactor: Redactor,
    pub(super) reporters: Vec<ReporterThread>,
    pub(super) executor: Arc<dyn Executor>,
    pub(super) env: BTreeMap<String, EnvValue>,
    pub(super) limit: NonZeroUsize,
    pub(super) folders: Arc<FolderPool>,
    pub(super) scope: Scope,
    pub(super) run: String,
    pub(super) folder: PathBuf,
    pub(super) data_dir: PathBuf,
    pub(super) journal: RunJournal,
    pub(super) cancel: CancelToken,
    pub(super) resumes: Option<String>,
    pub(super) reusable: BTreeMap<String, JobRecord>,
    /// Held until the run is over: a free lock says that the program is gone.
    pub(super) lock: File,
}

struct Node {
    /// Jobs that this one needs.
    needs: Vec<usize>,
    waiting_for: usize,
    dependents: Vec<usize>,
    report: JobReport,
}

struct Scheduler {
    setup: Setup,
    nodes: Vec<Node>,
    ready: VecDeque<usize>,
    running: usize,
    left: usize,
    values: BTreeMap<InputRef, serde_json::Value>,
    records: Records,
    warnings: Vec<String>,
    highlights: Vec<(String, String)>,
    seq: u64,
    /// When the records on disk fell behind.
    unsaved_since: Option<Instant>,
    /// How long the last save took; a large run saves less often.
    save_cost: Duration,
}

pub(super) async fn run(setup: Setup) -> RunReport {
    let started = Instant::now();
    let (sender, mut messages) = mpsc::channel(MESSAGES_IN_FLIGHT);
    let sink = EventSink::new(sender, setup.redactor.clone());
    let mut scheduler = Scheduler::new(setup);
    scheduler.begin();
    while scheduler.left > 0 {
        scheduler.start_ready(&sink);
        if scheduler.left == 0 {
            break;
        }
        // `sink` keeps the channel open, so there is always another message.
        let due = scheduler.save_due();
        let message = match due {
            None => messages.recv().await,
            Some(due) if due <= Instant::now() => {
                scheduler.save_records();
                continue;
            }
            Some(due) => tokio::time::timeout_at(due.into(), messages.recv())
                .await
                .ok()
                .flatten(),
        };
        if let Some(message) = message {
            scheduler.handle(message);
        }
    }
    scheduler.finish(started.elapsed())
}

impl Scheduler {
    fn new(setup: Setup) -> Self {
        let jobs = &setup.pipeline.jobs;
        let index: BTreeMap<&str, usize> = jobs
            .iter()
            .enumerate()
            .map(|(at, job)| (&*job.name, at))
            .collect();
        let mut nodes: Vec<Node> = jobs
            .iter()
            .map(|job| Node {
                needs: Vec::new(),
                waiting_for: 0,
                dependents: Vec::new(),
                report: JobReport {
                    name: job.name.to_string(),
                    outcome: Outcome::Skipped,
                    skipped: None,
                    duration: Duration::ZERO,
                    steps: Vec::new(),
                    reused: false,
                },
            })
            .collect();
        for (at, job) in jobs.iter().enumerate() {
            for needed in job.needs() {
                if let Some(before) = index.get(needed) {
                    nodes[*before].dependents.push(at);
                    nodes[at].needs.push(*before);
                    nodes[at].waiting_for += 1;
                }
            }
        }
        let ready = (0..nodes.len())
            .filter(|at| nodes[*at].waiting_for == 0)
            .collect();
        let records = Records {
            schema: RECORDS_SCHEMA,
            run: setup.run.clone(),
            plan: setup.plan_hash.clone(),
            facts: setup.plan.facts.clone(),
            jobs: BTreeMap::new(),
        };
        Self {
            left: nodes.len(),
            nodes,
            ready,
            running: 0,
            values: BTreeMap::new(),
            records,
            warnings: Vec::new(),
            highlights: Vec::new(),
            seq: 0,
            unsaved_since: None,
            save_cost: Duration::ZERO,
            setup,
        }
    }

    fn begin(&mut self) {
        self.emit(
            None,
            None,
            EventKind::RunStarted {
                schema: SCHEMA_VERSION,
                pipeline: self.setup.plan.pipeline.clone(),
                run: self.setup.run.clone(),
                plan: self.setup.plan_hash.clone(),
                folder: self.setup.folder.display().to_string(),
                resumes: self.setup.resumes.clone(),
            },
        );
        let short = self.setup.redactor.too_short();
        if short > 0 {
            self.emit(
                None,
                None,
                EventKind::Warning {
                    text: format!(
                        "{short} secret(s) are shorter than {} bytes and cannot be masked in output",
                        crate::secret::MINIMUM_SECRET_BYTES
                    ),
                },
            );
        }
        self.save_records();
    }

    /// Decides about every job whose dependencies are done, as far as the
    /// limit of running jobs allows.
    fn start_ready(&mut self, sink: &EventSink) {
        while self.running < self.setup.limit.get() {
            let Some(at) = self.ready.pop_front() else {
                return;
            };
            let name = self.nodes[at].report.name.clone();
            if self.setup.cancel.is_cancelled() {
                self.nodes[at].report.skipped = Some("the run was cancelled".into());
                self.complete(at, Outcome::Cancelled);
            } else if let Some(reason) = self.reason_to_skip(at) {
                self.emit(
                    Some(name),
                    None,
                    EventKind::JobSkipped {
                        reason: reason.clone(),
                    },
                );
                self.nodes[at].report.skipped = Some(reason);
                self.complete(at, Outcome::Skipped);
            } else if let Some(record) = self.setup.reusable.remove(&name) {
                self.reuse(at, record);
            } else {
                self.running += 1;
                tokio::spawn(worker::run_job(self.task(at, sink)));
            }
        }
    }

    fn reason_to_skip(&self, at: usize) -> Option<String> {
        let job = &self.setup.pipeline.jobs[at];
        if let Some(reason) = self.planned_away(at) {
            return Some(reason.to_owned());
        }
        for step in &job.steps {
            for input in step.inputs.iter().filter(|input| input.job != job.name) {
                if !self.values.contains_key(input) {
                    return Some(format!("it needs the value of {input}, which is not there"));
                }
            }
        }
        self.nodes[at].needs.iter().find_map(|needed| {
            let report = &self.nodes[*needed].report;
            // What a filter removed is ignored; whether that leaves anything is the plan's.
            let fine = report.outcome.lets_pass() || self.planned_away(*needed).is_some();
            (!fine).then(|| format!("{} {}", report.name, describe(report.outcome)))
        })
    }

    /// Why the plan leaves a job out. Plan and pipeline have one order.
    fn planned_away(&self, at: usize) -> Option<&str> {
        self.setup.plan.jobs[at].skipped.as_deref()
    }

    fn task(&self, at: usize, sink: &EventSink) -> JobTask {
        let job = &self.setup.pipeline.jobs[at];
        let values = job
            .steps
            .iter()
            .flat_map(|step| &step.inputs)
            .filter_map(|input| Some((input.clone(), self.values.get(input)?.clone())))
            .collect();
        JobTask {
            index: at,
            pipeline: self.setup.pipeline.clone(),
            executor: job
                .executor
                .clone()
                .unwrap_or_else(|| Arc::clone(&self.setup.executor)),
            env: self.setup.env.clone(),
            folders: Arc::clone(&self.setup.folders),
            scope: self.setup.scope.child(&job.name),
            run: self.setup.run.clone(),
            run_folder: self.setup.folder.clone(),
            data_dir: self.setup.data_dir.clone(),
            facts: Arc::new(self.setup.plan.facts.clone()),
            events: sink.for_job(&job.name),
            cancel: self.setup.cancel.child(),
            values,
        }
    }

    fn reuse(&mut self, at: usize, record: JobRecord) {
        let name = self.nodes[at].report.name.clone();
        let reason = "it succeeded in the run that is resumed".to_owned();
        self.emit(
            Some(name.clone()),
            None,
            EventKind::JobSkipped {
                reason: reason.clone(),
            },
        );
        let job = &self.setup.pipeline.jobs[at];
        for step in &job.steps {
            let Some(found) = record.steps.get(&*step.name) else {
                continue;
            };
            self.nodes[at].report.steps.push(found.report.clone());
            if let Some(value) = &found.value {
                let source = InputRef {
                    job: Arc::clone(&job.name),
                    step: Arc::clone(&step.name),
                };
                self.values.insert(source, value.clone());
            }
        }
        // The folder now counts as used by this run: what depends on it can
        // itself be resumed.
        if let Err(error) = self.setup.folders.lease(job.folder_name()) {
            self.emit(
                Some(name.clone()),
                None,
                EventKind::Warning {
                    text: format!("could not take the folder {} over: {error}", record.folder),
                },
            );
        }
        self.records.jobs.insert(name, record);
        self.nodes[at].report.reused = true;
        self.nodes[at].report.skipped = Some(reason);
        self.complete(at, Outcome::Succeeded);
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Event { job, step, kind } => self.emit(job, step, kind),
            Message::StepDone { job, report, value } => {
                let name = Arc::clone(&self.setup.pipeline.jobs[job].name);
                let folder = self.setup.pipeline.jobs[job].folder_name().to_owned();
                self.emit(
                    Some(name.to_string()),
                    Some(report.name.clone()),
                    EventKind::StepFinished {
                        outcome: report.outcome,
                        duration_ms: milliseconds(report.duration),
                        summary: report.summary.clone(),
                        failure: report.failure.clone(),
                    },
                );
                if let Some(value) = &value {
                    let source = InputRef {
                        job: Arc::clone(&name),
                        step: report.name.as_str().into(),
                    };
                    self.values.insert(source, value.clone());
                }
                let record = self.records.jobs.entry(name.to_string()).or_default();
                record.folder = folder;
                record.steps.insert(
                    report.name.clone(),
                    StepRecord {
                        report: report.clone(),
                        value,
                    },
                );
                self.nodes[job].report.steps.push(report);
                self.unsaved_since.get_or_insert_with(Instant::now);
            }
            Message::JobDone {
                job,
                outcome,
                duration,
            } => {
                self.running -= 1;
                let non_blocking = self.setup.pipeline.jobs[job].non_blocking;
                let outcome = match outcome {
                    Outcome::Failed | Outcome::TimedOut | Outcome::Errored if non_blocking => {
                        Outcome::FailedAllowed
                    }
                    outcome => outcome,
                };
                let name = self.nodes[job].report.name.clone();
                self.nodes[job].report.duration = duration;
                self.records.jobs.entry(name.clone()).or_default().outcome = Some(outcome);
                self.emit(
                    Some(name),
                    None,
                    EventKind::JobFinished {
                        outcome,
                        duration_ms: milliseconds(duration),
                    },
                );
                self.unsaved_since.get_or_insert_with(Instant::now);
                self.complete(job, outcome);
            }
        }
    }

    fn complete(&mut self, at: usize, outcome: Outcome) {
        self.nodes[at].report.outcome = outcome;
        self.left -= 1;
        for dependent in self.nodes[at].dependents.clone() {
            self.nodes[dependent].waiting_for -= 1;
            if self.nodes[dependent].waiting_for == 0 {
                self.ready.push_back(dependent);
            }
        }
    }

    fn emit(&mut self, job: Option<String>, step: Option<String>, kind: EventKind) {
        match &kind {
            EventKind::Warning { text } if !self.warnings.contains(text) => {
                self.warnings.push(text.clone());
            }
            EventKind::Highlight { label, text } => {
                self.highlights.push((label.clone(), text.clone()));
            }
            _ => {}
        }
        let time = jiff::Timestamp::now();
        let event = Arc::new(Event {
            seq: self.seq,
            time: format!("{time:.3}"),
            job,
            step,
            kind,
        });
        self.seq += 1;
        self.setup.journal.record(&event);
        for reporter in &self.setup.reporters {
            reporter.send(&event);
        }
    }

    /// When the records have to be on disk: soon, but never so often that a run of many jobs
    /// does little else.
    fn save_due(&self) -> Option<Instant> {
        self.unsaved_since
            .map(|since| since + SAVE_SOON.max(self.save_cost * 20))
    }

    fn save_records(&mut self) {
        self.unsaved_since = None;
        let started = Instant::now();
        let saved = self.records.write(&self.setup.data_dir);
        self.save_cost = started.elapsed();
        if let Err(error) = saved {
            let text = format!(
                "the run's outputs could not be recorded, so it cannot be resumed: {error}"
            );
            if !self.warnings.contains(&text) {
                self.emit(None, None, EventKind::Warning { text });
            }
        }
    }

    fn finish(mut self, duration: Duration) -> RunReport {
        self.save_records();
        let mut outcome = self.nodes.iter().fold(Outcome::Succeeded, |worst, node| {
            worst.worse(node.report.outcome)
        });
        if self.setup.cancel.is_cancelled() && outcome != Outcome::Succeeded {
            outcome = Outcome::Cancelled;
        }
        self.emit(
            None,
            None,
            EventKind::RunFinished {
                outcome,
                duration_ms: milliseconds(duration),
            },
        );
        if let Some(error) = self.setup.journal.failure() {
            self.warnings
                .push(format!("the journal is incomplete: {error}"));
        }
        for reporter in std::mem::take(&mut self.setup.reporters) {
            if let Some(fault) = reporter.finish() {
                self.warnings.push(fault);
            }
        }
        // From here on other processes may take the run for finished.
        drop(self.setup.lock);
        RunReport {
            run: self.setup.run,
            pipeline: self.setup.plan.pipeline,
            outcome,
            duration,
            jobs: self.nodes.into_iter().map(|node| node.report).collect(),
            warnings: self.warnings,
            highlights: self.highlights,
            folder: self.setup.folder,
        }
    }
}

fn describe(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Failed => "failed",
        Outcome::Cancelled => "was cancelled",
        Outcome::TimedOut => "timed out",
        Outcome::Errored => "could not run",
        Outcome::Skipped => "was skipped",
        Outcome::Succeeded | Outcome::FailedAllowed => "is done",
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
