//! [`Names`]: what an image will be called in an engine.

use super::store;
use crate::builder::{BuildError, ImageOutput};
use crate::reference::ImageReference;

/// The names that an image gets in an engine, all or none.
#[derive(Clone, Debug, Default)]
pub(in crate::builder) struct Names {
    /// Refused when another image has them.
    pub(super) unique: Vec<ImageReference>,
    /// Taken from whatever has them.
    pub(super) moving: Vec<ImageReference>,
}

impl Names {
    /// Those that an output asks for.
    pub(in crate::builder) fn of(output: &ImageOutput) -> Result<Self, BuildError> {
        let ImageOutput::Engine { tags, unique } = output else {
            return Ok(Self::default());
        };
        let read = |names: &[String]| -> Result<Vec<_>, BuildError> {
            names.iter().map(|name| store::name(name)).collect()
        };
        Ok(Self {
            unique: read(unique)?,
            moving: read(tags)?,
        })
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &ImageReference> {
        self.unique.iter().chain(&self.moving)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all().next().is_none()
    }

    pub(super) fn texts(&self) -> Vec<String> {
        self.all().map(ToString::to_string).collect()
    }
}
