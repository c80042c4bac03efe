//! Does what was planned for a local target.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::LocalTarget;
use super::app::AppCommand;
use super::client::Client;
use super::folders::{Complete, absent, write_json};
use super::instance::address;
use super::plan::planned_folder;
use super::protocol::{ProcessEnd, Reply, Request};
use super::tree::{copy, link_shared};
use crate::health::{Endpoint, Health, Waited};
use crate::release::{Deployment, Release};
use crate::target::{
    Action, Applied, Decision, DeployError, DeployEvent, DeployObserver, DeployPlan, Failure,
    FailureStage,
};

impl LocalTarget {
    pub(super) async fn do_actions(
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
            Waited::GivenUp(last) => {
                let what = format!(
                    "the release answers, but is not healthy: {}",
                    last.summary()
                );
                Err(self.unhealthy(what, Some(last), log))
            }
            Waited::TimedOut(last) => {
                let limit = self.app.window.limit;
                let seen = last.as_ref().map_or("no answer at all", Health::summary);
                let what = format!("the release was not healthy within {limit:?}: {seen}");
                Err(self.unhealthy(what, last, log))
            }
        })
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

    async fn live_folder(&self, client: &mut Client) -> Result<String, DeployError> {
        let live = client.status().await?.live;
        Ok(live.map(|live| live.folder).unwrap_or_default())
    }
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
