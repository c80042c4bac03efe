//! What came out: [`BuiltImage`].

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::oci::{Descriptor, Digest, Platform};

/// An image that was built. Everything downstream speaks of [`manifest`](Self::manifest)'s digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BuiltImage {
    /// The manifest: its digest is the image's name.
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

    /// Its tag, where it lies in a layout and has one. For people: a tag may move, the digest not.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        match &self.location {
            ImageLocation::Layout { tag, .. } => tag.as_deref(),
            ImageLocation::Engine { tags } => tags.first().map(String::as_str),
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
    /// The digest of the blob, as compressed.
    pub digest: Digest,
    /// The digest of the tar inside. It does not change with the compressor.
    pub diff_id: Digest,
    /// Bytes of the blob.
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
}
