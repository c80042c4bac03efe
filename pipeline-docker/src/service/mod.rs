//! Services: containers that stand beside a job on a private network.
//!
//! All services of a job are started at the same time, before its first command, and each is waited
//! for until it is [ready](Readiness). A service that ends, at any time before the job does, fails
//! the job at once with its last lines. They are removed with the job, in any case.
//!
//! ```
//! use std::time::Duration;
//!
//! use pipeline_docker::service::{HttpReadiness, Readiness, ServiceSpec};
//!
//! let browser = ServiceSpec::new("browser", "selenium/standalone-chromium:4")
//!     .with_shm_size(2 << 30)
//!     .with_ready(Readiness::Http(
//!         HttpReadiness::new(4444, "/status").with_json("/value/ready", true),
//!     ))
//!     .with_timeout(Duration::from_secs(30));
//! ```

mod error;
mod http;
mod log;
mod place;
mod readiness;
mod running;
mod spec;

pub use error::ServiceError;
pub use readiness::{HealthReadiness, HttpReadiness, LogReadiness, Readiness};
pub use spec::ServiceSpec;

pub(crate) use running::{RunningService, Services};
