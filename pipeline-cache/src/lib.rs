#![doc = include_str!("../README.md")]

#[cfg(not(unix))]
compile_error!("pipeline-cache needs a Unix system: it unpacks through folder handles");

pub mod archive;
pub mod cache;
#[cfg(feature = "chunked")]
pub mod chunked;
pub mod files;
pub mod key;
pub mod memoise;
pub mod steps;
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod workspace;
