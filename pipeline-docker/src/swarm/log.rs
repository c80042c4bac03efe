//! [`TaskLog`]: what a task writes, while it runs and to its last byte.

use std::pin::Pin;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::errors::Error as BollardError;
use bollard::query_parameters::LogsOptionsBuilder;
use futures_util::{Stream as Answers, StreamExt};
use pipeline_core::Stream;

use crate::engine::{Engine, EngineError};

/// How long a node may be silent that is asked for a log that is complete.
const SILENCE: Duration = Duration::from_secs(30);

type Chunks = Pin<Box<dyn Answers<Item = Result<LogOutput, BollardError>> + Send>>;

/// The log of a service with one task.
///
/// A log that is followed never ends, says nothing of a line that has no end yet, and may be late.
/// So what is still missing when the task has ended is read from the complete log then: the bytes
/// of one stream are the same in both, in the same order.
pub(super) struct TaskLog {
    engine: Engine,
    service: String,
    followed: Option<Chunks>,
    begun: bool,
    /// Bytes of standard output and error that were handed on.
    seen: [usize; 2],
}

impl TaskLog {
    pub(super) fn new(engine: Engine, service: String) -> Self {
        Self {
            engine,
            service,
            followed: None,
            begun: false,
            seen: [0; 2],
        }
    }

    /// Begins to follow what the task writes, unless that was begun before.
    pub(super) fn follow(&mut self) {
        if !self.begun {
            self.begun = true;
            self.followed = Some(self.ask(true));
        }
    }

    /// What comes next; never, if nothing is followed. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> (Stream, Vec<u8>) {
        loop {
            let Some(chunks) = &mut self.followed else {
                return std::future::pending().await;
            };
            match chunks.next().await {
                Some(Ok(chunk)) => {
                    if let Some((stream, bytes)) = split(chunk) {
                        self.seen[number(stream)] += bytes.len();
                        return (stream, bytes);
                    }
                }
                // Whatever it was: the rest is read at the end.
                Some(Err(_)) | None => self.followed = None,
            }
        }
    }

    /// No more is followed: from here on [`Rest`] has what is missing.
    pub(super) fn rest(mut self) -> Rest {
        self.followed = None;
        Rest {
            chunks: self.ask(false),
            engine: self.engine,
            skip: self.seen,
        }
    }

    fn ask(&self, follow: bool) -> Chunks {
        let options = LogsOptionsBuilder::default()
            .follow(follow)
            .stdout(true)
            .stderr(true)
            .build();
        let client = self.engine.client_within(None);
        Box::pin(client.service_logs(&self.service, Some(options)))
    }
}

/// What is missing of the log of a task that has ended.
pub(super) struct Rest {
    engine: Engine,
    chunks: Chunks,
    /// Bytes of each stream that are known already.
    skip: [usize; 2],
}

impl Rest {
    pub(super) async fn next(&mut self) -> Result<Option<(Stream, Vec<u8>)>, EngineError> {
        let action = "read the rest of a task's log";
        loop {
            let answer = tokio::time::timeout(SILENCE, self.chunks.next()).await;
            let Ok(answer) = answer else {
                let said = format!("its node was silent for {}s", SILENCE.as_secs());
                return Err(EngineError::said(action, None, &said));
            };
            let Some(chunk) = answer else {
                return Ok(None);
            };
            let chunk = chunk.map_err(|error| self.engine.error(action, error))?;
            let Some((stream, mut bytes)) = split(chunk) else {
                continue;
            };
            let skip = &mut self.skip[number(stream)];
            let known = bytes.len().min(*skip);
            *skip -= known;
            bytes.drain(..known);
            if !bytes.is_empty() {
                return Ok(Some((stream, bytes)));
            }
        }
    }
}

fn number(stream: Stream) -> usize {
    usize::from(stream == Stream::Stderr)
}

fn split(chunk: LogOutput) -> Option<(Stream, Vec<u8>)> {
    match chunk {
        LogOutput::StdOut { message } | LogOutput::Console { message } => {
            Some((Stream::Stdout, message.into()))
        }
        LogOutput::StdErr { message } => Some((Stream::Stderr, message.into())),
        LogOutput::StdIn { .. } => None,
    }
}
