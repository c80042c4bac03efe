//! Steps of a pipeline: building images, and with the feature `registry` moving them, with `swarm`
//! running jobs on Docker Swarm.

mod build_image;
mod build_log;
mod origin;
#[cfg(feature = "swarm")]
mod run_swarm_job;

pub use build_image::BuildImage;
pub use origin::OriginLabels;
#[cfg(feature = "swarm")]
pub use run_swarm_job::RunSwarmJob;
