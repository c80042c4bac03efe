use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::event::EventKind;

/// A recording that would grow beyond this many bytes is given up: whoever
/// wants to replay a log wants all of it.
const LIMIT: usize = 8 * 1024 * 1024;

/// What a step reported: lines, output, warnings, facts and its summary, in
/// order and redacted. [`StepContext::replay`] reports it once more.
///
/// [`StepContext::replay`]: crate::StepContext::replay
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StepRecording {
    /// The events.
    pub events: Vec<EventKind>,
    /// The last summary.
    pub summary: Option<String>,
}

/// Keeps what a step reports; made by [`StepContext::recording`].
///
/// [`StepContext::recording`]: crate::StepContext::recording
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    kept: Arc<Mutex<Kept>>,
    /// A recorder around this one.
    outer: Option<Box<Recorder>>,
}

#[derive(Debug, Default)]
struct Kept {
    recording: StepRecording,
    bytes: usize,
}

impl Recorder {
    /// What was recorded so far; `None` when it was more than eight mebibytes.
    #[must_use]
    pub fn recording(&self) -> Option<StepRecording> {
        let kept = self.lock();
        (kept.bytes <= LIMIT).then(|| kept.recording.clone())
    }

    pub(crate) fn after(mut self, outer: Option<Self>) -> Self {
        self.outer = outer.map(Box::new);
        self
    }

    pub(crate) fn event(&self, kind: &EventKind) {
        if let Some(outer) = &self.outer {
            outer.event(kind);
        }
        let size = match kind {
            EventKind::Log { text }
            | EventKind::Warning { text }
            | EventKind::Output { text, .. }
            | EventKind::CommandStarted { command: text } => text.len(),
            EventKind::Highlight { label, text } => label.len() + text.len(),
            EventKind::Fact { data, .. } => data.to_string().len(),
            // The runner's own events are no part of a step's report.
            _ => return,
        };
        let mut kept = self.lock();
        // What surrounds a line in memory and on disk counts as well.
        kept.bytes = kept.bytes.saturating_add(size).saturating_add(64);
        if kept.bytes <= LIMIT {
            kept.recording.events.push(kind.clone());
        } else {
            kept.recording.events = Vec::new();
        }
    }

    pub(crate) fn summary(&self, summary: &str) {
        if let Some(outer) = &self.outer {
            outer.summary(summary);
        }
        self.lock().recording.summary = Some(summary.to_owned());
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_given_up_and_nothing_of_it_is_kept_in_memory() {
        let recorder = Recorder::default();
        let line = EventKind::Log {
            text: "x".repeat(1024),
        };
        recorder.event(&line);
        assert_eq!(recorder.recording().unwrap().events.len(), 1);
        for _ in 0..LIMIT / 1024 {
            recorder.event(&line);
        }
        assert_eq!(recorder.recording(), None);
        assert!(recorder.lock().recording.events.is_empty());
    }
}
