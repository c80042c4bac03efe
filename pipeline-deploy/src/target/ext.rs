use async_trait::async_trait;
use pipeline_core::error_chain;

use super::{
    Applied, Decision, DeployError, DeployEvent, DeployObserver, DeployOptions, DeployPlan,
    DeployReport, DeployTarget, Failure, FailureStage, LockOutcome, Refusal, Restored, Verified,
};
use crate::release::Release;

/// Conveniences on every [`DeployTarget`].
#[async_trait]
pub trait DeployTargetExt: DeployTarget {
    /// What [`deploy`](Self::deploy) would do now, without doing it and without the lock.
    ///
    /// # Errors
    /// As [`DeployTarget::observe`] and [`DeployTarget::plan`].
    async fn preview(
        &self,
        release: &Release,
        options: &DeployOptions,
    ) -> Result<DeployPlan, DeployError> {
        let observed = self.observe().await?;
        self.plan(release, &observed, options)
    }

    /// Makes `release` live: lock, observe, plan, apply, verify, commit; rolls back when it
    /// is not fit.
    ///
    /// # Errors
    /// When the target cannot be asked or cannot act, and nothing of the traffic was changed
    /// or the way back succeeded. Everything that is a matter of the release, also a failed
    /// way back, is in the report.
    ///
    /// # Cancellation
    /// As [`DeployTarget::apply`]; the lock is freed.
    async fn deploy(
        &self,
        release: &Release,
        options: &DeployOptions,
        observer: &dyn DeployObserver,
    ) -> Result<DeployReport, DeployError> {
        let report = deploy(self, release, options, observer).await?;
        observer.on_event(&DeployEvent::Finished {
            report: Box::new(report.clone()),
        });
        Ok(report)
    }
}

impl<T: DeployTarget + ?Sized> DeployTargetExt for T {}

async fn deploy<T: DeployTarget + ?Sized>(
    target: &T,
    release: &Release,
    options: &DeployOptions,
    observer: &dyn DeployObserver,
) -> Result<DeployReport, DeployError> {
    let _lock = match target.lock(release).await? {
        LockOutcome::Acquired(lock) => lock,
        LockOutcome::Busy(holder) => {
            return Ok(DeployReport::Refused {
                why: Refusal::Busy { holder },
            });
        }
    };
    let observed = target.observe().await?;
    let plan = target.plan(release, &observed, options)?;
    observer.on_event(&DeployEvent::Planned {
        plan: Box::new(plan.clone()),
    });
    if let Decision::Refuse { why } = &plan.decision {
        return Ok(DeployReport::Refused { why: why.clone() });
    }
    let failure = match target.apply(&plan, observer).await {
        Ok(Applied::Kept(deployment)) => {
            let why = match &plan.decision {
                Decision::Unchanged { why } => why.clone(),
                _ => String::new(),
            };
            return Ok(DeployReport::Unchanged { deployment, why });
        }
        Ok(Applied::Switched(deployment)) => match target.verify(&deployment).await {
            Ok(Verified::Good(_)) => {
                let mut warnings = Vec::new();
                if let Err(error) = target.commit(&plan).await {
                    // The release is live and healthy; what failed is the tidying.
                    let text = format!("after the switch: {}", error_chain(&error));
                    observer.on_event(&DeployEvent::Warning { text: text.clone() });
                    warnings.push(text);
                }
                return Ok(DeployReport::Live {
                    deployment,
                    previous: plan.previous,
                    warnings,
                });
            }
            Ok(Verified::Bad(failure)) => failure,
            Err(error) => Failure::new(FailureStage::Verify, error_chain(&error)),
        },
        Ok(Applied::Failed(failure)) => failure,
        Err(error) => {
            // Put things back first: the caller gets the first error when that worked.
            return match target.roll_back(&plan).await {
                Ok(Restored::Previous(_)) => Err(error),
                Ok(Restored::Failed(roll_back)) => Ok(DeployReport::RollbackFailed {
                    why: Failure::new(FailureStage::Start, error_chain(&error)),
                    roll_back,
                }),
                Err(second) => Ok(DeployReport::RollbackFailed {
                    why: Failure::new(FailureStage::Start, error_chain(&error)),
                    roll_back: Failure::new(FailureStage::RollBack, error_chain(&second)),
                }),
            };
        }
    };
    Ok(match target.roll_back(&plan).await {
        Ok(Restored::Previous(previous)) => DeployReport::RolledBack {
            why: failure,
            previous,
        },
        Ok(Restored::Failed(roll_back)) => DeployReport::RollbackFailed {
            why: failure,
            roll_back,
        },
        Err(error) => DeployReport::RollbackFailed {
            why: failure,
            roll_back: Failure::new(FailureStage::RollBack, error_chain(&error)),
        },
    })
}
