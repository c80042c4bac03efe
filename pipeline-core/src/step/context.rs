use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{Recorder, StepError, StepRecording};
use crate::{
    cancel::CancelToken,
    event::{EventKind, EventSink, MAX_LINE_BYTES},
    executor::{CommandSpec, EnvValue, Environment, ExitStatus, Stream},
    facts::RunFacts,
    outcome::FailureReport,
    pipeline::Pipeline,
    secret::RedactorStream,
    value::{Input, InputRef, Output, StepOutput},
};

/// How many last lines of a command's output are kept for the closing block.
const TAIL_LINES: usize = 40;
/// Between the polite signal and the kill; CircleCI's and Supervisor's figure.
const GRACE: Duration = Duration::from_secs(10);

/// What a step can see and do. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StepContext {
    parts: Arc<ContextParts>,
    events: EventSink,
}

#[derive(Debug)]
pub(crate) struct ContextParts {
    pub(crate) environment: Arc<dyn Environment>,
    pub(crate) env: BTreeMap<String, EnvValue>,
    /// Those of `env` that somebody declared: what a person sets to see a
    /// failure again.
    pub(crate) declared: BTreeMap<String, EnvValue>,
    pub(crate) job_dir: PathBuf,
    pub(crate) artifact_dir: PathBuf,
    pub(crate) data_dir: PathBuf,
    pub(crate) log: Mutex<Option<std::fs::File>>,
    pub(crate) facts: Arc<RunFacts>,
    pub(crate) run: String,
    pub(crate) values: BTreeMap<InputRef, serde_json::Value>,
    pub(crate) pipeline: Pipeline,
    /// The job's place in the pipeline.
    pub(crate) job: usize,
    pub(crate) step: Arc<str>,
    pub(crate) cancel: CancelToken,
    pub(crate) notes: Mutex<StepNotes>,
}

/// What the worker picks up when the step has ended.
#[derive(Debug, Default)]
pub(crate) struct StepNotes {
    pub(crate) summary: Option<String>,
    pub(crate) tail: VecDeque<String>,
    pub(crate) log_failed: bool,
}

impl StepContext {
    pub(crate) fn new(parts: Arc<ContextParts>, events: EventSink) -> Self {
        Self { parts, events }
    }

    /// The name of the job.
    #[must_use]
    pub fn job(&self) -> &str {
        &self.parts.pipeline.jobs[self.parts.job].name
    }

    /// The name of the step.
    #[must_use]
    pub fn step(&self) -> &str {
        &self.parts.step
    }

    /// The jobs that had ended before this one began because the graph says
    /// so: those it waits for, those they waited for, and so on. A job that is
    /// neither here nor has this one in its own list may run at the same time.
    #[must_use]
    pub fn upstream_jobs(&self) -> BTreeSet<String> {
        let jobs = &self.parts.pipeline.jobs;
        let mut found: BTreeSet<String> = BTreeSet::new();
        let mut wanted: BTreeSet<&str> = jobs[self.parts.job].needs().into_iter().collect();
        // Each job comes after those it needs, so that one pass finds all.
        for job in jobs[..self.parts.job].iter().rev() {
            if wanted.remove(&*job.name) {
                wanted.extend(job.needs());
                found.insert(job.name.to_string());
            }
        }
        found
    }

    /// The job's folder on this machine. Its path is the same in every run, as
    /// long as no other run uses it at the same time.
    ///
    /// Commands may work on a copy of it, on another machine: a step that reads
    /// here calls [`pull_job_dir`](Self::pull_job_dir) first, one that writes
    /// calls [`push_job_dir`](Self::push_job_dir) afterwards.
    #[must_use]
    pub fn job_dir(&self) -> &Path {
        &self.parts.job_dir
    }

    /// The job's folder on this machine, as the job's commands left it. Costs
    /// nothing where they work in the same folder, else all of it is copied.
    ///
    /// # Errors
    /// It could not be copied; it is as it was.
    ///
    /// # Cancellation
    /// Dropping the future leaves the folder as it was or as it is inside.
    pub async fn pull_job_dir(&self) -> Result<&Path, StepError> {
        let brought = self.parts.environment.bring_out().await;
        brought.map_err(|error| StepError::errored("could not fetch the job's files", error))?;
        Ok(&self.parts.job_dir)
    }

