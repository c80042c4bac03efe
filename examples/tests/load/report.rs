//! What became of the requests.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// The count of a load. Every request that was sent is either ok or failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LoadReport {
    /// Requests whose time had come; each was tried once.
    pub(crate) sent: u64,
    /// Whole answers with a status from 200 to 399.
    pub(crate) ok: u64,
    /// Everything else.
    pub(crate) failed: u64,
    /// Why requests failed, with how many for each reason.
    pub(crate) reasons: BTreeMap<String, u64>,
    /// When the first and the last failed request were due, counted from the start.
    pub(crate) failed_between: Option<(Duration, Duration)>,
    /// Connections that were opened for whole answers.
    pub(crate) connections: u64,
    /// The longest time from when a request was due to its whole answer.
    pub(crate) slowest: Duration,
    /// The longest time that a request started after it was due. When this is long the machine
    /// was too busy to keep the rate up, and the load proves less than it says.
    pub(crate) latest_start: Duration,
}

/// One request that is over.
#[derive(Debug)]
pub(super) struct Sample {
    /// From the start of the load to when the request was due.
    pub(super) due: Duration,
    pub(super) started_late: Duration,
    pub(super) took: Duration,
    pub(super) opened: bool,
    pub(super) failure: Option<String>,
}

impl LoadReport {
    pub(super) fn add(&mut self, sample: Sample) {
        self.sent += 1;
        self.latest_start = self.latest_start.max(sample.started_late);
        self.connections += u64::from(sample.opened);
        match sample.failure {
            None => {
                self.ok += 1;
                self.slowest = self.slowest.max(sample.took);
            }
            Some(reason) => {
                self.failed += 1;
                *self.reasons.entry(reason).or_default() += 1;
                let (first, last) = self.failed_between.unwrap_or((sample.due, sample.due));
                self.failed_between = Some((first.min(sample.due), last.max(sample.due)));
            }
        }
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} requests, {} ok, {} failed, slowest {:?}, latest start {:?}, {} connections",
            self.sent, self.ok, self.failed, self.slowest, self.latest_start, self.connections
        )?;
        if let Some((first, last)) = self.failed_between {
            write!(f, "; failures from {first:?} to {last:?}")?;
        }
        self.reasons
            .iter()
            .try_for_each(|(reason, count)| write!(f, "; {count} x {reason}"))
    }
}
