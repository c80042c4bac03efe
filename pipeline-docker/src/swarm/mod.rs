//! One-shot jobs on Docker Swarm.
//!
//! [`Swarm`] runs the tasks of a [`SwarmJob`] on the nodes of a swarm, follows them, brings their
//! output home and removes everything.
//!
//! ```no_run
//! use pipeline_docker::container::Limits;
//! use pipeline_docker::engine::Engine;
//! use pipeline_docker::swarm::{Swarm, SwarmJob, Unobserved};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let job = SwarmJob::new("tests", "registry.example/site:4f2c1e7".parse()?)
//!     .with_command(["python", "-m", "pytest"])
//!     .with_completions(8)
//!     .with_parallelism(4)
//!     .with_constraint("node.labels.pool==ci")
//!     .with_limits(Limits::default().with_memory(512 << 20));
//! let swarm = Swarm::new(Engine::from_env().await?);
//! let report = swarm.run(&job, &Unobserved).await?;
//! for task in &report.tasks {
//!     println!("{} on {}: {}", task.index, task.node, task.exit);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Why not the engine's own job mode
//! Each task is a service of its own with one replica that is never restarted. Engines have a mode
//! for jobs as well; with 20.10 it starts failed tasks again for ever although it is told not to,
//! as soon as there are two, and tasks that run go on when their job is removed. A service with one
//! replica does neither, and it works with every engine that is supported here.
//!
//! # What a task is given
//! `PIPELINE_TASK_INDEX`, counted from 0, and `PIPELINE_TASK_TOTAL` tell it which part of the work
//! is its own. It has no network of the swarm unless one is named: only its node's default one.

mod cluster;
mod error;
mod holdings;
mod job;
mod log;
mod observer;
mod reap;
mod report;
mod spec;
mod task;

pub use cluster::Swarm;
pub use error::SwarmError;
pub use job::SwarmJob;
pub use observer::{SwarmEvent, SwarmObserver, TaskState, Unobserved};
pub use reap::{SwarmReaped, reap};
pub use report::{SwarmReport, TaskReport};
