//! [`Leftover`]: what must not stay in an engine when something fails.

use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::builder::joined;
use super::names::Names;
use super::store;
use crate::builder::BuildError;
use crate::engine::{Engine, EngineError};
use crate::oci::Digest;
use crate::reference::ImageReference;

/// How long the engine may take to finish what it was asked for by somebody who went away.
const LATE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(500);

/// An image in an engine and its new names, which go again unless they are kept.
///
/// Dropping it lets them go in the background, as far as there is a runtime for that.
#[derive(Debug)]
pub(super) struct Leftover {
    engine: Engine,
    /// Who drops this may be on no thread of the runtime.
    runtime: Handle,
    left: Left,
}

#[derive(Debug, Default)]
struct Left {
    /// The image that has the new names, and what had them before.
    named: Option<(String, Vec<Before>)>,
    image: Option<Image>,
    /// The engine may still be about to make the image.
    pending: bool,
}

/// A name, and the id of the image that had it.
pub(super) type Before = (ImageReference, Option<String>);

#[derive(Debug)]
enum Image {
    Named(String),
    Unnamed(Digest),
}

impl Leftover {
    fn new(engine: &Engine, image: Option<Image>) -> Self {
        Self {
            engine: engine.clone(),
            runtime: Handle::current(),
            left: Left {
                image,
                ..Left::default()
            },
        }
    }

    /// What has this name, which nobody else uses; the engine may not have it yet.
    pub(super) fn named(engine: &Engine, name: String) -> Self {
        Self::new(engine, Some(Image::Named(name)))
    }

    /// The image with this id, as long as it has no name.
    pub(super) fn unnamed(engine: &Engine, id: &Digest) -> Self {
        Self::new(engine, Some(Image::Unnamed(id.clone())))
    }

    /// An image that stays in any case; its new names do not.
    pub(super) fn nothing(engine: &Engine) -> Self {
        Self::new(engine, None)
    }

    /// Until [`answered`](Self::answered), that the image is not there says nothing: the engine goes
    /// on making what nobody waits for any more.
    pub(super) fn pending(mut self) -> Self {
        self.left.pending = true;
        self
    }

    /// The engine makes nothing any more.
    pub(super) fn answered(&mut self) {
        self.left.pending = false;
    }

    /// Gives the image all of `names`, or none. This goes on when nobody waits for it, and takes the
    /// names off again then.
    pub(super) async fn name(self, id: &Digest, names: &Names) -> Result<Self, BuildError> {
        let (mut this, id, names) = (self, id.clone(), names.clone());
        let task = tokio::spawn(async move {
            match store::tag(&this.engine, &id, &names).await {
                Ok(before) => {
                    this.left.named = Some((id.to_string(), before));
                    Ok(this)
                }
                Err(error) => {
                    // What the first failure says is what counts.
                    drop(this.remove().await);
                    Err(error)
                }
            }
        });
        joined(task.await)?
    }

    /// It is no leftover any more.
    pub(super) fn keep(mut self) {
        self.left = Left::default();
    }

    /// Removes it; one that is gone already is fine.
    pub(super) async fn remove(mut self) -> Result<(), EngineError> {
        std::mem::take(&mut self.left).remove(&self.engine).await
    }
}

impl Left {
    async fn remove(self, engine: &Engine) -> Result<(), EngineError> {
        let mut result = Ok(());
        if let Some((id, before)) = &self.named {
            result = store::untag(engine, id, before).await;
        }
        let limit = Instant::now() + LATE;
        loop {
            let removed = match &self.image {
                None => return result,
                Some(Image::Named(name)) => store::remove(engine, name).await,
                Some(Image::Unnamed(id)) => store::remove_unnamed(engine, id).await,
            };
            let is_over = !self.pending || Instant::now() > limit;
            match removed {
                Ok(false) if !is_over => tokio::time::sleep(PAUSE).await,
                removed => return result.and(removed.map(drop)),
            }
        }
    }
}

impl Drop for Leftover {
    fn drop(&mut self) {
        let left = std::mem::take(&mut self.left);
        if left.image.is_none() && left.named.is_none() {
            return;
        }
        let engine = self.engine.clone();
        self.runtime.spawn(async move {
            // Whoever gave up does not wait for an answer.
            drop(left.remove(&engine).await);
        });
    }
}
