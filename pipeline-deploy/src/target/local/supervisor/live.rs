//! The life of the live release: started again when it ends.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::actor::{Actor, Message};
use super::connection::refused;
use super::process::Process;
use super::proxy::{Backend, Route};
use crate::target::local::folders::{read_json, write_json};
use crate::target::local::launch::Launch;
use crate::target::local::protocol::Reply;

/// A release that ran this long before it ended is started again at once.
const STEADY: Duration = Duration::from_secs(60);
const FIRST_DELAY: Duration = Duration::from_millis(200);
const LONGEST_DELAY: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Running {
    pub(super) launch: Launch,
    pub(super) process: Arc<Process>,
    pub(super) backend: Arc<Backend>,
    pub(super) since: Instant,
}

#[derive(Debug)]
pub(super) struct Live {
    pub(super) launch: Launch,
    pub(super) running: Option<Running>,
    pub(super) ready: bool,
    pub(super) restarts: u32,
    pub(super) failures: u32,
    pub(super) attempt: u64,
}

impl Live {
    pub(super) fn of(running: Running) -> Self {
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

    pub(super) fn resume(&mut self) -> Reply {
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

    pub(super) fn record_sequence(&mut self, sequence: u64) -> Reply {
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
    pub(super) fn start_live(&mut self) {
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

    pub(super) fn ready(&mut self, nonce: &str) {
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
    pub(super) fn ended(&mut self, nonce: &str) {
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
}

/// The process of a live release, which stays known as the one to start again.
pub(super) fn take_running(live: &mut Live) -> Option<Live> {
    let running = live.running.take()?;
    live.ready = false;
    Some(Live::of(running))
}
