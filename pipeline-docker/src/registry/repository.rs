//! One repository of one registry: manifests and blobs as the distribution specification has them.

use std::sync::Arc;

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderValue, RANGE};
use reqwest::{Method, Url};

use super::answer::Answer;
use super::error::RegistryError;
use super::host::Host;
use super::progress::{Operation, TransferEvent};
use super::request::{Call, Request};
use super::scope::Scopes;
use super::transport::Transport;
use crate::oci::{Descriptor, Digest, DigestHasher, MAX_METADATA, Manifest, media_type};
use crate::reference::ImageReference;

/// Every manifest type that we understand; a registry converts or refuses what is not named.
const MANIFEST_TYPES: [&str; 4] = [
    media_type::IMAGE_MANIFEST,
    media_type::IMAGE_INDEX,
    media_type::DOCKER_MANIFEST,
    media_type::DOCKER_MANIFEST_LIST,
];

/// What an operation wants to do in a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Pull,
    Push,
    Delete,
}

/// A repository for the length of one operation.
#[derive(Clone, Debug)]
pub(crate) struct Repository {
    pub(crate) transport: Arc<Transport>,
    pub(crate) host: Arc<Host>,
    pub(crate) name: String,
    pub(crate) scopes: Scopes,
    pub(crate) operation: Arc<Operation>,
}

/// A manifest together with its exact bytes.
#[derive(Clone, Debug)]
pub(crate) struct FetchedManifest {
    pub(crate) descriptor: Descriptor,
    pub(crate) bytes: Vec<u8>,
    pub(crate) manifest: Manifest,
}

impl Repository {
    pub(crate) async fn open(
        transport: &Arc<Transport>,
        reference: &ImageReference,
        access: Access,
        operation: &Arc<Operation>,
    ) -> Result<Self, RegistryError> {
        let host = transport.host(reference.domain(), operation).await?;
        let name = reference.repository();
        let scopes = match access {
            Access::Pull => Scopes::pull(name),
            Access::Push => Scopes::push(name),
            Access::Delete => Scopes::delete(name),
        };
        Ok(Self {
            transport: Arc::clone(transport),
            host,
            name: name.to_owned(),
            scopes,
            operation: Arc::clone(operation),
        })
    }

    pub(crate) fn url(&self, path: &str) -> Url {
        self.host.url(&format!("{}/{path}", self.name))
    }

    pub(crate) fn call<'a>(&'a self, action: &'a str) -> Call<'a> {
        Call {
            host: &self.host,
            scopes: &self.scopes,
            action,
            operation: &self.operation,
        }
    }

    /// `registry/repository`, for messages.
    pub(crate) fn label(&self) -> String {
        format!("{}/{}", self.host.name, self.name)
    }

    pub(crate) async fn send(
        &self,
        action: &str,
        request: &Request<'_>,
    ) -> Result<Answer, RegistryError> {
        self.transport.send(self.call(action), request).await
    }

