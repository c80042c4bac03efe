//! [`ContainerSpec`]: what the container of a job is made of.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pipeline_core::EnvValue;

use crate::service::ServiceSpec;

/// What the container of each job is made of, and which services stand beside it.
///
/// ```
/// use pipeline_docker::container::{ContainerSpec, Limits};
///
/// let spec = ContainerSpec::new("registry.example/tools:3")
///     .with_user("1000:1000")
///     .with_limits(Limits::default().with_memory(512 << 20).with_cpus(1.5).with_pids(256));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ContainerSpec {
    /// The image, by tag or digest, or by the engine's own id. It needs `/bin/sh`; its entry point
    /// and command are not run.
    pub image: String,
    /// When the engine pulls the image; [`PullPolicy::Missing`] by default.
    pub pull: PullPolicy,
    /// Who runs the commands, as `user`, `uid` or `uid:gid`; the image's user by default.
    pub user: Option<String>,
    /// Where the job folder is inside. By default its path is the same as on the host, so that
    /// what remembers paths (a virtual environment, a coverage report) is right in both places.
    pub folder: Option<PathBuf>,
    /// How the job folder gets in; [`JobFolder::Automatic`] by default.
    pub sharing: JobFolder,
    /// More folders of the engine's machine.
    pub mounts: Vec<Mount>,
    /// What it may use of the machine; everything by default.
    pub limits: Limits,
    /// Bytes of `/dev/shm`; the engine's default is 64 MiB.
    pub shm_size: Option<u64>,
    /// Variables for every command, below those of the job. Secret values are masked in everything
    /// that leaves a run.
    pub env: BTreeMap<String, EnvValue>,
    /// The network; [`Network::Default`] by default.
    pub network: Network,
    /// Containers that are started before the job and removed with it.
    pub services: Vec<ServiceSpec>,
}

impl ContainerSpec {
    /// A container of this image.
    #[must_use]
    pub fn new(image: impl Into<String>) -> Self {
        Self {
            image: image.into(),
            pull: PullPolicy::default(),
            user: None,
            folder: None,
            sharing: JobFolder::default(),
            mounts: Vec::new(),
            limits: Limits::default(),
            shm_size: None,
            env: BTreeMap::new(),
            network: Network::default(),
            services: Vec::new(),
        }
    }

    /// Sets when the image is pulled.
    #[must_use]
    pub fn with_pull(mut self, policy: PullPolicy) -> Self {
        self.pull = policy;
        self
    }

    /// Sets who runs the commands.
    #[must_use]
    pub fn with_user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Sets where the job folder is inside: an absolute path.
    #[must_use]
    pub fn with_folder(mut self, path: impl Into<PathBuf>) -> Self {
        self.folder = Some(path.into());
        self
    }

    /// Sets how the job folder gets in.
    #[must_use]
    pub fn with_sharing(mut self, sharing: JobFolder) -> Self {
        self.sharing = sharing;
        self
    }

    /// Adds a folder of the engine's machine.
    #[must_use]
    pub fn with_mount(mut self, mount: Mount) -> Self {
        self.mounts.push(mount);
        self
    }

    /// Sets what it may use of the machine.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets the bytes of `/dev/shm`.
    #[must_use]
    pub fn with_shm_size(mut self, bytes: u64) -> Self {
        self.shm_size = Some(bytes);
        self
    }

    /// Sets a variable for every command.
    #[must_use]
    pub fn with_env(mut self, name: impl Into<String>, value: impl Into<EnvValue>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Sets the network.
    #[must_use]
    pub fn with_network(mut self, network: Network) -> Self {
        self.network = network;
        self
    }

    /// Adds a service. Names are unique.
    #[must_use]
    pub fn with_service(mut self, service: ServiceSpec) -> Self {
        self.services.push(service);
        self
    }
}

/// When the engine pulls an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PullPolicy {
    /// If it has none of that name. The default.
    #[default]
    Missing,
    /// Each time a job starts; layers that are there are not pulled again.
    Always,
    /// Never: an image that is not there is an error.
    Never,
}

/// How the job folder gets into the container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobFolder {
    /// Shared if the engine sees this machine's files, which is tried out; else copied. The
    /// default.
    #[default]
    Automatic,
    /// Shared: what a command writes is on the host at once. An engine that does not see this
    /// machine's files is an error.
    Shared,
    /// Copied in before the first command, and back when the environment is shut down; files that
    /// commands removed are removed here too. Steps that work on this machine fetch the folder
    /// before they read it and hand it on when they wrote to it
    /// ([`pull_job_dir`](pipeline_core::StepContext::pull_job_dir)); those of this workspace do. A
    /// job whose files cannot be brought back is errored.
    Copied,
}

/// A folder or file of the engine's machine inside a container.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mount {
    /// The path on the engine's machine; it has to exist.
    pub host: PathBuf,
    /// The absolute path inside.
    pub inside: PathBuf,
    /// Whether commands can write there.
    pub access: Access,
}

impl Mount {
    /// A mount that commands can only read.
    #[must_use]
    pub fn read_only(host: impl AsRef<Path>, inside: impl AsRef<Path>) -> Self {
        Self {
            host: host.as_ref().to_owned(),
            inside: inside.as_ref().to_owned(),
            access: Access::ReadOnly,
        }
    }

    /// A mount that commands can write.
    #[must_use]
    pub fn writable(host: impl AsRef<Path>, inside: impl AsRef<Path>) -> Self {
        Self {
            access: Access::Writable,
            ..Self::read_only(host, inside)
        }
    }
}

/// What commands may do with a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// Read.
    ReadOnly,
    /// Read and write.
    Writable,
}

/// What a container may use of the machine. Without a figure there is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of memory; there is no swap beyond it. A process that is ended for it gives
    /// [`ExitStatus::OutOfMemory`](pipeline_core::ExitStatus::OutOfMemory).
    pub memory: Option<u64>,
    /// Processors; 0.5 is half of one.
    pub cpus: Option<f64>,
    /// Processes and threads.
    pub pids: Option<u32>,
}

impl Limits {
    /// Sets the bytes of memory.
    #[must_use]
    pub fn with_memory(mut self, bytes: u64) -> Self {
        self.memory = Some(bytes);
        self
    }

    /// Sets the processors.
    #[must_use]
    pub fn with_cpus(mut self, cpus: f64) -> Self {
        self.cpus = Some(cpus);
        self
    }

    /// Sets the processes and threads.
    #[must_use]
    pub fn with_pids(mut self, pids: u32) -> Self {
        self.pids = Some(pids);
        self
    }
}

/// The network of a job's container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Network {
    /// A private one if there are services, else the engine's default one. The default.
    ///
    /// On a private network the job is known as `job` and each service by its name and aliases.
    #[default]
    Default,
    /// None: commands reach nothing but themselves. Not with services.
    None,
    /// One that exists on the engine, by name. Not with services.
    Named(String),
}
