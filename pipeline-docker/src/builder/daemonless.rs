//! [`DaemonlessBuilder`]: images without an engine.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use tempfile::TempDir;

use super::docker_archive::{self, folder_of, temporary};
use super::lower::Lower;
use super::work::Work;
use super::{
    BaseImage, BuildError, BuildObserver, BuildRequest, BuilderCapabilities, BuiltImage,
    ImageBuilder, ImageLocation, ImageOutput, ImageSource, ImageSpec, LayerCache, Support,
};
use crate::oci::{LayoutImage, OciLayout};
use crate::reference::ImageReference;

/// Builds images of layers into OCI layouts and files for `docker load`, without an engine, without
/// root and without network. With an engine or a registry client it brings them there, too, and with
/// the latter it takes bases from registries.
///
/// Equal requests over equal files give equal digests, whatever the order, times, owner and umask
/// of the files, the clock, and the number of threads. Nothing runs during a build: where a
/// Dockerfile would `RUN` something, run it as a step of the pipeline and copy what it made.
///
/// Extended attributes are not packed. Memory stays bounded by a few blocks per thread and the list
/// of paths.
#[derive(Debug, Clone)]
pub struct DaemonlessBuilder {
    pub(super) cache: Option<LayerCache>,
    pub(super) threads: NonZeroUsize,
    pub(super) level: u32,
    pub(super) observer: Option<Arc<dyn BuildObserver>>,
    #[cfg(feature = "engine")]
    engine: Option<crate::engine::Engine>,
    #[cfg(feature = "registry")]
    registry: Option<crate::registry::Registry>,
}

impl Default for DaemonlessBuilder {
    fn default() -> Self {
        Self {
            cache: None,
            threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            level: 6,
            observer: None,
            #[cfg(feature = "engine")]
            engine: None,
            #[cfg(feature = "registry")]
            registry: None,
        }
    }
}

impl fmt::Display for DaemonlessBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cache {
            Some(cache) => write!(f, "daemonless({cache})"),
            None => f.write_str("daemonless"),
        }
    }
}

impl DaemonlessBuilder {
    /// A builder without layer cache that uses every core and gzip level 6.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reuses compressed layers of earlier builds.
    #[must_use]
    pub fn with_layer_cache(mut self, cache: LayerCache) -> Self {
        self.cache = Some(cache);
        self
    }

    /// Sets how many threads compress. The result does not depend on it.
    #[must_use]
    pub const fn with_threads(mut self, threads: NonZeroUsize) -> Self {
        self.threads = threads;
        self
    }

    /// Sets the gzip level, 0 to 9; a larger one counts as 9. The digest depends on it.
    #[must_use]
    pub fn with_compression_level(mut self, level: u32) -> Self {
        self.level = level.min(9);
        self
    }

    /// Sets the engine that images go to with [`ImageOutput::Engine`]. They are loaded whole, under
    /// all of their names or none.
    #[cfg(feature = "engine")]
    #[must_use]
    pub fn with_engine(mut self, engine: crate::engine::Engine) -> Self {
        self.engine = Some(engine);
        self
    }

    /// Sets the client for bases in a registry and for [`ImageOutput::Registry`].
    ///
    /// A base goes straight into the layout that is built; only what neither that nor the layer
    /// cache has is fetched.
    #[cfg(feature = "registry")]
    #[must_use]
    pub fn with_registry(mut self, registry: crate::registry::Registry) -> Self {
        self.registry = Some(registry);
        self
    }

    /// Builds into a layout or a file for `docker load` on the calling thread, which it blocks;
    /// [`ImageBuilder::build`] does not. It takes no base from a registry.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn build_blocking(&self, request: &BuildRequest) -> Result<BuiltImage, BuildError> {
        self.run(request, None, &|| true)
    }

    fn run(
        &self,
        request: &BuildRequest,
        pulled: Option<LayoutImage>,
        go_on: &dyn Fn() -> bool,
    ) -> Result<BuiltImage, BuildError> {
        let spec = layers(request)?;
        match &request.output {
            ImageOutput::Layout { path, tag } => {
                let layout = OciLayout::create(path)?;
                let image = self.image(spec, &layout, pulled, go_on)?;
                layout.set_tag(tag.as_deref(), &image.manifest)?;
                Ok(BuiltImage {
                    location: ImageLocation::Layout {
                        path: path.clone(),
                        tag: tag.clone(),
                    },
                    ..image
                })
            }
            ImageOutput::DockerArchive { path, names } => {
                let names = docker_archive::names(names)?;
                let folder = temporary(folder_of(path))?;
                let layout = OciLayout::create(folder.path())?;
                let image = self.image(spec, &layout, pulled, go_on)?;
                docker_archive::write(&layout, image, path, names, go_on)
            }
            other => Err(cannot_output(other)),
        }
    }

    fn image(
        &self,
        spec: &ImageSpec,
        layout: &OciLayout,
        pulled: Option<LayoutImage>,
        go_on: &dyn Fn() -> bool,
    ) -> Result<BuiltImage, BuildError> {
        let mut work = Work {
            builder: self,
            layout,
            go_on,
            lower: Lower::default(),
            pulled,
        };
        let image = work.image(spec)?;
        if !go_on() {
            return Err(BuildError::Cancelled);
        }
        Ok(image)
    }
}

