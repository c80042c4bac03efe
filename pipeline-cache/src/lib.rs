#![doc = include_str!("../README.md")]

#[cfg(not(unix))]
compile_error!("pipeline-cache needs a Unix system: it unpacks through folder handles");

pub mod archive;
pub mod cache;
pub mod key;
pub mod steps;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
