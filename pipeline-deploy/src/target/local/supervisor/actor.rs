use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

use super::connection::{not_started, refused};
use super::live::{Live, Running, take_running};
use super::ports::PortClaim;
use super::process::Process;
use super::proxy::{Backend, Proxy, Route};
use crate::release::DeploymentStatus;
use crate::target::local::folders::{Folders, State, swap_link, trim, write_json};
use crate::target::local::launch::Launch;
use crate::target::local::protocol::{LiveStatus, Reply, Request, Status};

/// How long a promoted release may wait for its commit; then it counts as committed, because
/// the program that promoted it is gone.
const COMMIT_LIMIT: Duration = Duration::from_secs(60);
/// A log that is longer is moved aside; one such piece is kept.
const LOG_LIMIT: u64 = 32 * 1024 * 1024;

/// What the actor hears.
#[derive(Debug)]
pub(super) enum Message {
    Opened,
    Closed(u64),
    Asked {
        connection: u64,
        request: Box<Request>,
        reply: oneshot::Sender<Reply>,
    },
    StopAnswered,
    Ended {
        nonce: String,
    },
    Ready {
        nonce: String,
    },
    StartDue {
        attempt: u64,
    },
    CommitDue {
        promotion: u64,
    },
}

/// Owns everything that changes; the only one that changes it.
pub(super) struct Actor {
    pub(super) folders: Folders,
    pub(super) state: State,
    port: u16,
    pub(super) proxy: Proxy,
    pub(super) messages: mpsc::Sender<Message>,
    connections: usize,
    candidates: HashMap<u64, Running>,
    pub(super) live: Option<Live>,
    /// Set between promotion and commit or revert.
    pub(super) promotion: Option<Promotion>,
    ending: Vec<(String, Arc<Process>)>,
    counter: u64,
}

#[derive(Debug)]
pub(super) struct Promotion {
    number: u64,
    pub(super) former: Option<Live>,
}

impl Actor {
    pub(super) fn new(
        folders: Folders,
        state: State,
        port: u16,
        proxy: Proxy,
        messages: mpsc::Sender<Message>,
    ) -> Self {
        Self {
            folders,
            state,
            port,
            proxy,
            messages,
            connections: 0,
            candidates: HashMap::new(),
            live: None,
            promotion: None,
            ending: Vec::new(),
            counter: 0,
        }
    }

    /// Whether nothing needs this process.
    pub(super) fn is_idle(&self) -> bool {
        self.connections == 0
            && self.candidates.is_empty()
            && self
                .ending
                .iter()
                .all(|(_, process)| process.end().is_some())
            && (self.live.is_none() || self.state.stopped)
    }

    pub(super) async fn handle(&mut self, message: Message) {
        match message {
            Message::Opened => self.connections += 1,
            Message::Closed(connection) => {
                self.connections -= 1;
                if let Some(candidate) = self.candidates.remove(&connection) {
                    self.end(candidate);
                }
            }
            Message::Asked {
                connection,
                request,
                reply,
            } => self.asked(connection, *request, reply).await,
            Message::StopAnswered => {}
            Message::Ended { nonce } => self.ended(&nonce),
            Message::Ready { nonce } => self.ready(&nonce),
            Message::StartDue { attempt } => {
                if self.live.as_ref().is_some_and(|live| {
                    live.attempt == attempt && live.running.is_none() && !self.state.stopped
                }) {
                    self.start_live();
                }
            }
            Message::CommitDue { promotion } => {
                if self
                    .promotion
                    .as_ref()
                    .is_some_and(|p| p.number == promotion)
                {
                    self.commit();
                }
            }
        }
        self.ending.retain(|(_, process)| process.end().is_none());
    }

    async fn asked(&mut self, connection: u64, request: Request, reply: oneshot::Sender<Reply>) {
        let answer = match request {
            Request::Discard => {
                let candidate = self.candidates.remove(&connection);
                let ended = candidate
                    .as_ref()
                    .map(|candidate| candidate.process.ended());
                if let Some(candidate) = candidate {
                    self.end(candidate);
                }
                // Answered when it has ended; others are heard meanwhile.
                tokio::spawn(async move {
                    if let Some(ended) = ended {
                        ended.await;
                    }
                    let _ = reply.send(Reply::Done);
                });
                return;
            }
            Request::Stop => self.stop().await,
            request => self.answer(connection, request),
        };
        let _ = reply.send(answer);
    }

