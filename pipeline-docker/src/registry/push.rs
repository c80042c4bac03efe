//! Images on their way into a repository.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::client::Registry;
use super::error::RegistryError;
use super::origin::{LayoutOrigin, Origin, blocking};
use super::progress::{BlobOutcome, Operation, TransferEvent};
use super::report::{BlobReport, PushReport, Totals};
use super::repository::{Access, FetchedManifest, Repository};
use crate::existing_tag::ExistingTag;
use crate::oci::{Descriptor, Manifest, OciLayout};
use crate::reference::ImageReference;

/// An index in an index is allowed by the specification; nobody needs more.
const MAX_DEPTH: usize = 4;

/// How an image is pushed.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct PushOptions {
    /// Which image of the layout, by tag or digest. Default: the only one.
    pub image: Option<String>,
    /// Default [`ExistingTag::Refuse`].
    pub existing: ExistingTag,
    /// Repositories of the same registry (`team/base`) that may hold some of the blobs already,
    /// such as the one of the base image. Default none.
    pub mount_from: Vec<String>,
}

impl PushOptions {
    /// Sets which image of the layout is pushed, by tag or digest.
    #[must_use]
    pub fn with_image(mut self, name: impl Into<String>) -> Self {
        self.image = Some(name.into());
        self
    }

    /// Sets what happens when the tag exists with another digest.
    #[must_use]
    pub fn with_existing(mut self, existing: ExistingTag) -> Self {
        self.existing = existing;
        self
    }

    /// Adds a repository of the same registry to take blobs over from.
    #[must_use]
    pub fn with_mount_from(mut self, repository: impl Into<String>) -> Self {
        self.mount_from.push(repository.into());
        self
    }
}

impl Registry {
    /// Pushes an image or an index of a layout to `reference`, which needs a tag or a digest.
    ///
    /// The registry is asked first: if the tag names this very image already, nothing is sent; if
    /// it names another one, the push is refused unless
    /// [`ExistingTag::Move`] is given. Blobs that the registry has are skipped; the others go
    /// in parallel, streamed from disk. The manifest comes last, by its digest, which is compared
    /// with what the registry stored, and then under the tag, which so never names another image or
    /// an incomplete one.
    ///
    /// # Errors
    ///
    /// [`RegistryError`]; nothing is tagged then.
    ///
    /// # Cancellation
    ///
    /// Dropping the future ends all requests. Blobs that are complete stay in the registry, where
    /// the next push finds them; incomplete uploads expire there. The tag is untouched.
    pub async fn push(
        &self,
        layout: &OciLayout,
        reference: &ImageReference,
        options: &PushOptions,
    ) -> Result<PushReport, RegistryError> {
        let name = options.image.clone();
        let root = blocking(layout, move |layout| layout.resolve(name.as_deref())).await?;
        self.push_manifest(layout, &root, reference, options).await
    }

    /// As [`Registry::push`], for a manifest that the layout's index need not name (any more).
    pub(crate) async fn push_manifest(
        &self,
        layout: &OciLayout,
        root: &Descriptor,
        reference: &ImageReference,
        options: &PushOptions,
    ) -> Result<PushReport, RegistryError> {
        let operation = self.operation();
        let origin = LayoutOrigin(layout.clone());
        let root = origin.manifest(root).await?;
        let target =
            Repository::open(self.transport(), reference, Access::Push, &operation).await?;
        publish(
            &origin,
            root,
            &target,
            reference,
            options.existing,
            &options.mount_from,
        )
        .await
    }
}

/// Brings an image from any origin into a repository.
pub(crate) async fn publish(
    origin: &dyn Origin,
    root: FetchedManifest,
    target: &Repository,
    reference: &ImageReference,
    existing: ExistingTag,
    mounts: &[String],
) -> Result<PushReport, RegistryError> {
    let started = Instant::now();
    let digest = root.descriptor.digest.clone();
    if let Some(wanted) = reference.digest()
        && *wanted != digest
    {
        return Err(RegistryError::DigestMismatch {
            what: "image",
            origin: format!("{origin:?}"),
            expected: wanted.clone(),
            actual: digest,
        });
    }
    // A tag is what the push is for; the digest in the reference was only a check.
    let selector = match (reference.tag(), reference.digest()) {
        (Some(tag), _) => tag.to_owned(),
        (None, Some(digest)) => digest.to_string(),
        (None, None) => {
            return Err(RegistryError::NoTag {
                reference: Box::new(reference.clone()),
            });
        }
    };
    let taken = |existing| RegistryError::TagExists {
        reference: Box::new(reference.clone()),
        existing,
        wanted: digest.clone(),
    };
    let refuse = existing == ExistingTag::Refuse;
    let tree = manifests(origin, root).await?;
    let blobs = unique_blobs(&tree);
    let report = |blobs: Vec<BlobReport>, unchanged: bool| {
        let totals = Totals::of(&target.operation);
        PushReport {
            reference: reference.with_digest(digest.clone()),
            digest: digest.clone(),
            size: blobs.iter().map(|blob| blob.size).sum(),
            unchanged,
            blobs,
            bytes_sent: totals.sent,
            retries: totals.retries,
            duration: started.elapsed(),
        }
    };
    match target.head_manifest(&selector).await? {
        Some(there) if there == digest => {
            let existed = |blob| BlobReport::new(blob, BlobOutcome::Existed, 0, started.elapsed());
            return Ok(report(blobs.iter().map(existed).collect(), true));
        }
        Some(there) if refuse => return Err(taken(there)),
        _ => {}
    }
    let reports = push_blobs(origin, target, &blobs, mounts).await?;
    let Some((last, children)) = tree.split_last() else {
        return Ok(report(reports, false));
    };
    for child in children {
        let name = child.descriptor.digest.to_string();
        if target.head_manifest(&name).await?.is_none() {
            put(target, &name, child).await?;
        }
    }
    let moved = reports
        .iter()
        .any(|blob| blob.outcome == BlobOutcome::Uploaded);
    // By its digest first: a registry that stores something else is found out before the tag names
    // it. What needed one of these blobs cannot be there yet.
    let name = digest.to_string();
    if selector != name && (moved || target.head_manifest(&name).await?.is_none()) {
        target
            .store_manifest(&name, &last.descriptor, &last.bytes)
            .await?;
    }
    // Whoever pushed the same tag while our blobs were on their way was first.
    if refuse && moved {
        match target.head_manifest(&selector).await? {
            Some(there) if there != digest => return Err(taken(there)),
            _ => {}
        }
    }
    put(target, &selector, last).await?;
    Ok(report(reports, false))
}

