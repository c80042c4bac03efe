//! What is kept of a step that succeeded.

use std::fs;
use std::path::Path;

use pipeline_core::{StepError, StepRecording};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::store::Sha256Digest;

/// Name of the record in its archive.
pub(super) const RECORD: &str = "memo.json";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The step's typed value.
    pub(super) value: Value,
    /// What it reported.
    pub(super) recording: StepRecording,
    /// SHA-256 of the payload that holds its outputs; none when it declares none.
    pub(super) outputs: Option<Sha256Digest>,
    /// How long it took.
    pub(super) took_ms: u64,
}

impl Record {
    pub(super) fn read(folder: &Path) -> Result<Self, StepError> {
        let bytes = fs::read(folder.join(RECORD))
            .map_err(|error| StepError::errored("could not read the record", error))?;
        serde_json::from_slice(&bytes)
            .map_err(|error| StepError::errored("the record has another form", error))
    }

    pub(super) fn write(&self, folder: &Path) -> Result<(), StepError> {
        let bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| StepError::errored("could not write the record", error))?;
        fs::write(folder.join(RECORD), bytes)
            .map_err(|error| StepError::errored("could not write the record", error))
    }
}
