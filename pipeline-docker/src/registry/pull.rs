//! Images on their way into a layout.

use std::convert::Infallible;
use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use pipeline_core::error_chain;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::client::Registry;
use super::error::RegistryError;
use super::origin::{RemoteOrigin, blocking, layout_error};
use super::progress::{BlobOutcome, TransferEvent};
use super::push::{collect, foreign, is_foreign, manifests, unique_blobs};
use super::report::{BlobReport, PullReport, Totals};
use super::repository::{Access, FetchedManifest, Repository};
use crate::oci::{BlobWriter, Descriptor, LayoutError, Manifest, OciLayout, Platform};
use crate::reference::ImageReference;

/// Bytes collected before they are hashed and written on a thread that may block.
const BATCH: usize = 512 * 1024;
/// Bytes that earn an interrupted download its tries anew.
const PROGRESS: u64 = 1024 * 1024;

/// Which of an index's images are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlatformChoice {
    /// The one for this platform. An image without an index is taken as it is.
    Only(Platform),
    /// All of them, and the index.
    All,
}

impl Default for PlatformChoice {
    /// Linux on this machine's architecture.
    fn default() -> Self {
        Self::Only(Platform::host())
    }
}

/// How an image is pulled.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct PullOptions {
    /// Default: Linux on this machine's architecture.
    pub platform: PlatformChoice,
    /// The name of the image in the layout. Default: the reference's tag; none for a digest.
    pub tag: Option<String>,
}

impl PullOptions {
    /// Sets which of an index's images are pulled.
    #[must_use]
    pub fn with_platform(mut self, platform: PlatformChoice) -> Self {
        self.platform = platform;
        self
    }

    /// Sets the name of the image in the layout.
    #[must_use]
    pub fn with_tag(mut self, tag: impl Into<String>) -> Self {
        self.tag = Some(tag.into());
        self
    }
}

impl Registry {
    /// Pulls an image into a layout.
    ///
    /// A reference without tag and digest means `latest`, as for docker; with both, the digest
    /// counts. Every byte is checked against its digest before it appears in the layout; blobs
    /// that the layout has are not fetched. A download that breaks off goes on where it stopped.
    ///
    /// A manifest of Docker's own type, as engines push it, is kept as it is, digest and all. Tools
    /// that look for OCI types only in a layout (skopeo's `oci:`) do not see such an image.
    ///
    /// # Errors
    ///
    /// [`RegistryError`]; the layout's index is untouched then, and nothing incomplete is left.
    ///
    /// # Cancellation
    ///
    /// Dropping the future ends all requests. Complete blobs stay in the layout, incomplete ones
    /// are removed, the layout's index is untouched.
    pub async fn pull(
        &self,
        reference: &ImageReference,
        layout: &OciLayout,
        options: &PullOptions,
    ) -> Result<PullReport, RegistryError> {
        let started = Instant::now();
        let operation = self.operation();
        let reference = reference.or_latest();
        let source =
            Repository::open(self.transport(), &reference, Access::Pull, &operation).await?;
        let anonymous = is_anonymous(&source).await?;
        let (named, root) = resolve(&source, &reference, &options.platform).await?;
        let origin = RemoteOrigin(source.clone());
        let tree = manifests(&origin, root.clone()).await?;
        let blobs = unique_blobs(&tree);
        let reports = pull_blobs(&source, layout, &blobs).await?;
        let tag = options
            .tag
            .clone()
            .or_else(|| reference.tag().map(str::to_owned));
        let manifest = root.descriptor.clone();
        blocking(layout, move |layout| {
            for node in &tree {
                layout.write_blob(&node.descriptor.media_type, &node.bytes)?;
            }
            layout.set_tag(tag.as_deref(), &root.descriptor)
        })
        .await?;
        let totals = Totals::of(&operation);
        Ok(PullReport {
            reference: reference.with_digest(named.descriptor.digest),
            manifest,
            size: reports.iter().map(|blob| blob.size).sum(),
            blobs: reports,
            bytes_received: totals.received,
            anonymous,
            rate_limit: totals.rate_limit,
            retries: totals.retries,
            duration: started.elapsed(),
        })
    }
}

/// Whether nobody has credentials for the registry, which is said aloud.
pub(crate) async fn is_anonymous(source: &Repository) -> Result<bool, RegistryError> {
    let known = source
        .host
        .authenticator
        .credentials(&source.transport)
        .await?;
    if known.is_none() && !source.host.is_loopback() {
        let registry = &source.host.name;
        source.operation.tell(&TransferEvent::Warning {
            message: format!(
                "pulling from {registry} without credentials, for which its limits are lower"
            ),
        });
    }
    Ok(known.is_none())
}