    async fn stop(&mut self) -> Reply {
        self.note("stopping everything, as asked");
        self.state.stopped = true;
        self.proxy.route(Route::Nowhere);
        let saved = self.save();
        self.end_all().await;
        match saved {
            Ok(()) => Reply::Done,
            Err(reply) => reply,
        }
    }

    fn answer(&mut self, connection: u64, request: Request) -> Reply {
        match request {
            Request::Status => Reply::Status(Box::new(self.status())),
            Request::Start { launch } => self.start_candidate(connection, *launch),
            Request::Candidate => match self.candidates.get(&connection) {
                None => refused("this connection has started nothing"),
                Some(candidate) => match candidate.process.end() {
                    None => Reply::Running,
                    Some(end) => Reply::Ended(end),
                },
            },
            Request::Promote => self.promote(connection),
            Request::Commit => {
                self.commit();
                Reply::Done
            }
            Request::Revert => self.revert(),
            Request::Resume => self.resume(),
            Request::RecordSequence { sequence } => self.record_sequence(sequence),
            Request::Run { .. } | Request::Discard | Request::Stop => {
                refused("this is answered elsewhere")
            }
        }
    }

    fn status(&self) -> Status {
        let mut in_use: Vec<_> = self
            .ending
            .iter()
            .map(|(folder, _)| folder.clone())
            .collect();
        in_use.extend(self.candidates.values().map(|c| c.launch.folder.clone()));
        let former = self.promotion.as_ref().and_then(|p| p.former.as_ref());
        in_use.extend(former.map(|live| live.launch.folder.clone()));
        Status {
            pid: std::process::id(),
            port: self.port,
            live: self.live.as_ref().map(|live| LiveStatus {
                folder: live.launch.folder.clone(),
                release: live.launch.release.clone(),
                configuration: live.launch.configuration.clone(),
                status: match (self.state.stopped, live.ready) {
                    (true, _) => DeploymentStatus::Stopped,
                    (false, true) => DeploymentStatus::Live,
                    (false, false) => DeploymentStatus::Restarting,
                },
                pid: live.running.as_ref().map(|running| running.process.pid()),
                restarts: live.restarts,
            }),
            uncommitted: match (&self.promotion, &self.live) {
                (Some(_), Some(live)) => Some(live.launch.folder.clone()),
                _ => None,
            },
            in_use,
        }
    }

    fn start_candidate(&mut self, connection: u64, launch: Launch) -> Reply {
        if self.candidates.contains_key(&connection) {
            return refused("this connection has started something already");
        }
        // Written before it runs, so that a promotion has one thing less that can fail.
        let path = self.folders.launch(&launch.folder);
        if let Err(error) = write_json(&path, &launch) {
            return refused(format!("{} cannot be written: {error}", path.display()));
        }
        match self.spawn(launch) {
            Ok(candidate) => {
                let reply = Reply::Started {
                    pid: candidate.process.pid(),
                    port: candidate.backend.port(),
                };
                self.candidates.insert(connection, candidate);
                reply
            }
            Err(reply) => reply,
        }
    }

    pub(super) fn spawn(&self, launch: Launch) -> Result<Running, Reply> {
        let claim = PortClaim::new()
            .map_err(|error| refused(format!("no port is free on the loopback: {error}")))?;
        let process = Process::spawn(&self.folders, &launch.spec, Some(claim.port()))
            .map_err(|error| refused(not_started(&launch.spec.program, &error)))?;
        let (ended, messages) = (process.ended(), self.messages.clone());
        let nonce = process.nonce().to_owned();
        tokio::spawn(async move {
            ended.await;
            let _ = messages.send(Message::Ended { nonce }).await;
        });
        Ok(Running {
            launch,
            process: Arc::new(process),
            backend: Backend::new(claim),
            since: Instant::now(),
        })
    }

    fn promote(&mut self, connection: u64) -> Reply {
        let Some(candidate) = self.candidates.remove(&connection) else {
            return refused("this connection has started nothing");
        };
        if let Some(end) = candidate.process.end() {
            return refused(format!("the release {end} before it was promoted"));
        }
        // An earlier promotion whose program is gone stands.
        self.commit();
        let before = self.state.clone();
        self.state.live = Some(candidate.launch.folder.clone());
        self.state.stopped = false;
        // Durable first: after a crash the release that had the traffic has it again.
        if let Err(reply) = self.save() {
            self.state = before;
            self.end(candidate);
            return reply;
        }
        self.proxy.route(Route::To(candidate.backend.clone()));
        self.point_current();
        self.note(&format!(
            "release {} has the traffic",
            candidate.launch.folder
        ));
        let former = self.live.replace(Live::of(candidate));
        let number = self.next();
        self.promotion = Some(Promotion { number, former });
        self.later(COMMIT_LIMIT, Message::CommitDue { promotion: number });
        Reply::Done
    }

