//! Where the manifests and blobs of a push come from.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::answer::Answer;
use super::body::{self, Broken, Meter};
use super::error::RegistryError;
use super::repository::{FetchedManifest, Repository, media_type_of};
use crate::oci::{Descriptor, DigestHasher, LayoutError, Manifest, OciLayout};

/// Gives the bytes of one blob to an upload.
pub(crate) trait BlobBody: fmt::Debug + Send + Sync {
    /// A body of the bytes `offset..offset + length`, as often as the upload needs it.
    fn body(&self, blob: &Descriptor, offset: u64, length: u64, meter: &Meter) -> reqwest::Body;
}

/// A place that images are read from.
#[async_trait]
pub(crate) trait Origin: fmt::Debug + Send + Sync {
    /// Reads and verifies a manifest.
    async fn manifest(&self, descriptor: &Descriptor) -> Result<FetchedManifest, RegistryError>;

    /// Where the bytes of `blob` come from.
    fn blob(&self, blob: &Descriptor) -> Result<Box<dyn BlobBody>, RegistryError>;
}

/// Fits an error of the layout into ours.
pub(crate) fn layout_error(layout: &OciLayout, source: LayoutError) -> RegistryError {
    RegistryError::Layout {
        path: layout.path().to_owned(),
        source: Box::new(source),
    }
}

/// Runs blocking file work where it may block.
///
/// Dropping the future lets the work end on its own.
pub(crate) async fn blocking<T, F>(layout: &OciLayout, work: F) -> Result<T, RegistryError>
where
    T: Send + 'static,
    F: FnOnce(&OciLayout) -> Result<T, LayoutError> + Send + 'static,
{
    let owned = layout.clone();
    match tokio::task::spawn_blocking(move || work(&owned)).await {
        Ok(result) => result.map_err(|error| layout_error(layout, error)),
        Err(source) => Err(RegistryError::Layout {
            path: layout.path().to_owned(),
            source: Box::new(source),
        }),
    }
}

/// An OCI layout as origin.
#[derive(Debug)]
pub(crate) struct LayoutOrigin(pub(crate) OciLayout);

#[derive(Debug)]
struct LayoutBlob(OciLayout);

#[async_trait]
impl Origin for LayoutOrigin {
    async fn manifest(&self, descriptor: &Descriptor) -> Result<FetchedManifest, RegistryError> {
        let wanted = descriptor.clone();
        let bytes = blocking(&self.0, move |layout| layout.read_blob(&wanted)).await?;
        let manifest = Manifest::parse(Some(&descriptor.media_type), &bytes).map_err(|source| {
            RegistryError::Manifest {
                origin: format!("{} in {}", descriptor.digest, self.0.path().display()),
                source,
            }
        })?;
        let media_type = media_type_of(&manifest, Some(&descriptor.media_type));
        let descriptor = Descriptor::new(media_type, descriptor.digest.clone(), bytes.len() as u64);
        Ok(FetchedManifest {
            descriptor,
            bytes,
            manifest,
        })
    }

    fn blob(&self, blob: &Descriptor) -> Result<Box<dyn BlobBody>, RegistryError> {
        // Missing or of a wrong size is known before anything is sent.
        self.0
            .open_blob(blob)
            .map_err(|error| layout_error(&self.0, error))?;
        Ok(Box::new(LayoutBlob(self.0.clone())))
    }
}

impl BlobBody for LayoutBlob {
    fn body(&self, blob: &Descriptor, offset: u64, length: u64, meter: &Meter) -> reqwest::Body {
        let path = self.0.blob_path(&blob.digest);
        reqwest::Body::wrap_stream(body::file(&path, offset, length, meter))
    }
}

/// A repository as origin: bytes go from one registry to the other without touching a disk.
#[derive(Debug)]
pub(crate) struct RemoteOrigin(pub(crate) Repository);

#[derive(Debug)]
struct RemoteBlob {
    repository: Repository,
    /// The open download, kept from one chunk of an upload to the next.
    reader: Arc<Mutex<Reader>>,
}

#[derive(Debug, Default)]
struct Reader {
    answer: Option<Answer>,
    /// The next byte that the download gives, `left` not counted.
    offset: u64,
    /// Bytes that came and were not asked for yet.
    left: Bytes,
    /// What came in so far, if it came in from the first byte on and in order.
    hasher: Option<DigestHasher>,
}

