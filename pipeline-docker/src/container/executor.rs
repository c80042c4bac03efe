//! [`ContainerExecutor`]: a container for each job.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;
use pipeline_core::executor::EnvironmentRequest;
use pipeline_core::{EnvValue, Environment, EnvironmentFacts, Executor, ExecutorError, Secret};
use tokio::sync::OnceCell;

use super::environment::ContainerEnvironment;
use super::error::ContainerError;
use super::holdings::{Holdings, unique_name};
use super::making::{Begun, JOB_ALIAS, Making};
use super::owner::labels;
use super::pull::{ImageFacts, ensure_image, millis};
use super::shared::{Shared, State};
use super::spec::{ContainerSpec, Network};
use super::{DebugSession, Reaped, files, reap};
use crate::credentials::{Anonymous, CredentialSource};
use crate::engine::Engine;
use crate::service::{RunningService, Services};

/// Runs each job in a container of its own; commands are run inside it one by one.
///
/// The container's first process waits for the end of its input, which this program holds open:
/// when the program dies, however it dies, the container ends at once. It is removed when the
/// program, or another one with this executor, next starts a job; see [`reap`](super::reap). Services
/// run on until then.
///
/// # What a command sees
/// The variables of the image, of [`ContainerSpec::env`], of the job and of the command, the later
/// ones winning, with `PATH` from the image unless one of the others sets it; nothing of this
/// program's own. Standard input is empty unless the command feeds it. It is the leader of a
/// process group; processes that it leaves behind are ended when it has ended and no other command
/// of the job runs.
///
/// An exit code above 128 and a signal are told apart by `/bin/sh` in the image. It keeps quiet
/// about SIGINT and SIGPIPE (and bash about SIGTERM), so these show as exit codes 130, 141 (and
/// 143).
#[derive(Clone, Debug)]
pub struct ContainerExecutor {
    engine: Engine,
    spec: Arc<ContainerSpec>,
    credentials: Arc<dyn CredentialSource>,
    reaped: Arc<OnceCell<()>>,
    /// Environments that are there, by their job folder.
    live: Arc<Mutex<HashMap<PathBuf, Weak<Shared>>>>,
}

impl ContainerExecutor {
    /// An executor whose jobs run in containers like this one.
    #[must_use]
    pub fn new(engine: Engine, spec: ContainerSpec) -> Self {
        Self {
            engine,
            spec: Arc::new(spec),
            credentials: Arc::new(Anonymous),
            reaped: Arc::default(),
            live: Arc::default(),
        }
    }

    /// Sets whose credentials the engine gets for pulls of the job's and its services' images.
    /// [`CredentialChain::from_env`] gives those of the docker command line. By default there are
    /// none, and each pull warns of it.
    ///
    /// [`CredentialChain::from_env`]: crate::credentials::CredentialChain::from_env
    #[must_use]
    pub fn with_credentials(mut self, credentials: impl CredentialSource + 'static) -> Self {
        self.credentials = Arc::new(credentials);
        self
    }

    /// The way into the container of a job, for a person who looks why a command failed.
    ///
    /// `None` if no environment of this executor uses the folder, or no command in it has failed.
    #[must_use]
    pub fn debug_session(&self, job_folder: &Path) -> Option<DebugSession> {
        let folder = std::fs::canonicalize(job_folder).ok()?;
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = live.get(&folder)?.upgrade()?;
        let command = shared.failed()?;
        Some(DebugSession::new(&shared, &command))
    }

    fn check(&self) -> Result<(), ContainerError> {
        if !self.spec.services.is_empty() && self.spec.network != Network::Default {
            return Err(ContainerError::NetworkAndServices);
        }
        let mut names = BTreeSet::from([JOB_ALIAS]);
        for service in &self.spec.services {
            let aliases = service.aliases.iter().map(String::as_str);
            for name in std::iter::once(service.name.as_str()).chain(aliases) {
                if !names.insert(name) {
                    return Err(ContainerError::ServiceName {
                        name: name.to_owned(),
                    });
                }
            }
            service
                .check(&self.engine)
                .map_err(|error| ContainerError::Service(Arc::new(error)))?;
        }
        Ok(())
    }

    /// Limits that the engine takes and does not enforce would be a surprise.
    async fn warn_of_limits(&self, request: &EnvironmentRequest) {
        let services = self.spec.services.iter().map(|service| &service.limits);
        let mut limits = std::iter::once(&self.spec.limits).chain(services);
        if !self.engine.info().limits_memory && limits.any(|limits| limits.memory.is_some()) {
            let text = "the engine does not enforce limits of memory: its kernel has no such control group";
            request.events.warn(text).await;
        }
    }

    /// What earlier programs left is nobody's, and in nobody's way: a failure is only told.
    async fn reap_once(&self, request: &EnvironmentRequest) {
        self.reaped
            .get_or_init(|| async {
                match reap::reap(&self.engine).await {
                    Ok(reaped) if reaped.is_empty() => {}
                    Ok(reaped) => tell_reaped(request, reaped).await,
                    Err(error) => {
                        request
                            .events
                            .warn(format!(
                                "could not look for containers of killed programs: {}",
                                pipeline_core::error_chain(&error)
                            ))
                            .await;
                    }
                }
            })
            .await;
    }
}

async fn tell_reaped(request: &EnvironmentRequest, reaped: Reaped) {
    let removed = [reaped.containers, reaped.networks].concat();
    if !removed.is_empty() {
        let text = format!(
            "removed what a killed program had left: {}",
            removed.join(", ")
        );
        request.events.log(text).await;
    }
    for failed in reaped.failed {
        let text = format!("could not remove what a killed program had left: {failed}");
        request.events.warn(text).await;
    }
}

