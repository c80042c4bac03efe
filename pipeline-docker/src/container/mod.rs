//! Jobs in containers.
//!
//! [`ContainerExecutor`] runs each job of a pipeline in a container, with
//! [services](crate::service) beside it.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use pipeline_core::{Job, Runner, sh};
//! use pipeline_docker::container::{ContainerExecutor, ContainerSpec};
//! use pipeline_docker::engine::Engine;
//! use pipeline_docker::service::{Readiness, ServiceSpec};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let database = ServiceSpec::new("db", "postgres:15")
//!     .with_env("POSTGRES_PASSWORD", "for tests only")
//!     .with_ready(Readiness::tcp(5432));
//! let spec = ContainerSpec::new("python:3.12").with_service(database);
//! let executor = ContainerExecutor::new(Engine::from_env().await?, spec);
//!
//! let mut job = Job::new("test").env("DATABASE_URL", "postgres://postgres@db/postgres");
//! job.step("unit tests", sh("python -m pytest"));
//! let runner = Runner::new(".pipeline").with_executor(Arc::new(executor));
//! # let _ = (job, runner);
//! # Ok(())
//! # }
//! ```

mod debug;
mod environment;
mod error;
mod executor;
mod files;
mod holdings;
mod making;
mod memory;
mod owner;
mod process;
mod pull;
mod reap;
mod record;
mod replace;
mod requests;
mod shared;
mod spec;
mod unpack;

pub use debug::{DebugSession, HoldFailed};
pub use error::ContainerError;
pub use executor::ContainerExecutor;
pub use reap::{Reaped, reap};
pub use spec::{Access, ContainerSpec, JobFolder, Limits, Mount, Network, PullPolicy};

#[cfg(feature = "swarm")]
pub(crate) use holdings::{ANSWER, Removal, limit, persist, surely};
pub(crate) use holdings::{Holdings, unique_name};
pub(crate) use making::{limited, to_i64};
pub(crate) use memory::ran_out_of_memory;
pub(crate) use owner::labels;
#[cfg(feature = "swarm")]
pub(crate) use owner::{NAME_LABEL, OWNER_LABEL};
pub(crate) use pull::ensure_image;
#[cfg(feature = "swarm")]
pub(crate) use reap::is_orphan;
#[cfg(feature = "swarm")]
pub(crate) use requests::Requests;
pub(crate) use shared::Broken;
