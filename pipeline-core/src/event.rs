//! The one stream of facts about a run: numbered, timestamped, serialisable,
//! redacted. Console, journal and every report are readers of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::{
    executor::{EnvironmentFacts, Stream, Survivors},
    outcome::{FailureReport, Outcome},
    runner::StepReport,
    secret::Redactor,
    step::Recorder,
};

/// Version of the serialised form. It grows when a reader of the old form
/// would misread the new one; added fields and kinds do not count.
pub const SCHEMA_VERSION: u32 = 1;

/// A longer line of output is split, so that one endless line stays bounded.
pub const MAX_LINE_BYTES: usize = 64 * 1024;

/// One fact about a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Event {
    /// Position in the run's stream, from 0. The journal has gaps where output
    /// was: that is in the log files.
    pub seq: u64,
    /// When it was recorded, RFC 3339 in UTC.
    pub time: String,
    /// The job it belongs to, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// The step it belongs to, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened.
///
/// Readers must expect kinds they do not know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// The run begins.
    RunStarted {
        /// Version of the event form.
        schema: u32,
        /// Name of the pipeline.
        pipeline: String,
        /// Identity of the run.
        run: String,
        /// Hash of the plan.
        plan: String,
        /// Folder of the run.
        folder: String,
        /// The run that this one resumes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        resumes: Option<String>,
    },
    /// A job will not run, and why.
    JobSkipped {
        /// Why.
        reason: String,
    },
    /// A job begins.
    JobStarted {
        /// Its folder on this machine.
        folder: String,
    },
    /// The job's environment is ready.
    EnvironmentReady {
        /// What is known about it.
        facts: EnvironmentFacts,
    },
    /// A step will not run, and why.
    StepSkipped {
        /// Why.
        reason: String,
    },
    /// A try of a step begins.
    StepStarted {
        /// Which try, from 1.
        attempt: u32,
    },
    /// A command starts inside a step.
    CommandStarted {
        /// The command as a shell would read it, redacted.
        command: String,
    },
    /// A line of output, redacted, without its end of line.
    Output {
        /// Which stream.
        stream: Stream,
        /// The line; bytes that are not UTF-8 are replaced.
        text: String,
    },
    /// A line that the step itself says.
    Log {
        /// The line.
        text: String,
    },
    /// Something the reader should look at; nothing failed.
    Warning {
        /// The warning.
        text: String,
    },
    /// A typed fact of another crate, such as `cache.restored`.
    Fact {
        /// Its name, with the crate's noun in front.
        topic: String,
        /// Its data.
        data: serde_json::Value,
    },
    /// A try failed and another one follows.
    StepRetried {
        /// Which try failed.
        attempt: u32,
        /// Milliseconds until the next.
        delay_ms: u64,
        /// What went wrong.
        failure: FailureReport,
    },
    /// A step ended.
    StepFinished {
        /// How.
        outcome: Outcome,
        /// Milliseconds over all tries.
        duration_ms: u64,
        /// One line about the result, for tables.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        summary: Option<String>,
        /// What went wrong.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<FailureReport>,
    },
    /// A job's environment is gone.
    EnvironmentClosed {
        /// What the clean-up found.
        survivors: Survivors,
    },
    /// A job ended.
    JobFinished {
        /// How.
        outcome: Outcome,
        /// Milliseconds.
        duration_ms: u64,
    },
    /// A line for the closing block, such as an address.
    Highlight {
        /// What it is.
        label: String,
        /// The text.
        text: String,
    },
    /// The run ended; the last event.
    RunFinished {
        /// How.
        outcome: Outcome,
        /// Milliseconds.
        duration_ms: u64,
    },
}

/// What workers send to the owner of the run.
#[derive(Debug)]
pub(crate) enum Message {
    Event {
        job: Option<String>,
        step: Option<String>,
        kind: EventKind,
    },
    StepDone {
        job: usize,
        report: StepReport,
        value: Option<serde_json::Value>,
    },
    JobDone {
        job: usize,
        outcome: Outcome,
        duration: Duration,
    },
}

/// A place to report to, bound to one job or step. Cheap to clone.
///
/// Everything that goes in is redacted here, once, before anyone sees it.
/// Sending never fails; after the run has ended it does nothing.
#[derive(Clone, Debug)]
pub struct EventSink {
    sender: mpsc::Sender<Message>,
    redactor: Redactor,
    job: Option<String>,
    step: Option<String>,
    recorder: Option<Recorder>,
}

impl EventSink {
    pub(crate) fn new(sender: mpsc::Sender<Message>, redactor: Redactor) -> Self {
        Self {
            sender,
            redactor,
            job: None,
            step: None,
            recorder: None,
        }
    }

    /// A sink whose events go nowhere, for callers outside a run.
    #[must_use]
    pub fn discard() -> Self {
        Self::new(mpsc::channel(1).0, Redactor::default())
    }

    pub(crate) fn for_job(&self, job: &str) -> Self {
        Self {
            job: Some(job.to_owned()),
            step: None,
            ..self.clone()
        }
    }

    pub(crate) fn for_step(&self, step: &str) -> Self {
        Self {
            step: Some(step.to_owned()),
            ..self.clone()
        }
    }

    /// The same place, with a copy of every event for a recorder. One that
    /// records already goes on doing so.
    pub(crate) fn recorded_by(&self, recorder: Recorder) -> Self {
        Self {
            recorder: Some(recorder.after(self.recorder.clone())),
            ..self.clone()
        }
    }

    pub(crate) fn record_summary(&self, summary: &str) {
        if let Some(recorder) = &self.recorder {
            recorder.summary(summary);
        }
    }

    pub(crate) fn redactor(&self) -> &Redactor {
        &self.redactor
    }

    /// Sends an event; waits while the run's owner is busy, which is what
    /// slows a flood of output down.
    pub(crate) async fn send(&self, kind: EventKind) {
        if let Some(recorder) = &self.recorder {
            recorder.event(&kind);
        }
        let (job, step) = (self.job.clone(), self.step.clone());
        self.deliver(Message::Event { job, step, kind }).await;
    }

    pub(crate) async fn deliver(&self, message: Message) {
        // The owner outlives its workers; a closed channel is a run that ended.
        self.sender.send(message).await.ok();
    }

    /// A line the step says.
    pub async fn log(&self, text: impl AsRef<str> + Send) {
        self.send(EventKind::Log {
            text: self.redactor.redact(text.as_ref()),
        })
        .await;
    }

    /// Something to look at, repeated in the closing block.
    pub async fn warn(&self, text: impl AsRef<str> + Send) {
        self.send(EventKind::Warning {
            text: self.redactor.redact(text.as_ref()),
        })
        .await;
    }

    /// A typed fact. Strings inside the data are redacted.
    pub async fn fact(&self, topic: impl Into<String> + Send, data: serde_json::Value) {
        let data = self.redactor.redact_json(data);
        self.send(EventKind::Fact {
            topic: topic.into(),
            data,
        })
        .await;
    }

    /// A line for the closing block, such as the address of a site.
    pub async fn highlight(&self, label: impl Into<String> + Send, text: impl AsRef<str> + Send) {
        let text = self.redactor.redact(text.as_ref());
        self.send(EventKind::Highlight {
            label: label.into(),
            text,
        })
        .await;
    }
}
