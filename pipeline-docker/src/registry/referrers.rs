//! What refers to an image: signatures, bills of materials.

use reqwest::Method;

use super::client::{MAX_LIST, MAX_LISTS, MAX_PAGES, Registry, next_page, selector};
use super::error::RegistryError;
use super::repository::{Access, FetchedManifest, Repository};
use super::request::Request;
use crate::oci::{Descriptor, Digest, ImageIndex, Manifest, media_type};
use crate::reference::ImageReference;

impl Registry {
    /// What refers to the image (signatures, bills of materials), optionally of one artifact
    /// type only.
    ///
    /// Asks the referrers API, and where a registry has none, the tag that the specification puts
    /// in its place.
    ///
    /// # Errors
    ///
    /// [`RegistryError`]; nothing referring to it is an empty answer.
    pub async fn referrers(
        &self,
        reference: &ImageReference,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let operation = self.operation();
        let reference = reference.or_latest();
        let repository = self.open(&reference, Access::Pull, &operation).await?;
        let digest = match reference.digest() {
            Some(digest) => digest.clone(),
            None => {
                let selector = selector(&reference)?;
                repository
                    .get_manifest(&selector, None)
                    .await?
                    .descriptor
                    .digest
            }
        };
        let action = format!("list what refers to {digest} in {}", repository.name);
        let mut found = Vec::new();
        let mut left = MAX_LISTS;
        let mut url = repository.url(&format!("referrers/{digest}"));
        if let Some(wanted) = artifact_type {
            url.query_pairs_mut().append_pair("artifactType", wanted);
        }
        for _ in 0..MAX_PAGES {
            let answer = repository
                .send(&action, &Request::new(Method::GET, url.clone()))
                .await?;
            if answer.status() == 404 {
                found = repository.referrers_tag(&digest).await?.manifests;
                break;
            }
            let answer = answer.expect(&[200]).await?;
            let next = match answer.header("link").and_then(next_page) {
                Some(link) => Some(repository.host.resolve(answer.url(), link, &action)?),
                None => None,
            };
            let bytes = answer.into_bytes(MAX_LIST.min(left)).await?;
            left -= bytes.len();
            let index: ImageIndex = serde_json::from_slice(&bytes)
                .map_err(|_| repository.protocol(&action, "its answer is no image index"))?;
            found.extend(index.manifests);
            match next {
                Some(next) if next != url => url = next,
                _ => break,
            }
        }
        // A registry may or may not have filtered.
        found.retain(|entry| {
            artifact_type.is_none_or(|wanted| entry.artifact_type.as_deref() == Some(wanted))
        });
        Ok(found)
    }
}

impl Repository {
    /// The index under the tag that stands in for the referrers API; empty if there is none.
    async fn referrers_tag(&self, subject: &Digest) -> Result<ImageIndex, RegistryError> {
        let found = self.find_manifest(&tag(subject), None).await?;
        match found.map(|found| found.manifest) {
            Some(Manifest::Index(index)) => Ok(index),
            // Somebody's image of that name refers to nothing.
            Some(Manifest::Image(_)) | None => Ok(ImageIndex::new(Vec::new())),
        }
    }

    /// Adds a manifest that names a subject to the index in place of the referrers API.
    ///
    /// The specification makes this the client's duty where the registry has not taken note. Two
    /// clients at the same moment can lose one entry; it has no remedy for that.
    pub(crate) async fn note_referrer(&self, node: &FetchedManifest) -> Result<(), RegistryError> {
        let (subject, artifact_type, annotations) = match &node.manifest {
            Manifest::Image(image) => {
                let kind = image.artifact_type.clone();
                let kind = kind.unwrap_or_else(|| image.config.media_type.clone());
                (&image.subject, Some(kind), &image.annotations)
            }
            Manifest::Index(index) => (
                &index.subject,
                index.artifact_type.clone(),
                &index.annotations,
            ),
        };
        let Some(subject) = subject else {
            return Ok(());
        };
        let mut index = self.referrers_tag(&subject.digest).await?;
        let known = |entry: &Descriptor| entry.digest == node.descriptor.digest;
        if index.manifests.iter().any(known) {
            return Ok(());
        }
        let mut entry = node.descriptor.clone();
        entry.artifact_type = artifact_type;
        entry.annotations.clone_from(annotations);
        index.manifests.push(entry);
        let bytes = serde_json::to_vec(&index).map_err(|error| RegistryError::Configuration {
            what: "an index cannot be written as JSON".to_owned(),
            source: Some(Box::new(error)),
        })?;
        let descriptor = Descriptor::of(media_type::IMAGE_INDEX, &bytes);
        self.put_manifest(&tag(&subject.digest), &descriptor, &bytes)
            .await?;
        Ok(())
    }
}

/// `sha256-<digits>`, as the specification has it.
fn tag(subject: &Digest) -> String {
    format!("{}-{}", subject.algorithm(), subject.hex())
}
