//! [`BuildRequest`]: what to build and where to put it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{DockerfileSpec, ImageSpec};
use crate::reference::ImageReference;

/// An image to build and where to put it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BuildRequest {
    /// What the image is made of.
    pub source: ImageSource,
    /// Where it goes.
    pub output: ImageOutput,
}

impl BuildRequest {
    /// An image of layers.
    #[must_use]
    pub const fn layers(spec: ImageSpec, output: ImageOutput) -> Self {
        Self {
            source: ImageSource::Layers(spec),
            output,
        }
    }

    /// An image of a Dockerfile.
    #[must_use]
    pub const fn dockerfile(spec: DockerfileSpec, output: ImageOutput) -> Self {
        Self {
            source: ImageSource::Dockerfile(spec),
            output,
        }
    }
}

/// What an image is made of. Not every builder takes every kind; see
/// [`BuilderCapabilities`](crate::builder::BuilderCapabilities).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    clippy::large_enum_variant,
    reason = "one per build; a box would only be in the way"
)]
#[non_exhaustive]
pub enum ImageSource {
    /// A base and folders put on top of it.
    Layers(ImageSpec),
    /// A Dockerfile and its context.
    Dockerfile(DockerfileSpec),
}

/// Where an image goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ImageOutput {
    /// Into an OCI layout, which is made when it does not exist. An image that has the tag already
    /// loses it; its blobs stay.
    Layout {
        /// The layout's folder.
        path: PathBuf,
        /// The tag in the layout's index.
        tag: Option<String>,
    },
    /// Into an engine's image store. Needs a builder with an engine.
    Engine {
        /// The names it gets, such as `site:1.0`; the tag is `latest` where none is written. All
        /// are set when the image is complete, or none. Another image that has one loses it.
        tags: Vec<String>,
        /// Names of its own, which it gets, too: refused when another image has one already.
        #[serde(default)]
        unique: Vec<String>,
    },
    /// Into a file for `docker load`, which is replaced when the image is complete.
    DockerArchive {
        /// The file.
        path: PathBuf,
        /// What an engine will call it, such as `site:1.0`; the tag is `latest` where none is
        /// written. May be empty.
        names: Vec<String>,
    },
    /// Straight into a registry. Needs a builder with a registry client.
    ///
    /// Refused when the tag names another image already. Aliases that move are the matter of
    /// steps that push and tag.
    Registry {
        /// Where it goes, with a tag and without a digest.
        reference: ImageReference,
    },
}

impl ImageOutput {
    /// Into an OCI layout under a tag.
    #[must_use]
    pub fn layout(path: impl Into<PathBuf>, tag: impl Into<String>) -> Self {
        Self::Layout {
            path: path.into(),
            tag: Some(tag.into()),
        }
    }

    /// Into an engine's image store under a name.
    #[must_use]
    pub fn engine(name: impl Into<String>) -> Self {
        Self::Engine {
            tags: vec![name.into()],
            unique: Vec::new(),
        }
    }

    /// Into a file for `docker load` under a name.
    #[must_use]
    pub fn docker_archive(path: impl Into<PathBuf>, name: impl Into<String>) -> Self {
        Self::DockerArchive {
            path: path.into(),
            names: vec![name.into()],
        }
    }

    /// Straight into a registry.
    #[must_use]
    pub const fn registry(reference: ImageReference) -> Self {
        Self::Registry { reference }
    }
}
