//! [`PullImage`].

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use pipeline_core::{InputRef, Step, StepContext, StepError};
use serde::{Deserialize, Serialize};

use super::super::client::Registry;
use super::super::error::RegistryError;
use super::super::pull::PullOptions;
use super::super::report::BlobReport;
use super::super::step_log::{drive, human};
use super::image_input::RemoteImage;
use crate::oci::{Digest, OciLayout};
use crate::reference::ImageReference;

/// What [`PullImage`] produces.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PulledImage {
    /// The reference, pinned to the digest that the registry gave for it.
    pub reference: ImageReference,
    /// The digest of the manifest in the layout.
    pub digest: Digest,
    /// The layout's folder.
    pub layout: PathBuf,
    /// Bytes of all blobs.
    pub size: u64,
    /// Bytes that came in.
    pub bytes_received: u64,
    /// Every blob once.
    pub blobs: Vec<BlobReport>,
    /// How long it took.
    pub duration: Duration,
}

/// Pulls an image into an OCI layout, such as a base image.
///
/// The tag is resolved once; what comes after works on the digest in the output.
///
/// # Cancellation
///
/// As for [`Registry::pull`].
#[derive(Clone, Debug)]
pub struct PullImage {
    registry: Registry,
    image: RemoteImage,
    layout: PathBuf,
    options: PullOptions,
}

impl PullImage {
    /// Pulls `image` into the layout at `layout`, which is made if it is not there; a relative
    /// path is below the data folder, where the next run finds the blobs again.
    #[must_use]
    pub fn new(
        registry: Registry,
        image: impl Into<RemoteImage>,
        layout: impl Into<PathBuf>,
    ) -> Self {
        Self {
            registry,
            image: image.into(),
            layout: layout.into(),
            options: PullOptions::default(),
        }
    }

    /// Sets how it is pulled.
    #[must_use]
    pub fn with_options(mut self, options: PullOptions) -> Self {
        self.options = options;
        self
    }
}

#[async_trait]
impl Step for PullImage {
    type Output = PulledImage;

    fn inputs(&self) -> Vec<InputRef> {
        self.image.edge().into_iter().collect()
    }

    async fn run(&self, context: &StepContext) -> Result<PulledImage, StepError> {
        let reference = self.image.resolve(context)?;
        let doing = format!("pull {reference}");
        let path = context.data_dir().join(&self.layout);
        let report = drive(context, &doing, |observer| async {
            let created = path.clone();
            let layout = tokio::task::spawn_blocking(move || OciLayout::create(created)).await;
            let layout = match layout {
                Ok(Ok(layout)) => layout,
                Ok(Err(error)) => {
                    return Err(RegistryError::Layout {
                        path: path.clone(),
                        source: Box::new(error),
                    });
                }
                Err(error) => {
                    return Err(RegistryError::Layout {
                        path: path.clone(),
                        source: Box::new(error),
                    });
                }
            };
            self.registry
                .observed_by(observer)
                .pull(&reference, &layout, &self.options)
                .await
        })
        .await?;
        let received = human(report.bytes_received);
        let seconds = report.duration.as_secs_f64();
        let rate = human(report.bytes_per_second() as u64);
        context
            .log(format!("digest: {}", report.manifest.digest))
            .await;
        let line = format!(
            "{received} of {} received in {seconds:.1} s ({rate}/s)",
            human(report.size)
        );
        context.log(format!("{}: {line}", report.reference)).await;
        context.summary(line);
        Ok(PulledImage {
            reference: report.reference,
            digest: report.manifest.digest,
            layout: path,
            size: report.size,
            bytes_received: report.bytes_received,
            blobs: report.blobs,
            duration: report.duration,
        })
    }
}
