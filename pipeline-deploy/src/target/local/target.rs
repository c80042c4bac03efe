use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::app::{AppCommand, LocalApp};
use super::client::Client;
use super::folders::{Complete, Folders, absent, tail, write_json};
use super::instance::{address, port_of};
use super::launch::{Launch, ProcessSpec};
use super::lock_file::{Attempt, LockFile};
use super::protocol::{ProcessEnd, Reply, Request};
use super::tree::{copy, is_inside, link_shared};
use super::{LocalInstance, SupervisorCommand};
use crate::health::{Endpoint, Health, HealthWindow, Waited, cure_for_disallowed_host};
use crate::release::{Deployment, DeploymentStatus, Release, ReleaseId};
use crate::target::{
    Action, Applied, Decision, DeployError, DeployEvent, DeployLock, DeployObserver, DeployOptions,
    DeployPlan, DeployTarget, Failure, FailureStage, LockHolder, LockOutcome, Observation,
    Restored, Verified,
};

const TAIL: usize = 20;
/// How many releases that never went live keep their logs.
const FAILED_LOGS: usize = 5;

/// Runs releases of one application as processes of this machine; see the
/// [module](super) for how.
///
/// `Display` prints `local process in <folder>`.
#[derive(Debug, Clone)]
pub struct LocalTarget {
    instance: LocalInstance,
    supervisor: SupervisorCommand,
    app: LocalApp,
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

    fn folders(&self) -> &Folders {
        &self.instance.folders
    }

    fn invalid(&self, release: &Release, reason: impl Into<String>) -> DeployError {
        DeployError::Invalid {
            target: self.to_string(),
            release: release.id.clone(),
            reason: reason.into(),
        }
    }

    /// What cannot work is said before anything is done.
    fn check(&self, release: &Release) -> Result<PathBuf, DeployError> {
        let Some(source) = &release.source else {
            return Err(self.invalid(release, "it has no folder with files to copy"));
        };
        if !source.is_absolute() {
            let reason = format!("its folder `{}` is not an absolute path", source.display());
            return Err(self.invalid(release, reason));
        }
        for shared in &self.app.shared {
            if !is_inside(&shared.path) || shared.path.as_os_str().is_empty() {
                let path = shared.path.display();
                let reason = format!("the shared path `{path}` is not within the release's folder");
                return Err(self.invalid(release, reason));
            }
        }
        for command in self.app.prepare.iter().chain([&self.app.serve]) {
            if !is_inside(&command.folder) {
                let reason = format!(
                    "the folder of command `{}` is not within the release's folder",
                    command.name
                );
                return Err(self.invalid(release, reason));
            }
        }
        // The control protocol and the state files are text.
        for path in [self.folders().root(), source.as_path()] {
            if path.to_str().is_none() {
                let reason = format!("the path {} is not valid UTF-8", path.display());
                return Err(self.invalid(release, reason));
            }
        }
        Ok(source.clone())
    }

    /// A folder name that no complete release has.
    fn free_name(&self, id: &ReleaseId, observed: &Observation) -> String {
        let taken = |name: &str| observed.kept.contains(&self.folders().release(name));
        let mut name = id.to_string();
        let mut number = 2;
        while taken(&name) {
            name = format!("{id}.{number}");
            number += 1;
        }
        name
    }

