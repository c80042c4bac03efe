//! [`Services`]: the services of a job while they are there.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bollard::container::LogOutput;
use bollard::errors::Error as BollardError;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use bollard::models::{
    ContainerCreateBody, EndpointSettings, HealthConfig, HealthStatusEnum, HostConfig,
    HostConfigLogConfig, NetworkingConfig,
};
use bollard::query_parameters::LogsOptionsBuilder;
use futures_util::StreamExt;
use pipeline_core::executor::EnvironmentRequest;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::log::ServiceLog;
use super::place::Place;
use super::{Readiness, ServiceError, ServiceSpec, http};
use crate::container::{
    Broken, Holdings, ensure_image, labels, limited, ran_out_of_memory, to_i64, unique_name,
};
use crate::credentials::CredentialSource;
use crate::engine::{Engine, EngineError};

/// Between two looks at a service that is not ready.
const PAUSE: Duration = Duration::from_millis(100);
/// How long the last lines of a service that has ended are waited for.
const LAST_LINES: Duration = Duration::from_secs(1);
/// What is kept of a readiness command's output, for messages.
const SAID_LIMIT: usize = 4 * 1024;
/// The log that the engine keeps for people, per service.
const ENGINE_LOG: &str = "16m";

/// The services of a job.
#[derive(Debug)]
pub(crate) struct Services {
    pub(crate) running: Vec<RunningService>,
    /// The first failure.
    pub(crate) broken: Broken,
}

/// A service whose container runs.
#[derive(Debug)]
pub(crate) struct RunningService {
    name: String,
    image: String,
    digest: String,
    log: Arc<ServiceLog>,
    ready_after: Duration,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for RunningService {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl RunningService {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn tail(&self) -> Vec<String> {
        self.log.tail()
    }

    pub(crate) fn facts(&self) -> serde_json::Value {
        serde_json::json!({
            "name": self.name,
            "image": self.image,
            "digest": self.digest,
            "ready_ms": u64::try_from(self.ready_after.as_millis()).unwrap_or(u64::MAX),
        })
    }
}

impl Services {
    pub(crate) fn none() -> Self {
        Self {
            running: Vec::new(),
            broken: watch::channel(None).1,
        }
    }

    /// Starts all of them at once and waits until each is ready; the first failure ends it.
    pub(crate) async fn start(
        specs: &[ServiceSpec],
        request: &EnvironmentRequest,
        holdings: &Holdings,
        network: &str,
        credentials: &dyn CredentialSource,
    ) -> Result<Self, ServiceError> {
        let (sender, broken) = watch::channel(None);
        let sender = Arc::new(sender);
        let all = specs.iter().map(|spec| {
            let starting = Starting {
                spec,
                request,
                holdings,
                network,
                credentials,
            };
            starting.start(Arc::clone(&sender))
        });
        let running = futures_util::future::try_join_all(all).await?;
        Ok(Self { running, broken })
    }
}

type Breaker = Arc<watch::Sender<Option<Arc<ServiceError>>>>;

/// How a service ended.
#[derive(Clone, Debug)]
enum End {
    Exited { code: i64, out_of_memory: bool },
    Lost(Arc<EngineError>),
}

struct Starting<'a> {
    spec: &'a ServiceSpec,
    request: &'a EnvironmentRequest,
    holdings: &'a Holdings,
    network: &'a str,
    credentials: &'a dyn CredentialSource,
}

impl Starting<'_> {
    async fn start(self, breaker: Breaker) -> Result<RunningService, ServiceError> {
        let begin = Instant::now();
        let engine = self.holdings.engine();
        let failed = |source| ServiceError::Start {
            service: self.spec.name.clone(),
            source,
        };
        let image = ensure_image(
            engine,
            &self.spec.image,
            self.spec.pull,
            self.credentials,
            &self.request.events,
        )
        .await
        .map_err(failed)?;
        let name = unique_name(&self.spec.name, &self.request.job);
        let id = self
            .holdings
            .create(&name, &self.spec.image, self.body(&image.id))
            .await
            .map_err(failed)?;
        engine
            .client()
            .start_container(&id, None)
            .await
            .map_err(|error| failed(engine.error("start the container", error)))?;
        let wanted = self.spec.ready.iter().filter_map(|ready| match ready {
            Readiness::Log(log) => Some(log.clone()),
            _ => None,
        });
        let log = Arc::new(ServiceLog::new(wanted));
        let (ended, end) = watch::channel(None);
        let follower = tokio::spawn(follow(engine.clone(), id.clone(), Arc::clone(&log)));
        let mut service = RunningService {
            name: self.spec.name.clone(),
            image: self.spec.image.clone(),
            digest: image.digest,
            log: Arc::clone(&log),
            ready_after: Duration::ZERO,
            tasks: Vec::new(),
        };
        service.tasks.push(tokio::spawn(watch_end(
            engine.clone(),
            id.clone(),
            self.spec.limits.memory.is_some(),
            follower,
            Arc::clone(&log),
            ended,
        )));
        self.until_ready(engine, &id, &log, end.clone()).await?;
        service.ready_after = begin.elapsed();
        self.request
            .events
            .log(format!(
                "the service {} is ready after {:.1}s",
                self.spec.name,
                service.ready_after.as_secs_f64()
            ))
            .await;
        let name = self.spec.name.clone();
        service.tasks.push(tokio::spawn(async move {
            if let Some(end) = wait_end(end).await {
                let error = Arc::new(end.error(&name, &log));
                breaker.send_if_modified(|broken| {
                    let first = broken.is_none();
                    if first {
                        *broken = Some(error);
                    }
                    first
                });
            }
        }));
        Ok(service)
    }

