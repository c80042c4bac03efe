//! [`LayerCache`]: compressed layers, so that none is compressed twice.

use std::fmt;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::lower::Listing;
use crate::oci::{Descriptor, Digest, LayoutError, OciLayout};

/// A folder of compressed layers, found by the digest of the tar inside and the exact way of
/// compressing. Safe for several programs at once.
///
/// Nothing in it is needed: whatever cannot be read or written is compressed again. Blobs are
/// verified before they are used and are linked into layouts where the file system allows it.
#[derive(Debug, Clone)]
pub struct LayerCache {
    root: PathBuf,
    blobs: OciLayout,
}

#[derive(Serialize, Deserialize)]
struct Record {
    digest: Digest,
    size: u64,
}

impl LayerCache {
    /// A cache in `root`, which is made when it does not exist.
    ///
    /// # Errors
    /// The folder cannot be made or holds other things.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, LayoutError> {
        let root = root.into();
        let blobs = OciLayout::create(root.join("blobs"))?;
        Ok(Self { root, blobs })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.root
    }

    fn record_path(&self, diff_id: &Digest, scheme: &str) -> PathBuf {
        self.root
            .join("layers")
            .join(scheme)
            .join(format!("{}.json", diff_id.hex()))
    }

    /// Whether anything was ever compressed this way.
    pub(super) fn knows(&self, scheme: &str) -> bool {
        self.root.join("layers").join(scheme).is_dir()
    }

    /// Puts the compressed form of a layer into `layout`, if it is known and whole.
    pub(super) fn fetch(
        &self,
        diff_id: &Digest,
        scheme: &str,
        media_type: &str,
        layout: &OciLayout,
    ) -> Option<Descriptor> {
        let path = self.record_path(diff_id, scheme);
        let record: Record = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
        let descriptor = Descriptor::new(media_type, record.digest, record.size);
        if layout.adopt_blob(&self.blobs, &descriptor).is_ok() {
            return Some(descriptor);
        }
        // Missing or damaged: the next build puts it right.
        let _ = fs::remove_file(&path);
        let _ = fs::remove_file(self.blobs.blob_path(&descriptor.digest));
        None
    }

    /// Remembers a layer that lies in `layout`.
    pub(super) fn store(
        &self,
        diff_id: &Digest,
        scheme: &str,
        descriptor: &Descriptor,
        layout: &OciLayout,
    ) {
        let record = Record {
            digest: descriptor.digest.clone(),
            size: descriptor.size,
        };
        if self.blobs.adopt_blob(layout, descriptor).is_ok()
            && let Ok(bytes) = serde_json::to_vec(&record)
        {
            publish(&self.record_path(diff_id, scheme), &bytes);
        }
    }

    /// What a layer of a base image holds, if it was read before.
    pub(super) fn listing(&self, diff_id: &Digest) -> Option<Listing> {
        Listing::from_bytes(&fs::read(self.listing_path(diff_id)).ok()?)
    }

    /// Remembers what a layer of a base image holds.
    pub(super) fn store_listing(&self, diff_id: &Digest, listing: &Listing) {
        publish(&self.listing_path(diff_id), &listing.to_bytes());
    }

    fn listing_path(&self, diff_id: &Digest) -> PathBuf {
        self.root.join("listings").join(diff_id.hex())
    }
}

impl fmt::Display for LayerCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "layer cache {}", self.root.display())
    }
}

/// Writes a file whole or not at all; not being able to is no reason to fail a build.
fn publish(path: &Path, bytes: &[u8]) {
    let write = || -> std::io::Result<()> {
        let folder = path.parent().unwrap_or(path);
        fs::create_dir_all(folder)?;
        let mut file = NamedTempFile::new_in(folder)?;
        file.write_all(bytes)?;
        file.persist(path)?;
        Ok(())
    };
    let _ = write();
}
