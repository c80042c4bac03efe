//! [`ImageInput`] and [`RemoteImage`]: what registry steps work on.

use std::path::PathBuf;

use pipeline_core::{Input, InputRef, Output, StepContext, StepError};

use super::pushed_image::PushedImage;
use crate::builder::BuiltImage;
use crate::reference::ImageReference;

/// The image that a [`PushImage`](super::PushImage) pushes: one that a step builds, or one in a layout.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ImageInput {
    /// Built by a step, or known.
    Built(Box<Input<BuiltImage>>),
    /// In an OCI layout; a relative path is below the data folder.
    Layout {
        /// The layout's folder.
        path: PathBuf,
        /// Which image of it, by tag or digest; the only one if none is named.
        image: Option<String>,
    },
}

impl ImageInput {
    /// The only image of the layout at `path`.
    #[must_use]
    pub fn layout(path: impl Into<PathBuf>) -> Self {
        Self::Layout {
            path: path.into(),
            image: None,
        }
    }

    /// Names which image of a layout is meant, by tag or digest. A built one needs no name.
    #[must_use]
    pub fn named(self, name: impl Into<String>) -> Self {
        match self {
            Self::Layout { path, .. } => Self::Layout {
                path,
                image: Some(name.into()),
            },
            built @ Self::Built(_) => built,
        }
    }

    pub(super) fn edge(&self) -> Option<InputRef> {
        match self {
            Self::Built(input) => input.edge(),
            Self::Layout { .. } => None,
        }
    }
}

impl From<BuiltImage> for ImageInput {
    fn from(image: BuiltImage) -> Self {
        Self::Built(Box::new(image.into()))
    }
}

impl From<Output<BuiltImage>> for ImageInput {
    fn from(output: Output<BuiltImage>) -> Self {
        Self::Built(Box::new(output.into()))
    }
}

impl From<&Output<BuiltImage>> for ImageInput {
    fn from(output: &Output<BuiltImage>) -> Self {
        Self::Built(Box::new(output.into()))
    }
}

/// An image in a registry as input of a step: a reference, or what a step has put there.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RemoteImage {
    /// A reference, known or made by a step.
    Reference(Input<ImageReference>),
    /// Pushed, copied or tagged by a step: pinned to its digest.
    Pushed(Input<PushedImage>),
}

impl RemoteImage {
    pub(super) fn edge(&self) -> Option<InputRef> {
        match self {
            Self::Reference(input) => input.edge(),
            Self::Pushed(input) => input.edge(),
        }
    }

    pub(super) fn resolve(&self, context: &StepContext) -> Result<ImageReference, StepError> {
        match self {
            Self::Reference(input) => context.resolve(input),
            Self::Pushed(input) => context.resolve(input).map(|image| image.reference),
        }
    }
}

impl From<ImageReference> for RemoteImage {
    fn from(reference: ImageReference) -> Self {
        Self::Reference(reference.into())
    }
}

impl From<Output<ImageReference>> for RemoteImage {
    fn from(output: Output<ImageReference>) -> Self {
        Self::Reference(output.into())
    }
}

impl From<Output<PushedImage>> for RemoteImage {
    fn from(output: Output<PushedImage>) -> Self {
        Self::Pushed(output.into())
    }
}

impl From<&Output<PushedImage>> for RemoteImage {
    fn from(output: &Output<PushedImage>) -> Self {
        Self::Pushed(output.into())
    }
}
