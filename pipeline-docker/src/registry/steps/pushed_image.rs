//! [`PushedImage`].

use std::time::Duration;

use pipeline_core::StepContext;
use serde::{Deserialize, Serialize};

use super::super::report::{BlobReport, PushReport};
use super::super::step_log::human;
use crate::oci::Digest;
use crate::reference::ImageReference;

/// What [`PushImage`](super::PushImage), [`CopyImage`](super::CopyImage) and
/// [`TagImage`](super::TagImage) produce.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PushedImage {
    /// The image by its first tag, pinned to its digest.
    pub reference: ImageReference,
    /// The digest, as the registry confirmed it.
    pub digest: Digest,
    /// All tags that name it now, aliases included.
    pub tags: Vec<String>,
    /// Aliases that could not be moved, with the reason. The step succeeds all the same.
    pub failed_aliases: Vec<(String, String)>,
    /// Bytes of all blobs.
    pub size: u64,
    /// Bytes that were sent.
    pub bytes_sent: u64,
    /// Whether everything was there already.
    pub unchanged: bool,
    /// Every blob once.
    pub blobs: Vec<BlobReport>,
    /// How often a request had to be repeated.
    pub retries: u32,
    /// How long it took.
    pub duration: Duration,
}

impl PushedImage {
    pub(super) fn of(report: PushReport) -> Self {
        Self {
            tags: report
                .reference
                .tag()
                .map(str::to_owned)
                .into_iter()
                .collect(),
            reference: report.reference,
            digest: report.digest,
            failed_aliases: Vec::new(),
            size: report.size,
            bytes_sent: report.bytes_sent,
            unchanged: report.unchanged,
            blobs: report.blobs,
            retries: report.retries,
            duration: report.duration,
        }
    }

    pub(super) async fn show(&self, context: &StepContext) {
        let what = if self.unchanged {
            "already there, nothing sent".to_owned()
        } else {
            let (sent, seconds) = (human(self.bytes_sent), self.duration.as_secs_f64());
            format!("{sent} of {} sent in {seconds:.1} s", human(self.size))
        };
        context.log(format!("{}: {what}", self.reference)).await;
        context.summary(format!(
            "{} {what}",
            self.reference.tag().unwrap_or("image")
        ));
    }
}
