//! [`TagImage`].

use async_trait::async_trait;
use pipeline_core::{InputRef, Step, StepContext, StepError};

use super::super::client::Registry;
use super::super::step_log::drive;
use super::image_input::RemoteImage;
use super::pushed_image::PushedImage;
use crate::existing_tag::ExistingTag;

/// Gives an image that is in a registry a further tag in its repository.
///
/// # Cancellation
///
/// The tag is set or not; nothing in between.
#[derive(Clone, Debug)]
pub struct TagImage {
    registry: Registry,
    image: RemoteImage,
    tag: String,
    existing: ExistingTag,
}

impl TagImage {
    /// Tags `image` as `tag`; refused if the tag names another image already.
    #[must_use]
    pub fn new(registry: Registry, image: impl Into<RemoteImage>, tag: impl Into<String>) -> Self {
        Self {
            registry,
            image: image.into(),
            tag: tag.into(),
            existing: ExistingTag::Refuse,
        }
    }

    /// Sets what happens when the tag exists with another digest.
    #[must_use]
    pub fn with_existing(mut self, existing: ExistingTag) -> Self {
        self.existing = existing;
        self
    }
}

#[async_trait]
impl Step for TagImage {
    type Output = PushedImage;

    fn inputs(&self) -> Vec<InputRef> {
        self.image.edge().into_iter().collect()
    }

    async fn run(&self, context: &StepContext) -> Result<PushedImage, StepError> {
        let reference = self.image.resolve(context)?;
        let doing = format!("tag {reference} as {}", self.tag);
        let report = drive(context, &doing, |observer| async {
            let registry = self.registry.observed_by(observer);
            registry
                .tag_report(&reference, &self.tag, self.existing)
                .await
        })
        .await?;
        let pushed = PushedImage::of(report);
        pushed.show(context).await;
        Ok(pushed)
    }
}