impl fmt::Display for ContainerExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "container({})", self.spec.image)
    }
}

#[async_trait]
impl Executor for ContainerExecutor {
    async fn provision(
        &self,
        request: &EnvironmentRequest,
    ) -> Result<Box<dyn Environment>, ExecutorError> {
        self.check()?;
        let holdings = Arc::new(Holdings::new(self.engine.clone()));
        let made = tokio::select! {
            made = self.make(request, &holdings) => made,
            () = request.cancel.cancelled() => Err(ContainerError::Cancelled.into()),
        };
        if made.is_err() {
            // The failure is what counts; what is left now the next start finds.
            holdings.release().await.ok();
        }
        made
    }

    fn secrets(&self) -> Vec<Secret> {
        let services = self.spec.services.iter().map(|service| &service.env);
        std::iter::once(&self.spec.env)
            .chain(services)
            .flat_map(BTreeMap::values)
            .filter_map(EnvValue::secret)
            .cloned()
            .collect()
    }
}

impl ContainerExecutor {
    async fn make(
        &self,
        request: &EnvironmentRequest,
        holdings: &Arc<Holdings>,
    ) -> Result<Box<dyn Environment>, ExecutorError> {
        self.reap_once(request).await;
        self.warn_of_limits(request).await;
        let folder = tokio::fs::canonicalize(&request.folder)
            .await
            .map_err(|source| {
                ExecutorError::environment(
                    format!(
                        "could not enter the job folder {}",
                        request.folder.display()
                    ),
                    source,
                )
            })?;
        let root = self.spec.folder.clone().unwrap_or_else(|| folder.clone());
        let events = &request.events;
        let image = ensure_image(
            &self.engine,
            &self.spec.image,
            self.spec.pull,
            &*self.credentials,
            events,
        )
        .await
        .map_err(|error| {
            ExecutorError::environment(
                format!("could not get the image {}", self.spec.image),
                error,
            )
        })?;
        let network = if self.spec.services.is_empty() {
            None
        } else {
            let name = unique_name("net", &request.job);
            holdings
                .create_network(&name, labels(&request.scope, &request.job, "network"))
                .await
                .map_err(|error| {
                    ExecutorError::environment("could not make a network for the services", error)
                })?;
            Some(name)
        };
        let making = Making {
            engine: &self.engine,
            spec: &self.spec,
            image: &image.id,
            request,
            holdings,
            folder: &folder,
            root: &root,
            network: network.as_deref(),
        };
        let services = async {
            let Some(network) = &network else {
                return Ok(Services::none());
            };
            let credentials = &*self.credentials;
            Services::start(&self.spec.services, request, holdings, network, credentials)
                .await
                .map_err(|error| ContainerError::Service(Arc::new(error)).into())
        };
        let (begun, services) = futures_util::future::try_join(making.begin(), services).await?;
        let facts = self.facts(&image, &begun);
        self.tell(request, &image, &begun, &services.running).await;
        let copied = !begun.shared_folder;
        let mut env = self.spec.env.clone();
        env.extend(request.env.clone());
        let shared = Arc::new(Shared {
            holdings: Arc::clone(holdings),
            id: begun.id,
            holder: begun.holder,
            image: self.spec.image.clone(),
            memory: self.spec.limits.memory,
            root,
            events: events.clone(),
            broken: services.broken,
            user: self.spec.user.clone(),
            owner: begun.owner,
            env,
            state: State::default(),
        });
        if copied {
            files::copy_in(&shared, &folder, &shared.root)
                .await
                .map_err(|source| ExecutorError::Copy {
                    from: folder.clone(),
                    to: shared.root.clone(),
                    source,
                })?;
        }
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.retain(|_, shared| shared.strong_count() > 0);
        live.insert(folder.clone(), Arc::downgrade(&shared));
        drop(live);
        Ok(Box::new(ContainerEnvironment {
            shared,
            facts,
            host_root: (!copied).then(|| folder.clone()),
            copied_from: copied.then_some(folder),
            is_half: AtomicBool::new(false),
            services: services.running,
            lifeline: Mutex::new(Some(begun.lifeline)),
        }))
    }

    fn facts(&self, image: &ImageFacts, begun: &Begun) -> EnvironmentFacts {
        let info = self.engine.info();
        let mut system = image.platform.clone();
        if let Some(name) = &begun.system {
            system = format!("{name} ({system})");
        }
        let mut facts = EnvironmentFacts::new(
            format!(
                "container executor {}, engine {} (API {})",
                env!("CARGO_PKG_VERSION"),
                info.version,
                info.api
            ),
            system,
            "process group, then every process of the container",
        );
        facts.image = Some(image.digest.clone());
        facts.platform = Some(image.platform.clone());
        facts
    }

    async fn tell(
        &self,
        request: &EnvironmentRequest,
        image: &ImageFacts,
        begun: &Begun,
        services: &[RunningService],
    ) {
        let data = serde_json::json!({
            "image": self.spec.image,
            "digest": image.digest,
            "container": begun.id.get(..12).unwrap_or(&begun.id),
            "folder": if begun.shared_folder { "shared" } else { "copied" },
            "create_ms": millis(begun.created),
            "start_ms": millis(begun.started),
            "services": services.iter().map(RunningService::facts).collect::<Vec<_>>(),
        });
        request.events.fact("container.started", data).await;
    }
}
