//! [`Registry`].

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde::Deserialize;

use super::error::RegistryError;
use super::options::RegistryOptions;
use super::progress::{BlobOutcome, Operation, TransferObserver};
use super::push::unique_blobs;
use super::rate_limit::RateLimit;
use super::report::{BlobReport, PushReport, Totals};
use super::repository::{Access, Repository};
use super::request::{Call, Request};
use super::scope::Scopes;
use super::transport::Transport;
use crate::existing_tag::ExistingTag;
use crate::oci::{Descriptor, Digest};
use crate::reference::ImageReference;

/// A page of tags or an index of referrers is not longer.
pub(crate) const MAX_LIST: usize = 8 * 1024 * 1024;
/// Bytes of all pages together: some hundred thousand tags.
pub(crate) const MAX_LISTS: usize = 16 * 1024 * 1024;
/// Pages that are read before a registry is taken to go round in circles.
pub(crate) const MAX_PAGES: usize = 10_000;

/// A client for all registries: connections, credentials and tokens are kept per registry.
///
/// Cloning is cheap and shares them. See [`RegistryOptions`] for what it does by default: TLS
/// except on loopback, no credentials, nothing read from the environment.
///
/// Its methods need a tokio runtime with I/O and time, and spawn their transfers on it; dropping
/// a method's future ends them.
#[derive(Clone, Debug)]
pub struct Registry {
    transport: Arc<Transport>,
    observer: Option<Arc<dyn TransferObserver>>,
}

/// What a registry says about our credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Login {
    /// The registry.
    pub registry: String,
    /// Whether credentials were found, sent and accepted. A registry that wants none does not
    /// see them.
    pub authenticated: bool,
}

/// What a tag names, as far as a HEAD request tells.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResolvedImage {
    /// The reference, pinned to the digest.
    pub reference: ImageReference,
    /// The digest.
    pub digest: Digest,
    /// The pulls that are left, if the registry counts them.
    pub rate_limit: Option<RateLimit>,
}

impl Registry {
    /// Makes a client; nothing is connected yet.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Configuration`] if an authority or the proxy's address is not valid.
    pub fn new(options: RegistryOptions) -> Result<Self, RegistryError> {
        let observer = options.observer.clone();
        let transport = Arc::new(Transport::new(options)?);
        Ok(Self {
            transport,
            observer,
        })
    }

    /// The options that it was made with.
    #[must_use]
    pub fn options(&self) -> &RegistryOptions {
        self.transport.options()
    }

    /// The same client, connections and tokens included, whose operations tell another observer.
    #[must_use]
    pub fn observed_by(&self, observer: Arc<dyn TransferObserver>) -> Self {
        Self {
            transport: Arc::clone(&self.transport),
            observer: Some(observer),
        }
    }

    /// The counters of a new operation.
    pub(crate) fn operation(&self) -> Arc<Operation> {
        Operation::new(self.observer.clone())
    }

    pub(crate) fn transport(&self) -> &Arc<Transport> {
        &self.transport
    }

    /// Shows the credentials to the registry (`docker.io`, `localhost:5000`) and nothing else.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Unauthorized`] if it does not accept them or wants some and there are
    /// none.
    pub async fn login(&self, registry: &str) -> Result<Login, RegistryError> {
        let operation = self.operation();
        let host = self.transport.host(registry, &operation).await?;
        let scopes = Scopes::default();
        let call = Call {
            host: &host,
            scopes: &scopes,
            action: "log in",
            operation: &operation,
        };
        let request = Request::new(Method::GET, host.url(""));
        let answer = self.transport.send(call, &request).await?;
        answer.expect(&[200]).await?;
        let known = host.authenticator.credentials(&self.transport).await?;
        let authenticated = known.is_some() && host.authenticator.is_challenged().await;
        Ok(Login {
            registry: registry.to_owned(),
            authenticated,
        })
    }

    /// What `reference` names at the moment; `None` if nothing.
    ///
    /// A HEAD request, which registries that count pulls do not count.
    ///
    /// # Errors
    ///
    /// [`RegistryError`]; without tag and digest `latest` is looked up.
    pub async fn resolve(
        &self,
        reference: &ImageReference,
    ) -> Result<Option<ResolvedImage>, RegistryError> {
        let operation = self.operation();
        let reference = reference.or_latest();
        let repository = self.open(&reference, Access::Pull, &operation).await?;
        let selector = selector(&reference)?;
        let digest = repository.head_manifest(&selector).await?;
        Ok(digest.map(|digest| ResolvedImage {
            reference: reference.with_digest(digest.clone()),
            digest,
            rate_limit: operation.rate_limit(),
        }))
    }

    /// Fetches a manifest and checks its digest; answers its descriptor and its exact bytes.
    ///
    /// # Errors
    ///
    /// [`RegistryError`]; without tag and digest `latest` is fetched.
    pub async fn manifest(
        &self,
        reference: &ImageReference,
    ) -> Result<(Descriptor, Vec<u8>), RegistryError> {
        let operation = self.operation();
        let reference = reference.or_latest();
        let repository = self.open(&reference, Access::Pull, &operation).await?;
        let found = repository
            .get_manifest(&selector(&reference)?, reference.digest())
            .await?;
        Ok((found.descriptor, found.bytes))
    }

    /// Gives an image that the registry has a further tag in the same repository.
    ///
    /// Nothing but the manifest is sent. Answers the digest.
    ///
    /// # Errors
    ///
    /// [`RegistryError::TagExists`] if the tag names another image and `existing` does not allow
    /// to move it.
    pub async fn tag(
        &self,
        reference: &ImageReference,
        tag: &str,
        existing: ExistingTag,
    ) -> Result<Digest, RegistryError> {
        Ok(self.tag_report(reference, tag, existing).await?.digest)
    }

