//! What a transfer tells, as lines and facts of a step.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use pipeline_core::{StepContext, StepError, error_chain};
use tokio::sync::mpsc;

use super::error::{RegistryError, RegistryErrorKind};
use super::progress::{BlobOutcome, TransferEvent, TransferObserver};
use crate::oci::Digest;

/// The topic of the facts that registry steps tell.
pub(crate) const TOPIC: &str = "docker.registry";

/// Hands events over to the step, which can wait.
#[derive(Debug)]
struct Relay {
    sender: mpsc::UnboundedSender<TransferEvent>,
    /// The tenth of each blob that was told last: a person and a journal need ten of these, not
    /// thousands, and a slow journal must not make them pile up.
    tenths: Mutex<HashMap<Digest, u64>>,
}

impl TransferObserver for Relay {
    fn event(&self, event: &TransferEvent) {
        if let TransferEvent::BlobProgress {
            digest,
            transferred,
            size,
        } = event
        {
            let tenth = transferred.saturating_mul(10) / (*size).max(1);
            let mut tenths = self.tenths.lock().unwrap_or_else(PoisonError::into_inner);
            if tenths.insert(digest.clone(), tenth) == Some(tenth) {
                return;
            }
        }
        // The step may have stopped listening; then nobody wants to know.
        drop(self.sender.send(event.clone()));
    }
}

/// Drives a transfer, shows what it does, and ends it when the step is cancelled.
pub(crate) async fn drive<T, F>(
    context: &StepContext,
    doing: &str,
    transfer: impl FnOnce(Arc<dyn TransferObserver>) -> F,
) -> Result<T, StepError>
where
    F: Future<Output = Result<T, RegistryError>>,
{
    let (sender, mut events) = mpsc::unbounded_channel();
    let mut log = StepLog::default();
    let transfer = transfer(Arc::new(Relay {
        sender,
        tenths: Mutex::default(),
    }));
    tokio::pin!(transfer);
    let result = loop {
        tokio::select! {
            biased;
            () = context.cancel().cancelled() => return Err(StepError::Cancelled),
            Some(event) = events.recv() => log.show(context, event).await,
            result = &mut transfer => break result,
        }
    };
    while let Ok(event) = events.try_recv() {
        log.show(context, event).await;
    }
    result.map_err(|error| step_error(doing, error))
}

/// A registry that says no fails the step; one that cannot be asked errs it.
fn step_error(doing: &str, error: RegistryError) -> StepError {
    use RegistryErrorKind as Kind;
    match error.kind() {
        Kind::TagExists | Kind::Denied | Kind::Unauthorized | Kind::NotFound | Kind::Invalid => {
            StepError::failed(format!("{doing}: {}", error_chain(&error)))
                .with_detail(serde_json::json!({ "kind": format!("{:?}", error.kind()) }))
        }
        _ => StepError::errored(doing, error),
    }
}

#[derive(Default)]
struct StepLog {
    sizes: HashMap<Digest, u64>,
}

impl StepLog {
    async fn show(&mut self, context: &StepContext, event: TransferEvent) {
        match &event {
            TransferEvent::BlobStarted { digest, size } => {
                self.sizes.insert(digest.clone(), *size);
            }
            TransferEvent::BlobProgress { .. } => {}
            TransferEvent::BlobFinished { digest, outcome } => {
                let size = human(self.sizes.get(digest).copied().unwrap_or_default());
                let what = match outcome {
                    BlobOutcome::Uploaded => format!("uploaded ({size})"),
                    BlobOutcome::Downloaded => format!("downloaded ({size})"),
                    BlobOutcome::Existed => "already there".to_owned(),
                    BlobOutcome::Mounted { from } => format!("taken over from {from}"),
                    BlobOutcome::Foreign => "left where it is".to_owned(),
                };
                context.log(format!("{}: {what}", digest.short())).await;
            }
            TransferEvent::ManifestFinished { digest } => {
                context
                    .log(format!("{}: manifest stored", digest.short()))
                    .await;
            }
            TransferEvent::Retrying {
                action,
                attempt,
                delay,
                reason,
            } => {
                let delay = delay.as_millis();
                context
                    .log(format!("try {attempt} to {action} in {delay} ms: {reason}"))
                    .await;
            }
            TransferEvent::RateLimit { limit } if limit.is_low() => {
                let text = format!("{} of {} pulls are left", limit.remaining, limit.limit);
                context.warn(text).await;
            }
            TransferEvent::RateLimit { .. } => {}
            TransferEvent::Warning { message } => context.warn(message).await,
        }
        if let Ok(data) = serde_json::to_value(&event) {
            context.fact(TOPIC, data).await;
        }
    }
}

/// Bytes for a person: `12.3MB`.
pub(crate) fn human(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB"] {
        if value < 999.95 {
            return if unit == "B" {
                format!("{bytes}B")
            } else {
                format!("{value:.1}{unit}")
            };
        }
        value /= 1000.0;
    }
    format!("{value:.1}GB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_for_people() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1_000, "1.0kB"),
            (999_949, "999.9kB"),
            (999_960, "1.0MB"),
            (52_428_800, "52.4MB"),
            (3_000_000_000, "3.0GB"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }
}
