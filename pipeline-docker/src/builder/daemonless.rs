//! [`DaemonlessBuilder`]: images without an engine.

use std::fmt;
use std::io::{self, BufReader, Read};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;

use super::archive_base;
use super::config::apply;
use super::gzip::{self, ParallelGzip};
use super::layer::LayerPlan;
use super::lower::{Listing, Lower};
use super::{
    BaseImage, BuildError, BuildRequest, BuilderCapabilities, BuiltImage, ImageBuilder,
    ImageLocation, ImageOutput, ImageSource, ImageSpec, LayerCache, LayerInfo, LayerOrigin,
    LayerSpec, Support,
};
use crate::oci::{
    Descriptor, Digest, DigestWriter, HistoryEntry, ImageConfig, ImageManifest, LayoutImage,
    OciLayout, media_type,
};

/// Builds images of layers into OCI layouts, without an engine, without root and without network.
///
/// Equal requests over equal files give equal digests, whatever the order, times, owner and umask
/// of the files, the clock, and the number of threads. Nothing runs during a build: where a
/// Dockerfile would `RUN` something, run it as a step of the pipeline and copy what it made.
///
/// Extended attributes are not packed. Memory stays bounded by a few blocks per thread and the list
/// of paths.
#[derive(Debug, Clone)]
pub struct DaemonlessBuilder {
    cache: Option<LayerCache>,
    threads: NonZeroUsize,
    level: u32,
}

impl Default for DaemonlessBuilder {
    fn default() -> Self {
        Self {
            cache: None,
            threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            level: 6,
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

    /// Builds on the calling thread, which it blocks; [`ImageBuilder::build`] does not.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn build_blocking(&self, request: &BuildRequest) -> Result<BuiltImage, BuildError> {
        self.run(request, &|| true)
    }

    fn run(
        &self,
        request: &BuildRequest,
        go_on: &dyn Fn() -> bool,
    ) -> Result<BuiltImage, BuildError> {
        let unsupported = |what: &str, instead: &str| BuildError::Unsupported {
            builder: "daemonless",
            what: what.to_owned(),
            instead: instead.to_owned(),
        };
        let ImageSource::Layers(spec) = &request.source else {
            return Err(unsupported(
                "run a Dockerfile",
                "run its commands as steps and copy what they make as layers, or use an engine",
            ));
        };
        let ImageOutput::Layout { path, tag } = &request.output else {
            return Err(unsupported(
                "load into an engine",
                "write a layout and export it as an archive for `docker load`",
            ));
        };
        let layout = OciLayout::create(path)?;
        let mut work = Work {
            builder: self,
            layout: &layout,
            go_on,
            lower: Lower::default(),
        };
        let manifest = work.image(spec)?;
        if !go_on() {
            return Err(BuildError::Cancelled);
        }
        layout.set_tag(tag.as_deref(), &manifest.manifest)?;
        Ok(BuiltImage {
            location: ImageLocation::Layout {
                path: path.clone(),
                tag: tag.clone(),
            },
            ..manifest
        })
    }
}

#[async_trait]
impl ImageBuilder for DaemonlessBuilder {
    fn capabilities(&self) -> BuilderCapabilities {
        BuilderCapabilities {
            layers: Support::Yes,
            dockerfiles: Support::No,
            layout_output: Support::Yes,
            reproducible: Support::Yes,
        }
    }

    async fn build(&self, request: &BuildRequest) -> Result<BuiltImage, BuildError> {
        let (builder, request) = (self.clone(), request.clone());
        let cancelled = Arc::new(AtomicBool::new(false));
        // Set when this future is dropped; the worker looks at it before every piece.
        let guard = CancelOnDrop(Arc::clone(&cancelled));
        let worker = tokio::task::spawn_blocking(move || {
            builder.run(&request, &|| !cancelled.load(Ordering::Relaxed))
        });
        let result = worker.await.unwrap_or_else(|error| {
            Err(BuildError::Aborted {
                message: error.to_string(),
            })
        });
        drop(guard);
        result
    }
}

struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Work<'a> {
    builder: &'a DaemonlessBuilder,
    layout: &'a OciLayout,
    go_on: &'a dyn Fn() -> bool,
    lower: Lower,
}

