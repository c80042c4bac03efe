//! What can go wrong with a service.

use std::sync::Arc;
use std::time::Duration;

use crate::engine::EngineError;

/// Why a job has no working service. The message ends with the service's last lines.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// The engine could not start it.
    #[error("the service {service} could not be started")]
    Start {
        /// Its name.
        service: String,
        /// Why.
        #[source]
        source: EngineError,
    },
    /// It ended.
    #[error("the service {service} {}{}", ending(*.code, *.out_of_memory), tail_text(.tail))]
    Ended {
        /// Its name.
        service: String,
        /// Its exit code.
        code: i64,
        /// Whether it was ended for want of memory.
        out_of_memory: bool,
        /// Its last lines, of standard output and standard error.
        tail: Vec<String>,
    },
    /// It is not ready in time.
    #[error(
        "the service {service} was not ready within {}s: waited for {wanted}, last seen: {seen}{}",
        waited.as_secs_f64(), tail_text(.tail)
    )]
    NotReady {
        /// Its name.
        service: String,
        /// How long it was waited for.
        waited: Duration,
        /// What had to be true.
        wanted: String,
        /// What was the case instead.
        seen: String,
        /// Its last lines, of standard output and standard error.
        tail: Vec<String>,
    },
    /// A check by connecting, which cannot work with this engine.
    #[error(
        "whether the service {service} is ready cannot be seen from here ({wanted}): the networks of the engine at {engine} are in a virtual machine or belong to a user; use Readiness::exec, a log line or the engine's health check"
    )]
    OutOfReach {
        /// Its name.
        service: String,
        /// What had to be true.
        wanted: String,
        /// The engine.
        engine: String,
    },
    /// The engine was lost, so nobody knows how the service is.
    #[error("the engine was lost while the service {service} ran")]
    Lost {
        /// Its name.
        service: String,
        /// Why.
        #[source]
        source: Arc<EngineError>,
    },
    /// A pattern for lines is no regular expression.
    #[error("{pattern:?} is no regular expression")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn ending(code: i64, out_of_memory: bool) -> String {
    if out_of_memory {
        "ran out of memory".to_owned()
    } else {
        format!("ended with exit code {code}, though the job needs it")
    }
}

fn tail_text(tail: &[String]) -> String {
    if tail.is_empty() {
        return "; it wrote nothing".to_owned();
    }
    format!("; its last lines:\n{}", tail.join("\n"))
}
