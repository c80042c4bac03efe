//! The archive that `docker load` reads.

use std::io::{self, Read, Write};

use serde::Serialize;

use super::{Descriptor, ImageIndex, LayoutError, LayoutImage, OciLayout, REF_NAME};
use crate::tar_stream::{Entry, EntryError, EntryKind, TarStream};

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

/// Writes one image of a layout as a tar that is both an OCI layout and a Docker archive, so that
/// engines of any age load it. Equal images give equal bytes.
///
/// `names` are what the engine will call it, such as `site:1.0`.
///
/// # Errors
/// A blob is missing or damaged in size, or `sink` refuses.
pub fn write_docker_archive<W: Write>(
    layout: &OciLayout,
    image: &LayoutImage,
    names: &[String],
    sink: W,
) -> Result<W, LayoutError> {
    let blob = |descriptor: &Descriptor| {
        format!(
            "blobs/{}/{}",
            descriptor.digest.algorithm(),
            descriptor.digest.hex()
        )
    };
    let docker = [DockerManifest {
        config: blob(&image.manifest.config),
        repo_tags: names.to_vec(),
        layers: image.manifest.layers.iter().map(blob).collect(),
    }];
    let mut entry = image.descriptor.clone();
    entry.annotations.remove(REF_NAME);
    if let Some(tag) = names.first().and_then(|name| name.rsplit_once(':')) {
        entry
            .annotations
            .insert(REF_NAME.to_owned(), tag.1.to_owned());
    }
    let index = ImageIndex::new(vec![entry]);

    let mut archive = Archive {
        stream: TarStream::new(sink),
        layout,
    };
    for folder in ["blobs", "blobs/sha256"] {
        archive.put(folder, EntryKind::Folder, &mut io::empty())?;
    }
    let mut blobs: Vec<&Descriptor> = image
        .manifest
        .blobs()
        .chain(std::iter::once(&image.descriptor))
        .collect();
    blobs.sort_by(|a, b| a.digest.cmp(&b.digest));
    blobs.dedup_by(|a, b| a.digest == b.digest);
    for descriptor in blobs {
        let mut file = layout.open_blob(descriptor)?;
        archive.put(
            &blob(descriptor),
            EntryKind::File(descriptor.size),
            &mut file,
        )?;
    }
    archive.document("index.json", &index)?;
    archive.document("manifest.json", &docker)?;
    archive.bytes("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    archive
        .stream
        .finish()
        .map_err(|source| LayoutError::io("write an archive of", layout.path(), source))
}

struct Archive<'a, W> {
    stream: TarStream<W>,
    layout: &'a OciLayout,
}

impl<W: Write> Archive<'_, W> {
    fn document<T: Serialize>(&mut self, path: &str, value: &T) -> Result<(), LayoutError> {
        let bytes = serde_json::to_vec(value).map_err(|source| LayoutError::Json {
            path: path.into(),
            source,
        })?;
        self.bytes(path, &bytes)
    }

    fn bytes(&mut self, path: &str, bytes: &[u8]) -> Result<(), LayoutError> {
        self.put(path, EntryKind::File(bytes.len() as u64), &mut &bytes[..])
    }

    fn put(
        &mut self,
        path: &str,
        kind: EntryKind<'_>,
        content: &mut dyn Read,
    ) -> Result<(), LayoutError> {
        let mode = if matches!(kind, EntryKind::Folder) {
            0o755
        } else {
            0o644
        };
        let entry = Entry {
            path: path.as_bytes(),
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime: 0,
        };
        self.stream
            .entry(&entry, content, &|| true)
            .map_err(|error| {
                let source = match error {
                    EntryError::Write(source) | EntryError::Read(source) => source,
                    EntryError::Changed => io::ErrorKind::UnexpectedEof.into(),
                };
                LayoutError::io("write an archive of", self.layout.path(), source)
            })
    }
}
