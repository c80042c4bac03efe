//! pipeline-cache

pub mod key;
pub mod store;
