//! Container images with or without an engine.

pub mod builder;
pub mod ignore;
pub mod oci;
mod tar_stream;