    /// Shows the job's commands what this step wrote to
    /// [`job_dir`](Self::job_dir), after [`pull_job_dir`](Self::pull_job_dir).
    /// Costs nothing where they work in the same folder, else all of it is
    /// copied.
    ///
    /// # Errors
    /// It could not be copied; what commands see is undefined then.
    ///
    /// # Cancellation
    /// As after an error.
    pub async fn push_job_dir(&self) -> Result<(), StepError> {
        let brought = self.parts.environment.bring_in().await;
        brought.map_err(|error| StepError::errored("could not hand on the job's files", error))
    }

    /// The folder of this run for files worth keeping, such as test reports.
    #[must_use]
    pub fn artifact_dir(&self) -> &Path {
        &self.parts.artifact_dir
    }

    /// The data folder that holds runs, job folders and the embedded cache.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.parts.data_dir
    }

    /// What is known about the source and the build.
    #[must_use]
    pub fn facts(&self) -> &RunFacts {
        &self.parts.facts
    }

    /// Identity of the run.
    #[must_use]
    pub fn run_id(&self) -> &str {
        &self.parts.run
    }

    /// The job's environment, for steps that spawn or copy by themselves.
    #[must_use]
    pub fn environment(&self) -> &dyn Environment {
        &*self.parts.environment
    }

    /// The variables that every command of the job gets, without those of the
    /// executor itself.
    #[must_use]
    pub fn env(&self) -> &BTreeMap<String, EnvValue> {
        &self.parts.env
    }

    /// Those of [`env`](Self::env) that somebody declared, without the
    /// [built-in ones](RunFacts::builtin_variables), which change with every run.
    #[must_use]
    pub fn declared_env(&self) -> &BTreeMap<String, EnvValue> {
        &self.parts.declared
    }

    /// Thrown when the step should stop.
    #[must_use]
    pub fn cancel(&self) -> &CancelToken {
        &self.parts.cancel
    }

    /// Where the step reports.
    #[must_use]
    pub fn events(&self) -> &EventSink {
        &self.events
    }

    /// A context for running another step inside this one: what it reports
    /// goes where this one's reports go, and is kept as well.
    #[must_use]
    pub fn recording(&self) -> (Self, Recorder) {
        let recorder = Recorder::default();
        let inner = Self {
            parts: Arc::clone(&self.parts),
            events: self.events.recorded_by(recorder.clone()),
        };
        (inner, recorder)
    }

    /// Reports once more what was recorded: log lines, output, warnings, facts,
    /// highlights and the summary. Secrets of this run are masked in it.
    pub async fn replay(&self, recording: &StepRecording) {
        for kind in &recording.events {
            match kind {
                EventKind::CommandStarted { command } => {
                    let command = self.events.redactor().redact(command);
                    self.write_log(format!("$ {command}\n").as_bytes());
                    self.events
                        .send(EventKind::CommandStarted { command })
                        .await;
                }
                EventKind::Output { stream, text } => {
                    let text = self.events.redactor().redact(text);
                    self.write_log(format!("{text}\n").as_bytes());
                    let stream = *stream;
                    self.events.send(EventKind::Output { stream, text }).await;
                }
                EventKind::Log { text } => self.log(text).await,
                EventKind::Warning { text } => self.warn(text).await,
                EventKind::Fact { topic, data } => self.fact(topic, data.clone()).await,
                EventKind::Highlight { label, text } => self.highlight(label, text).await,
                _ => {}
            }
        }
        if let Some(summary) = &recording.summary {
            self.summary(summary);
        }
    }

    /// Lines in the step's log.
    pub async fn log(&self, text: impl AsRef<str> + Send) {
        let text = self.events.redactor().redact(text.as_ref());
        for line in text.lines() {
            self.write_log(line.as_bytes());
            self.write_log(b"\n");
            let text = line.to_owned();
            self.events.send(EventKind::Log { text }).await;
        }
    }

    /// A warning: shown now and again in the closing block.
    pub async fn warn(&self, text: impl AsRef<str> + Send) {
        let text = self.events.redactor().redact(text.as_ref());
        self.write_log(format!("warning: {text}\n").as_bytes());
        self.events.send(EventKind::Warning { text }).await;
    }

    /// A typed fact; see [`EventSink::fact`].
    pub async fn fact(&self, topic: &str, data: serde_json::Value) {
        self.events.fact(topic, data).await;
    }

    /// A line for the closing block, such as the address of a site.
    pub async fn highlight(&self, label: &str, text: impl AsRef<str> + Send) {
        self.events.highlight(label, text).await;
    }

    /// One line about the result, for the table of steps. The last one counts.
    pub fn summary(&self, text: impl AsRef<str>) {
        let text = self.events.redactor().redact(text.as_ref());
        self.events.record_summary(&text);
        self.notes().summary = Some(text);
    }

    /// The value of an input.
    ///
    /// # Errors
    /// The step that produces it is not among the declared inputs, or what it
    /// recorded has another form.
    pub fn resolve<T: StepOutput>(&self, input: &Input<T>) -> Result<T, StepError> {
        match input {
            Input::Value(value) => Ok(value.clone()),
            Input::Output(output) => self.value(output),
        }
    }

    /// The value behind a handle; see [`resolve`](Self::resolve).
    ///
    /// # Errors
    /// As for [`resolve`](Self::resolve).
    pub fn value<T: StepOutput>(&self, output: &Output<T>) -> Result<T, StepError> {
        let source = output.source();
        let value = self.parts.values.get(source).ok_or_else(|| {
            StepError::failed(format!(
                "the value of {source} is not there: name it among the step's inputs, \
                 and see that its step ran"
            ))
        })?;
        serde_json::from_value(value.clone()).map_err(|cause| {
            StepError::errored(
                format!("the recorded value of {source} has another form"),
                cause,
            )
        })
    }

    /// What the step behind a declared input recorded, as it stands: for a step
    /// that runs another one and does not know its types.
    #[must_use]
    pub fn recorded(&self, input: &InputRef) -> Option<&serde_json::Value> {
        self.parts.values.get(input)
    }

    /// Runs a command in the job's environment: output goes to the log and the
    /// event stream, redacted. Its status is a value; see
    /// [`CommandOutcome::check`].
    ///
    /// # Errors
    /// The command cannot be started, was silent for too long
    /// ([`StepError::TimedOut`]), or the step was cancelled.
    ///
    /// # Cancellation
    /// When the step's token is thrown the process group gets the polite
    /// signal, ten seconds later the kill. Dropping the future kills at once.
    pub async fn exec(&self, command: CommandSpec) -> Result<CommandOutcome, StepError> {
        let redactor = self.events.redactor();
        let shown = redactor.redact(&command.display_line());
        self.write_log(format!("$ {shown}\n").as_bytes());
        self.events
            .send(EventKind::CommandStarted { command: shown })
            .await;

        let mut process = self.parts.environment.spawn(&command).await?;
        let mut streams = [
            LineSplitter::new(Stream::Stdout, redactor.stream()),
            LineSplitter::new(Stream::Stderr, redactor.stream()),
        ];
        let mut captured = Captured::default();
        let mut last_output = Instant::now();
        let limit = command.no_output_timeout;
        let stopped = loop {
            let silence = async {
                match limit {
                    Some(limit) => tokio::time::sleep_until(last_output + limit).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.parts.cancel.cancelled() => break Some(StepError::Cancelled),
                chunk = process.output() => {
                    let Some(chunk) = chunk else { break None };
                    last_output = Instant::now();
                    if chunk.stream == Stream::Stdout {
                        captured.push(&chunk.bytes);
                    }
                    let splitter = &mut streams[usize::from(chunk.stream == Stream::Stderr)];
                    let safe = splitter.redact(&chunk.bytes);
                    self.deliver(splitter, &safe, false).await;
                }
                () = silence => {
                    let limit = limit.unwrap_or_default();
                    break Some(StepError::TimedOut {
                        what: format!("too long with no output (exceeded {}s)", limit.as_secs()),
                        report: Box::default(),
                    });
                }
            }
        };
        let exit = match &stopped {
            Some(_) => process.terminate(GRACE).await?,
            None => process.wait().await?,
        };
        for splitter in &mut streams {
            let rest = splitter.redactor.finish();
            self.deliver(splitter, &rest, true).await;
        }
        let report = FailureReport {
            message: format!(
                "`{}` {}",
                redactor.redact(&command.display_line()),
                match exit {
                    ExitStatus::Exited(code) => format!("exited with code {code}"),
                    signaled => signaled.to_string(),
                }
            ),
            exit: Some(exit),
            tail: self.notes().tail.iter().cloned().collect(),
            reproduce: Some(redactor.redact(
                &command.reproduce_line(self.parts.environment.root(), &self.parts.declared),
            )),
            detail: serde_json::Value::Null,
        };
        match stopped {
            Some(StepError::TimedOut { what, .. }) => Err(StepError::TimedOut {
                what,
                report: Box::new(report),
            }),
            Some(error) => Err(error),
            None => Ok(CommandOutcome {
                exit,
                stdout: captured,
                report,
            }),
        }
    }

    async fn deliver(&self, splitter: &mut LineSplitter, safe: &[u8], end: bool) {
        self.write_log(safe);
        for text in splitter.lines(safe, end) {
            {
                let mut notes = self.notes();
                if notes.tail.len() == TAIL_LINES {
                    notes.tail.pop_front();
                }
                notes.tail.push_back(text.clone());
            }
            self.events
                .send(EventKind::Output {
                    stream: splitter.stream,
                    text,
                })
                .await;
        }
    }

    fn notes(&self) -> std::sync::MutexGuard<'_, StepNotes> {
        self.parts
            .notes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A log that cannot be written never changes the step's result.
    fn write_log(&self, bytes: &[u8]) {
        let mut log = self
            .parts
            .log
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = log.as_mut()
            && file.write_all(bytes).is_err()
        {
            *log = None;
            self.notes().log_failed = true;
        }
    }
}

