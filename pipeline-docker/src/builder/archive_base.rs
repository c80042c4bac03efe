//! [`import`]: what `docker save` wrote becomes an image in a layout.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

use serde::Deserialize;

use super::BuildError;
use super::gzip::ParallelGzip;
use super::lower::normal;
use crate::foreign_tar::{ForeignTar, Metered};
use crate::oci::{
    Descriptor, Digest, DigestWriter, ImageConfig, ImageManifest, LayoutImage, MAX_METADATA,
    OciLayout, media_type,
};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Brings the only image of an archive, or the one called `name`, into `layout`. Nothing is tagged.
///
/// Layers are compressed on the way, unless they are already.
pub(super) fn import(
    path: &Path,
    name: Option<&str>,
    layout: &OciLayout,
    gzip: impl Fn(crate::oci::BlobWriter) -> io::Result<ParallelGzip<crate::oci::BlobWriter>>,
    go_on: &dyn Fn() -> bool,
) -> Result<LayoutImage, BuildError> {
    let archive = Archive { path, go_on };
    let saved = archive.choose(name)?;
    let config_path = normal(saved.config.as_bytes());
    // Equal layers are stored once; the others are links to the first.
    let mut links: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    archive.each(|path, entry| {
        if entry.header().entry_type().is_symlink()
            && let Some(target) = entry.link_name_bytes()
        {
            links.insert(path.clone(), beside(&path, &target));
        }
        Ok(())
    })?;
    let place = |name: &str| {
        let name = normal(name.as_bytes());
        links.get(&name).cloned().unwrap_or(name)
    };
    let mut wanted: Vec<Vec<u8>> = saved.layers.iter().map(|name| place(name)).collect();
    wanted.push(config_path.clone());
    let mut config = None;
    let mut layers: BTreeMap<Vec<u8>, (Descriptor, Option<Digest>)> = BTreeMap::new();
    archive.each(|entry_path, entry| {
        if !wanted.contains(&entry_path) {
            return Ok(());
        }
        if entry_path == config_path {
            let mut bytes = Vec::new();
            entry
                .take(MAX_METADATA)
                .read_to_end(&mut bytes)
                .map_err(|error| archive.read(error))?;
            config = Some(bytes);
            return Ok(());
        }
        let layer = archive.layer(entry, layout, &gzip)?;
        layers.insert(entry_path, layer);
        Ok(())
    })?;
    let bytes = config.ok_or_else(|| archive.broken("it lacks the configuration that it names"))?;
    let config: ImageConfig = serde_json::from_slice(&bytes)
        .map_err(|_| archive.broken("its configuration is not that of an image"))?;
    if config.rootfs.diff_ids.len() != saved.layers.len() {
        return Err(archive.broken("its list of layers does not fit its configuration"));
    }
    let mut descriptors = Vec::new();
    for (name, diff_id) in saved.layers.iter().zip(&config.rootfs.diff_ids) {
        let (descriptor, actual) = layers
            .get(&place(name))
            .ok_or_else(|| archive.broken("it lacks a layer that it names"))?;
        // Compressed ones are compared when they are read for their paths.
        if actual.as_ref().is_some_and(|actual| actual != diff_id) {
            return Err(archive.broken("a layer is not the one that its configuration names"));
        }
        descriptors.push(descriptor.clone());
    }
    let config_descriptor = layout.write_blob(media_type::IMAGE_CONFIG, &bytes)?;
    let manifest = ImageManifest::new(config_descriptor, descriptors);
    let manifest_bytes = serde_json::to_vec(&manifest).unwrap_or_default();
    let descriptor = Descriptor::of(media_type::IMAGE_MANIFEST, &manifest_bytes);
    Ok(LayoutImage {
        descriptor,
        manifest,
        manifest_bytes,
        config,
    })
}

type SavedEntry<'a> = tar::Entry<'a, Metered<BufReader<File>>>;

struct Archive<'a> {
    path: &'a Path,
    go_on: &'a dyn Fn() -> bool,
}

