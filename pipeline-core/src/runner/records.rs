use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::run::{RunError, StepReport};
use crate::{facts::RunFacts, outcome::Outcome};

/// What a later run needs to know of this one: `outputs.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Records {
    pub(super) schema: u32,
    pub(super) run: String,
    pub(super) plan: String,
    pub(super) facts: RunFacts,
    pub(super) jobs: BTreeMap<String, JobRecord>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct JobRecord {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) outcome: Option<Outcome>,
    /// Folder the job ran in, below the data folder's `work`.
    #[serde(default)]
    pub(super) folder: String,
    pub(super) steps: BTreeMap<String, StepRecord>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StepRecord {
    pub(super) report: StepReport,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) value: Option<serde_json::Value>,
}

pub(super) const RECORDS_SCHEMA: u32 = 1;

impl Records {
    pub(super) fn read(data_dir: &Path, run: &str) -> Result<Self, RunError> {
        let path = path(data_dir, run);
        let unreadable = |reason: String| RunError::NoSuchRun {
            run: run.to_owned(),
            reason,
        };
        if run.is_empty() || run.contains(['/', '\0']) || run.starts_with('.') {
            return Err(unreadable("that is not the identity of a run".into()));
        }
        let bytes =
            fs::read(&path).map_err(|cause| unreadable(format!("{}: {cause}", path.display())))?;
        let records: Self = serde_json::from_slice(&bytes)
            .map_err(|cause| unreadable(format!("{}: {cause}", path.display())))?;
        if records.schema > RECORDS_SCHEMA {
            return Err(unreadable("it was written by a newer version".into()));
        }
        Ok(records)
    }

    /// Replaces the file as a whole; a reader sees the old or the new one.
    pub(super) fn write(&self, data_dir: &Path) -> std::io::Result<()> {
        let path = path(data_dir, &self.run);
        let temporary = path.with_extension("json.tmp");
        let mut file = fs::File::create(&temporary)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_data()?;
        fs::rename(&temporary, &path)
    }
}

fn path(data_dir: &Path, run: &str) -> PathBuf {
    data_dir.join("runs").join(run).join("outputs.json")
}
