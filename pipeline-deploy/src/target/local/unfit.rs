//! What is told about a release that is not fit.

use std::path::Path;

use super::LocalTarget;
use super::folders::tail;
use crate::health::{Health, cure_for_disallowed_host};
use crate::target::{Failure, FailureStage};

const TAIL: usize = 20;

impl LocalTarget {
    /// The last lines of a log, without the values of secrets.
    fn tail(&self, log: &Path) -> Vec<String> {
        let redactor = self.app.redactor();
        let lines = tail(log, TAIL);
        lines.iter().map(|line| redactor.redact(line)).collect()
    }

    pub(super) fn with_log(&self, failure: Failure, log: &Path) -> Failure {
        failure.with_log(log.display().to_string(), self.tail(log))
    }

    pub(super) fn unhealthy(&self, what: String, health: Option<Health>, log: &Path) -> Failure {
        let mut failure = Failure::new(FailureStage::Health, what);
        if let Some(health) = health {
            // The log knows more than the answer.
            let answer = health.answer();
            let cure = answer.and_then(|a| cure_for_disallowed_host(a, &tail(log, 200)));
            if let Some(cure) = cure {
                failure = failure.with_cure(cure);
            }
            failure = failure.with_health(health.redacted(&self.app.redactor()));
        }
        self.with_log(failure, log)
    }
}
