//! The traits can be used as objects, shared between tasks, printed.

use std::fmt::{Debug, Display};

use pipeline_deploy::health::HealthCheck;
use pipeline_deploy::target::{DeployObserver, DeployTarget};

fn seam<T: Debug + Send + Sync + ?Sized>() {}
fn named<T: Display + ?Sized>() {}

#[test]
fn the_seams_are_object_safe_shared_and_printable() {
    seam::<dyn DeployTarget>();
    named::<dyn DeployTarget>();
    seam::<dyn HealthCheck>();
    named::<dyn HealthCheck>();
    seam::<dyn DeployObserver>();
}
