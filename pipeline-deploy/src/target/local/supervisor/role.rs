use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::actor::{Actor, Message};
use super::connection::listen;
use super::inherited::{close_descriptors, raise_file_limit};
use super::orphans::{end_orphans, end_own};
use super::ports::{TARGETS, spread};
use super::proxy::Proxy;
use crate::target::local::folders::{Folders, State, absent, read_json, write_json};
use crate::target::local::lock_file::{Attempt, LockFile};
use crate::target::local::tree::absolute;

/// How long a supervisor that nothing needs stays.
const IDLE: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(500);
const TRIM: Duration = Duration::from_secs(10);
/// Why a supervisor ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SupervisorEnd {
    /// Another one serves this target.
    AlreadyRunning,
    /// It was asked to stop everything.
    Stopped,
    /// There was nothing to supervise any more.
    Idle,
    /// The target's folder was removed.
    Removed,
    /// The system asked it to end (`SIGTERM`, `SIGINT`); the next one goes on.
    Terminated,
}

/// Why a supervisor could not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SupervisorError {
    /// A file or folder of the target cannot be used.
    #[error("cannot {doing} {path}")]
    Files {
        /// What was being done, as a verb.
        doing: &'static str,
        /// The file or folder.
        path: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The target's port is taken.
    #[error(
        "cannot listen on 127.0.0.1:{port}; end what listens there, or remove `port` from the target's state.json to get another address"
    )]
    Address {
        /// The port.
        port: u16,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The process cannot hear signals.
    #[error("cannot listen for signals")]
    Signals(#[source] io::Error),
}

/// Is the supervisor of the target in `folder` until it is not needed any more.
///
/// To be awaited by a process that does nothing else; see
/// [`SupervisorCommand`](crate::target::local::SupervisorCommand). Because it is the whole
/// role of its process, it makes itself the leader of a session, closes the descriptors it
/// inherited (except 0, 1 and 2), raises its limit of open files, and hears `SIGTERM`,
/// `SIGINT` and `SIGHUP`.
///
/// # Errors
/// When the folder, the address or the signals cannot be used. A second supervisor is a
/// value.
///
/// # Cancellation
/// Dropping the future ends the processes of the releases in the background; better send the
/// process `SIGTERM`.
pub async fn supervise(folder: impl AsRef<Path>) -> Result<SupervisorEnd, SupervisorError> {
    // The caller's terminal must not reach us. A leader of a group cannot, and need not.
    let _ = rustix::process::setsid();
    close_descriptors();
    let files = |doing, path: &Path| {
        let path = path.display().to_string();
        move |source| SupervisorError::Files {
            doing,
            path,
            source,
        }
    };
    let folder = folder.as_ref();
    let root = absolute(folder).map_err(files("resolve", folder))?;
    // A folder that is gone is not made again: somebody removed it.
    let identity = identity(&root).map_err(files("find", &root))?;
    let folders = Folders::new(root);
    folders.make().map_err(files("make", folders.root()))?;
    let lock = folders.supervisor_lock();
    let note = std::process::id().to_string();
    let _lock = match LockFile::try_acquire(&lock, &note).map_err(files("lock", &lock))? {
        Attempt::Acquired(lock) => lock,
        Attempt::Held(_) => return Ok(SupervisorEnd::AlreadyRunning),
    };
    let mut signals = Signals::listen().map_err(SupervisorError::Signals)?;
    end_orphans(&folders).await;

    let path = folders.state();
    let mut state: State = read_json(&path)
        .map_err(files("read", &path))?
        .unwrap_or_default();
    let (listener, port) = bind(&state).await?;
    if state.port != Some(port) {
        state.port = Some(port);
        write_json(&path, &state).map_err(files("write", &path))?;
    }
    let (messages, mut heard) = mpsc::channel(64);
    let mut actor = Actor::new(
        folders.clone(),
        state,
        port,
        Proxy::start(listener, raise_file_limit()),
        messages.clone(),
    );
    actor.restore();
    listen(&folders, messages).map_err(files("listen in", &folders.run()))?;

    let mut trim = interval(TRIM);
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut idle_since = None;
    let end = loop {
        tokio::select! {
            Some(message) = heard.recv() => {
                let stopped = matches!(message, Message::StopAnswered);
                actor.handle(message).await;
                if stopped {
                    break SupervisorEnd::Stopped;
                }
            }
            () = signals.asked_to_end() => break SupervisorEnd::Terminated,
            _ = trim.tick() => actor.trim_logs(),
            _ = look.tick() => {
                if self::identity(folders.root()).ok() != Some(identity) {
                    break SupervisorEnd::Removed;
                }
                if !actor.is_idle() {
                    idle_since = None;
                } else if idle_since.get_or_insert_with(Instant::now).elapsed() > IDLE {
                    break SupervisorEnd::Idle;
                }
            }
        }
    };
    actor.close().await;
    // Also commands that a connection was just running.
    end_own().await;
    if end != SupervisorEnd::Removed {
        let socket = folders.run().join(Folders::SOCKET);
        absent(std::fs::remove_file(&socket)).map_err(files("remove", &socket))?;
    }
    Ok(end)
}

fn identity(folder: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::metadata(folder)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// The listener of the stable address; a target without one gets a free port for ever.
async fn bind(state: &State) -> Result<(TcpListener, u16), SupervisorError> {
    if let Some(port) = state.port {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
                Ok(listener) => return Ok((listener, port)),
                // A predecessor may be about to let go of it.
                Err(_) if Instant::now() < deadline => sleep(Duration::from_millis(50)).await,
                Err(source) => return Err(SupervisorError::Address { port, source }),
            }
        }
    }
    let mut last = None;
    for port in spread(TARGETS, 0) {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
            Ok(listener) => return Ok((listener, port)),
            Err(source) => last = Some(SupervisorError::Address { port, source }),
        }
    }
    Err(last.unwrap_or(SupervisorError::Address {
        port: TARGETS.start,
        source: io::ErrorKind::AddrInUse.into(),
    }))
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn asked_to_end(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                // Terminals that close are none of our business.
                _ = self.hang_up.recv() => {}
            }
        }
    }
}
