use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use super::Reporter;
use crate::{
    event::{Event, EventKind},
    step::error_chain,
};

/// Output that may wait for a slow reporter, in bytes.
const QUEUE_BYTES: usize = 16 * 1024 * 1024;
/// How long a run waits for a reporter to write what it still holds.
const FINISH_LIMIT: Duration = Duration::from_secs(10);

/// A reporter on a thread of its own. A thread, not a task: it may block on a
/// terminal for ever and must not hold the runtime up.
#[derive(Debug)]
pub(crate) struct ReporterThread {
    name: String,
    events: mpsc::Sender<Arc<Event>>,
    done: mpsc::Receiver<Option<String>>,
    queued: Arc<AtomicUsize>,
    dropped: AtomicUsize,
}

impl ReporterThread {
    pub(crate) fn start(mut reporter: Box<dyn Reporter>) -> Self {
        let (events, receiver) = mpsc::channel::<Arc<Event>>();
        let (finished, done) = mpsc::channel();
        let queued = Arc::new(AtomicUsize::new(0));
        let name = reporter.name().to_owned();
        let waiting = Arc::clone(&queued);
        let spawned = std::thread::Builder::new()
            .name(format!("reporter {name}"))
            .spawn(move || {
                let mut fault = None;
                for event in receiver {
                    waiting.fetch_sub(weight(&event), Ordering::Relaxed);
                    if fault.is_none() {
                        fault = guarded(|| reporter.report(&event));
                    }
                }
                if fault.is_none() {
                    fault = guarded(|| reporter.finish());
                }
                finished.send(fault).ok();
            });
        // Without a thread the channel is closed, which `finish` reports.
        drop(spawned);
        Self {
            name,
            events,
            done,
            queued,
            dropped: AtomicUsize::new(0),
        }
    }

    pub(crate) fn send(&self, event: &Arc<Event>) {
        let weight = weight(event);
        if weight > 0 && self.queued.load(Ordering::Relaxed) + weight > QUEUE_BYTES {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.queued.fetch_add(weight, Ordering::Relaxed);
        self.events.send(Arc::clone(event)).ok();
    }

    /// Waits for the reporter and says what went wrong with it.
    pub(crate) fn finish(self) -> Option<String> {
        let Self {
            name,
            events,
            done,
            dropped,
            ..
        } = self;
        drop(events);
        match done.recv_timeout(FINISH_LIMIT) {
            Ok(Some(fault)) => Some(format!("the reporter {name} stopped: {fault}")),
            Ok(None) => {
                let dropped = dropped.into_inner();
                (dropped > 0).then(|| {
                    format!("the reporter {name} was too slow: {dropped} lines of output were left out, the log files have them")
                })
            }
            Err(_) => Some(format!(
                "the reporter {name} did not finish in {}s",
                FINISH_LIMIT.as_secs()
            )),
        }
    }
}

fn weight(event: &Event) -> usize {
    match &event.kind {
        EventKind::Output { text, .. } => text.len() + 64,
        _ => 0,
    }
}

fn guarded(call: impl FnOnce() -> Result<(), super::ReporterError>) -> Option<String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.err().map(|error| error_chain(&error)),
        Err(_) => Some("it panicked".into()),
    }
}