/// What the reference names, and the manifest of it that is meant.
pub(crate) async fn resolve(
    source: &Repository,
    reference: &ImageReference,
    platform: &PlatformChoice,
) -> Result<(FetchedManifest, FetchedManifest), RegistryError> {
    let selector = reference.selector().ok_or_else(|| RegistryError::NoTag {
        reference: Box::new(reference.clone()),
    })?;
    let named = source.get_manifest(&selector, reference.digest()).await?;
    let mut meant = named.clone();
    if let PlatformChoice::Only(wanted) = platform {
        // An index may name another index for the platform; two steps are more than exist.
        for _ in 0..2 {
            let Manifest::Index(index) = &meant.manifest else {
                break;
            };
            let chosen = index
                .for_platform(wanted)
                .ok_or_else(|| RegistryError::NoPlatform {
                    reference: Box::new(reference.clone()),
                    wanted: Box::new(wanted.clone()),
                    available: platforms(&index.manifests),
                })?;
            meant = source
                .get_manifest(&chosen.digest.to_string(), Some(&chosen.digest))
                .await?;
        }
    }
    Ok((named, meant))
}

fn platforms(manifests: &[Descriptor]) -> String {
    let names: Vec<String> = manifests
        .iter()
        .filter_map(|manifest| manifest.platform.as_ref().map(ToString::to_string))
        .collect();
    if names.is_empty() {
        "no named platform".to_owned()
    } else {
        names.join(", ")
    }
}

pub(crate) async fn pull_blobs(
    source: &Repository,
    layout: &OciLayout,
    blobs: &[Descriptor],
) -> Result<Vec<BlobReport>, RegistryError> {
    let permits = Arc::new(Semaphore::new(source.transport.options().parallel.max(1)));
    let (held, mut released) = mpsc::channel(1);
    let mut tasks = JoinSet::new();
    for (place, blob) in blobs.iter().enumerate() {
        let (source, layout, blob) = (source.clone(), layout.clone(), blob.clone());
        let permits = Arc::clone(&permits);
        let held = held.clone();
        tasks.spawn(async move {
            let _permit = permits.acquire_owned().await;
            let report = if is_foreign(&blob) {
                foreign(&blob, &source.operation)
            } else {
                pull_blob(&source, &layout, &blob, held).await?
            };
            Ok((place, report))
        });
    }
    drop(held);
    let reports = collect(tasks).await;
    // After a failure a batch of another blob may still be on its way to the disk.
    released.recv().await;
    reports
}

async fn pull_blob(
    source: &Repository,
    layout: &OciLayout,
    blob: &Descriptor,
    held: Held,
) -> Result<BlobReport, RegistryError> {
    let started = Instant::now();
    let operation = &source.operation;
    let (digest, size) = (blob.digest.clone(), blob.size);
    operation.tell(&TransferEvent::BlobStarted {
        digest: digest.clone(),
        size,
    });
    let known = digest.clone();
    let there = blocking(
        layout,
        move |layout| Ok(layout.has_whole_blob(&known, size)),
    )
    .await?;
    let (outcome, moved) = if there {
        (BlobOutcome::Existed, 0)
    } else {
        (
            BlobOutcome::Downloaded,
            download(source, layout, blob, held).await?,
        )
    };
    operation.tell(&TransferEvent::BlobFinished {
        digest,
        outcome: outcome.clone(),
    });
    Ok(BlobReport::new(blob, outcome, moved, started.elapsed()))
}

/// Fetches a blob into the layout; answers how many bytes came.
async fn download(
    source: &Repository,
    layout: &OciLayout,
    blob: &Descriptor,
    held: Held,
) -> Result<u64, RegistryError> {
    let policy = &source.transport.options().retry;
    let mut delays = policy.delays();
    let mut attempt = 1;
    let mut sink = Sink::open(layout, blob, held).await?;
    let mut best = 0;
    let mut moved = 0;
    loop {
        let error = match fetch(source, layout, blob, &mut sink, &mut moved).await {
            Ok(()) => return sink.commit(source).await.map(|()| moved),
            Err(error) => error,
        };
        if !error.is_retryable() {
            return Err(error);
        }
        if sink.received >= best + PROGRESS {
            best = sink.received;
            delays = policy.delays();
            attempt = 1;
        }
        let Some(delay) = delays.next(error.retry_after()) else {
            return Err(error);
        };
        attempt += 1;
        let action = format!("fetch blob {}", blob.digest);
        source
            .operation
            .retrying(&action, attempt, delay, error_chain(&error));
        tokio::time::sleep(delay).await;
    }
}

