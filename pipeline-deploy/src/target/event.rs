use std::fmt::Debug;
use std::time::Duration;

use serde::Serialize;

use super::{Action, DeployPlan, DeployReport};
use crate::health::Health;

/// What happens during a deploy, as it happens.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum DeployEvent {
    /// What will be done.
    Planned {
        /// The plan.
        plan: Box<DeployPlan>,
    },
    /// An action begins.
    Started {
        /// The action.
        action: Action,
    },
    /// An action ended well.
    Done {
        /// The action.
        action: Action,
        /// How long it took.
        took: Duration,
        /// What it found or made, in one line; may be empty.
        note: String,
    },
    /// The release was asked how it is.
    Probed {
        /// The number of the probe, from 1.
        attempt: u32,
        /// The verdict.
        health: Health,
    },
    /// Something that does not stop the deploy but should be seen.
    Warning {
        /// What, in one line.
        text: String,
    },
    /// The end.
    Finished {
        /// How it ended.
        report: Box<DeployReport>,
    },
}

/// Hears what happens during a deploy.
///
/// Called in order, from within the deploying task: return at once.
pub trait DeployObserver: Debug + Send + Sync {
    /// Hears one event.
    fn on_event(&self, event: &DeployEvent);
}

/// Hears nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl DeployObserver for Unobserved {
    fn on_event(&self, _event: &DeployEvent) {}
}