fn layers(request: &BuildRequest) -> Result<&ImageSpec, BuildError> {
    match &request.source {
        ImageSource::Layers(spec) => Ok(spec),
        ImageSource::Dockerfile(_) => Err(unsupported(
            "run a Dockerfile".to_owned(),
            "run its commands as steps and copy what they make as layers, or use an engine",
        )),
    }
}

fn unsupported(what: String, instead: &str) -> BuildError {
    BuildError::Unsupported {
        builder: "daemonless",
        what,
        instead: instead.to_owned(),
    }
}

fn cannot_output(output: &ImageOutput) -> BuildError {
    match output {
        ImageOutput::Registry { .. } => unsupported(
            "push to a registry without a client".to_owned(),
            "give it one (feature `registry`) and await the build, or write a layout and push that",
        ),
        _ => unsupported(
            "load into an engine without having one".to_owned(),
            "give it one (feature `engine`) and await the build, or write an archive for `docker load`",
        ),
    }
}

pub(super) fn no_registry_base(reference: &ImageReference) -> BuildError {
    unsupported(
        format!("take the base {reference} from a registry without a client"),
        "give it one (feature `registry`) and await the build, or pull the base into a layout first",
    )
}

#[async_trait]
impl ImageBuilder for DaemonlessBuilder {
    fn capabilities(&self) -> BuilderCapabilities {
        BuilderCapabilities {
            layers: Support::Yes,
            registry_base: self.registry_support(),
            dockerfiles: Support::No,
            layout_output: Support::Yes,
            engine_output: self.engine_support(),
            archive_output: Support::Yes,
            registry_output: self.registry_support(),
            reproducible: Support::Yes,
        }
    }

    fn observed_by(&self, observer: Arc<dyn BuildObserver>) -> Arc<dyn ImageBuilder> {
        Arc::new(Self {
            observer: Some(observer),
            ..self.clone()
        })
    }

    async fn build(&self, request: &BuildRequest) -> Result<BuiltImage, BuildError> {
        self.check(request)?;
        match &request.output {
            #[cfg(feature = "engine")]
            ImageOutput::Engine { .. } => self.in_engine(request).await,
            #[cfg(feature = "registry")]
            ImageOutput::Registry { reference } => self.in_registry(request, reference).await,
            ImageOutput::DockerArchive { path, names } => {
                self.in_archive(request, path, names).await
            }
            ImageOutput::Layout { .. } => self.in_layout(request.clone(), None).await,
            #[cfg(not(all(feature = "engine", feature = "registry")))]
            other => Err(cannot_output(other)),
        }
    }
}

impl DaemonlessBuilder {
    fn engine_support(&self) -> Support {
        #[cfg(feature = "engine")]
        if self.engine.is_some() {
            return Support::Yes;
        }
        Support::No
    }

    fn registry_support(&self) -> Support {
        #[cfg(feature = "registry")]
        if self.registry.is_some() {
            return Support::Yes;
        }
        Support::No
    }

    /// What cannot be served is refused before any work.
    fn check(&self, request: &BuildRequest) -> Result<(), BuildError> {
        let spec = layers(request)?;
        if let BaseImage::Registry { reference } = &spec.base
            && self.registry_support() == Support::No
        {
            return Err(no_registry_base(reference));
        }
        let able = match request.output {
            ImageOutput::Engine { .. } => self.engine_support(),
            ImageOutput::Registry { .. } => self.registry_support(),
            _ => Support::Yes,
        };
        match able {
            Support::Yes => Ok(()),
            Support::No => Err(cannot_output(&request.output)),
        }
    }

    /// Builds into a layout that is gone with the build.
    async fn in_temporary(
        &self,
        request: &BuildRequest,
        folder: &Path,
    ) -> Result<(Arc<TempDir>, OciLayout, BuiltImage), BuildError> {
        let folder = Arc::new(temporary(folder)?);
        let output = ImageOutput::Layout {
            path: folder.path().to_owned(),
            tag: None,
        };
        let request = BuildRequest {
            source: request.source.clone(),
            output,
        };
        let image = self.in_layout(request, Some(Arc::clone(&folder))).await?;
        let layout = OciLayout::open(folder.path())?;
        Ok((folder, layout, image))
    }

