//! pipeline-deploy

pub mod django;
