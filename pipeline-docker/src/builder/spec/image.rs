//! [`ImageSpec`]: a base and what is put on top of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{ConfigSpec, LayerSpec};
use crate::oci::Platform;
use crate::reference::ImageReference;

/// A base, layers on top of it, and how the result runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ImageSpec {
    /// What lies at the bottom; default nothing.
    pub base: BaseImage,
    /// The layers, lowest first. Put what changes most seldom first.
    pub layers: Vec<LayerSpec>,
    /// How a container of it runs, laid over what the base says.
    pub config: ConfigSpec,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
    /// When the image counts as made, in seconds since 1970. Default: not stated, which some tools
    /// show as 1970. Give the time of the commit; the time of day would change the digest.
    pub created: Option<u64>,
    /// What it runs on; default [`Platform::host`].
    pub platform: Platform,
}

impl Default for ImageSpec {
    fn default() -> Self {
        Self::new(BaseImage::Scratch)
    }
}

impl ImageSpec {
    /// An image that is nothing but its base.
    #[must_use]
    pub fn new(base: BaseImage) -> Self {
        Self {
            base,
            layers: Vec::new(),
            config: ConfigSpec::default(),
            annotations: BTreeMap::new(),
            created: None,
            platform: Platform::host(),
        }
    }

    /// Adds a layer on top.
    #[must_use]
    pub fn with_layer(mut self, layer: LayerSpec) -> Self {
        self.layers.push(layer);
        self
    }

    /// Sets how it runs.
    #[must_use]
    pub fn with_config(mut self, config: ConfigSpec) -> Self {
        self.config = config;
        self
    }

    /// Adds an annotation to the manifest.
    #[must_use]
    pub fn with_annotation(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.annotations.insert(key.into(), value.into());
        self
    }

    /// Sets when it counts as made, in seconds since 1970.
    #[must_use]
    pub const fn with_created(mut self, seconds: u64) -> Self {
        self.created = Some(seconds);
        self
    }

    /// Sets what it runs on.
    #[must_use]
    pub fn with_platform(mut self, platform: Platform) -> Self {
        self.platform = platform;
        self
    }

    /// Takes relative sources and a relative base to be below `folder`.
    #[must_use]
    pub fn with_sources_below(mut self, folder: &Path) -> Self {
        for copy in self.layers.iter_mut().flat_map(|layer| &mut layer.copies) {
            copy.source = folder.join(&copy.source);
        }
        match &mut self.base {
            BaseImage::Scratch | BaseImage::Registry { .. } => {}
            BaseImage::Rootfs(path)
            | BaseImage::Layout { path, .. }
            | BaseImage::DockerArchive { path, .. } => *path = folder.join(&path),
        }
        self
    }
}

/// What lies at the bottom of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum BaseImage {
    /// Nothing.
    Scratch,
    /// A folder that holds a root file system. It becomes one layer; modes are kept, everything
    /// belongs to user and group 0.
    Rootfs(PathBuf),
    /// An image in an OCI layout.
    Layout {
        /// The layout's folder.
        path: PathBuf,
        /// Its tag or digest; not needed when the layout holds one image.
        name: Option<String>,
    },
    /// An image in a file that `docker save` wrote. Its layers are compressed.
    DockerArchive {
        /// The file.
        path: PathBuf,
        /// Its name in the file, such as `site:1.0`; not needed when the file holds one image.
        name: Option<String>,
    },
    /// An image in a registry. Needs a builder with a registry client.
    ///
    /// Without tag and digest, `latest` is meant. The tag is looked up once in a build; the result
    /// names the digest that it had in the annotations `org.opencontainers.image.base.name` and
    /// `.digest`, unless the request has them.
    Registry {
        /// Its name, such as `registry.example.com/base/python:3.11`.
        reference: ImageReference,
    },
}

impl BaseImage {
    /// The image in a registry that goes by `reference`.
    #[must_use]
    pub const fn registry(reference: ImageReference) -> Self {
        Self::Registry { reference }
    }

    /// What `path` turns out to be: an OCI layout when it holds a file `oci-layout`, with the tag
    /// or digest behind it if `folder:tag` was given, a file that `docker save` wrote, else a root
    /// file system.
    #[must_use]
    pub fn from_path(path: &Path) -> Self {
        if path.join("oci-layout").is_file() {
            return Self::Layout {
                path: path.to_owned(),
                name: None,
            };
        }
        if !path.is_dir()
            && let Some((folder, name)) = crate::oci::split_layout_name(path)
            && folder.join("oci-layout").is_file()
        {
            return Self::Layout {
                path: folder,
                name: Some(name),
            };
        }
        if path.is_file() {
            return Self::DockerArchive {
                path: path.to_owned(),
                name: None,
            };
        }
        Self::Rootfs(path.to_owned())
    }
}
