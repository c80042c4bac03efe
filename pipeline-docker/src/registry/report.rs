//! What a transfer came to.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::progress::{BlobOutcome, Operation};
use super::rate_limit::RateLimit;
use crate::oci::{Descriptor, Digest};
use crate::reference::ImageReference;

/// What became of one blob of an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BlobReport {
    /// The blob.
    pub digest: Digest,
    /// Its media type, which tells layers from the configuration.
    pub media_type: String,
    /// Its bytes.
    pub size: u64,
    /// How it got there.
    pub outcome: BlobOutcome,
    /// Bytes that moved for it, repeated ones counted again.
    pub bytes_moved: u64,
    /// How long it took.
    pub duration: Duration,
}

impl BlobReport {
    pub(crate) fn new(
        blob: &Descriptor,
        outcome: BlobOutcome,
        bytes_moved: u64,
        duration: Duration,
    ) -> Self {
        Self {
            digest: blob.digest.clone(),
            media_type: blob.media_type.clone(),
            size: blob.size,
            outcome,
            bytes_moved,
            duration,
        }
    }
}

/// What a push did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PushReport {
    /// What was pushed, pinned to its digest.
    pub reference: ImageReference,
    /// The digest of the manifest, as the registry has it.
    pub digest: Digest,
    /// Sum of the sizes of all blobs.
    pub size: u64,
    /// Whether the registry had this very image under this very name, so that nothing was sent.
    pub unchanged: bool,
    /// Every blob once, in the order of the manifest.
    pub blobs: Vec<BlobReport>,
    /// Bytes of blobs and manifests that were sent, repeated ones counted again.
    pub bytes_sent: u64,
    /// How often a request had to be repeated.
    pub retries: u32,
    /// How long it took.
    pub duration: Duration,
}

/// What a pull did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PullReport {
    /// What was pulled, pinned to the digest that the registry gave for it.
    pub reference: ImageReference,
    /// The manifest in the layout: the one of the platform if an index was resolved.
    pub manifest: Descriptor,
    /// Sum of the sizes of all blobs.
    pub size: u64,
    /// Every blob once, in the order of the manifest.
    pub blobs: Vec<BlobReport>,
    /// Bytes of blobs and manifests that came in.
    pub bytes_received: u64,
    /// Whether the registry was asked without credentials.
    pub anonymous: bool,
    /// The pulls that are left, if the registry counts them.
    pub rate_limit: Option<RateLimit>,
    /// How often a request had to be repeated.
    pub retries: u32,
    /// How long it took.
    pub duration: Duration,
}

impl PullReport {
    /// Bytes per second over the whole pull.
    #[must_use]
    pub fn bytes_per_second(&self) -> f64 {
        let seconds = self.duration.as_secs_f64();
        if seconds > 0.0 {
            self.bytes_received as f64 / seconds
        } else {
            0.0
        }
    }
}

/// The counters of an operation, for the reports.
pub(crate) struct Totals {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) retries: u32,
    pub(crate) rate_limit: Option<RateLimit>,
}

impl Totals {
    pub(crate) fn of(operation: &Operation) -> Self {
        Self {
            sent: operation.sent(),
            received: operation.received(),
            retries: operation.retries(),
            rate_limit: operation.rate_limit(),
        }
    }
}
