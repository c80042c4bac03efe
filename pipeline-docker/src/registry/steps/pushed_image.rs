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
    /// Bytes that were sent; 0 where an engine sent them, which does not tell.
    pub bytes_sent: u64,
    /// Whether everything was there already.
    pub unchanged: bool,
    /// Every blob once; none where an engine pushed.
    pub blobs: Vec<BlobReport>,
    /// How often a request had to be repeated.
    pub retries: u32,
    /// How long it took.
    pub duration: Duration,
}

impl PushedImage {
    pub(super) fn of(report: PushReport) -> Self {
        Self {
            bytes_sent: report.bytes_sent,
            blobs: report.blobs,
            retries: report.retries,
            ..Self::plain(
                report.reference,
                report.digest,
                report.size,
                report.unchanged,
                report.duration,
            )
        }
    }

    /// What is known of every push.
    fn plain(
        reference: ImageReference,
        digest: Digest,
        size: u64,
        unchanged: bool,
        duration: Duration,
    ) -> Self {
        Self {
            tags: reference.tag().map(str::to_owned).into_iter().collect(),
            reference,
            digest,
            failed_aliases: Vec::new(),
            size,
            bytes_sent: 0,
            unchanged,
            blobs: Vec::new(),
            retries: 0,
            duration,
        }
    }

    /// What an engine pushed. It does not tell how much it sent.
    #[cfg(feature = "engine")]
    pub(super) fn of_engine(
        reference: ImageReference,
        digest: Digest,
        size: u64,
        unchanged: bool,
        duration: Duration,
    ) -> Self {
        Self::plain(reference, digest, size, unchanged, duration)
    }

    pub(super) async fn show(&self, context: &StepContext) {
        let what = if self.unchanged {
            "already there, nothing sent".to_owned()
        } else if self.blobs.is_empty() {
            format!("sent by the engine in {:.1} s", self.duration.as_secs_f64())
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
