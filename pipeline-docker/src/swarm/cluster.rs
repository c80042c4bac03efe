//! [`Swarm`]: a swarm as seen by one of its managers.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bollard::models::{LocalNodeState, SecretSpec, SwarmInfo};
use futures_util::{StreamExt, TryStreamExt};
use pipeline_core::{CancelToken, Redactor, error_chain};

use super::holdings::SwarmHoldings;
use super::observer::{SwarmEvent, SwarmObserver};
use super::spec::{KeptSecret, owned};
use super::task::Running;
use super::{SwarmError, SwarmJob, SwarmReport, TaskReport, reap};
use crate::container::unique_name;
use crate::credentials::{Anonymous, CredentialSource};
use crate::engine::{ApiVersion, Engine, EngineError, registry_credentials};
use crate::reference::ImageReference;

/// How long a registry may take to tell a digest; without it the job runs all the same.
const RESOLVE: Duration = Duration::from_secs(30);
/// The first engine that limits processes of tasks.
const LIMITS_PIDS: ApiVersion = ApiVersion::new(1, 41);

/// Runs jobs on a swarm through an engine that is one of its managers.
#[derive(Clone, Debug)]
pub struct Swarm {
    engine: Engine,
    credentials: Arc<dyn CredentialSource>,
}

impl Swarm {
    /// The swarm that this engine manages.
    #[must_use]
    pub fn new(engine: Engine) -> Self {
        Self {
            engine,
            credentials: Arc::new(Anonymous),
        }
    }

    /// Sets whose credentials the nodes get for the image's registry; none by default.
    #[must_use]
    pub fn with_credentials(mut self, credentials: impl CredentialSource + 'static) -> Self {
        self.credentials = Arc::new(credentials);
        self
    }

    /// Runs a job to its end. A task that fails is a value of the report; once one has failed no
    /// further one is started.
    ///
    /// # Errors
    /// [`SwarmError`]; nothing runs any more then.
    ///
    /// # Cancellation
    /// Dropping the future removes everything in the background, if the program lives for that.
    /// [`run_until`](Self::run_until) waits for it. What a killed program leaves goes with the next
    /// job that runs from the same machine; see [`reap`](super::reap).
    pub async fn run(
        &self,
        job: &SwarmJob,
        observer: &dyn SwarmObserver,
    ) -> Result<SwarmReport, SwarmError> {
        self.run_until(job, observer, &CancelToken::new()).await
    }

    /// As [`run`](Self::run), until the token is thrown: then the tasks are stopped, within
    /// [`SwarmJob::grace`], and the answer is [`SwarmError::Cancelled`].
    ///
    /// # Errors
    /// As for [`run`](Self::run).
    pub async fn run_until(
        &self,
        job: &SwarmJob,
        observer: &dyn SwarmObserver,
        cancel: &CancelToken,
    ) -> Result<SwarmReport, SwarmError> {
        self.check(job)?;
        let holdings = SwarmHoldings::new(self.engine.clone(), job.grace);
        let name = || job.name.clone();
        let result = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(SwarmError::Cancelled { job: name() }),
            limit = passed(job.deadline) => Err(SwarmError::Deadline { job: name(), limit }),
            result = self.work(job, observer, &holdings) => result,
        };
        if let Err(error) = holdings.release().await {
            let message = format!(
                "something may be left on the swarm: {}",
                error_chain(&error)
            );
            observer.event(SwarmEvent::Warning { message }).await;
        }
        result
    }

    fn check(&self, job: &SwarmJob) -> Result<(), SwarmError> {
        job.check()?;
        let found = self.engine.info().api;
        if job.limits.pids.is_some() && found < LIMITS_PIDS {
            return Err(SwarmError::Engine(EngineError::TooOld {
                address: self.engine.address().to_string(),
                found,
                needed: LIMITS_PIDS,
                what: "a limit of processes in tasks of a swarm".to_owned(),
            }));
        }
        Ok(())
    }

    async fn work(
        &self,
        job: &SwarmJob,
        observer: &dyn SwarmObserver,
        holdings: &SwarmHoldings,
    ) -> Result<SwarmReport, SwarmError> {
        let begun = Instant::now();
        let own_node = self.own_node().await?;
        self.reap(observer).await;
        let (image, unpinned) = self.pin(job, observer).await?;
        let secrets = self.keep_secrets(job, holdings).await?;
        let running = Running {
            engine: &self.engine,
            job,
            observer,
            credentials: &*self.credentials,
            holdings,
            image,
            unpinned,
            secrets,
            redactor: Redactor::new(job.secrets.values()),
            own_node,
        };
        let tasks = run_all(&running).await?;
        Ok(SwarmReport {
            digest: running.image.digest().cloned(),
            image: running.image,
            completions: job.completions,
            tasks,
            duration: begun.elapsed(),
        })
    }

    /// The id of the node that the engine is, if it is a manager.
    async fn own_node(&self) -> Result<String, SwarmError> {
        let info = self.engine.client().info().await;
        let info = info.map_err(|error| self.engine.error("ask the engine what it is", error))?;
        let swarm = info.swarm.unwrap_or_default();
        if swarm.control_available == Some(true) {
            return Ok(swarm.node_id.unwrap_or_default());
        }
        let (state, cure) = no_manager(&swarm);
        Err(SwarmError::NotManager {
            address: self.engine.address().to_string(),
            state: state.to_owned(),
            cure,
        })
    }

    /// What earlier programs left is in nobody's way: a failure is only told.
    async fn reap(&self, observer: &dyn SwarmObserver) {
        let event = match reap::reap(&self.engine).await {
            Ok(reaped) if reaped.is_empty() => return,
            Ok(reaped) => SwarmEvent::Reaped {
                services: reaped.services,
                secrets: reaped.secrets,
            },
            Err(error) => SwarmEvent::Warning {
                message: format!(
                    "could not look for tasks of killed programs: {}",
                    error_chain(&error)
                ),
            },
        };
        observer.event(event).await;
    }

    /// The image with its digest, or why there is none.
    async fn pin(
        &self,
        job: &SwarmJob,
        observer: &dyn SwarmObserver,
    ) -> Result<(ImageReference, Option<String>), SwarmError> {
        let mut image = job.image.clone();
        let mut unpinned = None;
        if image.digest().is_none() {
            image = image.or_latest();
            let credentials = registry_credentials(&*self.credentials, image.domain()).await?;
            let client = self.engine.client_within(Some(RESOLVE));
            let told = client
                .inspect_registry_image(&image.familiar(), credentials)
                .await;
            let told = told.map_err(|error| self.engine.error("ask for the digest", error));
            match told.map(|told| told.descriptor.digest.unwrap_or_default().parse()) {
                Ok(Ok(digest)) => image = image.with_digest(digest),
                Ok(Err(error)) => unpinned = Some(error_chain(&error)),
                Err(error) => unpinned = Some(error_chain(&error)),
            }
        }
        if let Some(why) = &unpinned {
            let message = format!(
                "the digest of {} is not known, and each node runs what it has under this name: {why}",
                image.familiar()
            );
            observer.event(SwarmEvent::Warning { message }).await;
        }
        let event = SwarmEvent::Image {
            image: image.clone(),
        };
        observer.event(event).await;
        Ok((image, unpinned))
    }

    async fn keep_secrets(
        &self,
        job: &SwarmJob,
        holdings: &SwarmHoldings,
    ) -> Result<Vec<KeptSecret>, SwarmError> {
        let mut kept = Vec::new();
        for (file, secret) in &job.secrets {
            let name = unique_name("secret", &job.name);
            let spec = SecretSpec {
                name: Some(name.clone()),
                labels: Some(owned(job)),
                data: Some(STANDARD.encode(secret.expose())),
                ..SecretSpec::default()
            };
            let id = holdings.create_secret(&name, spec).await?;
            let file = file.clone();
            kept.push(KeptSecret { file, name, id });
        }
        Ok(kept)
    }
}

