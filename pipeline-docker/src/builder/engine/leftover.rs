//! [`Leftover`]: what must not stay in an engine when something fails.

use super::store;
use crate::engine::{Engine, EngineError};
use crate::oci::Digest;

/// An image in an engine that goes again, unless it is kept.
///
/// Dropping it lets it go in the background, as far as there is a runtime for that.
#[derive(Debug)]
pub(super) struct Leftover {
    engine: Engine,
    image: Option<Image>,
}

#[derive(Debug)]
enum Image {
    Named(String),
    Unnamed(Digest),
}

impl Leftover {
    /// What has this name, which nobody else uses; the engine may not have it yet.
    pub(super) fn named(engine: &Engine, name: String) -> Self {
        Self {
            engine: engine.clone(),
            image: Some(Image::Named(name)),
        }
    }

    /// The image with this id, as long as it has no name.
    pub(super) fn unnamed(engine: &Engine, id: &Digest) -> Self {
        Self {
            engine: engine.clone(),
            image: Some(Image::Unnamed(id.clone())),
        }
    }

    /// It is no leftover any more.
    pub(super) fn keep(mut self) {
        self.image = None;
    }

    /// Removes it; one that is gone already is fine.
    pub(super) async fn remove(mut self) -> Result<(), EngineError> {
        match self.image.take() {
            Some(image) => image.remove(&self.engine).await,
            None => Ok(()),
        }
    }
}

impl Image {
    async fn remove(self, engine: &Engine) -> Result<(), EngineError> {
        match self {
            Self::Named(name) => store::remove(engine, &name).await,
            Self::Unnamed(id) => store::remove_unnamed(engine, &id).await,
        }
    }
}

impl Drop for Leftover {
    fn drop(&mut self) {
        let Some(image) = self.image.take() else {
            return;
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let engine = self.engine.clone();
            runtime.spawn(async move {
                // Whoever gave up does not wait for an answer.
                drop(image.remove(&engine).await);
            });
        }
    }
}
