//! Readers of the event stream.

mod json_lines;
#[cfg(feature = "junit")]
pub mod junit;
mod plain;
mod summary;
mod thread;

use std::fmt::Debug;

pub use json_lines::JsonLinesReporter;
pub use plain::{PlainReporter, Style};
pub use summary::Summary;
pub(crate) use thread::ReporterThread;

use crate::event::Event;

/// Consumes the events of a run.
///
/// # Contract
/// Each reporter works on a thread and a queue of its own: however slow it is,
/// and whether it fails or panics, the run goes on. When its queue is full,
/// lines of output are left out for this reporter; other events never are.
///
/// # Errors
/// After the first error the reporter gets no further events; the run's report
/// names it.
pub trait Reporter: Debug + Send + 'static {
    /// A name for messages about the reporter.
    fn name(&self) -> &str;

    /// Takes one event, in order.
    ///
    /// # Errors
    /// When the event cannot be reported.
    fn report(&mut self, event: &Event) -> Result<(), ReporterError>;

    /// Called once, after the last event.
    ///
    /// # Errors
    /// When what was reported cannot be completed.
    fn finish(&mut self) -> Result<(), ReporterError>;
}

/// Why a reporter gave up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReporterError {
    /// The place it writes to is gone or full.
    #[error("could not write")]
    Write(#[from] std::io::Error),
    /// The event has no form here.
    #[error("could not express the event")]
    Form(#[from] serde_json::Error),
}