    async fn in_archive(
        &self,
        request: &BuildRequest,
        path: &Path,
        names: &[String],
    ) -> Result<BuiltImage, BuildError> {
        let names = docker_archive::names(names)?;
        let (folder, layout, image) = self.in_temporary(request, folder_of(path)).await?;
        let path = path.to_owned();
        on_worker(move |go_on| {
            let _folder = folder;
            docker_archive::write(&layout, image, &path, names, go_on)
        })
        .await
    }

    /// Engines take images in one piece, so it is made in a folder first.
    #[cfg(feature = "engine")]
    async fn in_engine(&self, request: &BuildRequest) -> Result<BuiltImage, BuildError> {
        let Some(engine) = &self.engine else {
            return Err(cannot_output(&request.output));
        };
        let names = super::engine::Names::of(&request.output)?;
        let (_folder, layout, image) = self.in_temporary(request, &std::env::temp_dir()).await?;
        super::engine::load(engine, layout, image, &names).await
    }

    /// A registry wants the size and digest of a blob before it gets the first byte, so the layers
    /// are made in a folder first.
    #[cfg(feature = "registry")]
    async fn in_registry(
        &self,
        request: &BuildRequest,
        reference: &ImageReference,
    ) -> Result<BuiltImage, BuildError> {
        let Some(registry) = &self.registry else {
            return Err(cannot_output(&request.output));
        };
        super::registry::check_target(reference)?;
        let (_folder, layout, image) = self.in_temporary(request, &std::env::temp_dir()).await?;
        let registry = super::registry::observed(registry, "sending", self.observer.as_ref());
        let base = &layers(request)?.base;
        super::registry::push(&registry, &layout, image, reference, base).await
    }

    /// `keep` is what must not go before the last thread that writes into it.
    async fn in_layout(
        &self,
        request: BuildRequest,
        keep: Option<Arc<TempDir>>,
    ) -> Result<BuiltImage, BuildError> {
        let (request, pulled) = self.with_base(request, keep.clone()).await?;
        let builder = self.clone();
        on_worker(move |go_on| {
            let _keep = keep;
            builder.run(&request, pulled, go_on)
        })
        .await
    }

    /// The request, and its base if that had to be pulled.
    #[cfg(feature = "registry")]
    async fn with_base(
        &self,
        mut request: BuildRequest,
        keep: Option<Arc<TempDir>>,
    ) -> Result<(BuildRequest, Option<LayoutImage>), BuildError> {
        let (ImageSource::Layers(spec), ImageOutput::Layout { path, .. }, Some(registry)) =
            (&mut request.source, &request.output, &self.registry)
        else {
            return Ok((request, None));
        };
        let BaseImage::Registry { reference } = spec.base.clone() else {
            return Ok((request, None));
        };
        let observer = self.observer.as_ref();
        let registry = super::registry::observed(registry, "downloading", observer);
        let path = path.clone();
        let layout = move || {
            let _keep = keep;
            Ok(OciLayout::create(path)?)
        };
        let cache = self.cache.as_ref();
        let image =
            super::registry::pull_base(&registry, &reference, spec, layout, cache, observer)
                .await?;
        Ok((request, Some(image)))
    }

    #[cfg(not(feature = "registry"))]
    #[expect(clippy::unused_async, reason = "the other one waits")]
    async fn with_base(
        &self,
        request: BuildRequest,
        _keep: Option<Arc<TempDir>>,
    ) -> Result<(BuildRequest, Option<LayoutImage>), BuildError> {
        Ok((request, None))
    }
}

/// Runs file work on a thread of its own, which is told when nobody waits for it any more.
pub(super) async fn on_worker<T: Send + 'static>(
    work: impl FnOnce(&dyn Fn() -> bool) -> Result<T, BuildError> + Send + 'static,
) -> Result<T, BuildError> {
    let cancelled = Arc::new(AtomicBool::new(false));
    // Set when this future is dropped; the worker looks at it before every piece.
    let guard = CancelOnDrop(Arc::clone(&cancelled));
    let worker = tokio::task::spawn_blocking(move || work(&|| !cancelled.load(Ordering::Relaxed)));
    let result = worker.await.unwrap_or_else(|error| {
        Err(BuildError::Aborted {
            message: error.to_string(),
        })
    });
    drop(guard);
    result
}

struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
