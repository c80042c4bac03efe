//! [`RunSwarmJob`]: a step whose work is done by the nodes of a swarm.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use async_trait::async_trait;
use pipeline_core::{
    EventKind, Input, InputRef, Redactor, Scope, Step, StepContext, StepError, StepOutput,
    StepRecording, Stream, error_chain,
};
use tokio::sync::Mutex;

use crate::reference::ImageReference;
use crate::swarm::{Swarm, SwarmError, SwarmEvent, SwarmJob, SwarmObserver, SwarmReport};

/// The topic of the fact that tells how a job ended.
const TOPIC: &str = "docker.swarm";
/// Lines that are kept for a failure.
const TAIL_LINES: usize = 40;
/// A longer line is cut in pieces, so that an endless one stays bounded. A secret across a cut would
/// not be known again, so there are few of them.
const LONGEST_LINE: usize = 1024 * 1024;

/// Runs a [`SwarmJob`] and fails when one of its tasks failed.
///
/// What the tasks write is the step's output, with secrets of the run masked; where there are
/// several, each line begins with the index of its task. The value tells for each task its node, how
/// it ended and how long it took, and the digest that ran.
///
/// # Cancellation
/// Cancelling the step stops the tasks within [`SwarmJob::grace`] and removes everything. The runner
/// drops a step that takes 15 seconds to stop; what is left then is removed in the background.
#[derive(Debug)]
pub struct RunSwarmJob {
    swarm: Swarm,
    job: SwarmJob,
    image: Option<ImageFrom>,
}

/// Where the image comes from instead of the job.
struct ImageFrom {
    edge: Option<InputRef>,
    resolve: Box<Resolve>,
}

type Resolve = dyn Fn(&StepContext) -> Result<ImageReference, StepError> + Send + Sync;

impl fmt::Debug for ImageFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageFrom")
            .field("edge", &self.edge)
            .finish_non_exhaustive()
    }
}

impl RunSwarmJob {
    /// Runs this job on this swarm. The label `pipeline.scope` names the run and the job of the
    /// pipeline.
    #[must_use]
    pub fn new(swarm: Swarm, job: SwarmJob) -> Self {
        Self {
            swarm,
            job,
            image: None,
        }
    }

    /// Takes the image from here instead of the job, such as from an earlier step.
    #[must_use]
    pub fn with_image(self, image: impl Into<Input<ImageReference>>) -> Self {
        self.with_image_of(image, |image| image)
    }

    /// Takes the image out of what an earlier step made, as in
    /// `with_image_of(&pushed, |pushed: PushedImage| pushed.reference)`.
    #[must_use]
    pub fn with_image_of<T: StepOutput>(
        mut self,
        made: impl Into<Input<T>>,
        image: impl Fn(T) -> ImageReference + Send + Sync + 'static,
    ) -> Self {
        let made = made.into();
        self.image = Some(ImageFrom {
            edge: made.edge(),
            resolve: Box::new(move |cx| cx.resolve(&made).map(&image)),
        });
        self
    }
}

#[async_trait]
impl Step for RunSwarmJob {
    type Output = SwarmReport;

    fn inputs(&self) -> Vec<InputRef> {
        self.image
            .iter()
            .filter_map(|image| image.edge.clone())
            .collect()
    }

    async fn run(&self, cx: &StepContext) -> Result<SwarmReport, StepError> {
        let scope = Scope::new(cx.run_id()).child(cx.job());
        let mut job = self.job.clone().with_scope(scope);
        if let Some(image) = &self.image {
            job.image = (image.resolve)(cx)?;
        }
        let log = StepLog::new(cx, &job);
        let result = self.swarm.run_until(&job, &log, cx.cancel()).await;
        let tail = log.finish().await;
        let report = result.map_err(|error| step_error(error, &tail))?;
        tell(cx, &report).await;
        if report.succeeded() {
            Ok(report)
        } else {
            Err(failure(&job, &report, tail))
        }
    }
}

async fn tell(cx: &StepContext, report: &SwarmReport) {
    let good = report.tasks.iter().filter(|task| task.exit.success());
    cx.summary(format!(
        "{} of {} tasks succeeded",
        good.count(),
        report.completions
    ));
    if let Ok(data) = serde_json::to_value(report) {
        cx.fact(TOPIC, data).await;
    }
}