    fn body(&self, image: &str) -> ContainerCreateBody {
        let spec = self.spec;
        let endpoint = EndpointSettings {
            aliases: Some(
                std::iter::once(spec.name.clone())
                    .chain(spec.aliases.clone())
                    .collect(),
            ),
            ..EndpointSettings::default()
        };
        let health = spec.ready.iter().find_map(|ready| match ready {
            Readiness::Health(health) => health.command.as_ref().map(|command| HealthConfig {
                test: Some(
                    std::iter::once("CMD".to_owned())
                        .chain(command.clone())
                        .collect(),
                ),
                interval: i64::try_from(health.interval.as_nanos()).ok(),
                ..HealthConfig::default()
            }),
            _ => None,
        });
        ContainerCreateBody {
            image: Some(image.to_owned()),
            cmd: spec.command.clone(),
            user: spec.user.clone(),
            env: Some(
                spec.env
                    .iter()
                    .map(|(name, value)| format!("{name}={}", value.expose()))
                    .collect(),
            ),
            healthcheck: health,
            labels: Some(labels(&self.request.scope, &self.request.job, "service")),
            host_config: Some(HostConfig {
                init: self.holdings.engine().info().has_init.then_some(true),
                log_config: Some(HostConfigLogConfig {
                    typ: Some("json-file".to_owned()),
                    config: Some(HashMap::from([(
                        "max-size".to_owned(),
                        ENGINE_LOG.to_owned(),
                    )])),
                }),
                network_mode: Some(self.network.to_owned()),
                shm_size: spec.shm_size.map(to_i64),
                tmpfs: Some(spec.tmpfs.clone().into_iter().collect()),
                ..limited(&spec.limits, std::iter::empty())
            }),
            networking_config: Some(NetworkingConfig {
                endpoints_config: Some(HashMap::from([(self.network.to_owned(), endpoint)])),
            }),
            ..ContainerCreateBody::default()
        }
    }

    async fn until_ready(
        &self,
        engine: &Engine,
        id: &str,
        log: &ServiceLog,
        end: watch::Receiver<Option<End>>,
    ) -> Result<(), ServiceError> {
        let state = Mutex::new((String::new(), "nothing yet".to_owned()));
        let note = |wanted: Option<String>, seen: Option<String>| {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(wanted) = wanted {
                *state = (wanted, "nothing yet".to_owned());
            }
            if let Some(seen) = seen {
                state.1 = seen;
            }
        };
        let probing = async {
            let mut lines = 0;
            for ready in &self.spec.ready {
                note(Some(ready.to_string()), None);
                if matches!(ready, Readiness::Log(_)) {
                    log.seen(lines).await;
                    lines += 1;
                    continue;
                }
                while let Err(seen) = self.look(engine, id, ready).await {
                    note(None, Some(seen));
                    tokio::time::sleep(PAUSE).await;
                }
            }
        };
        tokio::select! {
            biased;
            Some(end) = wait_end(end) => Err(end.error(&self.spec.name, log)),
            () = probing => Ok(()),
            () = tokio::time::sleep(self.spec.timeout) => {
                let (wanted, seen) = state
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone();
                Err(ServiceError::NotReady {
                    service: self.spec.name.clone(),
                    waited: self.spec.timeout,
                    wanted,
                    seen,
                    tail: log.tail(),
                })
            }
        }
    }

    /// Whether it is so now; if not, what is the case instead.
    async fn look(&self, engine: &Engine, id: &str, ready: &Readiness) -> Result<(), String> {
        match ready {
            Readiness::Tcp { port } => {
                let place = self.place(engine, id).await?;
                place.connect(engine, *port).await.map(drop)
            }
            Readiness::Http(wanted) => {
                let place = self.place(engine, id).await?;
                let stream = place.connect(engine, wanted.port).await?;
                let address = SocketAddr::new(place.address, wanted.port);
                http::probe(stream, address, wanted).await
            }
            Readiness::Exec { command } => exec(engine, id, command)
                .await
                .map_err(|error| error.to_string())
                .and_then(|(code, said)| match code {
                    0 => Ok(()),
                    code => Err(format!("exit code {code}: {}", said.trim())),
                }),
            Readiness::Health(_) => {
                let found = engine.client().inspect_container(id, None).await;
                let health = found
                    .map_err(|error| error.to_string())?
                    .state
                    .and_then(|state| state.health)
                    .and_then(|health| health.status);
                match health {
                    Some(HealthStatusEnum::HEALTHY) => Ok(()),
                    Some(other) => Err(other.to_string()),
                    None => Err("the container has no health check".to_owned()),
                }
            }
            Readiness::Log(_) => Ok(()),
        }
    }

