use std::any::Any;
use std::fmt::{Debug, Display};

use async_trait::async_trait;

use super::{
    DeployError, DeployObserver, DeployOptions, DeployPlan, Failure, LockHolder, Observation,
};
use crate::health::Health;
use crate::release::{Deployment, Release};

/// A place that runs one release at a time.
///
/// # Contract
/// - [`lock`](Self::lock) is exclusive per target, across processes and hosts that reach it,
///   and is freed when its holder dies, however it dies.
/// - [`plan`](Self::plan) is a pure function of its arguments: it looks at nothing else and
///   changes nothing. [`apply`](Self::apply) does the planned actions, in their order.
/// - Until `apply` returns [`Applied::Switched`], the release that was live goes on serving.
/// - After `apply` and until [`commit`](Self::commit), the former release is kept in a state
///   that [`roll_back`](Self::roll_back) can return to.
/// - A release that cannot be prepared, does not start or is not healthy is a value
///   ([`Failure`]); an error means that the target could not find out or could not act.
///
/// # Cancellation
/// Dropping the future of `apply` leaves the former release serving, or the new one when the
/// switch was made; what was half made is swept by the next deploy.
#[async_trait]
pub trait DeployTarget: Debug + Display + Send + Sync {
    /// Takes the right to deploy, without waiting for it.
    ///
    /// # Errors
    /// When the lock cannot be reached. Somebody else holding it is a value.
    async fn lock(&self, release: &Release) -> Result<LockOutcome, DeployError>;

    /// Looks at what runs.
    ///
    /// # Errors
    /// When the target cannot be asked.
    async fn observe(&self) -> Result<Observation, DeployError>;

    /// What has to be done to make `release` live, given what runs.
    ///
    /// # Errors
    /// When the release or the target's configuration cannot be deployed at all, for example
    /// a release without files for a target that needs them.
    fn plan(
        &self,
        release: &Release,
        observed: &Observation,
        options: &DeployOptions,
    ) -> Result<DeployPlan, DeployError>;

    /// Does what was planned.
    ///
    /// # Errors
    /// When the target could not act: a full disk, a lost connection.
    async fn apply(
        &self,
        plan: &DeployPlan,
        observer: &dyn DeployObserver,
    ) -> Result<Applied, DeployError>;

    /// Asks the release that was switched to, at the address its users use.
    ///
    /// # Errors
    /// When it could not be asked; an unhealthy answer is a value.
    async fn verify(&self, deployment: &Deployment) -> Result<Verified, DeployError>;

    /// Lets go of what [`roll_back`](Self::roll_back) would have needed: the former release
    /// finishes its requests and ends, old releases are removed.
    ///
    /// # Errors
    /// When the target could not act. The new release is live nevertheless.
    async fn commit(&self, plan: &DeployPlan) -> Result<(), DeployError>;

    /// Makes what was observed before the deploy live again and removes what the failed
    /// release left.
    ///
    /// # Errors
    /// When the target could not act.
    async fn roll_back(&self, plan: &DeployPlan) -> Result<Restored, DeployError>;
}

/// The answer to [`DeployTarget::lock`].
#[derive(Debug)]
#[non_exhaustive]
pub enum LockOutcome {
    /// We may deploy until the lock is dropped.
    Acquired(DeployLock),
    /// Somebody else deploys.
    Busy(LockHolder),
}

/// The right to deploy to a target; dropping it gives the right back.
#[derive(Debug)]
pub struct DeployLock {
    _guard: Box<dyn Guard>,
}

trait Guard: Any + Debug + Send + Sync {}
impl<T: Any + Debug + Send + Sync> Guard for T {}

impl DeployLock {
    /// A lock that is held as long as `guard` lives.
    #[must_use]
    pub fn new(guard: impl Any + Debug + Send + Sync) -> Self {
        Self {
            _guard: Box::new(guard),
        }
    }
}

/// The answer to [`DeployTarget::apply`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Applied {
    /// The release takes the traffic.
    Switched(Deployment),
    /// There was nothing to switch; the deployment is the one that was live before.
    Kept(Deployment),
    /// The release is not fit; the traffic was not touched.
    Failed(Failure),
}

/// The answer to [`DeployTarget::verify`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Verified {
    /// The release answers at the public address.
    Good(Health),
    /// It does not.
    Bad(Failure),
}

/// The answer to [`DeployTarget::roll_back`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Restored {
    /// What was live before is live; `None` when there was nothing.
    Previous(Option<Deployment>),
    /// It is not.
    Failed(Failure),
}