    fn spec(
        &self,
        release: &Release,
        command: &AppCommand,
        folder: &str,
        log: &str,
    ) -> ProcessSpec {
        let place = self.folders().release(folder);
        let shared = self.folders().shared();
        let fill = |text: &str| {
            text.replace("{release_dir}", &place.to_string_lossy())
                .replace("{shared_dir}", &shared.to_string_lossy())
        };
        let mut env = BTreeMap::from([
            ("RELEASE_ID".to_owned(), release.id.to_string()),
            (
                "RELEASE_DIR".to_owned(),
                place.to_string_lossy().into_owned(),
            ),
            (
                "SHARED_DIR".to_owned(),
                shared.to_string_lossy().into_owned(),
            ),
        ]);
        env.extend(self.app.exposed_env());
        env.extend(command.env.clone());
        for value in env.values_mut() {
            *value = fill(value);
        }
        let program = fill(&command.program);
        let program = if program.contains('/') && !program.starts_with('/') {
            place.join(program).to_string_lossy().into_owned()
        } else {
            program
        };
        ProcessSpec {
            program,
            args: command.args.iter().map(|arg| fill(arg)).collect(),
            env,
            folder: place.join(&command.folder),
            log: self.folders().logs(folder).join(log),
            stop_grace: self.app.stop_grace,
        }
    }

    fn fingerprint(&self) -> String {
        self.app.fingerprint(self.folders().root())
    }

