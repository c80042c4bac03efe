//! Sends requests at their times, whatever becomes of those before.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::exchange::{Connections, Target};
use super::report::{LoadReport, Sample};

/// What the traffic is like.
#[derive(Debug, Clone)]
pub(crate) struct LoadOptions {
    /// Requests a second. Default: 200.
    pub(crate) rate: u32,
    /// How requests share connections. Default: each opens its own.
    pub(crate) connections: Connections,
    /// A request without a whole answer after this time has failed. Default: 10 seconds.
    pub(crate) timeout: Duration,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            rate: 200,
            connections: Connections::New,
            timeout: Duration::from_secs(10),
        }
    }
}

impl LoadOptions {
    #[must_use]
    pub(crate) fn with_rate(mut self, rate: u32) -> Self {
        self.rate = rate;
        self
    }

    #[must_use]
    pub(crate) fn with_connections(mut self, connections: Connections) -> Self {
        self.connections = connections;
        self
    }

    #[must_use]
    pub(crate) fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// Traffic that flows until it is stopped.
///
/// The load is open: request number *n* is due *n* / rate seconds after the start, and slow
/// answers delay no later request. It runs on a thread of its own, so a test may block.
#[derive(Debug)]
pub(crate) struct Load {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    report: Mutex<LoadReport>,
    answered: Condvar,
}

impl Load {
    /// Starts to send `GET` requests to `http://HOST:PORT/PATH`.
    pub(crate) fn start(url: &str, options: &LoadOptions) -> Self {
        let shared = Arc::new(Shared::default());
        let target = Arc::new(Target::new(url, options.connections));
        let gap = Duration::from_secs(1) / options.rate;
        let run = generate(Arc::clone(&shared), target, gap, options.timeout);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let thread = std::thread::spawn(move || runtime.block_on(run));
        Self {
            shared,
            thread: Some(thread),
        }
    }

    /// Blocks until that many more requests are over, well or badly.
    pub(crate) fn wait_for_answers(&self, count: u64) {
        let report = self.shared.report.lock().unwrap();
        let goal = report.sent + count;
        let reached = self
            .shared
            .answered
            .wait_while(report, |report| report.sent < goal);
        drop(reached.unwrap());
    }

    /// The count so far.
    pub(crate) fn so_far(&self) -> LoadReport {
        self.shared.report.lock().unwrap().clone()
    }

    /// Sends no more, waits for the answers that are due and gives the count.
    pub(crate) fn stop(mut self) -> LoadReport {
        self.end();
        self.so_far()
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(
                ended.is_ok() || std::thread::panicking(),
                "the load panicked"
            );
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

async fn generate(shared: Arc<Shared>, target: Arc<Target>, gap: Duration, timeout: Duration) {
    let start = Instant::now();
    let mut requests = JoinSet::new();
    let mut number = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        let due = gap * number;
        tokio::time::sleep_until((start + due).into()).await;
        let (shared, target) = (Arc::clone(&shared), Arc::clone(&target));
        requests.spawn(async move {
            let started_late = start.elapsed().saturating_sub(due);
            let answer = tokio::time::timeout(timeout, target.exchange()).await;
            let took = start.elapsed().saturating_sub(due);
            let (opened, failure) = match answer {
                Ok(Ok(answer)) if (200..400).contains(&answer.status) => (answer.opened, None),
                Ok(Ok(answer)) => (answer.opened, Some(format!("status {}", answer.status))),
                Ok(Err(reason)) => (false, Some(reason)),
                Err(_) => (false, Some(format!("no whole answer in {timeout:?}"))),
            };
            let sample = Sample {
                due,
                started_late,
                took,
                opened,
                failure,
            };
            shared.report.lock().unwrap().add(sample);
            shared.answered.notify_all();
        });
        while requests.try_join_next().is_some() {}
        number += 1;
    }
    while requests.join_next().await.is_some() {}
}
