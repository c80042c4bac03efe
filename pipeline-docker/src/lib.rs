//! Container images with or without an engine.

pub mod oci;