    fn manifest_request(&self, method: Method, selector: &str) -> Request<'static> {
        let accept = HeaderValue::try_from(MANIFEST_TYPES.join(", "))
            .unwrap_or_else(|_| HeaderValue::from_static("*/*"));
        Request::new(method, self.url(&format!("manifests/{selector}"))).with_header(ACCEPT, accept)
    }

    /// The digest that `selector` (a tag or a digest) names, without fetching the manifest.
    pub(crate) async fn head_manifest(
        &self,
        selector: &str,
    ) -> Result<Option<Digest>, RegistryError> {
        let action = format!("look up {}:{selector}", self.name);
        let answer = self
            .send(&action, &self.manifest_request(Method::HEAD, selector))
            .await?;
        match answer.status() {
            404 => Ok(None),
            200 => match answer.content_digest() {
                Some(digest) => Ok(Some(digest)),
                // The header is optional; then only the bytes tell.
                None => Ok(self
                    .find_manifest(selector, None)
                    .await?
                    .map(|found| found.descriptor.digest)),
            },
            _ => Err(answer.into_error().await),
        }
    }

    /// Fetches the manifest that `selector` names and checks its digest.
    pub(crate) async fn get_manifest(
        &self,
        selector: &str,
        expected: Option<&Digest>,
    ) -> Result<FetchedManifest, RegistryError> {
        let found = self.find_manifest(selector, expected).await?;
        found.ok_or_else(|| RegistryError::NotFound {
            registry: self.host.name.clone(),
            action: format!("fetch as {}:{selector}", self.name),
            answer: String::new(),
        })
    }

    pub(crate) async fn find_manifest(
        &self,
        selector: &str,
        expected: Option<&Digest>,
    ) -> Result<Option<FetchedManifest>, RegistryError> {
        let action = format!("fetch as {}:{selector}", self.name);
        let answer = self
            .send(&action, &self.manifest_request(Method::GET, selector))
            .await?;
        if answer.status() == 404 {
            return Ok(None);
        }
        let answer = answer.expect(&[200]).await?;
        let header = answer.content_digest();
        let served = answer.header("content-type").map(str::to_owned);
        let limit = usize::try_from(MAX_METADATA).unwrap_or(usize::MAX);
        let bytes = answer.into_bytes(limit).await?;
        self.operation.count_received(bytes.len() as u64);
        // What was asked for counts; without it, what the registry itself says.
        let wanted = expected.cloned().or(header);
        let mut hasher = match &wanted {
            Some(digest) => DigestHasher::new(digest.algorithm()),
            None => DigestHasher::sha256(),
        };
        hasher.update(&bytes);
        let actual = hasher.finish();
        if let Some(wanted) = wanted
            && wanted != actual
        {
            return Err(RegistryError::DigestMismatch {
                what: "manifest",
                origin: self.label(),
                expected: wanted,
                actual,
            });
        }
        let origin = format!("{}:{selector}", self.label());
        let manifest = Manifest::parse(served.as_deref(), &bytes)
            .map_err(|source| RegistryError::Manifest { origin, source })?;
        let media_type = media_type_of(&manifest, served.as_deref());
        let descriptor = Descriptor::new(media_type, actual, bytes.len() as u64);
        Ok(Some(FetchedManifest {
            descriptor,
            bytes,
            manifest,
        }))
    }

    /// As [`store_manifest`](Self::store_manifest), and tells of it.
    pub(crate) async fn put_manifest(
        &self,
        selector: &str,
        descriptor: &Descriptor,
        bytes: &[u8],
    ) -> Result<bool, RegistryError> {
        let noted = self.store_manifest(selector, descriptor, bytes).await?;
        let digest = descriptor.digest.clone();
        self.operation
            .tell(&TransferEvent::ManifestFinished { digest });
        Ok(noted)
    }

    /// Stores a manifest under `selector` and makes sure that the registry has these bytes.
    ///
    /// Answers whether the registry takes note of the manifest's subject by itself.
    pub(crate) async fn store_manifest(
        &self,
        selector: &str,
        descriptor: &Descriptor,
        bytes: &[u8],
    ) -> Result<bool, RegistryError> {
        let action = format!("store {}:{selector}", self.name);
        let kind = HeaderValue::try_from(descriptor.media_type.as_str()).map_err(|error| {
            RegistryError::Configuration {
                what: format!("media type {:?} is no header value", descriptor.media_type),
                source: Some(Box::new(error)),
            }
        })?;
        let request = Request::new(Method::PUT, self.url(&format!("manifests/{selector}")))
            .with_header(CONTENT_TYPE, kind)
            .with_bytes(bytes.to_vec());
        let answer = self
            .send(&action, &request)
            .await?
            .expect(&[201, 200, 202])
            .await?;
        self.operation.count_sent(bytes.len() as u64);
        let noted = answer.header("oci-subject").is_some();
        let stored = match answer.content_digest() {
            Some(digest) => Some(digest),
            None => self.head_manifest(selector).await?,
        };
        match stored {
            Some(stored) if stored == descriptor.digest => Ok(noted),
            Some(actual) => Err(RegistryError::DigestMismatch {
                what: "stored manifest",
                origin: self.label(),
                expected: descriptor.digest.clone(),
                actual,
            }),
            None => Err(RegistryError::Protocol {
                registry: self.host.name.clone(),
                action,
                what: "the manifest is not there although it was accepted".to_owned(),
            }),
        }
    }

    pub(crate) async fn has_blob(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let action = format!("look up blob {digest} in {}", self.name);
        let request = Request::new(Method::HEAD, self.url(&format!("blobs/{digest}")));
        let answer = self.send(&action, &request).await?;
        match answer.status() {
            200 => Ok(true),
            404 => Ok(false),
            _ => Err(answer.into_error().await),
        }
    }

    /// Begins to fetch a blob at `offset`. Answers where the bytes that come start: there, or at
    /// 0 if the registry does not know ranges.
    pub(crate) async fn open_blob(
        &self,
        blob: &Descriptor,
        offset: u64,
    ) -> Result<(Answer, u64), RegistryError> {
        let action = format!("fetch blob {} of {}", blob.digest, self.name);
        let mut request = Request::new(Method::GET, self.url(&format!("blobs/{}", blob.digest)));
        if offset > 0 {
            let range = HeaderValue::try_from(format!("bytes={offset}-"))
                .map_err(|_| self.protocol(&action, "a range is no header value"))?;
            request = request.with_header(RANGE, range);
        }
        let answer = self
            .transport
            .send_once(self.call(&action), &request)
            .await?;
        let answer = answer.expect(&[200, 206]).await?;
        if answer.status() == 200 {
            return Ok((answer, 0));
        }
        let starts = answer.header("content-range").is_some_and(|range| {
            range.trim().strip_prefix("bytes ").is_some_and(|range| {
                range.split('-').next().and_then(|start| start.parse().ok()) == Some(offset)
            })
        });
        if starts {
            Ok((answer, offset))
        } else {
            Err(answer.protocol("it sent another range"))
        }
    }

    pub(crate) fn protocol(&self, action: &str, what: &str) -> RegistryError {
        RegistryError::Protocol {
            registry: self.host.name.clone(),
            action: action.to_owned(),
            what: what.to_owned(),
        }
    }
}

/// The media type of a manifest that parsed: its own, else the one it was served as.
pub(crate) fn media_type_of(manifest: &Manifest, served: Option<&str>) -> String {
    let (own, default) = match manifest {
        Manifest::Image(image) => (&image.media_type, media_type::IMAGE_MANIFEST),
        Manifest::Index(index) => (&index.media_type, media_type::IMAGE_INDEX),
    };
    let served = served.map(|text| text.split(';').next().unwrap_or(text).trim().to_owned());
    own.clone()
        .or_else(|| served.filter(|text| MANIFEST_TYPES.contains(&text.as_str())))
        .unwrap_or_else(|| default.to_owned())
}
