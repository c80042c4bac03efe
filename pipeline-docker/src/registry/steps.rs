//! Registry work as steps of a pipeline.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use pipeline_core::{Input, InputRef, Output, Step, StepContext, StepError};
use serde::{Deserialize, Serialize};

use super::client::Registry;
use super::copy::CopyOptions;
use super::error::RegistryError;
use super::origin::blocking;
use super::pull::PullOptions;
use super::push::{ExistingTag, PushOptions};
use super::report::{BlobReport, PushReport};
use super::step_log::{drive, human};
use crate::builder::{BuiltImage, ImageLocation};
use crate::oci::{Digest, OciLayout};
use crate::reference::ImageReference;
use crate::tag_policy::{TagPolicy, TagSet};

/// The image that a [`PushImage`] pushes: one that a step builds, or one in a layout.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ImageInput {
    /// Built by a step, or known.
    Built(Box<Input<BuiltImage>>),
    /// In an OCI layout; a relative path is below the job's folder.
    Layout {
        /// The layout's folder.
        path: PathBuf,
        /// Which image of it, by tag or digest; the only one if none is named.
        image: Option<String>,
    },
}

impl ImageInput {
    /// The only image of the layout at `path`.
    #[must_use]
    pub fn layout(path: impl Into<PathBuf>) -> Self {
        Self::Layout {
            path: path.into(),
            image: None,
        }
    }

    /// Names which image of a layout is meant, by tag or digest. A built one needs no name.
    #[must_use]
    pub fn named(self, name: impl Into<String>) -> Self {
        match self {
            Self::Layout { path, .. } => Self::Layout {
                path,
                image: Some(name.into()),
            },
            built @ Self::Built(_) => built,
        }
    }

    fn edge(&self) -> Option<InputRef> {
        match self {
            Self::Built(input) => input.edge(),
            Self::Layout { .. } => None,
        }
    }
}

impl From<BuiltImage> for ImageInput {
    fn from(image: BuiltImage) -> Self {
        Self::Built(Box::new(image.into()))
    }
}

impl From<Output<BuiltImage>> for ImageInput {
    fn from(output: Output<BuiltImage>) -> Self {
        Self::Built(Box::new(output.into()))
    }
}

impl From<&Output<BuiltImage>> for ImageInput {
    fn from(output: &Output<BuiltImage>) -> Self {
        Self::Built(Box::new(output.into()))
    }
}

/// An image in a registry as input of a step: a reference, or what a step has put there.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RemoteImage {
    /// A reference, known or made by a step.
    Reference(Input<ImageReference>),
    /// Pushed, copied or tagged by a step: pinned to its digest.
    Pushed(Input<PushedImage>),
}

impl RemoteImage {
    fn edge(&self) -> Option<InputRef> {
        match self {
            Self::Reference(input) => input.edge(),
            Self::Pushed(input) => input.edge(),
        }
    }

    fn resolve(&self, context: &StepContext) -> Result<ImageReference, StepError> {
        match self {
            Self::Reference(input) => context.resolve(input),
            Self::Pushed(input) => context.resolve(input).map(|image| image.reference),
        }
    }
}

impl From<ImageReference> for RemoteImage {
    fn from(reference: ImageReference) -> Self {
        Self::Reference(reference.into())
    }
}

impl From<Output<ImageReference>> for RemoteImage {
    fn from(output: Output<ImageReference>) -> Self {
        Self::Reference(output.into())
    }
}

impl From<Output<PushedImage>> for RemoteImage {
    fn from(output: Output<PushedImage>) -> Self {
        Self::Pushed(output.into())
    }
}

impl From<&Output<PushedImage>> for RemoteImage {
    fn from(output: &Output<PushedImage>) -> Self {
        Self::Pushed(output.into())
    }
}

/// What [`PushImage`], [`CopyImage`] and [`TagImage`] produce.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PushedImage {
    /// The image by its first tag, pinned to its digest.
    pub reference: ImageReference,
    /// The digest, as the registry confirmed it.
    pub digest: Digest,
    /// All tags that name it now, aliases included.
    pub tags: Vec<String>,
    /// Aliases that could not be moved, with the reason. The step succeeds all the same.
    pub failed_aliases: Vec<(String, String)>,
    /// Bytes of all blobs.
    pub size: u64,
    /// Bytes that were sent.
    pub bytes_sent: u64,
    /// Whether everything was there already.
    pub unchanged: bool,
    /// Every blob once.
    pub blobs: Vec<BlobReport>,
    /// How often a request had to be repeated.
    pub retries: u32,
    /// How long it took.
    pub duration: Duration,
}

