//! What the jobs of one run have persisted so far, in the run's folder.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use pipeline_core::StepError;
use serde::{Deserialize, Serialize};

use super::WorkspaceLayer;
use super::conflict::Conflict;
use super::manifest::Manifest;
use crate::store::Sha256Digest;

/// `runs/<id>/workspace/`: one file per layer and one list of files per content.
pub(super) struct Register {
    folder: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Layers {
    layers: Vec<WorkspaceLayer>,
}

impl Register {
    pub(super) fn of_run(data_dir: &Path, run: &str) -> Self {
        Self {
            folder: data_dir.join("runs").join(run).join("workspace"),
        }
    }

    /// Where the list of a layer's files is kept.
    pub(super) fn manifest_folder(&self, layer: Sha256Digest) -> PathBuf {
        self.folder.join(layer.to_string())
    }

    pub(super) fn manifest(&self, layer: Sha256Digest) -> Option<Manifest> {
        let path = self.manifest_folder(layer).join(MANIFEST);
        Manifest::from_bytes(&fs::read(path).ok()?, layer)
    }

    /// Enters a layer, unless it conflicts with one that is there. One job at a time looks and
    /// enters. Blocks.
    pub(super) fn enter(
        &self,
        layer: &WorkspaceLayer,
        manifest: &Manifest,
    ) -> Result<Option<Conflict>, StepError> {
        self.try_enter(layer, manifest).map_err(|error| {
            StepError::errored(
                format!("could not note the layer in {}", self.folder.display()),
                error,
            )
        })
    }

    fn try_enter(
        &self,
        layer: &WorkspaceLayer,
        manifest: &Manifest,
    ) -> io::Result<Option<Conflict>> {
        fs::create_dir_all(&self.folder)?;
        let lock = File::create(self.folder.join("lock"))?;
        lock.lock()?;
        let list = self.folder.join("layers.json");
        let mut known: Layers = match fs::read(&list) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                let list = list.display();
                let what = format!("{list} is damaged, remove it to begin anew: {error}");
                io::Error::new(io::ErrorKind::InvalidData, what)
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Layers { layers: Vec::new() },
            Err(error) => return Err(error),
        };
        // A step that is tried again replaces what it entered before.
        known
            .layers
            .retain(|other| (&other.job, &other.step) != (&layer.job, &layer.step));
        for other in &known.layers {
            let Some(theirs) = self.manifest(other.layer) else {
                continue;
            };
            if let Some(conflict) = Conflict::between((other, &theirs), (layer, manifest)) {
                return Ok(Some(conflict));
            }
        }
        let folder = self.manifest_folder(layer.layer);
        fs::create_dir_all(&folder)?;
        replace(
            &folder.join(MANIFEST),
            &serde_json::to_vec_pretty(manifest)?,
        )?;
        known.layers.push(layer.clone());
        replace(&list, &serde_json::to_vec_pretty(&known)?)?;
        Ok(None)
    }
}

/// Name of the list of files, on disk and in its archive.
pub(super) const MANIFEST: &str = "layer.json";

/// A reader sees the old file or the new one, also after a power cut.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}