impl Work<'_> {
    fn image(&mut self, spec: &ImageSpec) -> Result<BuiltImage, BuildError> {
        let created = spec.created.map(time_text).transpose()?;
        let (mut config, mut layers) = self.base(spec, created.as_deref())?;
        apply(&spec.config, &mut config.config)?;
        config.created.clone_from(&created);
        for layer in &spec.layers {
            let plan = LayerPlan::new(layer, &self.lower)?;
            let comment = layer.comment.clone().unwrap_or_else(|| describe(layer));
            self.add(&plan, comment, created.as_deref(), &mut config, &mut layers)?;
        }
        let bytes = json(&config);
        let config_descriptor = self.layout.write_blob(media_type::IMAGE_CONFIG, &bytes)?;
        let config_digest = config_descriptor.digest.clone();
        let descriptors = layers.iter().map(|layer| layer.0.clone()).collect();
        let mut manifest = ImageManifest::new(config_descriptor, descriptors);
        manifest.annotations.clone_from(&spec.annotations);
        let manifest = self
            .layout
            .write_blob(media_type::IMAGE_MANIFEST, &json(&manifest))?
            .with_platform(config.platform.clone());
        Ok(BuiltImage {
            manifest,
            config_digest,
            layers: layers.into_iter().map(|layer| layer.1).collect(),
            platform: config.platform,
            location: ImageLocation::Layout {
                path: self.layout.path().to_owned(),
                tag: None,
            },
        })
    }

    fn base(
        &mut self,
        spec: &ImageSpec,
        created: Option<&str>,
    ) -> Result<(ImageConfig, Vec<(Descriptor, LayerInfo)>), BuildError> {
        match &spec.base {
            BaseImage::Scratch => Ok((ImageConfig::new(spec.platform.clone()), Vec::new())),
            BaseImage::Rootfs(root) => {
                let plan = LayerPlan::rootfs(root)?;
                let mut config = ImageConfig::new(spec.platform.clone());
                let mut layers = Vec::new();
                let comment = "root file system".to_owned();
                self.add(&plan, comment, created, &mut config, &mut layers)?;
                Ok((config, layers))
            }
            BaseImage::Layout { path, name } => {
                let from = OciLayout::open(path)?;
                let image = from.image(&from.resolve(name.as_deref())?, &spec.platform)?;
                let top_layers = !spec.layers.is_empty();
                self.adopt(&from, image, top_layers)
            }
            BaseImage::DockerArchive { path, name } => {
                let (level, threads) = (self.builder.level, self.builder.threads);
                let gzip = |blob| ParallelGzip::new(blob, level, threads);
                let image =
                    archive_base::import(path, name.as_deref(), self.layout, gzip, self.go_on)?;
                // Always read: that is where compressed layers are compared with the
                // configuration.
                self.adopt(self.layout, image, true)
            }
        }
    }

    /// Takes over an image's layers as the base.
    fn adopt(
        &mut self,
        from: &OciLayout,
        image: LayoutImage,
        list_paths: bool,
    ) -> Result<(ImageConfig, Vec<(Descriptor, LayerInfo)>), BuildError> {
        let mut config = image.config;
        let broken = |why: String| BuildError::BrokenBase {
            digest: image.descriptor.digest.clone(),
            why,
        };
        let diff_ids = config.rootfs.diff_ids.clone();
        if diff_ids.len() != image.manifest.layers.len() {
            return Err(broken(format!(
                "its manifest has {} layers, its configuration {}",
                image.manifest.layers.len(),
                diff_ids.len()
            )));
        }
        let mut layers = Vec::new();
        for (descriptor, diff_id) in image.manifest.layers.iter().zip(diff_ids) {
            if !(self.go_on)() {
                return Err(BuildError::Cancelled);
            }
            self.layout.adopt_blob(from, descriptor)?;
            let mut descriptor = descriptor.clone();
            let oci_type = match descriptor.media_type.as_str() {
                media_type::DOCKER_LAYER_GZIP => media_type::LAYER_TAR_GZIP,
                media_type::DOCKER_LAYER_TAR => media_type::LAYER_TAR,
                other => other,
            };
            descriptor.media_type = oci_type.to_owned();
            if list_paths {
                let listing = self.base_listing(&descriptor, &diff_id)?;
                self.lower.push(&listing);
            }
            let info = LayerInfo {
                digest: descriptor.digest.clone(),
                diff_id,
                size: descriptor.size,
                origin: LayerOrigin::Base,
                comment: "base".to_owned(),
            };
            layers.push((descriptor, info));
        }
        // A count of entries that does not fit the layers makes some tools refuse the image.
        if config
            .history
            .iter()
            .filter(|entry| !entry.empty_layer)
            .count()
            != layers.len()
        {
            config.history = layers
                .iter()
                .map(|_| HistoryEntry {
                    created_by: Some("base".to_owned()),
                    ..HistoryEntry::default()
                })
                .collect();
        }
        Ok((config, layers))
    }

    fn base_listing(
        &self,
        descriptor: &Descriptor,
        diff_id: &Digest,
    ) -> Result<Listing, BuildError> {
        let cache = self.builder.cache.as_ref();
        if let Some(listing) = cache.and_then(|cache| cache.listing(diff_id)) {
            return Ok(listing);
        }
        let file = BufReader::with_capacity(128 * 1024, self.layout.open_blob(descriptor)?);
        let reader: Box<dyn Read> = match descriptor.media_type.as_str() {
            media_type::LAYER_TAR => Box::new(file),
            media_type::LAYER_TAR_GZIP => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
            other => {
                return Err(BuildError::BrokenBase {
                    digest: descriptor.digest.clone(),
                    why: format!(
                        "layers of type {other} cannot be read here; convert them to gzip"
                    ),
                });
            }
        };
        let mut hashing = HashingReader {
            inner: reader,
            writer: DigestWriter::new(io::sink()),
        };
        let fail = |source| BuildError::BaseLayer {
            digest: descriptor.digest.clone(),
            source,
        };
        let listing = Listing::read(&mut hashing).map_err(fail)?;
        // What follows the end of the archive belongs to the digest, too.
        io::copy(&mut hashing, &mut io::sink()).map_err(fail)?;
        let (_, actual, _) = hashing.writer.finish();
        if actual != *diff_id {
            return Err(BuildError::BrokenBase {
                digest: descriptor.digest.clone(),
                why: format!("its content is {actual}, its configuration says {diff_id}"),
            });
        }
        if let Some(cache) = cache {
            cache.store_listing(diff_id, &listing);
        }
        Ok(listing)
    }

    fn add(
        &mut self,
        plan: &LayerPlan,
        comment: String,
        created: Option<&str>,
        config: &mut ImageConfig,
        layers: &mut Vec<(Descriptor, LayerInfo)>,
    ) -> Result<(), BuildError> {
        let (descriptor, diff_id, origin) = self.pack(plan, &comment)?;
        self.lower.push(&plan.listing());
        config.rootfs.diff_ids.push(diff_id.clone());
        config.history.push(HistoryEntry {
            created: created.map(str::to_owned),
            created_by: Some(format!("pipeline-docker: {comment}")),
            ..HistoryEntry::default()
        });
        let info = LayerInfo {
            digest: descriptor.digest.clone(),
            diff_id,
            size: descriptor.size,
            origin,
            comment,
        };
        layers.push((descriptor, info));
        Ok(())
    }

    fn pack(
        &self,
        plan: &LayerPlan,
        comment: &str,
    ) -> Result<(Descriptor, Digest, LayerOrigin), BuildError> {
        let scheme = gzip::scheme(self.builder.level);
        let cache = self.builder.cache.as_ref();
        // Hashing is some ten times faster than compressing, so it pays to look first, unless
        // there is nothing that could be found.
        if let Some(cache) = cache.filter(|cache| cache.knows(&scheme)) {
            let sink = plan.write(DigestWriter::new(io::sink()), self.go_on, comment)?;
            let (_, diff_id, _) = sink.finish();
            let found = cache.fetch(&diff_id, &scheme, media_type::LAYER_TAR_GZIP, self.layout);
            if let Some(descriptor) = found {
                return Ok((descriptor, diff_id, LayerOrigin::Cached));
            }
        }
        let write = |source| BuildError::Write {
            layer: comment.to_owned(),
            source,
        };
        let blob = self.layout.blob_writer()?;
        let gzip =
            ParallelGzip::new(blob, self.builder.level, self.builder.threads).map_err(write)?;
        let sink = plan.write(DigestWriter::new(gzip), self.go_on, comment)?;
        let (gzip, diff_id, _) = sink.finish();
        let (digest, size) = gzip.finish().map_err(write)?.commit(None)?;
        let descriptor = Descriptor::new(media_type::LAYER_TAR_GZIP, digest, size);
        if let Some(cache) = cache {
            cache.store(&diff_id, &scheme, &descriptor, self.layout);
        }
        Ok((descriptor, diff_id, LayerOrigin::New))
    }
}

struct HashingReader<R> {
    inner: R,
    writer: DigestWriter<io::Sink>,
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        io::Write::write_all(&mut self.writer, buffer.get(..count).unwrap_or_default())?;
        Ok(count)
    }
}

fn describe(layer: &LayerSpec) -> String {
    let mut parts: Vec<String> = layer
        .copies
        .iter()
        // The source's path would make the digest depend on where it lies.
        .map(|copy| format!("copy to {}", copy.dest))
        .collect();
    parts.extend(layer.removed.iter().map(|path| format!("remove {path}")));
    if parts.is_empty() {
        "nothing".to_owned()
    } else {
        parts.join(", ")
    }
}

fn time_text(seconds: u64) -> Result<String, BuildError> {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
        .map(|time| time.to_string())
        .ok_or_else(|| BuildError::Invalid {
            field: "created",
            value: seconds.to_string(),
            why: "it is more than nine thousand years away",
        })
}

/// The compact JSON of one of our own types, none of which can fail to serialise.
fn json<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}
