use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

use super::connection::{not_started, refused};
use super::process::Process;
use super::proxy::{Backend, Proxy, Route};
use crate::release::DeploymentStatus;
use crate::target::local::folders::{Folders, State, read_json, swap_link, trim, write_json};
use crate::target::local::launch::Launch;
use crate::target::local::protocol::{LiveStatus, Reply, Request, Status};

/// How long a promoted release may wait for its commit; then it counts as committed, because
/// the program that promoted it is gone.
const COMMIT_LIMIT: Duration = Duration::from_secs(60);
/// A release that ran this long before it ended is started again at once.
const STEADY: Duration = Duration::from_secs(60);
/// A log that is longer is moved aside; one such piece is kept.
const LOG_LIMIT: u64 = 32 * 1024 * 1024;
const FIRST_DELAY: Duration = Duration::from_millis(200);
const LONGEST_DELAY: Duration = Duration::from_secs(30);

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
    folders: Folders,
    state: State,
    port: u16,
    proxy: Proxy,
    messages: mpsc::Sender<Message>,
    connections: usize,
    candidates: HashMap<u64, Running>,
    live: Option<Live>,
    /// Set between promotion and commit or revert.
    promotion: Option<Promotion>,
    ending: Vec<(String, Arc<Process>)>,
    counter: u64,
}

#[derive(Debug)]
struct Running {
    launch: Launch,
    process: Arc<Process>,
    backend: Arc<Backend>,
    since: Instant,
}

#[derive(Debug)]
struct Live {
    launch: Launch,
    running: Option<Running>,
    ready: bool,
    restarts: u32,
    failures: u32,
    attempt: u64,
}

#[derive(Debug)]
struct Promotion {
    number: u64,
    former: Option<Live>,
}

impl Live {
    fn of(running: Running) -> Self {
        Self {
            launch: running.launch.clone(),
            running: Some(running),
            ready: true,
            restarts: 0,
            failures: 0,
            attempt: 0,
        }
    }
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

    /// Starts the release that was live when a predecessor ended, unless it was stopped.
    pub(super) fn restore(&mut self) {
        let Some(folder) = self.state.live.clone() else {
            return;
        };
        // A missing or damaged file: nothing can be started, the next deploy will.
        let Ok(Some(launch)) = read_json::<Launch>(&self.folders.launch(&folder)) else {
            return;
        };
        self.live = Some(Live {
            launch,
            running: None,
            ready: false,
            restarts: 0,
            failures: 0,
            attempt: 0,
        });
        if !self.state.stopped {
            self.start_live();
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

    fn spawn(&self, launch: Launch) -> Result<Running, Reply> {
        let port = free_port()
            .map_err(|error| refused(format!("no port is free on the loopback: {error}")))?;
        let process = Process::spawn(&self.folders, &launch.spec, Some(port))
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
            backend: Backend::new(port),
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

    fn resume(&mut self) -> Reply {
        let Some(live) = &self.live else {
            return refused("there is no release to start");
        };
        let running = live.running.is_some();
        self.state.stopped = false;
        if let Err(reply) = self.save() {
            return reply;
        }
        if !running {
            self.start_live();
        }
        Reply::Done
    }

    fn record_sequence(&mut self, sequence: u64) -> Reply {
        let Some(live) = &mut self.live else {
            return refused("there is no live release");
        };
        live.launch.release.sequence = Some(sequence);
        let path = self.folders.launch(&live.launch.folder);
        match write_json(&path, &live.launch) {
            Ok(()) => Reply::Done,
            Err(error) => refused(format!("{} cannot be written: {error}", path.display())),
        }
    }

    /// Starts the live release's process and holds its connections until it listens.
    fn start_live(&mut self) {
        let attempt = self.next();
        let Some(live) = &mut self.live else {
            return;
        };
        live.attempt = attempt;
        live.ready = false;
        let launch = live.launch.clone();
        self.proxy.route(Route::Held);
        match self.spawn(launch) {
            Ok(running) => {
                self.announce(&running);
                if let Some(live) = &mut self.live {
                    live.running = Some(running);
                }
            }
            Err(reply) => {
                self.note(&format!("start failed: {reply:?}"));
                self.start_later();
            }
        }
    }

    /// Sends [`Message::Ready`] once the process listens.
    fn announce(&self, running: &Running) {
        let (port, ended) = (running.backend.port(), running.process.ended());
        let (nonce, messages) = (running.process.nonce().to_owned(), self.messages.clone());
        tokio::spawn(async move {
            let listening = async {
                while TcpStream::connect((Ipv4Addr::LOCALHOST, port))
                    .await
                    .is_err()
                {
                    sleep(Duration::from_millis(25)).await;
                }
            };
            tokio::select! {
                _ = ended => {}
                () = listening => {
                    let _ = messages.send(Message::Ready { nonce }).await;
                }
            }
        });
    }

    fn ready(&mut self, nonce: &str) {
        let Some(live) = &mut self.live else {
            return;
        };
        if let Some(running) = &live.running
            && running.process.nonce() == nonce
        {
            live.ready = true;
            self.proxy.route(Route::To(running.backend.clone()));
        }
    }

    /// A process ended by itself, or at last.
    fn ended(&mut self, nonce: &str) {
        let is = |live: &Live| {
            live.running
                .as_ref()
                .is_some_and(|running| running.process.nonce() == nonce)
        };
        if let Some(former) = self.promotion.as_mut().and_then(|p| p.former.as_mut())
            && is(former)
        {
            former.running = None;
            former.ready = false;
        }
        let Some(live) = &mut self.live else {
            return;
        };
        if !is(live) {
            return;
        }
        let lived = live.running.take().map(|running| running.since.elapsed());
        live.ready = false;
        live.restarts += 1;
        let folder = live.launch.folder.clone();
        if lived.is_some_and(|lived| lived > STEADY) {
            live.failures = 0;
        }
        if !self.state.stopped {
            self.note(&format!(
                "live release {folder} ended by itself, starting it again"
            ));
            self.start_later();
        }
    }

    fn start_later(&mut self) {
        let attempt = self.next();
        let Some(live) = &mut self.live else {
            return;
        };
        live.attempt = attempt;
        let delay = FIRST_DELAY.saturating_mul(1 << live.failures.min(16));
        live.failures += 1;
        self.proxy.route(Route::Held);
        self.later(delay.min(LONGEST_DELAY), Message::StartDue { attempt });
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

    fn save(&self) -> Result<(), Reply> {
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
    fn note(&self, text: &str) {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folders.supervisor_log());
        let _ = log.and_then(|mut log| writeln!(log, "{} {text}", now.as_secs()));
    }

    fn next(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    fn later(&self, delay: Duration, message: Message) {
        let messages = self.messages.clone();
        tokio::spawn(async move {
            sleep(delay).await;
            let _ = messages.send(message).await;
        });
    }
}

/// The process of a live release, which stays known as the one to start again.
fn take_running(live: &mut Live) -> Option<Live> {
    let running = live.running.take()?;
    live.ready = false;
    Some(Live::of(running))
}

fn free_port() -> std::io::Result<u16> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}
