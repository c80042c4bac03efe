use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use pipeline_core::{InputRef, Step, StepContext, StepError};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::files::{FileSet, Kind, copy_with_digest};
use crate::steps::{blocking, size};
use crate::store::Sha256Digest;

/// Copies files of the job into the run's folder, below `artifacts/` and the job's name.
///
/// Links to files are copied as what they show; links to folders are left out with a warning.
/// Patterns that match nothing are a warning. To keep artifacts of a job that failed, run the
/// step with [`When::Always`](pipeline_core::When::Always).
///
/// # Cancellation
/// When the step is cancelled or dropped, files copied so far stay; none of them is cut off.
#[derive(Clone, Debug)]
pub struct StoreArtifacts {
    files: FileSet,
    destination: PathBuf,
}

/// What a [`StoreArtifacts`] step stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StoredArtifacts {
    /// The files.
    pub files: Vec<Artifact>,
}

/// A stored file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Artifact {
    /// Relative to the run's `artifacts` folder. Bytes that are not UTF-8 are replaced.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the content.
    pub digest: Sha256Digest,
}

impl StoreArtifacts {
    /// Stores these files of the job's folder.
    #[must_use]
    pub fn new(files: FileSet) -> Self {
        Self {
            files,
            destination: PathBuf::new(),
        }
    }

    /// Sets a folder below the job's own. Default: none, files keep their paths.
    #[must_use]
    pub fn with_destination(mut self, folder: impl Into<PathBuf>) -> Self {
        self.destination = folder.into();
        self
    }
}

#[async_trait]
impl Step for StoreArtifacts {
    type Output = StoredArtifacts;

    fn inputs(&self) -> Vec<InputRef> {
        Vec::new()
    }

    async fn run(&self, cx: &StepContext) -> Result<StoredArtifacts, StepError> {
        let below = Path::new(cx.job()).join(&self.destination);
        let is_below = |part: std::path::Component<'_>| {
            matches!(
                part,
                std::path::Component::Normal(_) | std::path::Component::CurDir
            )
        };
        if !self.destination.components().all(is_below) {
            return Err(StepError::failed(format!(
                "artifacts cannot go to {}; name a folder below the job's own, without ..",
                self.destination.display()
            )));
        }
        let (files, from, to) = (
            self.files.clone(),
            cx.pull_job_dir().await?.to_path_buf(),
            cx.artifact_dir().to_path_buf(),
        );
        let (stored, warnings) = blocking(move || copy_all(&files, &from, &to, &below)).await?;
        for warning in warnings {
            cx.warn(warning).await;
        }
        let bytes = stored.files.iter().map(|file| file.size).sum();
        for file in &stored.files {
            cx.log(format!("Stored {} ({})", file.path, size(file.size)))
                .await;
        }
        cx.fact(
            "artifacts.stored",
            json!({ "files": stored.files, "bytes": bytes }),
        )
        .await;
        cx.summary(format!("{} artifacts, {}", stored.files.len(), size(bytes)));
        Ok(stored)
    }
}

fn copy_all(
    files: &FileSet,
    from: &Path,
    to: &Path,
    below: &Path,
) -> Result<(StoredArtifacts, Vec<String>), StepError> {
    let listing = files
        .list(from)
        .map_err(|error| StepError::errored("could not list the artifacts", error))?;
    let mut warnings: Vec<String> = listing
        .unmatched
        .iter()
        .map(|pattern| format!("{pattern} matches nothing in {}", from.display()))
        .collect();
    let mut stored = StoredArtifacts::default();
    for found in listing.found {
        let source = from.join(&found.path);
        match found.kind {
            Kind::Folder => continue,
            Kind::Link(_) if !fs::metadata(&source).is_ok_and(|meta| meta.is_file()) => {
                warnings.push(format!(
                    "{} is a link to a folder or to nothing, and is not stored",
                    found.path.display()
                ));
                continue;
            }
            Kind::File | Kind::Link(_) => {}
        }
        let path = below.join(&found.path);
        let (size, digest) = copy(&source, &to.join(&path)).map_err(|error| {
            StepError::errored(format!("could not store {}", source.display()), error)
        })?;
        stored.files.push(Artifact {
            path: path.to_string_lossy().into_owned(),
            size,
            digest,
        });
    }
    Ok((stored, warnings))
}

/// The file appears whole or not at all.
fn copy(from: &Path, to: &Path) -> io::Result<(u64, Sha256Digest)> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut name = std::ffi::OsString::from(".part-");
    name.push(to.file_name().unwrap_or_default());
    let part = to.with_file_name(name);
    let result = File::open(from).and_then(|mut from| {
        let copied = copy_with_digest(&mut from, &mut File::create(&part)?)?;
        fs::rename(&part, to)?;
        Ok(copied)
    });
    if result.is_err() {
        let _ = fs::remove_file(&part);
    }
    result
}
