//! Deploying as a step of a pipeline.

mod deploy;
mod narrate;

pub use deploy::{Deploy, deploy};
