//! [`BuildImage`]: a step that builds an image.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use pipeline_core::{Input, InputRef, Step, StepContext, StepError, error_chain};

use super::build_log;
use super::origin::{self, OriginLabels};
use crate::builder::{
    BaseImage, BuildError, BuildRequest, BuiltImage, DaemonlessBuilder, DockerfileSpec,
    ImageBuilder, ImageLocation, ImageOutput, ImageSource, ImageSpec, LayerCache, LayerOrigin,
};
use crate::debian::DebianBase;
use crate::existing_tag::ExistingTag;
use crate::oci::{Descriptor, Digest, LayoutError, OciLayout};
use crate::reference::ImageReference;
use crate::tag_policy::{TagPolicy, TagSet};

/// Builds an image, of layers or of a Dockerfile, and tags it.
///
/// The request is a value or what an earlier step made of its findings. Relative sources in it are
/// below the job's folder. The tags are made by a [`TagPolicy`], unique by default.
///
/// The image gets labels that say where it comes from, unless the request has them: see
/// [`OriginLabels`]. An image of layers has them as annotations of its manifest, too.
///
/// A tag of its own that names another image already, in the layout or in the engine, fails the
/// step; the same image is fine. Aliases move.
///
/// Dropping it, like cancelling, leaves no tag on a partial image.
#[derive(Debug)]
pub struct BuildImage {
    recipe: Recipe,
    place: Place,
    tags: TagPolicy,
    existing: ExistingTag,
    labels: OriginLabels,
    created: Option<u64>,
    builder: Option<Arc<dyn ImageBuilder>>,
    debian: Option<DebianBase>,
}

#[derive(Debug)]
enum Recipe {
    Layers(Box<Input<ImageSpec>>),
    Dockerfile(Box<Input<DockerfileSpec>>),
}

#[derive(Debug)]
enum Place {
    Layout(PathBuf),
    /// The engine's store, under the name of this repository.
    Engine(ImageReference),
}

impl BuildImage {
    /// Builds `spec` into the layout at `layout`, which is below the data folder when relative.
    pub fn new(spec: impl Into<Input<ImageSpec>>, layout: impl Into<PathBuf>) -> Self {
        Self {
            recipe: Recipe::Layers(Box::new(spec.into())),
            place: Place::Layout(layout.into()),
            tags: TagPolicy::default(),
            existing: ExistingTag::default(),
            labels: OriginLabels::default(),
            created: None,
            builder: None,
            debian: None,
        }
    }

    /// Builds the Dockerfile of `spec` with `builder` into the layout at `layout`, which is below
    /// the data folder when relative.
    pub fn dockerfile(
        spec: impl Into<Input<DockerfileSpec>>,
        builder: Arc<dyn ImageBuilder>,
        layout: impl Into<PathBuf>,
    ) -> Self {
        Self {
            recipe: Recipe::Dockerfile(Box::new(spec.into())),
            place: Place::Layout(layout.into()),
            tags: TagPolicy::default(),
            existing: ExistingTag::default(),
            labels: OriginLabels::default(),
            created: None,
            builder: Some(builder),
            debian: None,
        }
    }

    /// Puts the image into the store of the builder's engine instead of a layout, under the name of
    /// `repository` with the tags of the policy, which cannot be of its content then.
    #[must_use]
    pub fn into_engine(mut self, repository: ImageReference) -> Self {
        self.place = Place::Engine(repository);
        self
    }

    /// Sets which tags it gets in the layout; default [`TagPolicy::unique`].
    #[must_use]
    pub fn with_tags(mut self, policy: TagPolicy) -> Self {
        self.tags = policy;
        self
    }

    /// Sets what happens when one of its own tags names another image; default
    /// [`ExistingTag::Refuse`].
    #[must_use]
    pub fn with_existing(mut self, existing: ExistingTag) -> Self {
        self.existing = existing;
        self
    }

    /// Sets which labels it gets by itself; default [`OriginLabels::All`].
    #[must_use]
    pub fn with_labels(mut self, labels: OriginLabels) -> Self {
        self.labels = labels;
        self
    }

    /// Sets when the image counts as made, in seconds since 1970, where the request does not say
    /// it. Default: what the environment of the step declares as `SOURCE_DATE_EPOCH`, else the time
    /// of the commit, if the job's folder belongs to its repository.
    #[must_use]
    pub const fn with_created(mut self, seconds: u64) -> Self {
        self.created = Some(seconds);
        self
    }

    /// Sets who builds; default a [`DaemonlessBuilder`] with a layer cache in `cache/layers` below
    /// the data folder.
    #[must_use]
    pub fn with_builder(mut self, builder: Arc<dyn ImageBuilder>) -> Self {
        self.builder = Some(builder);
        self
    }

    /// Where the request has an empty base, takes one of Debian packages. On a machine where none
    /// can be made the base stays empty, with a warning.
    #[must_use]
    pub fn with_debian_base(mut self, base: DebianBase) -> Self {
        self.debian = Some(base);
        self
    }