impl fmt::Display for Swarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "swarm({})", self.engine.address())
    }
}

/// Runs the tasks, some at a time, and no further one once one has failed.
async fn run_all(running: &Running<'_>) -> Result<Vec<TaskReport>, SwarmError> {
    let failed = AtomicBool::new(false);
    let failed = &failed;
    let parallelism = usize::try_from(running.job.parallelism).unwrap_or(usize::MAX);
    let tasks = futures_util::stream::iter(0..running.job.completions)
        .map(|index| async move {
            if failed.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let report = running.task(index).await?;
            if !report.exit.success() {
                failed.store(true, Ordering::Relaxed);
            }
            Ok::<_, SwarmError>(Some(report))
        })
        .buffer_unordered(parallelism);
    let tasks: Vec<Option<TaskReport>> = tasks.try_collect().await?;
    let mut tasks: Vec<TaskReport> = tasks.into_iter().flatten().collect();
    tasks.sort_by_key(|task| task.index);
    Ok(tasks)
}

/// When the limit has passed, the limit.
async fn passed(limit: Option<Duration>) -> Duration {
    match limit {
        Some(limit) => {
            tokio::time::sleep(limit).await;
            limit
        }
        None => std::future::pending().await,
    }
}

/// What the engine is instead, and what to do.
fn no_manager(swarm: &SwarmInfo) -> (&'static str, String) {
    match swarm.local_node_state {
        Some(LocalNodeState::ACTIVE) => {
            let managers = swarm.remote_managers.iter().flatten();
            let managers: Vec<_> = managers.filter_map(|peer| peer.addr.as_deref()).collect();
            let cure = format!(
                "connect to a manager instead (known are {}), or promote this node there with `docker node promote`",
                managers.join(", ")
            );
            ("is a worker of a swarm and no manager", cure)
        }
        Some(LocalNodeState::LOCKED) => (
            "is a manager of a swarm that is locked",
            "unlock it with `docker swarm unlock`".to_owned(),
        ),
        Some(LocalNodeState::PENDING | LocalNodeState::ERROR) => (
            "has not joined its swarm",
            "see `docker info` there for the reason".to_owned(),
        ),
        _ => (
            "is in no swarm",
            "make one with `docker swarm init` there, or connect to a manager, as with DOCKER_HOST"
                .to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_no_manager_is_told_what_to_do() {
        let worker = SwarmInfo {
            local_node_state: Some(LocalNodeState::ACTIVE),
            remote_managers: Some(vec![bollard::models::PeerNode {
                addr: Some("10.0.0.1:2377".to_owned()),
                ..Default::default()
            }]),
            ..SwarmInfo::default()
        };
        assert!(no_manager(&worker).1.contains("10.0.0.1:2377"));
        let none = SwarmInfo::default();
        assert!(no_manager(&none).1.contains("docker swarm init"));
    }
}
