use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::release::Release;

/// A process to start. The environment may hold secrets: only its names are printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProcessSpec {
    pub(super) program: String,
    pub(super) args: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) folder: PathBuf,
    pub(super) log: PathBuf,
    pub(super) stop_grace: Duration,
}

impl fmt::Debug for ProcessSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessSpec")
            .field("program", &self.program)
            .field("args", &self.args)
            .field("env", &self.env.keys())
            .field("folder", &self.folder)
            .field("log", &self.log)
            .finish_non_exhaustive()
    }
}

/// Everything needed to start a release, now and after a restart of the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Launch {
    /// The name of its folder below `releases/`.
    pub(super) folder: String,
    pub(super) release: Release,
    pub(super) configuration: String,
    pub(super) spec: ProcessSpec,
    pub(super) drain: Duration,
}