    async fn source(&self, cx: &StepContext) -> Result<ImageSource, StepError> {
        cx.pull_job_dir().await?;
        let mut source = match &self.recipe {
            Recipe::Layers(spec) => ImageSource::Layers(self.layers(cx, spec).await?),
            Recipe::Dockerfile(spec) => {
                let mut spec = cx.resolve(spec)?;
                spec.context = below(cx.job_dir(), &spec.context);
                for path in spec.secrets.values_mut() {
                    *path = below(cx.job_dir(), path);
                }
                ImageSource::Dockerfile(spec)
            }
        };
        if self.labels == OriginLabels::All {
            let asked = match &source {
                ImageSource::Layers(spec) => spec.created,
                ImageSource::Dockerfile(_) => None,
            };
            let created = match asked.or(self.created) {
                Some(created) => Some(created),
                None => origin::commit_time(cx).await,
            };
            let version = self.own_tag(cx)?;
            origin::Origin::new(cx.facts(), version, created).label(&mut source);
        }
        if let ImageSource::Layers(spec) = &mut source {
            spec.created = spec.created.or(self.created);
        }
        Ok(source)
    }

    /// The first tag of its own, if it can be known before the build.
    fn own_tag(&self, cx: &StepContext) -> Result<Option<String>, StepError> {
        let [one, other] = [&b"a"[..], b"b"].map(|text| self.render(cx, &Digest::sha256(text)));
        let (one, other) = (one?, other?);
        let tag = one.unique.into_iter().next();
        Ok(tag.filter(|tag| other.unique.first() == Some(tag)))
    }

    async fn layers(
        &self,
        cx: &StepContext,
        spec: &Input<ImageSpec>,
    ) -> Result<ImageSpec, StepError> {
        let mut spec = cx.resolve(spec)?.with_sources_below(cx.job_dir());
        let Some(debian) = self
            .debian
            .as_ref()
            .filter(|_| spec.base == BaseImage::Scratch)
        else {
            return Ok(spec);
        };
        let mut debian = debian.clone();
        debian.cache_dir = below(cx.data_dir(), &debian.cache_dir);
        match debian.prepare().await {
            Ok(root) => {
                let origin = if root.reused {
                    "as made before"
                } else {
                    "made now"
                };
                cx.log(format!(
                    "base: {} Debian packages, {origin}",
                    root.packages.len()
                ))
                .await;
                spec.base = BaseImage::Rootfs(root.path);
            }
            Err(error) => {
                cx.warn(format!(
                    "the image has an empty base and cannot run by itself: {}",
                    error_chain(&error)
                ))
                .await;
            }
        }
        Ok(spec)
    }

    async fn build(&self, cx: &StepContext) -> Result<BuiltImage, StepError> {
        let source = self.source(cx).await?;
        let default: Arc<dyn ImageBuilder>;
        let builder = match &self.builder {
            Some(builder) => builder,
            None => {
                let folder = cx.data_dir().join("cache/layers");
                let cache = blocking(move || LayerCache::open(folder))
                    .await?
                    .map_err(|error| StepError::errored("could not open the layer cache", error))?;
                default = Arc::new(DaemonlessBuilder::new().with_layer_cache(cache));
                &default
            }
        };
        let image = match &self.place {
            Place::Layout(layout) => {
                let path = below(cx.data_dir(), layout);
                self.in_layout(cx, &**builder, source, path).await?
            }
            Place::Engine(repository) => {
                let output = self.names_before(cx, repository)?;
                let request = BuildRequest { source, output };
                build_log::build(cx, &**builder, &request)
                    .await
                    .map_err(fail)?
            }
        };
        report(cx, &image).await;
        Ok(image)
    }

    async fn in_layout(
        &self,
        cx: &StepContext,
        builder: &dyn ImageBuilder,
        source: ImageSource,
        path: PathBuf,
    ) -> Result<BuiltImage, StepError> {
        let output = ImageOutput::Layout {
            path: path.clone(),
            tag: None,
        };
        let request = BuildRequest { source, output };
        let mut image = build_log::build(cx, builder, &request)
            .await
            .map_err(fail)?;
        // The digest is a possible tag, so tags come after the build.
        let tags = self.render(cx, image.digest())?;
        let (folder, manifest, existing) = (path.clone(), image.manifest.clone(), self.existing);
        let wanted = tags.clone();
        blocking(move || set_tags(&folder, &wanted, existing, &manifest))
            .await?
            .map_err(|error| match error {
                LayoutError::TagExists { .. } => StepError::failed(error.to_string()),
                error => StepError::errored("could not tag the image", error),
            })?;
        let tag = tags.unique.into_iter().next();
        image.location = ImageLocation::Layout { path, tag };
        Ok(image)
    }