#[async_trait]
impl Origin for RemoteOrigin {
    async fn manifest(&self, descriptor: &Descriptor) -> Result<FetchedManifest, RegistryError> {
        let digest = &descriptor.digest;
        self.0.get_manifest(&digest.to_string(), Some(digest)).await
    }

    fn blob(&self, _blob: &Descriptor) -> Result<Box<dyn BlobBody>, RegistryError> {
        let repository = self.0.clone();
        Ok(Box::new(RemoteBlob {
            repository,
            reader: Arc::default(),
        }))
    }
}

impl Reader {
    /// The next bytes at `offset`, at most `most`, verified when the blob's last byte is among
    /// them.
    async fn next(
        &mut self,
        repository: &Repository,
        blob: &Descriptor,
        offset: u64,
        most: u64,
    ) -> Result<Bytes, RegistryError> {
        if self.answer.is_none() || self.offset != offset {
            self.open(repository, blob, offset).await?;
        }
        if self.left.is_empty() {
            let next = match &mut self.answer {
                Some(answer) => answer.chunk().await,
                None => Ok(None),
            };
            match next {
                Ok(Some(bytes)) => {
                    repository.operation.count_received(bytes.len() as u64);
                    self.left = bytes;
                }
                Ok(None) => {
                    self.answer = None;
                    return Err(RegistryError::SizeMismatch {
                        digest: blob.digest.clone(),
                        origin: repository.label(),
                        expected: blob.size,
                        actual: self.offset,
                    });
                }
                Err(error) => {
                    // The next try opens the download anew, from where the upload stands.
                    self.answer = None;
                    return Err(error);
                }
            }
        }
        let count = usize::try_from(most)
            .unwrap_or(usize::MAX)
            .min(self.left.len());
        let bytes = self.left.split_to(count);
        self.offset += count as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&bytes);
        }
        if self.offset == blob.size
            && let Some(hasher) = self.hasher.take()
        {
            let actual = hasher.finish();
            if actual != blob.digest {
                return Err(RegistryError::DigestMismatch {
                    what: "blob",
                    origin: repository.label(),
                    expected: blob.digest.clone(),
                    actual,
                });
            }
        }
        Ok(bytes)
    }

    async fn open(
        &mut self,
        repository: &Repository,
        blob: &Descriptor,
        offset: u64,
    ) -> Result<(), RegistryError> {
        *self = Self::default();
        let (mut answer, mut start) = repository.open_blob(blob, offset).await?;
        while start < offset {
            let Some(mut bytes) = answer.chunk().await? else {
                break;
            };
            repository.operation.count_received(bytes.len() as u64);
            let skip = usize::try_from(offset - start)
                .unwrap_or(usize::MAX)
                .min(bytes.len());
            start += skip as u64;
            drop(bytes.split_to(skip));
            self.left = bytes;
        }
        self.answer = Some(answer);
        self.offset = offset;
        self.hasher = (offset == 0).then(|| DigestHasher::new(blob.digest.algorithm()));
        Ok(())
    }
}

impl BlobBody for RemoteBlob {
    fn body(&self, blob: &Descriptor, offset: u64, length: u64, meter: &Meter) -> reqwest::Body {
        struct State {
            repository: Repository,
            reader: Arc<Mutex<Reader>>,
            guard: Option<OwnedMutexGuard<Reader>>,
            blob: Descriptor,
            offset: u64,
            left: u64,
            meter: Meter,
        }
        let state = State {
            repository: self.repository.clone(),
            reader: Arc::clone(&self.reader),
            guard: None,
            blob: blob.clone(),
            offset,
            left: length,
            meter: meter.clone(),
        };
        reqwest::Body::wrap_stream(stream::try_unfold(state, |mut state| async move {
            if state.left == 0 {
                return Ok(None);
            }
            let reader = match &mut state.guard {
                Some(reader) => reader,
                empty => empty.insert(Arc::clone(&state.reader).lock_owned().await),
            };
            match reader
                .next(&state.repository, &state.blob, state.offset, state.left)
                .await
            {
                Ok(bytes) => {
                    state.offset += bytes.len() as u64;
                    state.left -= bytes.len() as u64;
                    state.meter.moved(bytes.len() as u64);
                    if state.left == 0 {
                        // The next chunk's body may begin before this one is dropped.
                        state.guard = None;
                    }
                    Ok(Some((bytes, state)))
                }
                Err(error) => {
                    state.meter.fail(error);
                    Err(Broken)
                }
            }
        }))
    }
}