impl PushedImage {
    fn of(report: PushReport) -> Self {
        Self {
            tags: report
                .reference
                .tag()
                .map(str::to_owned)
                .into_iter()
                .collect(),
            reference: report.reference,
            digest: report.digest,
            failed_aliases: Vec::new(),
            size: report.size,
            bytes_sent: report.bytes_sent,
            unchanged: report.unchanged,
            blobs: report.blobs,
            retries: report.retries,
            duration: report.duration,
        }
    }

    async fn show(&self, context: &StepContext) {
        let what = if self.unchanged {
            "already there, nothing sent".to_owned()
        } else {
            let (sent, seconds) = (human(self.bytes_sent), self.duration.as_secs_f64());
            format!("{sent} of {} sent in {seconds:.1} s", human(self.size))
        };
        context.log(format!("{}: {what}", self.reference)).await;
        context.summary(format!(
            "{} {what}",
            self.reference.tag().unwrap_or("image")
        ));
    }
}

/// Pushes an image to a repository under the tags of a policy.
///
/// The reference's own tag counts if it has one; else the [`TagPolicy`] makes the tags from the
/// run's facts, by default `<branch>-<revision>-<build number>`. A tag that names another image
/// already fails the step. Aliases move last, after the registry has confirmed the image; an
/// alias that cannot be moved is a warning.
///
/// # Cancellation
///
/// As for [`Registry::push`]: no tag is set before everything it names is there.
#[derive(Clone, Debug)]
pub struct PushImage {
    registry: Registry,
    image: ImageInput,
    target: ImageReference,
    tags: TagPolicy,
    options: PushOptions,
}

impl PushImage {
    /// Pushes `image` to the repository of `target`.
    #[must_use]
    pub fn new(registry: Registry, image: impl Into<ImageInput>, target: ImageReference) -> Self {
        Self {
            registry,
            image: image.into(),
            target,
            tags: TagPolicy::default(),
            options: PushOptions::default(),
        }
    }

    /// Sets which tags the image gets. If the target has a tag, only the aliases of it count.
    #[must_use]
    pub fn with_tags(mut self, policy: TagPolicy) -> Self {
        self.tags = policy;
        self
    }

    /// Sets how it is pushed.
    #[must_use]
    pub fn with_options(mut self, options: PushOptions) -> Self {
        self.options = options;
        self
    }

    fn tags(&self, context: &StepContext, digest: &Digest) -> Result<TagSet, StepError> {
        let policy = match self.target.tag() {
            Some(tag) => self.tags.clone().only(tag),
            None => self.tags.clone(),
        };
        policy
            .render(context.facts(), digest)
            .map_err(|error| StepError::failed(error.to_string()))
    }
}

#[async_trait]
impl Step for PushImage {
    type Output = PushedImage;

    fn inputs(&self) -> Vec<InputRef> {
        self.image.edge().into_iter().collect()
    }

    async fn run(&self, context: &StepContext) -> Result<PushedImage, StepError> {
        let (path, name) = match &self.image {
            ImageInput::Layout { path, image } => (path.clone(), image.clone()),
            ImageInput::Built(input) => {
                let built = context.resolve(input)?;
                match built.location {
                    // The digest: the tag in the layout may name something newer by now.
                    ImageLocation::Layout { path, .. } => {
                        (path, Some(built.manifest.digest.to_string()))
                    }
                    ImageLocation::Engine { .. } => {
                        return Err(StepError::failed(
                            "the image is in an engine's store; push it with the engine, or build it into a layout",
                        ));
                    }
                }
            }
        };
        let doing = format!("push to {}", self.target.name());
        let path = context.job_dir().join(path);
        let layout =
            OciLayout::open(&path).map_err(|error| StepError::errored(doing.as_str(), error))?;
        let wanted = name.clone();
        let root = blocking(&layout, move |layout| layout.resolve(wanted.as_deref()))
            .await
            .map_err(|error| StepError::errored(doing.as_str(), error))?;
        let tags = self.tags(context, &root.digest)?;
        let mut options = self.options.clone();
        options.image = Some(root.digest.to_string());
        let pushed = drive(context, &doing, |observer| async {
            let registry = self.registry.observed_by(observer);
            let mut pushed: Option<PushedImage> = None;
            for tag in &tags.unique {
                let target = self.target.with_tag(tag.as_str())?;
                match &mut pushed {
                    None => {
                        let report = registry.push(&layout, &target, &options).await?;
                        pushed = Some(PushedImage::of(report));
                    }
                    Some(pushed) => {
                        registry
                            .tag(&pushed.reference, tag, options.existing)
                            .await?;
                        pushed.tags.push(tag.clone());
                    }
                }
            }
            let Some(mut pushed) = pushed else {
                return Err(RegistryError::NoTag {
                    reference: Box::new(self.target.clone()),
                });
            };
            move_aliases(&registry, &mut pushed, &tags.aliases).await?;
            Ok(pushed)
        })
        .await?;
        for (alias, reason) in &pushed.failed_aliases {
            context
                .warn(format!("alias {alias} was not moved: {reason}"))
                .await;
        }
        pushed.show(context).await;
        Ok(pushed)
    }
}

