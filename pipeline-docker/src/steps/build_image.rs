//! [`BuildImage`]: a step that builds an image.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use pipeline_core::{Input, InputRef, Step, StepContext, StepError, error_chain};

use crate::builder::{
    BaseImage, BuildError, BuildRequest, BuiltImage, DaemonlessBuilder, ImageBuilder,
    ImageLocation, ImageOutput, ImageSpec, LayerCache, LayerOrigin,
};
use crate::debian::DebianBase;
use crate::oci::OciLayout;
use crate::tag_policy::TagPolicy;

/// Builds an image of layers into an OCI layout and tags it there.
///
/// The request is a value or what an earlier step made of its findings. Relative sources in it are
/// below the job's folder. The tags are made by a [`TagPolicy`], unique by default.
///
/// Dropping it, like cancelling, leaves no tag on a partial image.
#[derive(Debug)]
pub struct BuildImage {
    spec: Input<ImageSpec>,
    layout: PathBuf,
    tags: TagPolicy,
    builder: Option<Arc<dyn ImageBuilder>>,
    debian: Option<DebianBase>,
}

impl BuildImage {
    /// Builds `spec` into the layout at `layout`, which is below the data folder when relative.
    pub fn new(spec: impl Into<Input<ImageSpec>>, layout: impl Into<PathBuf>) -> Self {
        Self {
            spec: spec.into(),
            layout: layout.into(),
            tags: TagPolicy::default(),
            builder: None,
            debian: None,
        }
    }

    /// Sets which tags it gets in the layout; default [`TagPolicy::unique`].
    #[must_use]
    pub fn with_tags(mut self, policy: TagPolicy) -> Self {
        self.tags = policy;
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

    async fn spec(&self, cx: &StepContext) -> Result<ImageSpec, StepError> {
        let mut spec = cx.resolve(&self.spec)?.with_sources_below(cx.job_dir());
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
        let spec = self.spec(cx).await?;
        let path = below(cx.data_dir(), &self.layout);
        let default: Arc<dyn ImageBuilder>;
        let builder = match &self.builder {
            Some(builder) => builder,
            None => {
                let cache = LayerCache::open(cx.data_dir().join("cache/layers"))
                    .map_err(|error| StepError::errored("could not open the layer cache", error))?;
                default = Arc::new(DaemonlessBuilder::new().with_layer_cache(cache));
                &default
            }
        };
        let output = ImageOutput::Layout {
            path: path.clone(),
            tag: None,
        };
        let mut image = builder
            .build(&BuildRequest::layers(spec, output))
            .await
            .map_err(fail)?;
        // The digest is a possible tag, so tags come after the build.
        let tags = self
            .tags
            .render(cx.facts(), image.digest())
            .map_err(|error| StepError::failed(error.to_string()))?;
        let layout = OciLayout::open(&path)
            .map_err(|error| StepError::errored("could not open the layout", error))?;
        for tag in tags.unique.iter().chain(&tags.aliases) {
            layout
                .set_tag(Some(tag), &image.manifest)
                .map_err(|error| {
                    StepError::errored(format!("could not set the tag {tag}"), error)
                })?;
        }
        let tag = tags.unique.into_iter().next();
        image.location = ImageLocation::Layout { path, tag };
        report(cx, &image).await;
        Ok(image)
    }
}

#[async_trait]
impl Step for BuildImage {
    type Output = BuiltImage;

    fn inputs(&self) -> Vec<InputRef> {
        self.spec.edge().into_iter().collect()
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
    if let ImageLocation::Layout { path, .. } = &image.location {
        let tag = image.tag().unwrap_or("untagged");
        cx.highlight("image", format!("{}:{tag}", path.display()))
            .await;
    }
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
