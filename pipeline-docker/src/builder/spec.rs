//! What to build: [`BuildRequest`] and its parts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::oci::Platform;

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
/// [`BuilderCapabilities`](super::BuilderCapabilities).
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
    /// Into the image store of the engine that builds.
    Engine {
        /// The names it gets.
        tags: Vec<String>,
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
}

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
}

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
            BaseImage::Scratch => {}
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
}

impl BaseImage {
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

/// One layer: a folder or file that is copied, paths that are removed, or both.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LayerSpec {
    /// What to copy from where to where, in any order.
    pub copies: Vec<CopySpec>,
    /// Paths of lower layers that are gone from this one on.
    pub removed: Vec<String>,
    /// The modification time of everything in it, in seconds since 1970; default 0.
    ///
    /// Time stamps of the files do not count, so that equal content gives equal layers. Compiled
    /// Python files that compare time stamps are stale then: leave `__pycache__` out or compile
    /// with unchecked hashes.
    pub mtime: u64,
    /// What the image's history says about it; default a description of the copies.
    pub comment: Option<String>,
}

impl LayerSpec {
    /// A folder's content, or one file, copied to `dest`.
    ///
    /// A file goes to `dest` itself, or into it when `dest` ends with a slash.
    #[must_use]
    pub fn copy(source: impl Into<PathBuf>, dest: impl Into<String>) -> Self {
        Self {
            copies: vec![CopySpec::new(source, dest)],
            ..Self::default()
        }
    }

    /// Adds something to copy.
    #[must_use]
    pub fn with_copy(mut self, copy: CopySpec) -> Self {
        self.copies.push(copy);
        self
    }

    /// Adds a path of lower layers that is gone from this layer on.
    #[must_use]
    pub fn with_removed(mut self, path: impl Into<String>) -> Self {
        self.removed.push(path.into());
        self
    }

    /// Sets the modification time of everything in it, in seconds since 1970.
    #[must_use]
    pub const fn with_mtime(mut self, seconds: u64) -> Self {
        self.mtime = seconds;
        self
    }

    /// Sets what the image's history says about it.
    #[must_use]
    pub fn with_comment(mut self, comment: impl Into<String>) -> Self {
        self.comment = Some(comment.into());
        self
    }

    /// Leaves paths out of every copy so far; see [`CopySpec::exclude`].
    #[must_use]
    pub fn with_exclude<I>(mut self, patterns: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let patterns: Vec<String> = patterns.into_iter().map(Into::into).collect();
        for copy in &mut self.copies {
            copy.exclude.extend(patterns.iter().cloned());
        }
        self
    }

    /// Sets the owner of every copy so far.
    #[must_use]
    pub fn with_owner(mut self, owner: Owner) -> Self {
        for copy in &mut self.copies {
            copy.owner = owner;
        }
        self
    }

    /// Sets the mode rule of every copy so far.
    #[must_use]
    pub fn with_modes(mut self, modes: ModeRule) -> Self {
        for copy in &mut self.copies {
            copy.modes = modes;
        }
        self
    }
}

/// Something to copy into a layer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CopySpec {
    /// A folder, whose content is copied, or a file.
    pub source: PathBuf,
    /// Where it goes: an absolute path in the image.
    pub dest: String,
    /// Whom it belongs to; default user and group 0.
    pub owner: Owner,
    /// Which modes it gets; default [`ModeRule::Normalised`].
    pub modes: ModeRule,
    /// What is left out: patterns as in `.dockerignore`, relative to the source; default nothing.
    pub exclude: Vec<String>,
}

impl CopySpec {
    /// A folder's content or a file, with the defaults.
    #[must_use]
    pub fn new(source: impl Into<PathBuf>, dest: impl Into<String>) -> Self {
        Self {
            source: source.into(),
            dest: dest.into(),
            ..Self::default()
        }
    }

    /// Sets the owner.
    #[must_use]
    pub const fn with_owner(mut self, owner: Owner) -> Self {
        self.owner = owner;
        self
    }

    /// Sets the mode rule.
    #[must_use]
    pub const fn with_modes(mut self, modes: ModeRule) -> Self {
        self.modes = modes;
        self
    }

