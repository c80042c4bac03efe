//! [`ServiceLog`]: the last lines of a service, and whether a line was there.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use super::readiness::LogReadiness;

/// Lines that are kept for messages.
const TAIL_LINES: usize = 40;
/// A longer line is cut, so that an endless one stays bounded.
const LONGEST_LINE: usize = 4 * 1024;

/// Follows what a service writes.
#[derive(Debug)]
pub(super) struct ServiceLog {
    inner: Mutex<Inner>,
    /// Grows when a pattern has matched.
    matched: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    tail: VecDeque<String>,
    /// The line that has no end yet, of each stream.
    open: [Vec<u8>; 2],
    wanted: Vec<(LogReadiness, u32)>,
}

impl ServiceLog {
    /// A log that watches for these lines from the first one on.
    pub(super) fn new(wanted: impl IntoIterator<Item = LogReadiness>) -> Self {
        Self {
            inner: Mutex::new(Inner {
                tail: VecDeque::new(),
                open: [Vec::new(), Vec::new()],
                wanted: wanted.into_iter().map(|wanted| (wanted, 0)).collect(),
            }),
            matched: watch::Sender::new(0),
        }
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what stream 0 or 1 wrote.
    pub(super) fn push(&self, stream: usize, bytes: &[u8]) {
        let mut inner = self.inner();
        let mut matched = false;
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let line = &mut inner.open[stream & 1];
            let room = LONGEST_LINE.saturating_sub(line.len());
            line.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                matched |= inner.line(stream);
            }
        }
        drop(inner);
        if matched {
            self.matched.send_modify(|count| *count += 1);
        }
    }

    /// The service writes no more.
    pub(super) fn finish(&self) {
        let mut inner = self.inner();
        for stream in [0, 1] {
            if !inner.open[stream].is_empty() {
                inner.line(stream);
            }
        }
    }

    pub(super) fn tail(&self) -> Vec<String> {
        self.inner().tail.iter().cloned().collect()
    }

    /// Waits until the pattern of this number was seen often enough.
    pub(super) async fn seen(&self, number: usize) {
        let mut matched = self.matched.subscribe();
        loop {
            matched.borrow_and_update();
            let done = self
                .inner()
                .wanted
                .get(number)
                .is_none_or(|(wanted, count)| *count >= wanted.times);
            if done || matched.changed().await.is_err() {
                return;
            }
        }
    }
}

impl Inner {
    /// Ends the open line; whether some pattern matched it.
    fn line(&mut self, stream: usize) -> bool {
        let bytes = std::mem::take(&mut self.open[stream & 1]);
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_end_matches(['\n', '\r']);
        let mut matched = false;
        for (wanted, count) in &mut self.wanted {
            if wanted.pattern.matches(text) {
                *count += 1;
                matched = true;
            }
        }
        if self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(text.to_owned());
        matched
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_found_however_they_are_cut() {
        let log = ServiceLog::new([
            LogReadiness::text("ready to accept").with_times(2),
            LogReadiness::regex(r"^port \d+$").unwrap(),
        ]);
        log.push(0, b"is ready to acc");
        log.push(1, b"port 80\nother ");
        log.push(0, b"ept\nready to accept\n");
        log.push(1, b"end");
        log.seen(0).await;
        log.seen(1).await;
        log.finish();
        assert_eq!(
            log.tail(),
            [
                "port 80",
                "is ready to accept",
                "ready to accept",
                "other end"
            ]
        );
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let log = ServiceLog::new([]);
        log.push(0, &vec![b'x'; 1 << 20]);
        for _ in 0..1000 {
            log.push(0, b"\n");
        }
        assert_eq!(log.tail().len(), TAIL_LINES);
        log.push(0, &vec![b'y'; 1 << 20]);
        log.finish();
        assert_eq!(log.tail().last().map(String::len), Some(LONGEST_LINE));
    }
}
