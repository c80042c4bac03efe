//! What an operation tells while it runs.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::oci::Digest;

use super::rate_limit::RateLimit;

/// What became of one blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum BlobOutcome {
    /// Its bytes were sent.
    Uploaded,
    /// Its bytes were fetched.
    Downloaded,
    /// The destination had it.
    Existed,
    /// The registry took it over from another of its repositories.
    Mounted {
        /// That repository.
        from: String,
    },
    /// Left where its `urls` say, as its media type demands.
    Foreign,
}

/// Something that happened during a transfer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "type")]
#[non_exhaustive]
pub enum TransferEvent {
    /// Work on a blob began.
    BlobStarted {
        /// The blob.
        digest: Digest,
        /// Its bytes.
        size: u64,
    },
    /// Bytes moved.
    BlobProgress {
        /// The blob.
        digest: Digest,
        /// Bytes of it that are over by now. Falls back when a transfer starts again.
        transferred: u64,
        /// Its bytes.
        size: u64,
    },
    /// Work on a blob ended.
    BlobFinished {
        /// The blob.
        digest: Digest,
        /// How.
        outcome: BlobOutcome,
    },
    /// A manifest is in place.
    ManifestFinished {
        /// The manifest.
        digest: Digest,
    },
    /// A request is tried again.
    Retrying {
        /// What was to be done.
        action: String,
        /// Which try comes now; the first was 1.
        attempt: u32,
        /// The wait before it.
        delay: Duration,
        /// Why the one before failed.
        reason: String,
    },
    /// The registry said how many pulls are left.
    RateLimit {
        /// What it said.
        limit: RateLimit,
    },
    /// Something a person should know, such as a pull without credentials.
    Warning {
        /// In plain words.
        message: String,
    },
}

/// Hears what a transfer does.
///
/// # Contract
///
/// Called from the tasks that move the bytes, from several at once, in order for each blob. It
/// must return quickly and not block: it stands in the way of the bytes.
pub trait TransferObserver: fmt::Debug + Send + Sync {
    /// One event.
    fn event(&self, event: &TransferEvent);
}

/// The counters and the observer of one operation.
#[derive(Debug, Default)]
pub(crate) struct Operation {
    observer: Option<Arc<dyn TransferObserver>>,
    retries: AtomicU32,
    sent: AtomicU64,
    received: AtomicU64,
    rate_limit: Mutex<Option<RateLimit>>,
}

impl Operation {
    pub(crate) fn new(observer: Option<Arc<dyn TransferObserver>>) -> Arc<Self> {
        Arc::new(Self {
            observer,
            ..Self::default()
        })
    }

    pub(crate) fn tell(&self, event: &TransferEvent) {
        if let Some(observer) = &self.observer {
            observer.event(event);
        }
    }

    pub(crate) fn retrying(&self, action: &str, attempt: u32, delay: Duration, reason: String) {
        self.retries.fetch_add(1, Ordering::Relaxed);
        self.tell(&TransferEvent::Retrying {
            action: action.to_owned(),
            attempt,
            delay,
            reason,
        });
    }

    pub(crate) fn count_sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn count_received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn saw_rate_limit(&self, limit: RateLimit) {
        self.tell(&TransferEvent::RateLimit {
            limit: limit.clone(),
        });
        *self
            .rate_limit
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(limit);
    }

    pub(crate) fn retries(&self) -> u32 {
        self.retries.load(Ordering::Relaxed)
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(crate) fn rate_limit(&self) -> Option<RateLimit> {
        self.rate_limit
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_observer_is_object_safe_and_shared() {
        fn shared<T: Send + Sync + fmt::Debug + ?Sized>() {}
        shared::<dyn TransferObserver>();
    }
}