/// Stores a manifest, and where the registry does not do it, notes what it refers to.
async fn put(
    target: &Repository,
    selector: &str,
    node: &FetchedManifest,
) -> Result<(), RegistryError> {
    let noted = target
        .put_manifest(selector, &node.descriptor, &node.bytes)
        .await?;
    if noted {
        return Ok(());
    }
    target.note_referrer(node).await
}

/// All manifests of an image, every one after those that it names.
pub(crate) async fn manifests(
    origin: &dyn Origin,
    root: FetchedManifest,
) -> Result<Vec<FetchedManifest>, RegistryError> {
    let mut order = Vec::new();
    let mut seen = HashSet::from([root.descriptor.digest.clone()]);
    // The way from the root, each with the number of its child that comes next.
    let mut way = vec![(root, 0)];
    while let Some((node, next)) = way.last_mut() {
        let child = match &node.manifest {
            Manifest::Index(index) => index.manifests.get(*next).cloned(),
            Manifest::Image(_) => None,
        };
        *next += 1;
        match child {
            Some(child) if !seen.insert(child.digest.clone()) => {}
            Some(_) if way.len() >= MAX_DEPTH => {
                return Err(RegistryError::Configuration {
                    what: format!("the image's indexes are nested more than {MAX_DEPTH} deep"),
                    source: None,
                });
            }
            Some(child) => {
                let child = origin.manifest(&child).await?;
                way.push((child, 0));
            }
            None => order.extend(way.pop().map(|(node, _)| node)),
        }
    }
    Ok(order)
}

/// The blobs of all image manifests, each once.
pub(crate) fn unique_blobs(tree: &[FetchedManifest]) -> Vec<Descriptor> {
    let mut seen = HashSet::new();
    let mut blobs = Vec::new();
    for node in tree {
        if let Manifest::Image(image) = &node.manifest {
            blobs.extend(
                image
                    .blobs()
                    .filter(|blob| seen.insert(blob.digest.clone()))
                    .cloned(),
            );
        }
    }
    blobs
}

/// Whether a layer must not be pushed or pulled: its bytes lie where its `urls` say.
pub(crate) fn is_foreign(blob: &Descriptor) -> bool {
    !blob.urls.is_empty()
        && (blob.media_type.contains("nondistributable") || blob.media_type.contains(".foreign."))
}

async fn push_blobs(
    origin: &dyn Origin,
    target: &Repository,
    blobs: &[Descriptor],
    mounts: &[String],
) -> Result<Vec<BlobReport>, RegistryError> {
    let permits = Arc::new(Semaphore::new(target.transport.options().parallel.max(1)));
    let mounts: Arc<[String]> = mounts.into();
    // Dropping the set ends its tasks.
    let mut tasks = JoinSet::new();
    for (place, blob) in blobs.iter().enumerate() {
        if is_foreign(blob) {
            let (blob, operation) = (blob.clone(), Arc::clone(&target.operation));
            tasks.spawn(async move { Ok((place, foreign(&blob, &operation))) });
            continue;
        }
        let body = origin.blob(blob)?;
        let (target, blob) = (target.clone(), blob.clone());
        let (permits, mounts) = (Arc::clone(&permits), Arc::clone(&mounts));
        tasks.spawn(async move {
            let _permit = permits.acquire_owned().await;
            let report = target.push_blob(&blob, body.as_ref(), &mounts).await?;
            Ok((place, report))
        });
    }
    collect(tasks).await
}

pub(crate) fn foreign(blob: &Descriptor, operation: &Operation) -> BlobReport {
    let outcome = BlobOutcome::Foreign;
    operation.tell(&TransferEvent::BlobFinished {
        digest: blob.digest.clone(),
        outcome: outcome.clone(),
    });
    BlobReport::new(blob, outcome, 0, std::time::Duration::ZERO)
}

/// Waits for all blobs; the first failure ends the others.
pub(crate) async fn collect(
    mut tasks: JoinSet<Result<(usize, BlobReport), RegistryError>>,
) -> Result<Vec<BlobReport>, RegistryError> {
    let mut reports = Vec::with_capacity(tasks.len());
    while let Some(joined) = tasks.join_next().await {
        match joined {
            Ok(result) => reports.push(result?),
            // A panic is a bug of ours and stays one in the caller's task.
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(source) => {
                    return Err(RegistryError::Configuration {
                        what: "the runtime shut down in the middle of a transfer".to_owned(),
                        source: Some(Box::new(source)),
                    });
                }
            },
        }
    }
    reports.sort_by_key(|(place, _)| *place);
    Ok(reports.into_iter().map(|(_, report)| report).collect())
}