    fn launch(&self, release: &Release, folder: &str) -> Launch {
        Launch {
            folder: folder.to_owned(),
            release: release.clone(),
            configuration: self.fingerprint(),
            spec: self.spec(release, &self.app.serve, folder, "serve.log"),
            drain: self.app.drain,
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

    /// The last lines of a log, without the values of secrets.
    fn tail(&self, log: &Path) -> Vec<String> {
        let redactor = self.app.redactor();
        let lines = tail(log, TAIL);
        lines.iter().map(|line| redactor.redact(line)).collect()
    }

    fn with_log(&self, failure: Failure, log: &Path) -> Failure {
        failure.with_log(log.display().to_string(), self.tail(log))
    }

    fn unhealthy(&self, what: String, health: Option<Health>, log: &Path) -> Failure {
        let mut failure = Failure::new(FailureStage::Health, what);
        if let Some(health) = health {
            // The log knows more than the answer.
            let answer = health.answer();
            let cure = answer.and_then(|a| cure_for_disallowed_host(a, &tail(log, 200)));
            if let Some(cure) = cure {
                failure = failure.with_cure(cure);
            }
            failure = failure.with_health(health.redacted(&self.app.redactor()));
        }
        self.with_log(failure, log)
    }

    async fn prepare(
        &self,
        client: &mut Client,
        release: &Release,
        folder: &str,
        number: usize,
        command: &AppCommand,
    ) -> Result<Option<Failure>, DeployError> {
        let log = format!("prepare-{:02}-{}.log", number + 1, slug(&command.name));
        let spec = self.spec(release, command, folder, &log);
        let log = spec.log.clone();
        let request = Request::Run {
            spec,
            limit: command.limit,
        };
        let name = &command.name;
        let (exit_code, what) = match client.call("run a command", request).await {
            Ok(Reply::Ended(end)) if end.code == Some(0) && !end.over_limit => return Ok(None),
            Ok(Reply::Ended(end)) => (end.code, format!("preparation command {name} {end}")),
            Ok(other) => return Err(client.confused("run a command", &other)),
            Err(DeployError::Refused { reason, .. }) => {
                (None, format!("preparation command {name}: {reason}"))
            }
            Err(error) => return Err(error),
        };
        let stage = FailureStage::Prepare {
            command: name.clone(),
            exit_code,
        };
        Ok(Some(self.with_log(Failure::new(stage, what), &log)))
    }

    /// Waits until the candidate of `client` is healthy; a candidate that ends is not waited
    /// for any longer.
    async fn candidate_health(
        &self,
        client: &mut Client,
        port: u16,
        log: &Path,
        observer: &dyn DeployObserver,
    ) -> Result<Result<Health, Failure>, DeployError> {
        let endpoint = Endpoint::loopback(port);
        let waited =
            self.app
                .window
                .wait(self.app.health.as_ref(), &endpoint, |attempt, health| {
                    observer.on_event(&DeployEvent::Probed {
                        attempt,
                        health: health.clone().redacted(&self.app.redactor()),
                    });
                });
        let ended = async {
            loop {
                match candidate_end(client).await {
                    Ok(None) => sleep(Duration::from_millis(100)).await,
                    Ok(Some(end)) => return Ok(end),
                    Err(error) => return Err(error),
                }
            }
        };
        let gone = |end: &ProcessEnd| {
            let what = format!("the release {end} before it was healthy");
            self.with_log(Failure::new(FailureStage::Start, what), log)
        };
        let waited = tokio::select! {
            waited = waited => waited,
            end = ended => return Ok(Err(gone(&end?))),
        };
        Ok(match waited {
            // Somebody else may have answered at its port.
            Waited::Healthy(health) => match candidate_end(client).await? {
                None => Ok(health),
                Some(end) => Err(gone(&end)),
            },
            Waited::TimedOut(last) => {
                let limit = self.app.window.limit;
                let seen = last.as_ref().map_or("no answer at all", Health::summary);
                let what = format!("the release was not healthy within {limit:?}: {seen}");
                Err(self.unhealthy(what, last, log))
            }
        })
    }

    async fn do_actions(
        &self,
        plan: &DeployPlan,
        client: &mut Client,
        observer: &dyn DeployObserver,
    ) -> Result<Applied, DeployError> {
        let release = &plan.release;
        let mut folder = planned_folder(plan).unwrap_or_default();
        let mut prepared = 0;
        let mut port = 0;
        for action in &plan.actions {
            observer.on_event(&DeployEvent::Started {
                action: action.clone(),
            });
            let began = Instant::now();
            let mut note = String::new();
            match action {
                Action::Sweep { folders } => self.sweep(folders).await?,
                Action::Copy { from, to } => {
                    let files = self.copy(from, to, &folder).await?;
                    note = format!("{files} files");
                }
                Action::Share { .. } => self.share(&folder).await?,
                Action::Prepare { name, .. } => {
                    let Some(command) = self.app.prepare.get(prepared) else {
                        let reason = format!("the plan's command `{name}` is not the target's");
                        return Err(self.invalid(release, reason));
                    };
                    let failed = self
                        .prepare(client, release, &folder, prepared, command)
                        .await?;
                    if let Some(failure) = failed {
                        return Ok(Applied::Failed(failure));
                    }
                    prepared += 1;
                }
                Action::Start { .. } => {
                    let launch = self.launch(release, &folder);
                    let log = launch.spec.log.clone();
                    let launch = Box::new(launch);
                    match client
                        .call("start a release", Request::Start { launch })
                        .await
                    {
                        Ok(Reply::Started { pid, port: own }) => {
                            port = own;
                            note = format!("process {pid} on port {port}");
                        }
                        Ok(other) => return Err(client.confused("start a release", &other)),
                        Err(DeployError::Refused { reason, .. }) => {
                            let failure = Failure::new(FailureStage::Start, reason);
                            return Ok(Applied::Failed(self.with_log(failure, &log)));
                        }
                        Err(error) => return Err(error),
                    }
                }
                Action::CheckHealth { .. } => {
                    let log = self.folders().logs(&folder).join("serve.log");
                    match self.candidate_health(client, port, &log, observer).await? {
                        Ok(health) => note = health.summary().to_owned(),
                        Err(failure) => {
                            // Waited for, so that nothing uses the folder when it is removed.
                            client.order("end a release", Request::Discard).await?;
                            return Ok(Applied::Failed(failure));
                        }
                    }
                }
                Action::Switch { .. } => {
                    self.mark_complete(release, &folder)?;
                    client.order("switch", Request::Promote).await?;
                }
                Action::Resume { .. } => {
                    client.order("start again", Request::Resume).await?;
                    folder = self.live_folder(client).await?;
                }
                Action::RecordSequence { sequence } => {
                    let request = Request::RecordSequence {
                        sequence: *sequence,
                    };
                    client.order("record a sequence number", request).await?;
                }
            }
            observer.on_event(&DeployEvent::Done {
                action: action.clone(),
                took: began.elapsed(),
                note,
            });
        }
        let status = client.status().await?;
        let Some(live) = status.live else {
            return Err(DeployError::Refused {
                target: self.to_string(),
                doing: "switch",
                reason: "nothing is live after the switch".to_owned(),
            });
        };
        let deployment = Deployment::new(live.release, address(status.port), live.status);
        Ok(match plan.decision {
            Decision::Unchanged { .. } => Applied::Kept(deployment),
            _ => Applied::Switched(deployment),
        })
    }

    async fn live_folder(&self, client: &mut Client) -> Result<String, DeployError> {
        let live = client.status().await?.live;
        Ok(live.map(|live| live.folder).unwrap_or_default())
    }

    async fn sweep(&self, paths: &[PathBuf]) -> Result<(), DeployError> {
        for path in paths {
            // Only what is directly below `releases/`, whatever the plan says.
            if let (Some(parent), Some(name)) = (path.parent(), path.file_name())
                && parent == self.folders().releases()
            {
                let name = name.to_string_lossy().into_owned();
                self.remove(&name).await?;
            }
        }
        Ok(())
    }

    async fn remove(&self, folder: &str) -> Result<(), DeployError> {
        let (folders, name) = (self.folders().clone(), folder.to_owned());
        let removed = spawn_blocking(move || folders.remove(&name)).await;
        let removed = removed.unwrap_or_else(|error| Err(io::Error::other(error)));
        removed.map_err(|e| DeployError::files("remove", &self.folders().release(folder), e))
    }

    async fn copy(&self, from: &Path, to: &Path, folder: &str) -> Result<u64, DeployError> {
        // Logs of an earlier try under this name would be mistaken for this one's.
        let logs = self.folders().logs(folder);
        let cleared = absent(fs::remove_dir_all(&logs)).and_then(|()| fs::create_dir_all(&logs));
        cleared.map_err(|error| DeployError::files("clear", &logs, error))?;
        let (source, place) = (from.to_path_buf(), to.to_path_buf());
        let (skip, own) = (self.app.skip.clone(), self.folders().root().to_path_buf());
        let copied = spawn_blocking(move || copy(&source, &place, &skip, &own)).await;
        let copied = copied.unwrap_or_else(|error| Err(io::Error::other(error)));
        copied.map_err(|error| DeployError::files("copy", from, error))
    }

    async fn share(&self, folder: &str) -> Result<(), DeployError> {
        let (release, shared) = (self.folders().release(folder), self.folders().shared());
        let paths = self.app.shared.clone();
        let linked = spawn_blocking(move || link_shared(&release, &shared, &paths)).await;
        let linked = linked.unwrap_or_else(|error| Err(io::Error::other(error)));
        linked.map_err(|e| {
            DeployError::files("link shared paths in", &self.folders().release(folder), e)
        })
    }

    fn mark_complete(&self, release: &Release, folder: &str) -> Result<(), DeployError> {
        let path = self.folders().complete(folder);
        let complete = Complete {
            release: release.clone(),
            configuration: self.fingerprint(),
        };
        write_json(&path, &complete).map_err(|error| DeployError::files("write", &path, error))
    }

    /// Removes the oldest releases, and logs that belong to none for long.
    async fn prune(&self, client: &mut Client) -> Result<(), DeployError> {
        let list = |error| DeployError::files("list", &self.folders().releases(), error);
        let status = client.status().await?;
        let live = status.live.map(|live| live.folder).unwrap_or_default();
        let (complete, _) = self.folders().list().map_err(list)?;
        let former: Vec<_> = complete.into_iter().filter(|name| *name != live).collect();
        let keep = self.app.keep.max(1);
        for name in &former[..former.len().saturating_sub(keep)] {
            if !status.in_use.contains(name) {
                self.remove(name).await?;
                let logs = self.folders().logs(name);
                let removed = absent(fs::remove_dir_all(&logs));
                removed.map_err(|error| DeployError::files("remove", &logs, error))?;
            }
        }
        // Logs of releases that never went live: some, for whoever looks into it.
        let known = |name: &String| self.folders().release(name).exists();
        let logs = self.folders().log_folders().map_err(list)?;
        let orphaned: Vec<_> = logs.into_iter().filter(|name| !known(name)).collect();
        for name in &orphaned[..orphaned.len().saturating_sub(FAILED_LOGS)] {
            let logs = self.folders().logs(name);
            let removed = absent(fs::remove_dir_all(&logs));
            removed.map_err(|error| DeployError::files("remove", &logs, error))?;
        }
        Ok(())
    }
}

/// The name of the folder that a plan makes.
fn planned_folder(plan: &DeployPlan) -> Option<String> {
    plan.actions.iter().find_map(|action| match action {
        Action::Copy { to, .. } => Some(to.file_name()?.to_string_lossy().into_owned()),
        _ => None,
    })
}

async fn candidate_end(client: &mut Client) -> Result<Option<ProcessEnd>, DeployError> {
    match client
        .call("tell about the candidate", Request::Candidate)
        .await?
    {
        Reply::Running => Ok(None),
        Reply::Ended(end) => Ok(Some(end)),
        other => Err(client.confused("tell about the candidate", &other)),
    }
}

/// A file name for a command's name.
fn slug(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(40)
        .collect()
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
        let source = self.check(release)?;
        let configuration = self.fingerprint();
        let decision = Decision::of(release, &configuration, observed, options);
        let live = observed.live.as_ref();
        let is_live = live.is_some_and(|live| {
            live.release.digest == release.digest
                && observed.configuration.as_ref() == Some(&configuration)
        });
        // One that runs and is sick is not helped by being started again.
        let sick = live.is_some_and(|live| live.status == DeploymentStatus::Unhealthy);
        let mut actions = Vec::new();
        match &decision {
            Decision::Refuse { .. } => {}
            _ if is_live && !sick => {
                let live_release = live.map(|live| &live.release);
                if matches!(decision, Decision::Deploy { .. })
                    && let Some(live) = live_release
                {
                    actions.push(Action::Resume {
                        release: live.id.clone(),
                    });
                }
                if let Some(sequence) = release.sequence
                    && live_release.and_then(|live| live.sequence) < Some(sequence)
                {
                    actions.push(Action::RecordSequence { sequence });
                }
            }
            _ => {
                if !observed.half_made.is_empty() {
                    actions.push(Action::Sweep {
                        folders: observed.half_made.clone(),
                    });
                }
                let folder = self.free_name(&release.id, observed);
                actions.push(Action::Copy {
                    from: source,
                    to: self.folders().release(&folder),
                });
                if !self.app.shared.is_empty() {
                    actions.push(Action::Share {
                        paths: self.app.shared.iter().map(|s| s.path.clone()).collect(),
                    });
                }
                actions.extend(self.app.prepare.iter().map(|command| Action::Prepare {
                    name: command.name.clone(),
                    command: self.app.redactor().redact(&command.to_string()),
                }));
                let from = live.filter(|live| live.status != DeploymentStatus::Stopped);
                actions.extend([
                    Action::Start {
                        command: self.app.redactor().redact(&self.app.serve.to_string()),
                    },
                    Action::CheckHealth {
                        check: self.app.health.to_string(),
                    },
                    Action::Switch {
                        from: from.map(|live| live.release.id.clone()),
                        to: release.id.clone(),
                    },
                ]);
            }
        }
        Ok(DeployPlan::new(
            self.to_string(),
            release.clone(),
            observed.live.clone(),
            decision,
            actions,
        ))
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
        Ok(
            match self.app.window.wait(check, &endpoint, |_, _| {}).await {
                Waited::Healthy(health) => Verified::Good(health),
                Waited::TimedOut(last) => {
                    let what = format!("the release is not healthy at {}", deployment.address);
                    let mut failure = self.unhealthy(what, last, &log);
                    failure.stage = FailureStage::Verify;
                    Verified::Bad(failure)
                }
            },
        )
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
