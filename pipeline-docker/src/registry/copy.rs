//! Images on their way from one registry to another.

use super::client::Registry;
use super::error::RegistryError;
use super::origin::RemoteOrigin;
use super::pull::{PlatformChoice, resolve};
use super::push::publish;
use super::report::PushReport;
use super::repository::{Access, Repository};
use crate::existing_tag::ExistingTag;
use crate::reference::ImageReference;

/// How an image is copied.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CopyOptions {
    /// Default [`PlatformChoice::All`]: a copy is the same image, digest included.
    pub platform: PlatformChoice,
    /// Default [`ExistingTag::Refuse`].
    pub existing: ExistingTag,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self {
            platform: PlatformChoice::All,
            existing: ExistingTag::Refuse,
        }
    }
}

impl CopyOptions {
    /// Sets which of an index's images are copied.
    #[must_use]
    pub fn with_platform(mut self, platform: PlatformChoice) -> Self {
        self.platform = platform;
        self
    }

    /// Sets what happens when the tag exists with another digest.
    #[must_use]
    pub fn with_existing(mut self, existing: ExistingTag) -> Self {
        self.existing = existing;
        self
    }
}

impl Registry {
    /// Copies an image from one repository to another, of the same or of another registry.
    ///
    /// Bytes go through memory, not over a disk. Within one registry blobs are mounted instead.
    /// `to` without tag and digest takes over the tag of `from`.
    ///
    /// # Errors
    ///
    /// [`RegistryError`]; nothing is tagged then.
    ///
    /// # Cancellation
    ///
    /// As for [`Registry::push`].
    pub async fn copy(
        &self,
        from: &ImageReference,
        to: &ImageReference,
        options: &CopyOptions,
    ) -> Result<PushReport, RegistryError> {
        let operation = self.operation();
        let from = from.or_latest();
        let to = match (to.tag(), to.digest(), from.tag()) {
            (None, None, Some(tag)) => to.with_tag(tag)?,
            _ => to.clone(),
        };
        let source = Repository::open(self.transport(), &from, Access::Pull, &operation).await?;
        let (_, root) = resolve(&source, &from, &options.platform).await?;
        let target = Repository::open(self.transport(), &to, Access::Push, &operation).await?;
        let same = from.domain() == to.domain();
        let mounts: Vec<String> = same.then(|| source.name.clone()).into_iter().collect();
        publish(
            &RemoteOrigin(source),
            root,
            &target,
            &to,
            options.existing,
            &mounts,
        )
        .await
    }
}
