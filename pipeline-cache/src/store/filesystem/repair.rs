use std::path::Path;

use super::filesystem_store::{is_rotten, open_no_follow, read_description, remove_if_there};
use super::{FilesystemStore, Finding, SweepReport};
use crate::store::{DeleteOutcome, EntryMetadata, StoreError};

/// What a repair did.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct RepairReport {
    /// Damage that is gone, with the entry it was in: its key is free.
    pub removed: Vec<Finding>,
    /// Damage in entries that somebody is reading; a later repair removes it.
    pub in_use: Vec<Finding>,
    /// Files that belonged to no entry.
    pub swept: SweepReport,
    /// Bytes freed, of entries and other files together.
    pub bytes: u64,
}

impl FilesystemStore {
    pub(super) fn repair_now(&self) -> Result<RepairReport, StoreError> {
        let mut report = RepairReport::default();
        for damaged in self.damaged()? {
            let size = |path: &Path| open_no_follow(path).and_then(|file| file.metadata());
            let described = size(&damaged.description).map_or(0, |meta| meta.len());
            let (outcome, payload) = match &damaged.entry {
                None => (self.remove_description(&damaged.description)?, 0),
                Some(entry) => {
                    let path = self.payload_path(entry);
                    let payload = path.map_or(0, |path| size(&path).map_or(0, |meta| meta.len()));
                    (self.remove(&entry.key, Some(&entry.payload))?, payload)
                }
            };
            match outcome {
                DeleteOutcome::Deleted => {
                    report.bytes += described + payload;
                    report.removed.push(damaged.finding);
                }
                DeleteOutcome::Leased => report.in_use.push(damaged.finding),
                // Replaced or removed by somebody else meanwhile.
                DeleteOutcome::Absent => {}
            }
        }
        // Last, since a payload whose description went is left over now.
        report.swept = self.sweep_now()?;
        report.bytes += report.swept.bytes;
        Ok(report)
    }

    /// Removes a description that cannot be used, unless it was replaced by one that can.
    pub(super) fn remove_description(&self, path: &Path) -> Result<DeleteOutcome, StoreError> {
        let _replacing = self.lock_replacing(None)?;
        let is_sound = |metadata: &EntryMetadata| self.layout.description(&metadata.key) == path;
        match read_description(path) {
            Ok(None) => return Ok(DeleteOutcome::Absent),
            Ok(Some(Ok(metadata))) if is_sound(&metadata) => return Ok(DeleteOutcome::Absent),
            Ok(Some(_)) => {}
            Err(StoreError::Io { source, .. }) if is_rotten(&source) => {}
            Err(error) => return Err(error),
        }
        let gone = remove_if_there(path).map_err(|e| Self::error("remove", path, None, e))?;
        self.sync_entries(None)?;
        Ok(if gone {
            DeleteOutcome::Deleted
        } else {
            DeleteOutcome::Absent
        })
    }
}