    fn render(&self, cx: &StepContext, digest: &Digest) -> Result<TagSet, StepError> {
        self.tags
            .render(cx.facts(), digest)
            .map_err(|error| StepError::failed(error.to_string()))
    }

    /// An engine sets names together with the build, so none can come from its result.
    fn names_before(
        &self,
        cx: &StepContext,
        repository: &ImageReference,
    ) -> Result<ImageOutput, StepError> {
        let [tags, other] = [&b"a"[..], b"b"].map(|text| self.render(cx, &Digest::sha256(text)));
        let (tags, other) = (tags?, other?);
        if tags.unique != other.unique || tags.aliases != other.aliases {
            return Err(StepError::failed(
                "an image in an engine cannot be tagged by its content; use other tags, or build it into a layout",
            ));
        }
        let names = |tags: &[String]| -> Result<Vec<String>, StepError> {
            tags.iter()
                .map(|tag| {
                    let name = repository.with_tag(tag.as_str());
                    name.map(|name| name.to_string())
                        .map_err(|error| StepError::failed(error.to_string()))
                })
                .collect()
        };
        let (mut unique, mut tags) = (names(&tags.unique)?, names(&tags.aliases)?);
        if self.existing == ExistingTag::Move {
            tags.splice(0..0, unique.drain(..));
        }
        Ok(ImageOutput::Engine { tags, unique })
    }
}

fn set_tags(
    folder: &Path,
    tags: &TagSet,
    existing: ExistingTag,
    manifest: &Descriptor,
) -> Result<(), LayoutError> {
    let layout = OciLayout::open(folder)?;
    let mut moving = tags.aliases.clone();
    match existing {
        ExistingTag::Refuse => layout.claim_tags(&tags.unique, manifest)?,
        ExistingTag::Move => moving.splice(0..0, tags.unique.clone()).for_each(drop),
    }
    for tag in &moving {
        layout.set_tag(Some(tag), manifest)?;
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StepError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| StepError::errored("could not use the disk", error))
}

#[async_trait]
impl Step for BuildImage {
    type Output = BuiltImage;

    fn inputs(&self) -> Vec<InputRef> {
        match &self.recipe {
            Recipe::Layers(spec) => spec.edge(),
            Recipe::Dockerfile(spec) => spec.edge(),
        }
        .into_iter()
        .collect()
    }

    async fn run(&self, cx: &StepContext) -> Result<BuiltImage, StepError> {
        tokio::select! {
            biased;
            () = cx.cancel().cancelled() => Err(StepError::Cancelled),
            result = self.build(cx) => result,
        }
    }
}

/// What the request or the tree is to blame for is a failure; everything else could not be found
/// out.
fn fail(error: BuildError) -> StepError {
    match error {
        BuildError::Cancelled => StepError::Cancelled,
        BuildError::Layout(_)
        | BuildError::Write { .. }
        | BuildError::Aborted { .. }
        | BuildError::BaseLayer { .. } => StepError::errored("could not build the image", error),
        #[cfg(feature = "registry")]
        BuildError::Registry(ref said) if said.is_retryable() => {
            StepError::errored("could not build the image", error)
        }
        #[cfg(feature = "engine")]
        BuildError::Engine(ref said) if said.is_retryable() => {
            StepError::errored("could not build the image", error)
        }
        _ => StepError::failed(format!(
            "could not build the image: {}",
            error_chain(&error)
        )),
    }
}

async fn report(cx: &StepContext, image: &BuiltImage) {
    let mut new = 0;
    for layer in &image.layers {
        let origin = match layer.origin {
            LayerOrigin::Base => "from the base",
            LayerOrigin::Cached => "unchanged",
            LayerOrigin::New => {
                new += 1;
                "new"
            }
        };
        cx.log(format!(
            "layer {} {}: {}, {origin}",
            layer.digest.short(),
            size(layer.size),
            layer.comment
        ))
        .await;
    }
    let tag = image.tag().unwrap_or("untagged");
    let place = match &image.location {
        ImageLocation::Layout { path, .. } => format!("{}:{tag}", path.display()),
        ImageLocation::DockerArchive { path, .. } => path.display().to_string(),
        ImageLocation::Registry { reference } => reference.to_string(),
        ImageLocation::Engine { .. } => tag.to_owned(),
    };
    cx.highlight("image", place).await;
    cx.highlight("digest", image.digest().to_string()).await;
    cx.log(format!(
        "{} tagged {}",
        image.digest(),
        image.tag().unwrap_or("nothing")
    ))
    .await;
    cx.summary(format!(
        "sha256:{} {}, {} layers, {new} new",
        image.digest().short(),
        size(image.layers_size()),
        image.layers.len(),
    ));
    if let Ok(data) = serde_json::to_value(image) {
        cx.fact("docker.image_built", data).await;
    }
}

fn below(folder: &Path, path: &Path) -> PathBuf {
    // Joining an absolute path gives that path.
    folder.join(path)
}

/// Bytes for people, in powers of ten as registries count.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}