/// Moves aliases to an image, after looking whether it is really there.
async fn move_aliases(
    registry: &Registry,
    pushed: &mut PushedImage,
    aliases: &[String],
) -> Result<(), RegistryError> {
    if aliases.is_empty() {
        return Ok(());
    }
    let own = pushed
        .reference
        .tag()
        .map(|tag| pushed.reference.with_tag(tag))
        .transpose()?;
    let there = match own {
        Some(own) => registry.resolve(&own).await?,
        None => registry.resolve(&pushed.reference).await?,
    };
    let actual = there.map(|image| image.digest);
    if actual.as_ref() != Some(&pushed.digest) {
        return Err(RegistryError::Protocol {
            registry: pushed.reference.domain().to_owned(),
            action: format!("show {}", pushed.reference),
            what: "the image is not under its tag after it was pushed".to_owned(),
        });
    }
    for alias in aliases {
        match registry
            .tag(&pushed.reference, alias, ExistingTag::Move)
            .await
        {
            Ok(_) => pushed.tags.push(alias.clone()),
            // An immutable `latest` is no reason to fail a delivery.
            Err(error) => {
                let reason = pipeline_core::error_chain(&error);
                pushed.failed_aliases.push((alias.clone(), reason));
            }
        }
    }
    Ok(())
}

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
    /// path is below the job's folder.
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
        let path = context.job_dir().join(&self.layout);
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

/// Gives an image that is in a registry a further tag in its repository.
///
/// # Cancellation
///
/// The tag is set or not; nothing in between.
#[derive(Clone, Debug)]
pub struct TagImage {
    registry: Registry,
    image: RemoteImage,
    tag: String,
    existing: ExistingTag,
}

impl TagImage {
    /// Tags `image` as `tag`; refused if the tag names another image already.
    #[must_use]
    pub fn new(registry: Registry, image: impl Into<RemoteImage>, tag: impl Into<String>) -> Self {
        Self {
            registry,
            image: image.into(),
            tag: tag.into(),
            existing: ExistingTag::Refuse,
        }
    }

    /// Sets what happens when the tag exists with another digest.
    #[must_use]
    pub fn with_existing(mut self, existing: ExistingTag) -> Self {
        self.existing = existing;
        self
    }
}

#[async_trait]
impl Step for TagImage {
    type Output = PushedImage;

    fn inputs(&self) -> Vec<InputRef> {
        self.image.edge().into_iter().collect()
    }

    async fn run(&self, context: &StepContext) -> Result<PushedImage, StepError> {
        let reference = self.image.resolve(context)?;
        let doing = format!("tag {reference} as {}", self.tag);
        let report = drive(context, &doing, |observer| async {
            let registry = self.registry.observed_by(observer);
            registry
                .tag_report(&reference, &self.tag, self.existing)
                .await
        })
        .await?;
        let pushed = PushedImage::of(report);
        pushed.show(context).await;
        Ok(pushed)
    }
}

/// Copies an image from one repository to another, such as from staging to production.
///
/// # Cancellation
///
/// As for [`Registry::copy`].
#[derive(Clone, Debug)]
pub struct CopyImage {
    registry: Registry,
    from: RemoteImage,
    to: ImageReference,
    options: CopyOptions,
}

impl CopyImage {
    /// Copies `from` to `to`; without a tag in `to`, the one of `from` is taken over.
    #[must_use]
    pub fn new(registry: Registry, from: impl Into<RemoteImage>, to: ImageReference) -> Self {
        Self {
            registry,
            from: from.into(),
            to,
            options: CopyOptions::default(),
        }
    }

    /// Sets how it is copied.
    #[must_use]
    pub fn with_options(mut self, options: CopyOptions) -> Self {
        self.options = options;
        self
    }
}

#[async_trait]
impl Step for CopyImage {
    type Output = PushedImage;

    fn inputs(&self) -> Vec<InputRef> {
        self.from.edge().into_iter().collect()
    }

    async fn run(&self, context: &StepContext) -> Result<PushedImage, StepError> {
        let from = self.from.resolve(context)?;
        let doing = format!("copy {from} to {}", self.to);
        let report = drive(context, &doing, |observer| async {
            self.registry
                .observed_by(observer)
                .copy(&from, &self.to, &self.options)
                .await
        })
        .await?;
        let pushed = PushedImage::of(report);
        pushed.show(context).await;
        Ok(pushed)
    }
}
