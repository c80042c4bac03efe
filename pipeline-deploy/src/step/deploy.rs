use std::sync::Arc;

use async_trait::async_trait;
use pipeline_core::{Input, InputRef, Step, StepContext, StepError};
use serde_json::json;
use tokio::sync::mpsc;

use super::narrate::{Relay, narrate};
use crate::release::Release;
use crate::target::{
    DeployError, DeployOptions, DeployReport, DeployTarget, DeployTargetExt, Failure,
};

/// A step that makes a release live on a target.
///
/// It produces the [`DeployReport`] when the release is live or was live already, and fails
/// otherwise; see [`deploy`] for what it reports. A target that can only be described during
/// the run (because it names the job's folder) is deployed to with [`deploy`] from a
/// [`step_fn`](pipeline_core::step_fn).
#[derive(Debug, Clone)]
pub struct Deploy {
    target: Arc<dyn DeployTarget>,
    release: Input<Release>,
    options: DeployOptions,
}

impl Deploy {
    /// Makes `release`, which may be another step's output, live on `target`.
    #[must_use]
    pub fn new(target: impl DeployTarget + 'static, release: impl Into<Input<Release>>) -> Self {
        Self {
            target: Arc::new(target),
            release: release.into(),
            options: DeployOptions::default(),
        }
    }

    /// Sets how to deploy.
    #[must_use]
    pub fn with_options(mut self, options: DeployOptions) -> Self {
        self.options = options;
        self
    }
}

#[async_trait]
impl Step for Deploy {
    type Output = DeployReport;

    fn inputs(&self) -> Vec<InputRef> {
        self.release.edge().into_iter().collect()
    }

    async fn run(&self, cx: &StepContext) -> Result<DeployReport, StepError> {
        let release = cx.resolve(&self.release)?;
        deploy(cx, self.target.as_ref(), &release, &self.options).await
    }
}

/// Makes `release` live on `target` from within a step.
///
/// Every [`DeployEvent`](crate::target::DeployEvent) becomes a line of the step's log and a
/// fact `deploy.<event>` (`deploy.planned`, `deploy.started`, `deploy.done`,
/// `deploy.probed`, `deploy.warning`, `deploy.finished`); a live address becomes a line of
/// the closing block.
///
/// # Errors
/// [`StepError::Failed`] when the release is not live afterwards; its detail is
/// `{"deploy": report}`, with `outcome` `rolled-back`, `rollback-failed` or `refused` in it,
/// its tail are the last lines of the log that tells why. [`StepError::Errored`] when the
/// target cannot be asked.
///
/// # Cancellation
/// When the step's token is thrown, the deploy is given up at once: the former release
/// serves, or the new one if the switch was made.
pub async fn deploy(
    cx: &StepContext,
    target: &dyn DeployTarget,
    release: &Release,
    options: &DeployOptions,
) -> Result<DeployReport, StepError> {
    let (sender, events) = mpsc::unbounded_channel();
    let work = async {
        // Dropped at the end, which ends the telling.
        let relay = Relay(sender);
        target.deploy(release, options, &relay).await
    };
    let both = async { tokio::join!(work, narrate(cx, events)) };
    let report = tokio::select! {
        (report, ()) = both => report,
        () = cx.cancel().cancelled() => return Err(StepError::Cancelled),
    };
    let report = report.map_err(|error: DeployError| {
        StepError::errored(
            format!("could not deploy {} to {target}", release.id),
            error,
        )
    })?;
    if let Some(live) = report.live() {
        cx.highlight("site", &live.address).await;
    }
    cx.summary(summary(&report));
    if report.is_success() {
        return Ok(report);
    }
    let failure = failure(&report);
    let tail = failure.map(|failure| failure.log_tail.clone());
    let mut message = report.to_string();
    if let (Some(failure), Some(tail)) = (failure, &tail)
        && !tail.is_empty()
    {
        // The last lines have a place of their own.
        let mut short = failure.clone();
        short.log_tail.clear();
        message = message.replace(&failure.to_string(), &short.to_string());
    }
    Err(StepError::failed(message)
        .with_detail(json!({ "deploy": report }))
        .with_tail(tail.unwrap_or_default()))
}

fn summary(report: &DeployReport) -> String {
    match report {
        DeployReport::Live { deployment, .. } => {
            format!("{} live at {}", deployment.release.id, deployment.address)
        }
        DeployReport::Unchanged { why, .. } => format!("nothing to deploy: {why}"),
        DeployReport::RolledBack {
            previous: Some(previous),
            ..
        } => format!("rolled back, {} still serves", previous.release.id),
        DeployReport::RolledBack { previous: None, .. } => {
            "failed, nothing was live before".to_owned()
        }
        DeployReport::RollbackFailed { .. } => "failed, and so did the way back".to_owned(),
        DeployReport::Refused { why } => format!("not deployed: {why}"),
    }
}

fn failure(report: &DeployReport) -> Option<&Failure> {
    match report {
        DeployReport::RolledBack { why, .. } | DeployReport::RollbackFailed { why, .. } => {
            Some(why)
        }
        _ => None,
    }
}
