//! pipeline-docker
