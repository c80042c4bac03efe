//! Dockerfile builds by a container engine, and images of layers brought into one.

mod builder;
#[cfg(feature = "buildkit")]
mod buildkit;
mod buildkit_error;
mod classic;
mod context_stream;
mod dockerfile;
mod failure;
mod leftover;
mod lines;
mod load;
mod names;
#[cfg(feature = "buildkit")]
mod secret_build;
mod store;

pub use builder::{BuildBackend, EngineBuilder};
pub(super) use load::load;
pub(super) use names::Names;
