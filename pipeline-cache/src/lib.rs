//! pipeline-cache
