//! [`Work`]: the layers, the configuration and the manifest of one image.

use std::io::{self, BufReader, Read};

use super::archive_base;
use super::config::apply;
use super::daemonless;
use super::gzip::{self, ParallelGzip};
use super::layer::LayerPlan;
use super::lower::{Listing, Lower};
use super::{
    BaseImage, BuildError, BuildEvent, BuiltImage, DaemonlessBuilder, ImageLocation, ImageSpec,
    LayerInfo, LayerOrigin, LayerSpec,
};
use crate::oci::{
    Descriptor, Digest, DigestWriter, HistoryEntry, ImageConfig, ImageManifest, LayoutImage,
    OciLayout, media_type, time_text,
};

/// One image on its way into a layout.
pub(super) struct Work<'a> {
    pub(super) builder: &'a DaemonlessBuilder,
    pub(super) layout: &'a OciLayout,
    pub(super) go_on: &'a dyn Fn() -> bool,
    pub(super) lower: Lower,
    /// The base, if it is one in a registry; its layers are in the layout already.
    pub(super) pulled: Option<LayoutImage>,
}

impl Work<'_> {
    pub(super) fn image(&mut self, spec: &ImageSpec) -> Result<BuiltImage, BuildError> {
        let created = spec.created.map(created_text).transpose()?;
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
            BaseImage::Registry { reference } => match self.pulled.take() {
                Some(image) => self.adopt(self.layout, image, !spec.layers.is_empty()),
                None => Err(daemonless::no_registry_base(reference)),
            },
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
        if let Some(observer) = &self.builder.observer {
            observer.event(&BuildEvent::LayerFinished {
                layer: info.clone(),
            });
        }
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

fn created_text(seconds: u64) -> Result<String, BuildError> {
    time_text(seconds).ok_or_else(|| BuildError::Invalid {
        field: "created",
        value: seconds.to_string(),
        why: "it is more than nine thousand years away",
    })
}

/// The compact JSON of one of our own types, none of which can fail to serialise.
fn json<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}
