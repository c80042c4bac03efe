//! Where releases run.
//!
//! A [`DeployTarget`] is observed, planned for, changed, verified, and put back when the
//! verification fails. [`DeployTargetExt::deploy`] does all of it in that order.

mod deploy_target;
mod error;
mod event;
mod ext;
mod options;
mod plan;
mod report;

#[cfg(target_os = "linux")]
pub mod local;
#[cfg(feature = "testing")]
pub mod testing;

pub use deploy_target::{Applied, DeployLock, DeployTarget, LockOutcome, Restored, Verified};
pub use error::{DeployError, DeployErrorKind};
pub use event::{DeployEvent, DeployObserver, Unobserved};
pub use ext::DeployTargetExt;
pub use options::{DeployOptions, OlderReleases};
pub use plan::{Action, Decision, DeployPlan, Observation};
pub use report::{DeployReport, Failure, FailureStage, LockHolder, Refusal};
