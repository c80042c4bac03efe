//! [`CopyImage`].

use async_trait::async_trait;
use pipeline_core::{InputRef, Step, StepContext, StepError};

use super::super::client::Registry;
use super::super::copy::CopyOptions;
use super::super::step_log::drive;
use super::image_input::RemoteImage;
use super::pushed_image::PushedImage;
use crate::reference::ImageReference;

/// Copies an image from one repository to another, such as from staging to production.
///
/// # Cancellation
///
/// As for [`Registry::copy`].
#[derive(Clone, Debug)]
pub struct CopyImage {
    registry: Registry,
    from: RemoteImage,
    to: ImageReference,
    options: CopyOptions,
}

impl CopyImage {
    /// Copies `from` to `to`; without a tag in `to`, the one of `from` is taken over.
    #[must_use]
    pub fn new(registry: Registry, from: impl Into<RemoteImage>, to: ImageReference) -> Self {
        Self {
            registry,
            from: from.into(),
            to,
            options: CopyOptions::default(),
        }
    }

    /// Sets how it is copied.
    #[must_use]
    pub fn with_options(mut self, options: CopyOptions) -> Self {
        self.options = options;
        self
    }
}

#[async_trait]
impl Step for CopyImage {
    type Output = PushedImage;

    fn inputs(&self) -> Vec<InputRef> {
        self.from.edge().into_iter().collect()
    }

    async fn run(&self, context: &StepContext) -> Result<PushedImage, StepError> {
        let from = self.from.resolve(context)?;
        let doing = format!("copy {from} to {}", self.to);
        let report = drive(context, &doing, |observer| async {
            self.registry
                .observed_by(observer)
                .copy(&from, &self.to, &self.options)
                .await
        })
        .await?;
        let pushed = PushedImage::of(report);
        pushed.show(context).await;
        Ok(pushed)
    }
}
