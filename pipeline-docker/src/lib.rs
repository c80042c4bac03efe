//! Container images with or without an engine.

pub mod builder;
pub mod debian;
pub mod ignore;
pub mod oci;
mod reference;
#[cfg(feature = "registry")]
pub mod registry;
mod tar_stream;
#[cfg(feature = "registry")]
mod tls;

pub use reference::{ImageReference, ReferenceError};