impl Archive<'_> {
    fn read(&self, source: io::Error) -> BuildError {
        BuildError::Source {
            path: self.path.to_owned(),
            source,
        }
    }

    fn broken(&self, why: &'static str) -> BuildError {
        BuildError::Invalid {
            field: "base",
            value: self.path.display().to_string(),
            why,
        }
    }

    fn each(
        &self,
        mut visit: impl FnMut(Vec<u8>, &mut SavedEntry<'_>) -> Result<(), BuildError>,
    ) -> Result<(), BuildError> {
        let file = File::open(self.path).map_err(|error| self.read(error))?;
        let mut archive = ForeignTar::new(BufReader::with_capacity(256 * 1024, file));
        for entry in archive.entries().map_err(|error| self.read(error))? {
            if !(self.go_on)() {
                return Err(BuildError::Cancelled);
            }
            let mut entry = entry.map_err(|error| self.read(error))?;
            let path = normal(&entry.path_bytes());
            visit(path, &mut entry)?;
        }
        Ok(())
    }

    fn choose(&self, name: Option<&str>) -> Result<Saved, BuildError> {
        let mut found = None;
        self.each(|path, entry| {
            if path == b"manifest.json" {
                let mut bytes = Vec::new();
                entry
                    .take(MAX_METADATA)
                    .read_to_end(&mut bytes)
                    .map_err(|error| self.read(error))?;
                found = Some(bytes);
            }
            Ok(())
        })?;
        let bytes = found.ok_or_else(|| self.broken("it is no archive of `docker save`"))?;
        let mut saved: Vec<Saved> = serde_json::from_slice(&bytes)
            .map_err(|_| self.broken("its manifest.json is not that of `docker save`"))?;
        if let Some(name) = name {
            saved.retain(|image| image.repo_tags.iter().flatten().any(|tag| tag == name));
        }
        match (saved.pop(), saved.is_empty()) {
            (Some(only), true) => Ok(only),
            (None, _) => Err(self.broken("no image in it has that name")),
            (Some(_), false) => Err(self.broken("it holds several images; name one")),
        }
    }

    /// The blob of a layer and, where it was not compressed, the digest of the tar.
    fn layer(
        &self,
        entry: &mut SavedEntry<'_>,
        layout: &OciLayout,
        gzip: &impl Fn(crate::oci::BlobWriter) -> io::Result<ParallelGzip<crate::oci::BlobWriter>>,
    ) -> Result<(Descriptor, Option<Digest>), BuildError> {
        let write = |source| BuildError::Write {
            layer: "base".to_owned(),
            source,
        };
        let mut magic = Vec::new();
        entry
            .take(2)
            .read_to_end(&mut magic)
            .map_err(|error| self.read(error))?;
        let mut content = magic.as_slice().chain(entry);
        let mut blob = layout.blob_writer()?;
        if magic == [0x1f, 0x8b] {
            self.copy(&mut content, &mut blob)?;
            let (digest, size) = blob.commit(None)?;
            return Ok((
                Descriptor::new(media_type::LAYER_TAR_GZIP, digest, size),
                None,
            ));
        }
        let mut sink = DigestWriter::new(gzip(blob).map_err(write)?);
        self.copy(&mut content, &mut sink)?;
        let (sink, diff_id, _) = sink.finish();
        let (digest, size) = sink.finish().map_err(write)?.commit(None)?;
        Ok((
            Descriptor::new(media_type::LAYER_TAR_GZIP, digest, size),
            Some(diff_id),
        ))
    }

    fn copy(&self, content: &mut dyn Read, sink: &mut dyn Write) -> Result<(), BuildError> {
        let mut buffer = vec![0; 256 * 1024];
        loop {
            if !(self.go_on)() {
                return Err(BuildError::Cancelled);
            }
            let count = content
                .read(&mut buffer)
                .map_err(|error| self.read(error))?;
            if count == 0 {
                return Ok(());
            }
            sink.write_all(buffer.get(..count).unwrap_or_default())
                .map_err(|source| BuildError::Write {
                    layer: "base".to_owned(),
                    source,
                })?;
        }
    }
}

/// Where a link in the archive points.
fn beside(path: &[u8], target: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    parts.pop();
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b".." => {
                parts.pop();
            }
            b"" | b"." => {}
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_inside() {
        assert_eq!(beside(b"b/layer.tar", b"../a/layer.tar"), b"a/layer.tar");
        assert_eq!(beside(b"layer.tar", b"../../x"), b"x");
    }
}
