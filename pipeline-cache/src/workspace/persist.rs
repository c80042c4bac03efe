use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use pipeline_core::{InputRef, Step, StepContext, StepError};
use serde_json::json;

use super::manifest::Taken;
use super::register::{MANIFEST, Register};
use super::{Workspace, WorkspaceLayer};
use crate::archive::PackOptions;
use crate::cache::{CacheError, SaveOptions, Saved, Validator};
use crate::files::FileSet;
use crate::key::{CacheKey, InvalidKey};
use crate::steps::{blocking, producer, size};
use crate::store::Sha256Digest;

/// Makes a layer of files of the job, for jobs that come after it.
///
/// Fails when no pattern matches anything; a pattern that alone matches nothing is a warning.
/// Fails when another job, which may run at the same time, has persisted something else under
/// one of the names. Folders are kept also when they are empty; sockets and devices are left out.
///
/// # Cancellation
/// When the step is cancelled or dropped nothing is stored, or an archive that no job refers to.
#[derive(Clone, Debug)]
pub struct Persist {
    workspace: Workspace,
    root: PathBuf,
    files: FileSet,
}

impl Persist {
    /// Persists these files of the job's folder.
    #[must_use]
    pub fn new(workspace: &Workspace, files: FileSet) -> Self {
        Self {
            workspace: workspace.clone(),
            root: PathBuf::new(),
            files,
        }
    }

    /// Sets the folder that patterns start from, and that names in the layer are relative to;
    /// absolute, or relative to the job's folder. Default: the job's folder.
    #[must_use]
    pub fn with_root(mut self, root: impl Into<PathBuf>) -> Self {
        self.root = root.into();
        self
    }

    async fn store(
        &self,
        cx: &StepContext,
        root: &Path,
        mut taken: Taken,
        layer: &WorkspaceLayer,
        register: &Register,
    ) -> Result<bool, StepError> {
        let failed = |error: CacheError| StepError::errored("could not store the layer", error);
        let producer = producer(cx);
        let mut reused = true;
        if taken.manifest.archived {
            let stamps = Arc::new(taken.take_stamps());
            let unchanged = Validator::new(move |_| match Taken::changed(&stamps) {
                None => Ok(()),
                Some(path) => Err(format!(
                    "{} changed while it was persisted; persist when nothing writes to it any more",
                    path.display()
                )
                .into()),
            });
            let options = SaveOptions::default()
                .with_pack(PackOptions::default().with_working_folder(root))
                .with_producer(producer.clone())
                .with_validator(unchanged);
            let key = archive_key(layer.layer).map_err(bad_key)?;
            let saved = self.workspace.cache.save(key, &taken.roots, options);
            reused = matches!(saved.await.map_err(failed)?, Saved::Exists(_));
        }
        // For jobs on other machines, and for runs that resume this one.
        let options =
            SaveOptions::in_folder(register.manifest_folder(layer.layer)).with_producer(producer);
        let key = manifest_key(layer.layer).map_err(bad_key)?;
        self.workspace
            .cache
            .save(key, [MANIFEST], options)
            .await
            .map_err(failed)?;
        Ok(reused)
    }
}

#[async_trait]
impl Step for Persist {
    type Output = WorkspaceLayer;

    fn inputs(&self) -> Vec<InputRef> {
        Vec::new()
    }

    async fn run(&self, cx: &StepContext) -> Result<WorkspaceLayer, StepError> {
        let root = cx.pull_job_dir().await?.join(&self.root);
        if let Err(error) = std::fs::metadata(&root) {
            let doing = format!(
                "could not find the workspace root folder {}",
                root.display()
            );
            return Err(StepError::errored(doing, error));
        }
        let (files, from) = (self.files.clone(), root.clone());
        let taken = blocking(move || Taken::new(&from, &files)).await?;
        if taken.manifest.entries.is_empty() {
            return Err(StepError::failed(format!(
                "the paths {} did not match any files in {}",
                self.files,
                root.display()
            )));
        }
        for pattern in &taken.unmatched {
            cx.warn(format!("{pattern} matches nothing in {}", root.display()))
                .await;
        }
        cx.log("Creating workspace archive...").await;
        let (count, bytes) = taken.manifest.totals();
        let layer = WorkspaceLayer {
            layer: Sha256Digest::of(&taken.manifest.to_bytes()?),
            job: cx.job().to_owned(),
            step: cx.step().to_owned(),
            after: cx.upstream_jobs().into_iter().collect(),
            files: count,
            bytes,
        };
        let register = Register::of_run(cx.data_dir(), cx.run_id());
        let (entered, listed) = (layer.clone(), taken.manifest.clone());
        let (register, conflict) = blocking(move || {
            let conflict = register.enter(&entered, &listed)?;
            Ok((register, conflict))
        })
        .await?;
        if let Some(conflict) = conflict {
            return Err(conflict.into_error(cx).await);
        }
        let unmatched = taken.unmatched.clone();
        let reused = tokio::select! {
            stored = self.store(cx, &root, taken, &layer, &register) => stored?,
            () = cx.cancel().cancelled() => return Err(StepError::Cancelled),
        };
        if reused {
            cx.log("The store holds this layer already").await;
        }
        cx.log(format!("Total size: {} in {count} files", size(bytes)))
            .await;
        cx.fact(
            "workspace.persisted",
            json!({
                "layer": layer.layer,
                "files": count,
                "bytes": bytes,
                "reused": reused,
                "unmatched": unmatched,
            }),
        )
        .await;
        cx.summary(format!("{count} files, {}", size(bytes)));
        Ok(layer)
    }
}

pub(super) fn archive_key(layer: Sha256Digest) -> Result<CacheKey, InvalidKey> {
    CacheKey::new(format!("workspace-layer-{layer}"))
}

pub(super) fn manifest_key(layer: Sha256Digest) -> Result<CacheKey, InvalidKey> {
    CacheKey::new(format!("workspace-list-{layer}"))
}

pub(super) fn bad_key(error: InvalidKey) -> StepError {
    StepError::errored("could not name the layer", error)
}