fn failure(job: &SwarmJob, report: &SwarmReport, tail: Vec<String>) -> StepError {
    let tasks: Vec<String> = report
        .failed()
        .map(|task| format!("task {} on {}: {}", task.index, task.node, task.exit))
        .collect();
    let message = format!("the swarm job {} failed: {}", job.name, tasks.join("; "));
    let mut error = StepError::failed(message).with_tail(tail);
    if let StepError::Failed(failed) = &mut error {
        failed.exit = report.failed().next().map(|task| task.exit);
        failed.detail = serde_json::to_value(report).unwrap_or_default();
    }
    error
}

/// What the job or the swarm's people are to blame for is a failure; everything else could not be
/// found out.
fn step_error(error: SwarmError, tail: &[String]) -> StepError {
    match error {
        SwarmError::Cancelled { .. } => StepError::Cancelled,
        SwarmError::Deadline { .. } => StepError::TimedOut {
            what: error.to_string(),
            report: match StepError::failed("").with_tail(tail.to_vec()) {
                StepError::Failed(report) => report,
                _ => Box::default(),
            },
        },
        SwarmError::Invalid { .. }
        | SwarmError::MissingImage { .. }
        | SwarmError::NoSuitableNode { .. }
        | SwarmError::NotStarted { .. } => {
            StepError::failed(error_chain(&error)).with_tail(tail.to_vec())
        }
        _ => StepError::errored("could not run the job on the swarm", error),
    }
}

/// Puts what happens into the step's log.
struct StepLog<'a> {
    cx: &'a StepContext,
    /// Whether lines have to say whose they are.
    several: bool,
    /// The job's own secrets, which the run does not know.
    redactor: Redactor,
    lines: Mutex<Lines>,
}

#[derive(Default)]
struct Lines {
    /// What has no end yet, of each stream of each task.
    open: BTreeMap<(u32, bool), Vec<u8>>,
    tail: VecDeque<String>,
}

impl fmt::Debug for StepLog<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepLog").finish_non_exhaustive()
    }
}

#[async_trait]
impl SwarmObserver for StepLog<'_> {
    async fn event(&self, event: SwarmEvent) {
        match event {
            SwarmEvent::Image { image } => self.cx.log(format!("image: {image}")).await,
            SwarmEvent::Reaped { services, secrets } => {
                let names = [services, secrets].concat().join(", ");
                let text = format!("removed what a killed program had left: {names}");
                self.cx.log(text).await;
            }
            SwarmEvent::Task {
                index,
                state,
                node,
                message,
            } => {
                let place = node.map_or_else(String::new, |node| format!(" on {node}"));
                let text = format!("task {index}: {state}{place} ({message})");
                self.cx.log(text).await;
            }
            SwarmEvent::Output {
                index,
                stream,
                bytes,
            } => self.output(index, stream, &bytes).await,
            SwarmEvent::Warning { message } => self.cx.warn(message).await,
        }
    }
}

impl<'a> StepLog<'a> {
    fn new(cx: &'a StepContext, job: &SwarmJob) -> Self {
        Self {
            cx,
            several: job.completions > 1,
            redactor: Redactor::new(job.secrets.values()),
            lines: Mutex::default(),
        }
    }

    async fn output(&self, index: u32, stream: Stream, bytes: &[u8]) {
        let mut lines = self.lines.lock().await;
        let key = (index, stream == Stream::Stderr);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let open = lines.open.entry(key).or_default();
            open.extend_from_slice(piece);
            if piece.ends_with(b"\n") || open.len() >= LONGEST_LINE {
                let line = std::mem::take(open);
                self.line(&mut lines, index, stream, &line).await;
            }
        }
    }

    async fn line(&self, lines: &mut Lines, index: u32, stream: Stream, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        let text = self.redactor.redact(text.trim_end_matches(['\n', '\r']));
        let text = if self.several {
            format!("[{index}] {text}")
        } else {
            text
        };
        if lines.tail.len() == TAIL_LINES {
            lines.tail.pop_front();
        }
        lines.tail.push_back(text.clone());
        // The one way to report output of a command that ran elsewhere; it masks secrets.
        let mut one = StepRecording::default();
        one.events.push(EventKind::Output { stream, text });
        self.cx.replay(&one).await;
    }

    /// Lines without an end, and then the last lines of all.
    async fn finish(self) -> Vec<String> {
        let mut lines = std::mem::take(&mut *self.lines.lock().await);
        for ((index, is_error), line) in std::mem::take(&mut lines.open) {
            let stream = if is_error {
                Stream::Stderr
            } else {
                Stream::Stdout
            };
            if !line.is_empty() {
                self.line(&mut lines, index, stream, &line).await;
            }
        }
        lines.tail.into()
    }
}
