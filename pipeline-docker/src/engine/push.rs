//! What an engine sends to a registry.

use std::time::{Duration, Instant};

use bollard::query_parameters::{
    PushImageOptionsBuilder, RemoveImageOptionsBuilder, TagImageOptionsBuilder,
};
use futures_util::StreamExt;

use super::{Engine, EngineError, EngineErrorKind, registry_credentials};
use crate::credentials::CredentialSource;
use crate::oci::Digest;
use crate::reference::ImageReference;

/// What [`Engine::push`] has done.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EnginePush {
    /// The image, pinned to its digest.
    pub reference: ImageReference,
    /// The digest of the manifest, as the engine named it. Ask the registry for it to be sure.
    pub digest: Digest,
    /// Whether it was pushed without credentials.
    pub anonymous: bool,
    /// How long it took.
    pub duration: Duration,
}

impl Engine {
    /// Gives an image of the engine's store, named by a name or its id, a further name; without a
    /// tag, `latest`. Another image that has the name loses it.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn tag(&self, image: &str, name: &ImageReference) -> Result<(), EngineError> {
        let options = TagImageOptionsBuilder::default()
            .repo(&name.name())
            .tag(name.tag().unwrap_or("latest"))
            .build();
        self.client()
            .tag_image(image, Some(options))
            .await
            .map_err(|error| self.error(&format!("tag the image {name}"), error))
    }

    /// Takes a name off an image, and the image away with its last name. What lies below it stays.
    /// A name that is not there is no failure.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn untag(&self, name: &ImageReference) -> Result<(), EngineError> {
        let name = name.or_latest().to_string();
        let options = RemoveImageOptionsBuilder::default().noprune(true).build();
        match self.client().remove_image(&name, Some(options), None).await {
            Ok(_) => Ok(()),
            Err(error) => match self.error(&format!("remove the image {name}"), error) {
                error if error.kind() == EngineErrorKind::NotFound => Ok(()),
                error => Err(error),
            },
        }
    }

    /// The id of the image that has a name in the engine's store.
    #[cfg(feature = "registry")]
    pub(crate) async fn image_id(
        &self,
        name: &ImageReference,
    ) -> Result<Option<String>, EngineError> {
        match self.client().inspect_image(&name.to_string()).await {
            Ok(image) => Ok(image.id),
            Err(error) => match self.error(&format!("find the image {name}"), error) {
                error if error.kind() == EngineErrorKind::NotFound => Ok(None),
                error => Err(error),
            },
        }
    }

    /// Pushes an image of the engine's store under a name that it has there; without a tag,
    /// `latest`. The engine sends what the registry lacks, and the manifest last.
    ///
    /// # Errors
    /// [`EngineError`]; the tag in the registry is as it was then, unless the connection to the
    /// engine broke after the engine's last request.
    ///
    /// # Cancellation
    /// Dropping the future ends the push. Layers that were complete stay in the registry.
    pub async fn push(
        &self,
        image: &ImageReference,
        credentials: &dyn CredentialSource,
    ) -> Result<EnginePush, EngineError> {
        let started = Instant::now();
        let image = image.or_latest();
        let action = format!("push {image}");
        let credentials = registry_credentials(credentials, image.domain()).await?;
        let anonymous = credentials.is_none();
        let options = PushImageOptionsBuilder::default()
            .tag(image.tag().unwrap_or("latest"))
            .build();
        let client = self.client_within(None);
        // An engine refuses a push without any credentials header at all.
        let credentials = Some(credentials.unwrap_or_default());
        let mut answers =
            std::pin::pin!(client.push_image(&image.name(), Some(options), credentials));
        let mut digest = None;
        while let Some(info) = answers.next().await {
            let info = info.map_err(|error| self.error(&action, error))?;
            if let Some(message) = info.error_detail.and_then(|detail| detail.message) {
                return Err(EngineError::said(&action, None, &message));
            }
            digest = info.status.as_deref().and_then(pushed).or(digest);
        }
        let digest = digest.ok_or_else(|| {
            // An engine that goes away while it pushes just ends its answer.
            let gone = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
            EngineError::broke(&self.address().to_string(), &action, Box::new(gone))
        })?;
        Ok(EnginePush {
            reference: image.with_digest(digest.clone()),
            digest,
            anonymous,
            duration: started.elapsed(),
        })
    }
}

/// The digest in the last line, `TAG: digest: sha256:… size: N`: what the engine shows of the image
/// afterwards is not always what the registry has.
fn pushed(status: &str) -> Option<Digest> {
    let (_, rest) = status.split_once(": digest: ")?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_in_the_last_line() {
        let digest = Digest::sha256(b"x");
        let line = format!("1.0: digest: {digest} size: 528");
        assert_eq!(pushed(&line), Some(digest));
        assert_eq!(pushed("abc: Pushed"), None);
    }
}
