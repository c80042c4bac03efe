//! What an image in a registry is, without its layers.

use super::client::Registry;
use super::error::RegistryError;
use super::pull::{PlatformChoice, is_anonymous, pull_blobs, resolve};
use super::repository::{Access, Repository};
use crate::oci::{Digest, ImageConfig, LayoutImage, Manifest, OciLayout};
use crate::reference::ImageReference;

/// More than any configuration has.
const MAX_CONFIG: usize = 4 * 1024 * 1024;

/// An image in a registry whose manifest and configuration are known.
#[derive(Debug)]
pub(crate) struct FoundImage {
    source: Repository,
    pub(crate) image: LayoutImage,
}

impl FoundImage {
    /// Brings the layers that `layout` lacks into it. Its index stays as it is.
    pub(crate) async fn pull_layers(&self, layout: &OciLayout) -> Result<(), RegistryError> {
        is_anonymous(&self.source).await?;
        pull_blobs(&self.source, layout, &self.image.manifest.layers).await?;
        Ok(())
    }
}

impl Registry {
    /// Fetches how an image runs and what it is made of, and checks its digest. No layer is
    /// fetched. Where the reference names an index, `platform` chooses the image.
    ///
    /// # Errors
    ///
    /// [`RegistryError`]; without tag and digest `latest` is fetched.
    /// [`RegistryError::Protocol`] for what is no image, such as all images of an index at once.
    pub async fn config(
        &self,
        reference: &ImageReference,
        platform: &PlatformChoice,
    ) -> Result<ImageConfig, RegistryError> {
        Ok(self.find(reference, platform).await?.image.config)
    }

    /// As [`Registry::config`], with the manifest, and ready to fetch the layers.
    pub(crate) async fn find(
        &self,
        reference: &ImageReference,
        platform: &PlatformChoice,
    ) -> Result<FoundImage, RegistryError> {
        let operation = self.operation();
        let reference = reference.or_latest();
        let source =
            Repository::open(self.transport(), &reference, Access::Pull, &operation).await?;
        let (_, meant) = resolve(&source, &reference, platform).await?;
        let action = format!("show {reference}");
        let Manifest::Image(manifest) = meant.manifest else {
            return Err(source.protocol(&action, "it has an index there, and no image was chosen"));
        };
        let (answer, _) = source.open_blob(&manifest.config, 0).await?;
        let bytes = answer.into_bytes(MAX_CONFIG).await?;
        if !manifest.config.digest.matches(&bytes) {
            return Err(RegistryError::DigestMismatch {
                what: "configuration",
                origin: source.label(),
                expected: manifest.config.digest,
                actual: Digest::sha256(&bytes),
            });
        }
        let config = serde_json::from_slice(&bytes)
            .map_err(|_| source.protocol(&action, "its configuration is not that of an image"))?;
        let image = LayoutImage {
            descriptor: meant.descriptor,
            manifest,
            manifest_bytes: meant.bytes,
            config,
        };
        Ok(FoundImage { source, image })
    }
}
