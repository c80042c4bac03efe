use std::path::Path;

use tokio::task::spawn_blocking;

use super::client::Client;
use super::folders::{Folders, State, absent, read_json, tail, write_json};
use super::launch::Launch;
use super::lock_file::{Attempt, LockFile};
use super::protocol::{Request, Status};
use super::supervisor::{end_orphans, process_gone};
use super::tree::absolute;
use crate::release::{Deployment, DeploymentStatus};
use crate::target::{DeployError, Observation};

/// The folder of a local target, to look at it and to stop it; deploying needs a
/// [`LocalTarget`](super::LocalTarget).
#[derive(Debug, Clone)]
pub struct LocalInstance {
    pub(super) folders: Folders,
}

/// How a local target is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LocalStatus {
    /// The live release, also when it is stopped.
    pub live: Option<Deployment>,
    /// The supervisor's process, when it runs.
    pub supervisor: Option<u32>,
    /// The live release's process, when it runs.
    pub process: Option<u32>,
    /// How often the live release ended by itself and was started again.
    pub restarts: u32,
}

impl LocalInstance {
    /// The target in `folder`, which need not exist yet.
    ///
    /// # Errors
    /// [`DeployError::Files`] when the path cannot be resolved.
    pub fn new(folder: impl AsRef<Path>) -> Result<Self, DeployError> {
        let folder = folder.as_ref();
        let root =
            absolute(folder).map_err(|error| DeployError::files("resolve", folder, error))?;
        Ok(Self {
            folders: Folders::new(root),
        })
    }

    /// Looks at it. Changes nothing and starts nothing.
    ///
    /// # Errors
    /// When its files cannot be read or its supervisor does not answer.
    pub async fn status(&self) -> Result<LocalStatus, DeployError> {
        Ok(self.look().await?.status)
    }

    pub(super) async fn observe(&self) -> Result<Observation, DeployError> {
        let Seen {
            status,
            folder,
            configuration,
        } = self.look().await?;
        let list = |error| DeployError::files("list", &self.folders.releases(), error);
        let (kept, mut half_made) = self.folders.list().map_err(list)?;
        // Never swept, whatever happened to its mark.
        half_made.retain(|name| Some(name) != folder.as_ref());
        // Somebody removed its files: it cannot be started again as it is.
        let complete = folder.is_some_and(|folder| kept.contains(&folder));
        let configuration = configuration.filter(|_| complete);
        let paths = |names: Vec<String>| names.iter().map(|n| self.folders.release(n)).collect();
        Ok(Observation {
            live: status.live,
            configuration,
            kept: paths(kept),
            half_made: paths(half_made),
        })
    }

    async fn look(&self) -> Result<Seen, DeployError> {
        if let Some(mut client) = Client::connect(&self.folders).await? {
            match client.status().await {
                Ok(status) => return Ok(running(status)),
                // It ended between the two calls.
                Err(DeployError::Unreachable {
                    source: Some(_), ..
                }) => {}
                Err(error) => return Err(error),
            }
        }
        let read = |error| DeployError::files("read", &self.folders.state(), error);
        let state: State = read_json(&self.folders.state())
            .map_err(read)?
            .unwrap_or_default();
        let (Some(folder), Some(port)) = (state.live, state.port) else {
            return Ok(Seen::default());
        };
        let launch = self.folders.launch(&folder);
        let read = |error| DeployError::files("read", &launch, error);
        let Some(launch) = read_json::<Launch>(&launch).map_err(read)? else {
            return Ok(Seen::default());
        };
        let live = Deployment::new(launch.release, address(port), DeploymentStatus::Stopped);
        let status = LocalStatus {
            live: Some(live),
            ..LocalStatus::default()
        };
        Ok(Seen {
            status,
            folder: Some(folder),
            configuration: Some(launch.configuration),
        })
    }

    /// Ends the release, its supervisor and everything they started, and frees the port. The
    /// files stay; the next deploy of the same release starts it again at the same address.
    ///
    /// Nothing running is fine.
    ///
    /// # Errors
    /// When the supervisor does not answer or a file cannot be written.
    ///
    /// # Cancellation
    /// Once asked, the supervisor ends everything, whether the future is dropped or not.
    pub async fn stop(&self) -> Result<(), DeployError> {
        if !self.folders.root().exists() {
            return Ok(());
        }
        // Twice, because one that is asked may have been ending already.
        for _ in 0..2 {
            if let Some(mut client) = Client::connect(&self.folders).await? {
                let pid = client.status().await.map(|status| status.pid);
                let stopped = client.order("stop", Request::Stop).await;
                if let (Ok(pid), Ok(())) = (pid, stopped) {
                    client.closed().await;
                    process_gone(pid).await;
                    return Ok(());
                }
            }
        }
        // Without a supervisor its processes may still run: it was killed.
        let lock = self.folders.supervisor_lock();
        let files = |doing| move |error| DeployError::files(doing, self.folders.root(), error);
        self.folders.make().map_err(files("make"))?;
        let Attempt::Acquired(_lock) = LockFile::try_acquire(&lock, "").map_err(files("lock"))?
        else {
            return Err(DeployError::Unreachable {
                target: format!("the supervisor of {}", self.folders.root().display()),
                doing: "stop",
                reason: "it is just starting or ending; try again".to_owned(),
                source: None,
            });
        };
        end_orphans(&self.folders).await;
        let mut state: State = read_json(&self.folders.state())
            .map_err(files("read the state of"))?
            .unwrap_or_default();
        state.stopped = true;
        write_json(&self.folders.state(), &state).map_err(files("write the state of"))?;
        absent(std::fs::remove_file(
            self.folders.run().join(Folders::SOCKET),
        ))
        .map_err(files("clean"))
    }

    /// The last `lines` lines that the live release wrote.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub async fn log_tail(&self, lines: usize) -> Result<Vec<String>, DeployError> {
        let read = |error| DeployError::files("read", &self.folders.state(), error);
        let state: State = read_json(&self.folders.state())
            .map_err(read)?
            .unwrap_or_default();
        let Some(folder) = state.live else {
            return Ok(Vec::new());
        };
        let log = self.folders.logs(&folder).join("serve.log");
        Ok(spawn_blocking(move || tail(&log, lines))
            .await
            .unwrap_or_default())
    }
}

/// What is known about what runs.
#[derive(Debug, Default)]
struct Seen {
    status: LocalStatus,
    /// The live release's folder and the hash of its configuration.
    folder: Option<String>,
    configuration: Option<String>,
}

fn running(status: Status) -> Seen {
    let Status {
        pid, port, live, ..
    } = status;
    let mut seen = Seen::default();
    seen.status.supervisor = Some(pid);
    if let Some(live) = live {
        let deployment = Deployment::new(live.release, address(port), live.status);
        seen.status.live = Some(deployment);
        seen.status.process = live.pid;
        seen.status.restarts = live.restarts;
        seen.folder = Some(live.folder);
        seen.configuration = Some(live.configuration);
    }
    seen
}

pub(super) fn port_of(address: &str) -> Option<u16> {
    address.strip_suffix('/')?.rsplit(':').next()?.parse().ok()
}

pub(super) fn address(port: u16) -> String {
    format!("http://127.0.0.1:{port}/")
}