    /// Lets the former release finish and end.
    fn commit(&mut self) {
        let former = self.promotion.take().and_then(|promotion| promotion.former);
        if let Some(running) = former.and_then(|live| live.running) {
            self.end(running);
        }
    }

    fn revert(&mut self) -> Reply {
        let Some(Promotion { former, .. }) = self.promotion.take() else {
            return refused("no release waits for its commit");
        };
        self.state.live = former.as_ref().map(|live| live.launch.folder.clone());
        let failed = self.live.take();
        self.live = former;
        match &self.live {
            None => self.proxy.route(Route::Nowhere),
            Some(Live {
                running: Some(running),
                ready: true,
                ..
            }) => self.proxy.route(Route::To(running.backend.clone())),
            Some(Live {
                running: Some(_), ..
            }) => self.proxy.route(Route::Held),
            // It ended while it waited.
            Some(Live { running: None, .. }) => self.start_live(),
        }
        self.point_current();
        self.note("the last promotion was reverted");
        if let Some(running) = failed.and_then(|live| live.running) {
            self.end(running);
        }
        match self.save() {
            Ok(()) => Reply::Done,
            Err(reply) => reply,
        }
    }

    /// Ends a process that gets no new connections, after it finished those it has.
    fn end(&mut self, running: Running) {
        let Running {
            launch,
            process,
            backend,
            ..
        } = running;
        self.ending.push((launch.folder, process.clone()));
        tokio::spawn(async move {
            let ended = process.ended();
            tokio::select! {
                _ = timeout(launch.drain, backend.drained()) => {}
                _ = ended => {}
            }
            process.stop();
            process.ended().await;
        });
    }

    /// Ends all processes at once, without waiting for their connections.
    async fn end_all(&mut self) {
        let former = self.promotion.take().and_then(|promotion| promotion.former);
        let lives = [former, self.live.as_mut().and_then(take_running)];
        let running = lives
            .into_iter()
            .flatten()
            .filter_map(|live| live.running)
            .chain(self.candidates.drain().map(|(_, candidate)| candidate))
            .map(|running| running.process);
        let ending = self.ending.drain(..).map(|(_, process)| process);
        let all: Vec<_> = running.chain(ending).collect();
        for process in &all {
            process.stop();
        }
        for process in &all {
            process.ended().await;
        }
    }

    pub(super) fn save(&self) -> Result<(), Reply> {
        let path = self.folders.state();
        write_json(&path, &self.state)
            .map_err(|error| refused(format!("{} cannot be written: {error}", path.display())))
    }

    /// For people and scripts; nothing here depends on it, so a failure is no failure.
    fn point_current(&self) {
        let current = self.folders.current();
        let _ = match &self.state.live {
            Some(folder) => swap_link(&current, &Path::new("releases").join(folder)),
            None => std::fs::remove_file(current),
        };
    }

    /// Keeps the logs that nobody else keeps short from filling the disk.
    pub(super) fn trim_logs(&self) {
        let live = self.live.as_ref().map(|live| &live.launch.spec.log);
        // Best effort: a log that cannot be cut is no reason to do anything else.
        for log in live.into_iter().chain([&self.folders.supervisor_log()]) {
            let _ = trim(log, LOG_LIMIT);
        }
    }

    /// Ends everything and frees the address.
    pub(super) async fn close(mut self) {
        self.end_all().await;
        self.proxy.close().await;
    }

    /// Adds a line to the supervisor's log; best effort.
    pub(super) fn note(&self, text: &str) {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folders.supervisor_log());
        let _ = log.and_then(|mut log| writeln!(log, "{} {text}", now.as_secs()));
    }

    pub(super) fn next(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    pub(super) fn later(&self, delay: Duration, message: Message) {
        let messages = self.messages.clone();
        tokio::spawn(async move {
            sleep(delay).await;
            let _ = messages.send(message).await;
        });
    }
}
