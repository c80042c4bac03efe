use std::{fs::File, io::Write, path::Path};

use crate::event::{Event, EventKind};

/// The events on disk, one JSON object a line. Output is left out: the log
/// files hold it.
#[derive(Debug)]
pub(super) struct RunJournal {
    file: Option<File>,
    failed: Option<std::io::Error>,
}

impl RunJournal {
    pub(super) fn create(folder: &Path) -> std::io::Result<Self> {
        let file = File::options()
            .create_new(true)
            .append(true)
            .open(folder.join("journal.jsonl"))?;
        Ok(Self {
            file: Some(file),
            failed: None,
        })
    }

    /// A journal that cannot be written never fails the run; the first error
    /// is kept for the report.
    pub(super) fn record(&mut self, event: &Event) {
        if matches!(event.kind, EventKind::Output { .. }) {
            return;
        }
        let Some(file) = &mut self.file else { return };
        let written = serde_json::to_vec(event)
            .map_err(std::io::Error::from)
            .and_then(|mut line| {
                line.push(b'\n');
                file.write_all(&line)
            });
        if let Err(error) = written {
            self.file = None;
            self.failed = Some(error);
        }
    }

    pub(super) fn failure(&mut self) -> Option<std::io::Error> {
        self.failed.take()
    }
}
