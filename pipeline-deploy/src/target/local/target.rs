use std::fmt;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::app::LocalApp;
use super::client::Client;
use super::folders::Folders;
use super::instance::{address, port_of};
use super::lock_file::{Attempt, LockFile};
use super::plan::planned_folder;
use super::protocol::Request;
use super::{LocalInstance, SupervisorCommand};
use crate::health::{Endpoint, HealthWindow, Waited};
use crate::release::{Deployment, DeploymentStatus, Release, ReleaseId};
use crate::target::{
    Applied, DeployError, DeployLock, DeployObserver, DeployOptions, DeployPlan, DeployTarget,
    Failure, FailureStage, LockHolder, LockOutcome, Observation, Restored, Verified,
};

/// Runs releases of one application as processes of this machine; see the
/// [module](super) for how.
///
/// `Display` prints `local process in <folder>`.
#[derive(Debug, Clone)]
pub struct LocalTarget {
    pub(super) instance: LocalInstance,
    supervisor: SupervisorCommand,
    pub(super) app: LocalApp,
}

/// What a lock file tells those who come too late.
#[derive(Serialize, Deserialize)]
struct Note {
    pid: u32,
    release: ReleaseId,
}

impl LocalTarget {
    /// The target in `folder`, which is made by the first deploy.
    ///
    /// # Errors
    /// [`DeployError::Files`] when the path cannot be resolved.
    pub fn new(
        folder: impl AsRef<Path>,
        supervisor: SupervisorCommand,
        app: LocalApp,
    ) -> Result<Self, DeployError> {
        Ok(Self {
            instance: LocalInstance::new(folder)?,
            supervisor,
            app,
        })
    }

    /// The target without its application, to look at it and to stop it.
    #[must_use]
    pub fn instance(&self) -> &LocalInstance {
        &self.instance
    }

    /// Starts a supervisor when none runs; it starts the live release, unless that was
    /// stopped on purpose.
    ///
    /// # Errors
    /// When the supervisor cannot be started or does not answer.
    ///
    /// # Cancellation
    /// A supervisor that was just started goes on, or ends itself when it has nothing to do.
    pub async fn ensure_running(&self) -> Result<(), DeployError> {
        self.connect().await.map(drop)
    }

    async fn connect(&self) -> Result<Client, DeployError> {
        self.folders()
            .make()
            .map_err(|error| DeployError::files("make", self.folders().root(), error))?;
        Client::connect_or_launch(self.folders(), &self.supervisor).await
    }

    pub(super) fn folders(&self) -> &Folders {
        &self.instance.folders
    }

    pub(super) fn invalid(&self, release: &Release, reason: impl Into<String>) -> DeployError {
        DeployError::Invalid {
            target: self.to_string(),
            release: release.id.clone(),
            reason: reason.into(),
        }
    }

    /// Whether a live release answers as it should; one bad answer is not believed.
    async fn is_healthy(&self, live: &Deployment) -> bool {
        let Some(port) = port_of(&live.address) else {
            return false;
        };
        for pause in [self.app.window.interval, Duration::ZERO] {
            let probe = self.app.health.probe(&Endpoint::loopback(port)).await;
            if probe.is_healthy() {
                return true;
            }
            sleep(pause).await;
        }
        false
    }
}

impl fmt::Display for LocalTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "local process in {}", self.folders().root().display())
    }
}

#[async_trait]
impl DeployTarget for LocalTarget {
    async fn lock(&self, release: &Release) -> Result<LockOutcome, DeployError> {
        let files = |doing| move |error| DeployError::files(doing, self.folders().root(), error);
        self.folders().make().map_err(files("make"))?;
        let note = Note {
            pid: std::process::id(),
            release: release.id.clone(),
        };
        let note = serde_json::to_string(&note).unwrap_or_default();
        let lock = LockFile::try_acquire(&self.folders().deploy_lock(), &note);
        Ok(match lock.map_err(files("lock"))? {
            Attempt::Acquired(lock) => LockOutcome::Acquired(DeployLock::new(lock)),
            Attempt::Held(note) => {
                // Written after the lock was taken, so it may not be there yet.
                let holder = serde_json::from_str::<Note>(&note).ok();
                let pid = holder.as_ref().map(|note| note.pid);
                LockOutcome::Busy(LockHolder::new(pid, holder.map(|note| note.release)))
            }
        })
    }

