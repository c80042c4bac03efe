use std::{fmt, io::Write};

use super::{Reporter, ReporterError};
use crate::event::Event;

/// Writes each event as one line of JSON.
pub struct JsonLinesReporter<W>(W);

impl<W: Write + Send + 'static> JsonLinesReporter<W> {
    /// Writes to `writer`, flushed after each line.
    #[must_use]
    pub fn new(writer: W) -> Self {
        Self(writer)
    }
}

impl<W> fmt::Debug for JsonLinesReporter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JsonLinesReporter")
    }
}

impl<W: Write + Send + 'static> Reporter for JsonLinesReporter<W> {
    fn name(&self) -> &str {
        "json"
    }

    fn report(&mut self, event: &Event) -> Result<(), ReporterError> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        self.0.write_all(&line)?;
        Ok(self.0.flush()?)
    }

    fn finish(&mut self) -> Result<(), ReporterError> {
        Ok(self.0.flush()?)
    }
}