    pub(crate) async fn tag_report(
        &self,
        reference: &ImageReference,
        tag: &str,
        existing: ExistingTag,
    ) -> Result<PushReport, RegistryError> {
        let started = Instant::now();
        let operation = self.operation();
        let target = reference.with_tag(tag)?;
        let repository = self.open(reference, Access::Push, &operation).await?;
        let image = repository
            .get_manifest(&selector(reference)?, reference.digest())
            .await?;
        let digest = image.descriptor.digest.clone();
        let unchanged = match repository.head_manifest(tag).await? {
            Some(there) if there == digest => true,
            Some(there) if existing == ExistingTag::Refuse => {
                return Err(RegistryError::TagExists {
                    reference: Box::new(target),
                    existing: there,
                    wanted: digest,
                });
            }
            _ => false,
        };
        if !unchanged {
            repository
                .put_manifest(tag, &image.descriptor, &image.bytes)
                .await?;
        }
        let blobs: Vec<BlobReport> = unique_blobs(&[image])
            .iter()
            .map(|blob| BlobReport::new(blob, BlobOutcome::Existed, 0, Duration::ZERO))
            .collect();
        let totals = Totals::of(&operation);
        Ok(PushReport {
            reference: target.with_digest(digest.clone()),
            digest,
            size: blobs.iter().map(|blob| blob.size).sum(),
            unchanged,
            blobs,
            bytes_sent: totals.sent,
            retries: totals.retries,
            duration: started.elapsed(),
        })
    }

    /// All tags of the repository, in the registry's order. Tag and digest of `repository` do not
    /// matter.
    ///
    /// # Errors
    ///
    /// [`RegistryError::NotFound`] if there is no such repository.
    pub async fn tags(&self, repository: &ImageReference) -> Result<Vec<String>, RegistryError> {
        #[derive(Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let operation = self.operation();
        let repository = self.open(repository, Access::Pull, &operation).await?;
        let action = format!("list the tags of {}", repository.name);
        let mut tags = Vec::new();
        let mut left = MAX_LISTS;
        let mut url = repository.url("tags/list");
        for _ in 0..MAX_PAGES {
            let request = Request::new(Method::GET, url.clone());
            let answer = repository
                .send(&action, &request)
                .await?
                .expect(&[200])
                .await?;
            let next = match answer.header("link").and_then(next_page) {
                Some(link) => Some(repository.host.resolve(answer.url(), link, &action)?),
                None => None,
            };
            let bytes = answer.into_bytes(MAX_LIST.min(left)).await?;
            left -= bytes.len();
            let page: Page = serde_json::from_slice(&bytes)
                .map_err(|_| repository.protocol(&action, "its list is no valid JSON"))?;
            // An empty repository lists null.
            tags.extend(page.tags.unwrap_or_default());
            match next {
                Some(next) if next != url => url = next,
                _ => return Ok(tags),
            }
        }
        Err(repository.protocol(&action, "its list has no end"))
    }

    /// Deletes what `reference` names: by digest the manifest with all its tags, by tag only the
    /// tag.
    ///
    /// Answers whether there was anything to delete.
    ///
    /// # Errors
    ///
    /// Many registries do not allow to delete, or not by tag (status 405 or 400): the error says
    /// what they answered. Then resolve the tag and delete the digest, if losing its other tags
    /// is meant.
    pub async fn delete(&self, reference: &ImageReference) -> Result<bool, RegistryError> {
        let operation = self.operation();
        let repository = self.open(reference, Access::Delete, &operation).await?;
        let selector = selector(reference)?;
        let action = format!("delete {}:{selector}", repository.name);
        let url = repository.url(&format!("manifests/{selector}"));
        let answer = repository
            .send(&action, &Request::new(Method::DELETE, url))
            .await?;
        match answer.status() {
            200 | 202 | 204 => Ok(true),
            404 => Ok(false),
            _ => Err(answer.into_error().await),
        }
    }

    pub(crate) async fn open(
        &self,
        reference: &ImageReference,
        access: Access,
        operation: &Arc<Operation>,
    ) -> Result<Repository, RegistryError> {
        Repository::open(&self.transport, reference, access, operation).await
    }
}

impl fmt::Display for Registry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "registry client ({})",
            self.options().credentials
        )
    }
}

pub(crate) fn selector(reference: &ImageReference) -> Result<String, RegistryError> {
    reference.selector().ok_or_else(|| RegistryError::NoTag {
        reference: Box::new(reference.clone()),
    })
}

/// The address in `<...>; rel="next"`.
pub(crate) fn next_page(link: &str) -> Option<&str> {
    let (address, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    let next = parameters.split(';').any(|parameter| {
        parameter
            .trim()
            .replace('"', "")
            .eq_ignore_ascii_case("rel=next")
    });
    next.then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found() {
        let link = r#"</v2/a/tags/list?n=2&last=b>; rel="next""#;
        assert_eq!(next_page(link), Some("/v2/a/tags/list?n=2&last=b"));
        assert_eq!(next_page("<x>; rel=next"), Some("x"));
        assert_eq!(next_page(r#"<x>; rel="prev""#), None);
        assert_eq!(next_page("x"), None);
    }

    #[test]
    fn the_client_is_shared_between_tasks() {
        fn shared<T: Send + Sync + Clone + fmt::Debug>() {}
        shared::<Registry>();
    }
}
