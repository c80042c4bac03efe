use std::path::{Path, PathBuf};

use async_trait::async_trait;
use pipeline_core::{Input, InputRef, Step, StepContext, StepError};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::manifest::{Entry, Manifest};
use super::merge::{Merged, in_order};
use super::persist::{archive_key, bad_key, manifest_key};
use super::place::place;
use super::register::{MANIFEST, Register};
use super::{Workspace, WorkspaceLayer};
use crate::archive::UnpackOptions;
use crate::cache::{RestoreOptions, Restored};
use crate::files::StagingFolder;
use crate::key::CacheKey;
use crate::steps::{blocking, size};

/// Puts layers of earlier jobs into the job's folder, over what is there.
///
/// The order in which layers are given does not matter where one job waited for the other: the
/// later one's files win. Between jobs of which neither waited for the other, different files of
/// one name are a failure. Nothing is written through a link that is in the way.
///
/// A layer that the store has no more fails the step: its files are needed.
///
/// # Cancellation
/// When the step is cancelled or dropped before files are moved into place, the folder is as it
/// was; while they are moved, some of them are new.
#[derive(Clone, Debug)]
pub struct Attach {
    workspace: Workspace,
    layers: Vec<Input<WorkspaceLayer>>,
    at: PathBuf,
}

/// What an [`Attach`] step put in place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Attached {
    /// Files and links.
    pub files: u64,
    /// Bytes in those files.
    pub bytes: u64,
}

impl Attach {
    /// Attaches these layers.
    #[must_use]
    pub fn new<L: Into<Input<WorkspaceLayer>>>(
        workspace: &Workspace,
        layers: impl IntoIterator<Item = L>,
    ) -> Self {
        Self {
            workspace: workspace.clone(),
            layers: layers.into_iter().map(Into::into).collect(),
            at: PathBuf::new(),
        }
    }

    /// Sets the folder that gets the files; absolute, or relative to the job's folder, and made
    /// if it is missing. Default: the job's folder.
    #[must_use]
    pub fn with_at(mut self, folder: impl Into<PathBuf>) -> Self {
        self.at = folder.into();
        self
    }

    /// The list of a layer's files: from the run's folder, else from the store.
    async fn manifest(
        &self,
        cx: &StepContext,
        layer: &WorkspaceLayer,
        staging: &Path,
    ) -> Result<Manifest, StepError> {
        let register = Register::of_run(cx.data_dir(), cx.run_id());
        let digest = layer.layer;
        if let Some(manifest) = blocking(move || Ok(register.manifest(digest))).await? {
            return Ok(manifest);
        }
        let folder = staging.join(format!("list-{digest}"));
        self.fetch(layer, manifest_key(digest).map_err(bad_key)?, &folder)
            .await?;
        let bytes = std::fs::read(folder.join(MANIFEST)).unwrap_or_default();
        Manifest::from_bytes(&bytes, digest).ok_or_else(|| {
            StepError::failed(format!(
                "the stored list of files of job {} is not the one that was persisted",
                layer.job
            ))
        })
    }

    async fn fetch(
        &self,
        layer: &WorkspaceLayer,
        key: CacheKey,
        into: &Path,
    ) -> Result<(), StepError> {
        let options =
            RestoreOptions::default().with_unpack(UnpackOptions::default().with_into(into));
        let restored = self.workspace.cache.restore([key], options).await;
        match restored {
            Ok(Restored::Exact(_)) => Ok(()),
            Ok(Restored::Prefix(_)) | Ok(Restored::Miss(_)) => Err(StepError::failed(format!(
                "the layer of job {} (step {}) is not in the store any more; run that job again, \
                 and see that eviction leaves layers of running pipelines",
                layer.job, layer.step
            ))),
            Err(error) => Err(StepError::errored(
                format!("could not fetch the layer of job {}", layer.job),
                error,
            )),
        }
    }

    async fn attach(&self, cx: &StepContext, at: &Path) -> Result<Attached, StepError> {
        let layers = self
            .layers
            .iter()
            .map(|layer| cx.resolve(layer))
            .collect::<Result<Vec<_>, _>>()?;
        let staging = {
            let at = at.to_path_buf();
            blocking(move || {
                std::fs::create_dir_all(&at)
                    .and_then(|()| StagingFolder::new(&at))
                    .map_err(|error| {
                        StepError::errored(format!("could not write into {}", at.display()), error)
                    })
            })
            .await?
        };
        cx.log("Downloading workspace layers").await;
        let mut parts = Vec::new();
        for layer in in_order(layers) {
            let manifest = self.manifest(cx, &layer, staging.path()).await?;
            parts.push((layer, manifest));
        }
        let merged = match Merged::new(&parts) {
            Ok(merged) => merged,
            Err(conflict) => return Err(conflict.into_error(cx).await),
        };
        let mut staged = Vec::new();
        let mut facts = Vec::new();
        for (index, (layer, manifest)) in parts.iter().enumerate() {
            let folder = staging.path().join(index.to_string());
            let used = merged.used(index);
            if manifest.archived && used > 0 {
                let key = archive_key(layer.layer).map_err(bad_key)?;
                self.fetch(layer, key, &folder).await?;
            }
            cx.log(format!(
                "  {}/{}: {} files, {}",
                layer.job,
                layer.step,
                layer.files,
                size(layer.bytes)
            ))
            .await;
            facts.push(json!({
                "layer": layer.layer,
                "job": layer.job,
                "files": layer.files,
                "used": used,
            }));
            staged.push(folder);
        }
        cx.log("Applying workspace layers").await;
        let (mut files, mut bytes) = (0, 0);
        for (entry, _) in merged.entries.values() {
            match entry {
                Entry::File { size, .. } => (files, bytes) = (files + 1, bytes + size),
                Entry::Link { .. } => files += 1,
                Entry::Folder { .. } => {}
            }
        }
        let at = at.to_path_buf();
        blocking(move || {
            let result = place(&merged, &staged, &at);
            drop(staging);
            result
        })
        .await?;
        cx.fact(
            "workspace.attached",
            json!({ "layers": facts, "files": files, "bytes": bytes }),
        )
        .await;
        cx.summary(format!("{files} files, {}", size(bytes)));
        Ok(Attached { files, bytes })
    }
}

#[async_trait]
impl Step for Attach {
    type Output = Attached;

    fn inputs(&self) -> Vec<InputRef> {
        self.layers.iter().filter_map(Input::edge).collect()
    }

    async fn run(&self, cx: &StepContext) -> Result<Attached, StepError> {
        let at = cx.pull_job_dir().await?.join(&self.at);
        let attached = tokio::select! {
            attached = self.attach(cx, &at) => attached?,
            () = cx.cancel().cancelled() => return Err(StepError::Cancelled),
        };
        cx.push_job_dir().await?;
        Ok(attached)
    }
}