    /// Asked each time: a container has an address only while it runs.
    async fn place(&self, engine: &Engine, id: &str) -> Result<Place, String> {
        let found = engine
            .client()
            .inspect_container(id, None)
            .await
            .map_err(|error| error.to_string())?;
        found
            .network_settings
            .and_then(|settings| settings.networks)
            .and_then(|mut networks| networks.remove(self.network))
            .and_then(Place::new)
            .ok_or_else(|| "the container has no address".to_owned())
    }
}

impl End {
    fn error(self, service: &str, log: &ServiceLog) -> ServiceError {
        let service = service.to_owned();
        match self {
            Self::Exited {
                code,
                out_of_memory,
            } => ServiceError::Ended {
                service,
                code,
                out_of_memory,
                tail: log.tail(),
            },
            Self::Lost(source) => ServiceError::Lost { service, source },
        }
    }
}

/// The end, once there is one; `None` if nobody watches any more.
async fn wait_end(mut end: watch::Receiver<Option<End>>) -> Option<End> {
    end.wait_for(Option::is_some)
        .await
        .ok()
        .and_then(|end| end.clone())
}

/// Reads what the service writes until it writes no more.
async fn follow(engine: Engine, id: String, log: Arc<ServiceLog>) {
    let options = LogsOptionsBuilder::default()
        .follow(true)
        .stdout(true)
        .stderr(true)
        .build();
    let client = engine.client_within(None);
    let mut pieces = std::pin::pin!(client.logs(&id, Some(options)));
    while let Some(Ok(piece)) = pieces.next().await {
        match piece {
            LogOutput::StdErr { message } => log.push(1, &message),
            other => log.push(0, &other.into_bytes()),
        }
    }
    log.finish();
}

/// Waits for the end of the container and tells it when its last lines are there.
async fn watch_end(
    engine: Engine,
    id: String,
    limited: bool,
    follower: JoinHandle<()>,
    log: Arc<ServiceLog>,
    ended: watch::Sender<Option<End>>,
) {
    let client = engine.client_within(None);
    let code = match client.wait_container(&id, None).next().await {
        Some(Ok(answer)) => Ok(answer.status_code),
        Some(Err(BollardError::DockerContainerWaitError { code, .. })) => Ok(code),
        Some(Err(error)) => Err(engine.error("watch the service", error)),
        None => Err(EngineError::said(
            "watch the service",
            None,
            "the engine stopped telling",
        )),
    };
    tokio::time::timeout(LAST_LINES, follower).await.ok();
    log.finish();
    let end = match code {
        Ok(code) => {
            let found = engine.client().inspect_container(&id, None).await;
            let state = found.ok().and_then(|container| container.state);
            let out_of_memory = match state {
                Some(state) => ran_out_of_memory(&engine, &id, &state, limited).await,
                None => false,
            };
            End::Exited {
                code,
                out_of_memory,
            }
        }
        Err(error) => End::Lost(Arc::new(error)),
    };
    ended.send_replace(Some(end));
}

/// Runs a command in a service's container; its exit code and what it printed.
async fn exec(engine: &Engine, id: &str, command: &[String]) -> Result<(i64, String), EngineError> {
    let action = "run the readiness command";
    let work = async {
        let options = CreateExecOptions {
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(command.to_vec()),
            ..CreateExecOptions::default()
        };
        let exec = engine.client().create_exec(id, options).await?;
        let started = engine
            .client()
            .start_exec(&exec.id, Some(StartExecOptions::default()))
            .await?;
        let mut said = Vec::new();
        if let StartExecResults::Attached { mut output, .. } = started {
            while let Some(piece) = output.next().await {
                keep_last(&mut said, &piece?.into_bytes());
            }
        }
        let found = engine.client().inspect_exec(&exec.id).await?;
        let said = String::from_utf8_lossy(&said).into_owned();
        Ok((found.exit_code.unwrap_or(-1), said))
    };
    work.await.map_err(|error| engine.error(action, error))
}

/// Adds what was said and forgets the beginning of what gets too long.
fn keep_last(said: &mut Vec<u8>, more: &[u8]) {
    said.extend_from_slice(more);
    let extra = said.len().saturating_sub(SAID_LIMIT);
    said.drain(..extra);
}