    async fn observe(&self) -> Result<Observation, DeployError> {
        let mut observed = self.instance.observe().await?;
        if let Some(live) = &mut observed.live
            && live.status == DeploymentStatus::Live
            && !self.is_healthy(live).await
        {
            live.status = DeploymentStatus::Unhealthy;
        }
        Ok(observed)
    }

    fn plan(
        &self,
        release: &Release,
        observed: &Observation,
        options: &DeployOptions,
    ) -> Result<DeployPlan, DeployError> {
        self.make_plan(release, observed, options)
    }

    async fn apply(
        &self,
        plan: &DeployPlan,
        observer: &dyn DeployObserver,
    ) -> Result<Applied, DeployError> {
        let mut client = self.connect().await?;
        self.do_actions(plan, &mut client, observer).await
    }

    async fn verify(&self, deployment: &Deployment) -> Result<Verified, DeployError> {
        let mut client = self.connect().await?;
        let status = client.status().await?;
        let folder = status.live.map(|live| live.folder).unwrap_or_default();
        let log = self.folders().logs(&folder).join("serve.log");
        let endpoint = Endpoint::loopback(status.port);
        let check = self.app.health.as_ref();
        let last = match self.app.window.wait(check, &endpoint, |_, _| {}).await {
            Waited::Healthy(health) => return Ok(Verified::Good(health)),
            Waited::GivenUp(last) => Some(last),
            Waited::TimedOut(last) => last,
        };
        let what = format!("the release is not healthy at {}", deployment.address);
        let mut failure = self.unhealthy(what, last, &log);
        failure.stage = FailureStage::Verify;
        Ok(Verified::Bad(failure))
    }

    async fn commit(&self, _plan: &DeployPlan) -> Result<(), DeployError> {
        let mut client = self.connect().await?;
        client.order("commit", Request::Commit).await?;
        self.prune(&mut client).await
    }

    async fn roll_back(&self, plan: &DeployPlan) -> Result<Restored, DeployError> {
        let mut client = self.connect().await?;
        let folder = planned_folder(plan);
        let status = client.status().await?;
        if folder.is_some() && status.uncommitted == folder {
            client.order("roll back", Request::Revert).await?;
        }
        let served = plan
            .previous
            .as_ref()
            .is_some_and(|previous| previous.status != DeploymentStatus::Stopped);
        // What was live may be just restarting.
        let window = HealthWindow::default();
        let deadline = Instant::now() + window.limit;
        let status = loop {
            let status = client.status().await?;
            let busy = folder
                .as_ref()
                .is_some_and(|folder| status.in_use.contains(folder));
            let live = status.live.as_ref().map(|live| live.status);
            let waiting = busy || (served && live == Some(DeploymentStatus::Restarting));
            if !waiting || Instant::now() > deadline {
                break status;
            }
            sleep(window.interval).await;
        };
        if let Some(folder) = folder
            && status
                .live
                .as_ref()
                .is_none_or(|live| live.folder != folder)
        {
            self.remove(&folder).await?;
        }
        let live = status
            .live
            .filter(|live| live.status == DeploymentStatus::Live)
            .map(|live| Deployment::new(live.release, address(status.port), live.status));
        Ok(match live {
            None if served => Restored::Failed(Failure::new(
                FailureStage::RollBack,
                "what was live before does not run any more",
            )),
            live => Restored::Previous(live),
        })
    }
}
