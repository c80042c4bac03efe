use serde::{Deserialize, Serialize};

use crate::cache::Cache;
use crate::store::Sha256Digest;

/// Where layers are kept.
///
/// ```
/// use pipeline_cache::{cache::Cache, files::FileSet, store::FilesystemStore};
/// use pipeline_cache::workspace::{Attach, Persist, Workspace};
/// use pipeline_core::{Job, Pipeline, sh};
///
/// let workspace = Workspace::new(Cache::new(FilesystemStore::new(".pipeline/workspace")));
/// let mut test = Job::new("test");
/// test.step("test", sh("coverage run -m pytest"));
/// let coverage = test.step("persist", Persist::new(&workspace, FileSet::new([".coverage*"])?));
///
/// let mut report = Job::new("report");
/// report.step("attach", Attach::new(&workspace, [coverage]));
/// report.step("report", sh("coverage combine && coverage report"));
/// let pipeline = Pipeline::builder("p").job(test).job(report).build()?;
/// # let _ = pipeline;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Workspace {
    pub(super) cache: Cache,
}

impl Workspace {
    /// A workspace whose layers are entries of a cache. They are content like any other entry's,
    /// and eviction takes them; until all jobs of a run have attached them they must stay.
    #[must_use]
    pub fn new(cache: Cache) -> Self {
        Self { cache }
    }
}

/// What a job persisted: the value of a [`Persist`](super::Persist) step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WorkspaceLayer {
    /// SHA-256 of the list of files with their digests: layers of equal content are one.
    pub layer: Sha256Digest,
    /// The job that made it.
    pub job: String,
    /// The step that made it.
    pub step: String,
    /// The jobs that had ended before that job began.
    pub after: Vec<String>,
    /// Files and links in it.
    pub files: u64,
    /// Bytes in its files.
    pub bytes: u64,
}

impl WorkspaceLayer {
    /// Whether this layer's job waited for the other's, so that its files win.
    pub(super) fn is_after(&self, other: &Self) -> bool {
        self.after.contains(&other.job)
    }

    /// Whether neither job waited for the other.
    pub(super) fn is_beside(&self, other: &Self) -> bool {
        self.job != other.job && !self.is_after(other) && !other.is_after(self)
    }
}
