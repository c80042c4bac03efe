//! [`LayerCache`]: compressed layers, so that none is compressed twice.

use std::fmt;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::lower::Listing;
use crate::oci::{Descriptor, Digest, LayoutError, OciLayout, unpublished};

/// Where layers of bases in registries are noted, by their own digest.
#[cfg(feature = "registry")]
const BASES: &str = "bases";

/// A folder of compressed layers, found by the digest of the tar inside and the exact way of
/// compressing. Safe for several programs at once.
///
/// Layers of bases that were pulled from a registry are kept here, too.
///
/// Nothing in it is needed: whatever cannot be read or written is compressed or pulled again. Blobs are
/// verified before they are used and are linked into layouts where the file system allows it.
///
/// It grows with every layer that changes. [`evict`](Self::evict) removes what was not used for
/// long, or what is beyond a size.
#[derive(Debug, Clone)]
pub struct LayerCache {
    root: PathBuf,
    blobs: OciLayout,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) digest: Digest,
    pub(super) size: u64,
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

    pub(super) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blobs.blob_path(digest)
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
            used(&path);
            return Some(descriptor);
        }
        // A layout that cannot be written is no fault of what lies here. What is missing or damaged,
        // the next build puts right.
        if !self
            .blobs
            .has_whole_blob(&descriptor.digest, descriptor.size)
        {
            let _ = fs::remove_file(&path);
            let _ = fs::remove_file(self.blobs.blob_path(&descriptor.digest));
        }
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

    /// Puts a layer of a base in a registry into `layout`, if it was pulled before and is whole.
    #[cfg(feature = "registry")]
    pub(super) fn fetch_base(&self, layer: &Descriptor, layout: &OciLayout) {
        self.fetch(&layer.digest, BASES, &layer.media_type, layout);
    }

    /// Remembers a layer of a base in a registry that was pulled into `layout`.
    #[cfg(feature = "registry")]
    pub(super) fn store_base(&self, layer: &Descriptor, layout: &OciLayout) {
        self.store(&layer.digest, BASES, layer, layout);
    }

    /// What a layer of a base image holds, if it was read before.
    pub(super) fn listing(&self, diff_id: &Digest) -> Option<Listing> {
        let path = self.listing_path(diff_id);
        let listing = Listing::from_bytes(&fs::read(&path).ok()?);
        used(&path);
        listing
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

/// Its time is when it was last of use; where that cannot be noted, it goes a little early.
fn used(path: &Path) {
    let touch = |file: fs::File| file.set_modified(SystemTime::now());
    let _ = fs::OpenOptions::new()
        .append(true)
        .open(path)
        .and_then(touch);
}

/// Writes a file whole or not at all; not being able to is no reason to fail a build.
fn publish(path: &Path, bytes: &[u8]) {
    let write = || -> std::io::Result<()> {
        let folder = path.parent().unwrap_or(path);
        fs::create_dir_all(folder)?;
        let mut file = unpublished(folder)?;
        file.write_all(bytes)?;
        file.persist(path)?;
        Ok(())
    };
    let _ = write();
}
