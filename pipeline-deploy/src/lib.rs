//! pipeline-deploy
