//! What came out: [`BuiltImage`].

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::oci::{Descriptor, Digest, Platform};
use crate::reference::ImageReference;

/// An image that was built. Everything downstream speaks of [`manifest`](Self::manifest)'s digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BuiltImage {
    /// The manifest: its digest is the image's name.
    ///
    /// Engines without a store of manifests know none before a push. There the configuration stands
    /// in its place, by its digest and without a size, which is the image's id in that engine.
    pub manifest: Descriptor,
    /// The configuration's digest, which engines show as the image's id.
    pub config_digest: Digest,
    /// The layers, lowest first.
    pub layers: Vec<LayerInfo>,
    /// What it runs on.
    pub platform: Platform,
    /// Where it is.
    pub location: ImageLocation,
}

impl BuiltImage {
    /// The digest by which the image is known.
    #[must_use]
    pub const fn digest(&self) -> &Digest {
        &self.manifest.digest
    }

    /// Its first tag or name where it is, if it has one. For people: a tag may move, the digest not.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        match &self.location {
            ImageLocation::Layout { tag, .. } => tag.as_deref(),
            ImageLocation::Engine { tags: names } | ImageLocation::DockerArchive { names, .. } => {
                names.first().map(String::as_str)
            }
            ImageLocation::Registry { reference } => reference.tag(),
        }
    }

    /// Bytes of all layers, as compressed.
    #[must_use]
    pub fn layers_size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }
}

/// A layer of a built image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LayerInfo {
    /// The digest of the blob, as compressed. Engines keep the tar inside, so there it is that one's.
    pub digest: Digest,
    /// The digest of the tar inside. It does not change with the compressor.
    pub diff_id: Digest,
    /// Bytes of the blob; in an engine, of its files.
    pub size: u64,
    /// How it came to be in this image.
    pub origin: LayerOrigin,
    /// What it holds, in words.
    pub comment: String,
}

/// How a layer came to be in an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LayerOrigin {
    /// It was in the base image.
    Base,
    /// Its content was packed before; the compressed blob was reused.
    Cached,
    /// It was packed and compressed now.
    New,
}

/// Where an image is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ImageLocation {
    /// In an OCI layout.
    Layout {
        /// The layout's folder.
        path: PathBuf,
        /// The tag in its index.
        tag: Option<String>,
    },
    /// In an engine's image store.
    Engine {
        /// The names it has there.
        tags: Vec<String>,
    },
    /// In a file for `docker load`.
    DockerArchive {
        /// The file.
        path: PathBuf,
        /// What an engine will call it.
        names: Vec<String>,
    },
    /// In a registry.
    Registry {
        /// Its name there, pinned to its digest.
        reference: ImageReference,
    },
}
