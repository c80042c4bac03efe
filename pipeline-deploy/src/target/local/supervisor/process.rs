use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use super::orphans::{self, PROCESS_TAG, SUPERVISOR_TAG, TARGET_TAG};
use crate::target::local::folders::Folders;
use crate::target::local::launch::ProcessSpec;
use crate::target::local::protocol::ProcessEnd;
use crate::target::local::supervisor_command::DEFAULT_PATH;

/// A process of a release with all its descendants. Dropping it ends them.
#[derive(Debug)]
pub(super) struct Process {
    pid: u32,
    nonce: String,
    stop: watch::Sender<bool>,
    end: watch::Receiver<Option<ProcessEnd>>,
}

impl Process {
    /// Starts it in a process group of its own, its output appended to its log.
    pub(super) fn spawn(
        folders: &Folders,
        spec: &ProcessSpec,
        port: Option<u16>,
    ) -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let supervisor = orphans::own_name();
        let nonce = format!("{supervisor}-{count}");
        if let Some(folder) = spec.log.parent() {
            fs::create_dir_all(folder)?;
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&spec.log)?;
        let fill = |arg: &String| match port {
            Some(port) => arg.replace("{port}", &port.to_string()),
            None => arg.clone(),
        };
        let mut command = Command::new(&spec.program);
        command
            .args(spec.args.iter().map(fill))
            .env_clear()
            .env("PATH", DEFAULT_PATH)
            .envs(port.map(|port| ("PORT", port.to_string())))
            .envs(&spec.env)
            .env(TARGET_TAG, folders.root())
            .env(SUPERVISOR_TAG, supervisor)
            .env(PROCESS_TAG, &nonce)
            .current_dir(&spec.folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        let child = command.spawn()?;
        let pid = child.id().unwrap_or_default();
        let Some(group) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            return Err(io::Error::other("the process has no number"));
        };
        orphans::record(folders, group);
        let (stop, stop_heard) = watch::channel(false);
        let (end_sent, end) = watch::channel(None);
        let minder = Minder {
            child,
            group,
            nonce: nonce.clone(),
            grace: spec.stop_grace,
            folders: folders.clone(),
            stop: stop_heard,
        };
        tokio::spawn(async move {
            let end = minder.mind().await;
            end_sent.send_replace(Some(end));
        });
        Ok(Self {
            pid,
            nonce,
            stop,
            end,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Unique among the processes of all supervisors that ran at the same time.
    pub(super) fn nonce(&self) -> &str {
        &self.nonce
    }

    /// Asks it to end, politely and then by force; see [`ended`](Self::ended).
    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }

    pub(super) fn end(&self) -> Option<ProcessEnd> {
        self.end.borrow().clone()
    }

    /// A future that is ready when the process and its descendants have ended.
    pub(super) fn ended(&self) -> impl Future<Output = ProcessEnd> + Send + use<> {
        let mut end = self.end.clone();
        async move {
            let lost = ProcessEnd {
                code: None,
                signal: None,
                over_limit: false,
            };
            match end.wait_for(Option::is_some).await {
                Ok(end) => end.clone().unwrap_or(lost),
                Err(_) => lost,
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Minder {
    child: Child,
    group: Pid,
    nonce: String,
    grace: Duration,
    folders: Folders,
    stop: watch::Receiver<bool>,
}

impl Minder {
    async fn mind(mut self) -> ProcessEnd {
        let ended = tokio::select! {
            status = self.child.wait() => Some(status),
            // An error means that the handle is gone, which asks for the same.
            _ = self.stop.wait_for(|stop| *stop) => None,
        };
        let status = match ended {
            Some(status) => status,
            None => self.end().await,
        };
        // What left the group, or outlived its leader, is found by its tag. The number of
        // the group may belong to others by now.
        let tag = orphans::tag(PROCESS_TAG, &self.nonce);
        orphans::end_tagged(&tag, Duration::from_secs(2)).await;
        orphans::forget(&self.folders, self.group);
        let status = status.ok();
        ProcessEnd {
            code: status.as_ref().and_then(ExitStatus::code),
            signal: status.as_ref().and_then(ExitStatusExt::signal),
            over_limit: false,
        }
    }

    async fn end(&mut self) -> io::Result<ExitStatus> {
        // The leader was not waited for yet, so the group's number is still its own.
        let _ = kill_process_group(self.group, Signal::TERM);
        if let Ok(status) = timeout(self.grace, self.child.wait()).await {
            return status;
        }
        let _ = kill_process_group(self.group, Signal::KILL);
        self.child.wait().await
    }
}
