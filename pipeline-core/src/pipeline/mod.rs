//! Describing a pipeline, and planning a run of it.

mod builder;
mod filter;
mod job;
mod plan;

pub use builder::{Pipeline, PipelineBuilder, PipelineError, PipelineFinding};
pub use filter::{Filter, FilterError};
pub use job::Job;
pub(crate) use job::JobStep;
pub use plan::{Plan, PlannedJob, PlannedStep};