/// How a command ended, with what it printed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CommandOutcome {
    /// How it ended.
    pub exit: ExitStatus,
    stdout: Captured,
    report: FailureReport,
}

impl CommandOutcome {
    /// The first mebibyte of standard output, **not redacted**: for the step
    /// to read, not to print. Bytes that are not UTF-8 are replaced.
    #[must_use]
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout.bytes).into_owned()
    }

    /// The last lines of both streams, redacted.
    #[must_use]
    pub fn tail(&self) -> &[String] {
        &self.report.tail
    }

    /// Anything but exit code 0 is a failure.
    ///
    /// # Errors
    /// [`StepError::Failed`] with status, last lines and reproduce command.
    pub fn check(self) -> Result<(), StepError> {
        if self.exit.success() {
            Ok(())
        } else {
            Err(self.into_failure())
        }
    }

    /// The failure that this outcome is, whatever the exit code.
    #[must_use]
    pub fn into_failure(self) -> StepError {
        StepError::exited(self.report, self.exit)
    }

    /// The failure with a message that says more than the exit code does.
    #[must_use]
    pub fn into_failure_because(mut self, message: impl Into<String>) -> StepError {
        self.report.message = message.into();
        self.into_failure()
    }
}

#[derive(Clone, Debug, Default)]
struct Captured {
    bytes: Vec<u8>,
}