    /// Adds a pattern of what is left out.
    #[must_use]
    pub fn with_exclude(mut self, pattern: impl Into<String>) -> Self {
        self.exclude.push(pattern.into());
        self
    }
}

/// Numbers of a user and a group. Names would need the base's list of users.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
}

/// Which modes files and folders get in a layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ModeRule {
    /// 0755 for folders and for files that anybody may execute, 0644 for other files. Does not
    /// depend on the umask with which the files were made.
    #[default]
    Normalised,
    /// As on disk, set-user-id and sticky bits included.
    Keep,
    /// The same for all.
    Fixed {
        /// For folders.
        folder: u32,
        /// For files.
        file: u32,
    },
}

/// How a container runs. What is left out is taken from the base.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ConfigSpec {
    /// Environment, in order; replaces the base's variables of the same name.
    pub env: Vec<(String, String)>,
    /// The program that always runs. Setting it drops the base's command, as a Dockerfile does.
    pub entrypoint: Option<Vec<String>>,
    /// The command, or the entry point's arguments.
    pub cmd: Option<Vec<String>>,
    /// User, `user:group`, names or numbers.
    pub user: Option<String>,
    /// The working folder.
    pub workdir: Option<String>,
    /// Ports such as `8000` or `8000/udp`, added to the base's.
    pub ports: Vec<String>,
    /// Volumes, added to the base's.
    pub volumes: Vec<String>,
    /// Labels, added to the base's.
    pub labels: BTreeMap<String, String>,
    /// The signal that asks the program to stop.
    pub stop_signal: Option<String>,
    /// How the engine finds out whether the program is well.
    pub healthcheck: Option<HealthcheckSpec>,
}

impl ConfigSpec {
    /// Sets an environment variable.
    #[must_use]
    pub fn with_env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Sets the entry point.
    #[must_use]
    pub fn with_entrypoint<I>(mut self, words: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.entrypoint = Some(words.into_iter().map(Into::into).collect());
        self
    }

    /// Sets the command.
    #[must_use]
    pub fn with_cmd<I>(mut self, words: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.cmd = Some(words.into_iter().map(Into::into).collect());
        self
    }

    /// Sets the user.
    #[must_use]
    pub fn with_user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Sets the working folder.
    #[must_use]
    pub fn with_workdir(mut self, path: impl Into<String>) -> Self {
        self.workdir = Some(path.into());
        self
    }

    /// Adds a port, TCP unless it says `/udp`.
    #[must_use]
    pub fn with_port(mut self, port: impl Into<String>) -> Self {
        self.ports.push(port.into());
        self
    }

    /// Adds a label.
    #[must_use]
    pub fn with_label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// Sets the signal that asks the program to stop.
    #[must_use]
    pub fn with_stop_signal(mut self, signal: impl Into<String>) -> Self {
        self.stop_signal = Some(signal.into());
        self
    }

    /// Sets the health check.
    #[must_use]
    pub fn with_healthcheck(mut self, check: HealthcheckSpec) -> Self {
        self.healthcheck = Some(check);
        self
    }
}

/// A health check run by the engine. Times of zero mean the engine's defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HealthcheckSpec {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Time between two probes; the engine's default is 30 s.
    pub interval: Duration,
    /// Time one probe may take; the engine's default is 30 s.
    pub timeout: Duration,
    /// Time in which failures do not count; the engine's default is 0.
    pub start_period: Duration,
    /// How many failures in a row make it unhealthy; the engine's default is 3.
    pub retries: u32,
}

impl HealthcheckSpec {
    /// A check with the engine's default times.
    #[must_use]
    pub fn new<I>(command: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Self {
            command: command.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    /// Sets the time between two probes.
    #[must_use]
    pub const fn with_interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Sets the time one probe may take.
    #[must_use]
    pub const fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the time in which failures do not count.
    #[must_use]
    pub const fn with_start_period(mut self, period: Duration) -> Self {
        self.start_period = period;
        self
    }

    /// Sets how many failures in a row make it unhealthy.
    #[must_use]
    pub const fn with_retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }
}
