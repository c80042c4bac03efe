//! The contract of a [`DeployTarget`], as functions that panic when it is broken. Run all
//! of them on your own target with [`target_contract!`](crate::target_contract).

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a broken contract is a panic, which is what a test wants"
)]

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::Notify;

use super::{
    Action, Decision, DeployEvent, DeployObserver, DeployOptions, DeployReport, DeployTarget,
    DeployTargetExt, LockOutcome, OlderReleases, Refusal, Unobserved,
};
use crate::release::{DeploymentStatus, Release};

/// Makes one test per contract of a target. `$make` is an async block that gives a
/// [`TargetFixture`] with a target of its own that runs nothing yet.
#[macro_export]
macro_rules! target_contract {
    ($(#[$attribute:meta])* $make:expr) => {
        $crate::target_contract!(@tests ($(#[$attribute])*) ($make)
            a_first_release_goes_live
            a_second_release_takes_the_address
            the_same_digest_is_nothing_to_do
            planning_changes_nothing
            an_unhealthy_release_leaves_the_former
            a_crashing_release_leaves_the_former
            an_unfit_first_release_leaves_nothing
            a_fit_release_follows_an_unfit_one
            an_older_release_needs_to_be_told
            the_lock_has_one_holder_and_is_freed
            a_deploy_that_comes_too_late_is_refused
            what_happens_is_what_was_planned
            a_dropped_deploy_leaves_the_former_or_the_new
        );
    };
    (@tests $attributes:tt $make:tt $($name:ident)*) => {
        $($crate::target_contract!(@test $attributes $make $name);)*
    };
    (@test ($($attribute:tt)*) ($make:expr) $name:ident) => {
        #[tokio::test(flavor = "multi_thread")]
        $($attribute)*
        async fn $name() {
            let fixture = $make.await;
            $crate::target::testing::$name(&fixture).await;
        }
    };
}

/// A target to test, with releases for it and a user of it.
#[async_trait]
pub trait TargetFixture: Debug + Send + Sync {
    /// A new handle on the same target, as another program has it.
    fn target(&self) -> Arc<dyn DeployTarget>;

    /// A release of this name; its digest must follow from name and fitness.
    async fn release(&self, id: &str, fitness: Fitness) -> Release;

    /// The name of the release that answers at `address`, if any does.
    async fn answering(&self, address: &str) -> Option<String>;
}

/// What a release of a [`TargetFixture`] is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fitness {
    /// It becomes healthy.
    Fit,
    /// It runs and is never healthy.
    Unhealthy,
    /// It ends as soon as it is started.
    Crashing,
}

async fn deploy(fixture: &dyn TargetFixture, release: &Release) -> DeployReport {
    let (target, options) = (fixture.target(), DeployOptions::default());
    let report = target.deploy(release, &options, &Unobserved).await;
    report.expect("the target answers")
}

/// Deploys a fit release; gives its address.
async fn deploy_fit(fixture: &dyn TargetFixture, id: &str) -> String {
    let release = fixture.release(id, Fitness::Fit).await;
    match deploy(fixture, &release).await {
        DeployReport::Live { deployment, .. } => deployment.address,
        other => panic!("a fit release did not go live: {other:?}"),
    }
}

async fn assert_answers(fixture: &dyn TargetFixture, address: &str, id: &str) {
    assert_eq!(fixture.answering(address).await.as_deref(), Some(id));
}

/// A fit release on an empty target is live, observed as such, and answers.
pub async fn a_first_release_goes_live(fixture: &dyn TargetFixture) {
    let release = fixture.release("r1", Fitness::Fit).await;
    let report = deploy(fixture, &release).await;
    let DeployReport::Live {
        deployment,
        previous,
        ..
    } = report
    else {
        panic!("not live: {report:?}");
    };
    assert_eq!(previous, None);
    assert_eq!(deployment.release.digest, release.digest);
    assert_answers(fixture, &deployment.address, "r1").await;
    let observed = fixture.target().observe().await.expect("an observation");
    let live = observed.live.expect("a live release");
    assert_eq!(live, deployment);
    assert_eq!(live.status, DeploymentStatus::Live);
}

/// The next release answers at the same address, and the report names the former one.
pub async fn a_second_release_takes_the_address(fixture: &dyn TargetFixture) {
    let address = deploy_fit(fixture, "r1").await;
    let release = fixture.release("r2", Fitness::Fit).await;
    let report = deploy(fixture, &release).await;
    let DeployReport::Live {
        deployment,
        previous: Some(previous),
        ..
    } = report
    else {
        panic!("not live with a former release: {report:?}");
    };
    assert_eq!(previous.release.id.as_str(), "r1");
    assert_eq!(deployment.address, address);
    assert_answers(fixture, &address, "r2").await;
}

/// A digest that is live is not deployed again, and the plan says why.
pub async fn the_same_digest_is_nothing_to_do(fixture: &dyn TargetFixture) {
    let address = deploy_fit(fixture, "r1").await;
    let release = fixture.release("r1", Fitness::Fit).await;
    let preview = fixture
        .target()
        .preview(&release, &DeployOptions::default())
        .await;
    let plan = preview.expect("a plan");
    let Decision::Unchanged { why } = &plan.decision else {
        panic!("not unchanged: {plan:?}");
    };
    assert!(why.contains(&release.digest), "{why}");
    assert!(plan.actions.is_empty(), "{plan}");
    let report = deploy(fixture, &release).await;
    assert!(
        matches!(report, DeployReport::Unchanged { .. }),
        "{report:?}"
    );
    assert_answers(fixture, &address, "r1").await;
}

/// Observing and planning, also twice, changes nothing and gives the same plan.
pub async fn planning_changes_nothing(fixture: &dyn TargetFixture) {
    deploy_fit(fixture, "r1").await;
    let target = fixture.target();
    let release = fixture.release("r2", Fitness::Fit).await;
    let options = DeployOptions::default();
    let before = target.observe().await.expect("an observation");
    let plan = target.plan(&release, &before, &options).expect("a plan");
    let again = target.plan(&release, &before, &options).expect("a plan");
    assert_eq!(plan, again);
    assert!(!plan.actions.is_empty());
    assert_eq!(before, target.observe().await.expect("an observation"));
}

async fn leaves_the_former(fixture: &dyn TargetFixture, fitness: Fitness) {
    let address = deploy_fit(fixture, "r1").await;
    let release = fixture.release("r2", fitness).await;
    let report = deploy(fixture, &release).await;
    let DeployReport::RolledBack {
        why,
        previous: Some(previous),
    } = report
    else {
        panic!("not rolled back: {report:?}");
    };
    assert!(!why.what.is_empty());
    assert_eq!(previous.release.id.as_str(), "r1");
    assert_answers(fixture, &address, "r1").await;
    let observed = fixture.target().observe().await.expect("an observation");
    let live = observed.live.expect("a live release");
    assert_eq!(live.release.id.as_str(), "r1");
    assert_eq!(live.status, DeploymentStatus::Live);
}

/// A release that is never healthy does not replace one that is.
pub async fn an_unhealthy_release_leaves_the_former(fixture: &dyn TargetFixture) {
    leaves_the_former(fixture, Fitness::Unhealthy).await;
}

/// A release that crashes does not replace one that does not.
pub async fn a_crashing_release_leaves_the_former(fixture: &dyn TargetFixture) {
    leaves_the_former(fixture, Fitness::Crashing).await;
}

/// On an empty target an unfit release leaves it empty.
pub async fn an_unfit_first_release_leaves_nothing(fixture: &dyn TargetFixture) {
    let release = fixture.release("r1", Fitness::Unhealthy).await;
    let report = deploy(fixture, &release).await;
    assert!(
        matches!(report, DeployReport::RolledBack { previous: None, .. }),
        "{report:?}"
    );
    let observed = fixture.target().observe().await.expect("an observation");
    assert_eq!(observed.live, None);
}

/// What an unfit release left does not stand in the way of the next one of that name.
pub async fn a_fit_release_follows_an_unfit_one(fixture: &dyn TargetFixture) {
    let release = fixture.release("r1", Fitness::Crashing).await;
    deploy(fixture, &release).await;
    let address = deploy_fit(fixture, "r1").await;
    assert_answers(fixture, &address, "r1").await;
}

/// A smaller sequence number is refused, unless told to deploy it.
pub async fn an_older_release_needs_to_be_told(fixture: &dyn TargetFixture) {
    let newer = fixture.release("r2", Fitness::Fit).await.with_sequence(2);
    let older = fixture.release("r1", Fitness::Fit).await.with_sequence(1);
    let report = deploy(fixture, &newer).await;
    let address = report.live().expect("a live release").address.clone();
    let report = deploy(fixture, &older).await;
    assert!(
        matches!(
            report,
            DeployReport::Refused {
                why: Refusal::Older { .. }
            }
        ),
        "{report:?}"
    );
    assert_answers(fixture, &address, "r2").await;
    let told = DeployOptions::default().with_older_releases(OlderReleases::Deploy);
    let report = fixture.target().deploy(&older, &told, &Unobserved).await;
    assert!(
        matches!(report, Ok(DeployReport::Live { .. })),
        "{report:?}"
    );
    assert_answers(fixture, &address, "r1").await;
}

/// The lock is held by one handle at a time, and free again when it is dropped.
pub async fn the_lock_has_one_holder_and_is_freed(fixture: &dyn TargetFixture) {
    let release = fixture.release("r1", Fitness::Fit).await;
    let (one, two) = (fixture.target(), fixture.target());
    let lock = one.lock(&release).await.expect("a lock");
    assert!(matches!(lock, LockOutcome::Acquired(_)), "{lock:?}");
    let late = two.lock(&release).await.expect("an answer");
    assert!(matches!(late, LockOutcome::Busy(_)), "{late:?}");
    drop(lock);
    let lock = two.lock(&release).await.expect("a lock");
    assert!(matches!(lock, LockOutcome::Acquired(_)), "{lock:?}");
}

/// While one deploys, another is refused and changes nothing.
pub async fn a_deploy_that_comes_too_late_is_refused(fixture: &dyn TargetFixture) {
    let address = deploy_fit(fixture, "r1").await;
    let release = fixture.release("r2", Fitness::Fit).await;
    let lock = fixture.target().lock(&release).await.expect("a lock");
    let report = deploy(fixture, &release).await;
    assert!(
        matches!(
            report,
            DeployReport::Refused {
                why: Refusal::Busy { .. }
            }
        ),
        "{report:?}"
    );
    drop(lock);
    assert_answers(fixture, &address, "r1").await;
}

/// Keeps all events, and tells when the first action begins.
#[derive(Debug, Default)]
struct Witness {
    events: Mutex<Vec<DeployEvent>>,
    began: Notify,
}

impl DeployObserver for Witness {
    fn on_event(&self, event: &DeployEvent) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.push(event.clone());
        if matches!(event, DeployEvent::Started { .. }) {
            self.began.notify_one();
        }
    }
}

/// The actions that are reported done are the planned ones, in order; the end comes last.
pub async fn what_happens_is_what_was_planned(fixture: &dyn TargetFixture) {
    deploy_fit(fixture, "r1").await;
    let release = fixture.release("r2", Fitness::Fit).await;
    let options = DeployOptions::default();
    let target = fixture.target();
    let plan = target.preview(&release, &options).await.expect("a plan");
    let witness = Witness::default();
    let report = target.deploy(&release, &options, &witness).await;
    let report = report.expect("the target answers");
    let events = witness
        .events
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    let done: Vec<&Action> = events
        .iter()
        .filter_map(|event| match event {
            DeployEvent::Done { action, .. } => Some(action),
            _ => None,
        })
        .collect();
    assert_eq!(done, plan.actions.iter().collect::<Vec<_>>());
    assert!(
        matches!(events.first(), Some(DeployEvent::Planned { plan: told }) if **told == plan),
        "{events:?}"
    );
    assert!(
        matches!(events.last(), Some(DeployEvent::Finished { report: told }) if **told == report),
        "{events:?}"
    );
}

/// Dropping a deploy leaves a whole release answering, and the next deploy works.
pub async fn a_dropped_deploy_leaves_the_former_or_the_new(fixture: &dyn TargetFixture) {
    let address = deploy_fit(fixture, "r1").await;
    let release = fixture.release("r2", Fitness::Fit).await;
    let (target, options) = (fixture.target(), DeployOptions::default());
    let witness = Witness::default();
    tokio::select! {
        report = target.deploy(&release, &options, &witness) => {
            panic!("ended before its first action: {report:?}");
        }
        () = witness.began.notified() => {}
    }
    let answering = fixture.answering(&address).await;
    assert!(
        matches!(answering.as_deref(), Some("r1" | "r2")),
        "{answering:?}"
    );
    assert_eq!(deploy_fit(fixture, "r3").await, address);
    assert_answers(fixture, &address, "r3").await;
}