impl Captured {
    const LIMIT: usize = 1024 * 1024;

    fn push(&mut self, bytes: &[u8]) {
        let room = Self::LIMIT.saturating_sub(self.bytes.len());
        self.bytes
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

/// Cuts a redacted stream into lines.
struct LineSplitter {
    stream: Stream,
    redactor: RedactorStream,
    line: Vec<u8>,
}

impl LineSplitter {
    fn new(stream: Stream, redactor: RedactorStream) -> Self {
        Self {
            stream,
            redactor,
            line: Vec::new(),
        }
    }

    fn redact(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.redactor.push(bytes)
    }

    fn lines(&mut self, bytes: &[u8], end: bool) -> Vec<String> {
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(piece);
            let complete = piece.ends_with(b"\n");
            if complete || self.line.len() >= MAX_LINE_BYTES {
                lines.push(self.take());
            }
        }
        if end && !self.line.is_empty() {
            lines.push(self.take());
        }
        lines
    }

    fn take(&mut self) -> String {
        let mut line = std::mem::take(&mut self.line);
        if line.ends_with(b"\n") {
            line.pop();
        }
        if line.ends_with(b"\r") {
            line.pop();
        }
        if line.len() <= MAX_LINE_BYTES {
            return String::from_utf8_lossy(&line).into_owned();
        }
        // A pipe gives at most one chunk more than the limit; the log file has
        // the line in one piece.
        self.line = line.split_off(MAX_LINE_BYTES);
        String::from_utf8_lossy(&line).into_owned()
    }
}
