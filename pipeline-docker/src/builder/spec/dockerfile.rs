//! [`DockerfileSpec`]: a Dockerfile, its context, and what its build is given.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::oci::Platform;

/// A Dockerfile and its context.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DockerfileSpec {
    /// The folder that is sent.
    pub context: PathBuf,
    /// The Dockerfile, relative to the context; default `Dockerfile`.
    pub dockerfile: Option<PathBuf>,
    /// The stage to build; default the last.
    pub target: Option<String>,
    /// Build arguments. Never secrets: they stay readable in the image.
    pub args: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// What the image shall run on; default what the engine does. Another platform needs an engine
    /// that can emulate it wherever something runs.
    #[serde(default)]
    pub platform: Option<Platform>,
    /// The network of commands that run; default the engine's.
    #[serde(default)]
    pub network: BuildNetwork,
    /// Images whose layers are taken over where they fit. Only images that the engine has count in
    /// its own builder; BuildKit fetches them, and uses those built with inline cache.
    #[serde(default)]
    pub cache_from: Vec<String>,
    /// Files with secrets by the id under which `RUN --mount=type=secret,id=…` finds them. They
    /// stay out of image, history and cache. Only BuildKit has such mounts.
    #[serde(default)]
    pub secrets: BTreeMap<String, PathBuf>,
}

/// The network of commands that run during a build.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BuildNetwork {
    /// The engine's default.
    #[default]
    Default,
    /// None but loopback.
    None,
    /// The engine's own. An engine may refuse it to BuildKit.
    Host,
}

impl DockerfileSpec {
    /// The Dockerfile in `context`.
    #[must_use]
    pub fn new(context: impl Into<PathBuf>) -> Self {
        Self {
            context: context.into(),
            ..Self::default()
        }
    }

    /// Sets the Dockerfile, relative to the context.
    #[must_use]
    pub fn with_dockerfile(mut self, path: impl Into<PathBuf>) -> Self {
        self.dockerfile = Some(path.into());
        self
    }

    /// Sets the stage to build.
    #[must_use]
    pub fn with_target(mut self, stage: impl Into<String>) -> Self {
        self.target = Some(stage.into());
        self
    }

    /// Adds a build argument. Never a secret: it stays readable in the image.
    #[must_use]
    pub fn with_arg(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.args.insert(name.into(), value.into());
        self
    }

    /// Adds a label.
    #[must_use]
    pub fn with_label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(name.into(), value.into());
        self
    }

    /// Sets what the image shall run on.
    #[must_use]
    pub fn with_platform(mut self, platform: Platform) -> Self {
        self.platform = Some(platform);
        self
    }

    /// Sets the network of commands that run.
    #[must_use]
    pub fn with_network(mut self, network: BuildNetwork) -> Self {
        self.network = network;
        self
    }

    /// Adds an image whose layers are taken over where they fit.
    #[must_use]
    pub fn with_cache_from(mut self, image: impl Into<String>) -> Self {
        self.cache_from.push(image.into());
        self
    }

    /// Adds a file with a secret, for `RUN --mount=type=secret,id=…`.
    #[must_use]
    pub fn with_secret_file(mut self, id: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        self.secrets.insert(id.into(), path.into());
        self
    }
}