async fn fetch(
    source: &Repository,
    layout: &OciLayout,
    blob: &Descriptor,
    sink: &mut Sink,
    moved: &mut u64,
) -> Result<(), RegistryError> {
    if sink.received == blob.size && blob.size > 0 {
        return Ok(());
    }
    let (mut answer, start) = source.open_blob(blob, sink.received).await?;
    if start != sink.received {
        *sink = Sink::open(layout, blob, sink.held.clone()).await?;
    }
    while let Some(bytes) = answer.chunk().await? {
        let count = bytes.len() as u64;
        *moved += count;
        source.operation.count_received(count);
        let received = sink.received + count;
        if received > blob.size {
            return Err(size_mismatch(source, blob, received));
        }
        sink.push(bytes).await?;
        source.operation.tell(&TransferEvent::BlobProgress {
            digest: blob.digest.clone(),
            transferred: received,
            size: blob.size,
        });
    }
    if sink.received < blob.size {
        return Err(size_mismatch(source, blob, sink.received));
    }
    Ok(())
}

fn size_mismatch(source: &Repository, blob: &Descriptor, actual: u64) -> RegistryError {
    RegistryError::SizeMismatch {
        digest: blob.digest.clone(),
        origin: source.label(),
        expected: blob.size,
        actual,
    }
}

/// Is held for as long as there may be something incomplete in the layout.
type Held = mpsc::Sender<Infallible>;

/// What is written to, in a blocking task or between two of them.
struct Writing {
    // Dropped first, which removes what is incomplete.
    writer: BlobWriter,
    _held: Held,
}

/// Writes and hashes in batches on a thread that may block.
struct Sink {
    layout: OciLayout,
    blob: Descriptor,
    /// Away while a batch is written, and for good if the writing task died.
    writer: Option<Writing>,
    held: Held,
    batch: Vec<Bytes>,
    batched: usize,
    received: u64,
}

impl Sink {
    async fn open(
        layout: &OciLayout,
        blob: &Descriptor,
        held: Held,
    ) -> Result<Self, RegistryError> {
        let algorithm = blob.digest.algorithm();
        let _held = held.clone();
        let writer = blocking(layout, move |layout| {
            let writer = layout.blob_writer_for(algorithm)?;
            Ok(Writing { writer, _held })
        });
        let writer = writer.await?;
        Ok(Self {
            layout: layout.clone(),
            blob: blob.clone(),
            writer: Some(writer),
            held,
            batch: Vec::new(),
            batched: 0,
            received: 0,
        })
    }

    async fn push(&mut self, bytes: Bytes) -> Result<(), RegistryError> {
        self.received += bytes.len() as u64;
        self.batched += bytes.len();
        self.batch.push(bytes);
        if self.batched >= BATCH {
            self.flush().await
        } else {
            Ok(())
        }
    }

    async fn flush(&mut self) -> Result<(), RegistryError> {
        let Some(mut writing) = self.writer.take() else {
            return Err(RegistryError::Configuration {
                what: "a writer of the layout is gone".to_owned(),
                source: None,
            });
        };
        let batch = std::mem::take(&mut self.batch);
        self.batched = 0;
        let written = blocking(&self.layout, move |layout| {
            for bytes in &batch {
                writing
                    .writer
                    .write_all(bytes)
                    .map_err(|source| LayoutError::Io {
                        action: "write a blob into",
                        path: layout.path().to_owned(),
                        source,
                    })?;
            }
            Ok(writing)
        });
        self.writer = Some(written.await?);
        Ok(())
    }

    async fn commit(mut self, source: &Repository) -> Result<(), RegistryError> {
        self.flush().await?;
        let Some(writing) = self.writer.take() else {
            return Ok(());
        };
        let expected = self.blob.digest.clone();
        let commit = move || {
            let Writing { writer, _held } = writing;
            writer.commit(Some(&expected))
        };
        let committed = tokio::task::spawn_blocking(commit).await;
        match committed {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(LayoutError::WrongDigest { expected, actual })) => {
                Err(RegistryError::DigestMismatch {
                    what: "blob",
                    origin: source.label(),
                    expected,
                    actual,
                })
            }
            Ok(Err(error)) => Err(layout_error(&self.layout, error)),
            Err(error) => Err(RegistryError::Layout {
                path: self.layout.path().to_owned(),
                source: Box::new(error),
            }),
        }
    }
}
