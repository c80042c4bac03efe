//! [`OciLayout`]: images in a folder.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::blob_writer::{sync_folder, unpublished};
use super::{Descriptor, ImageConfig, ImageIndex, ImageManifest, LayoutError};

/// The annotation that holds a tag in a layout's index.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Manifests and configurations are read into memory; a larger one is refused, as registries do.
pub const MAX_METADATA: u64 = 4 * 1024 * 1024;

const MARKER: &str = "oci-layout";
pub(super) const INDEX: &str = "index.json";
/// Unfinished blobs lie here: beside `blobs`, because other tools take every name below it for a
/// digest, and on the same file system, because a rename publishes them.
pub(super) const STAGING: &str = ".staging";
const LOCK: &str = ".lock";

/// A folder that holds images as the OCI image layout specification lays down.
///
/// Blobs appear whole or not at all: they are written under another name, synced and renamed. The
/// index is replaced the same way under a lock, so several programs may write into one layout.
/// A program killed in the middle leaves at most an unfinished file in `.staging`, which the next
/// writer removes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OciLayout {
    pub(super) root: PathBuf,
}

/// One image of a layout: its manifest, the bytes it was read from, and its configuration.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LayoutImage {
    /// The descriptor of the manifest.
    pub descriptor: Descriptor,
    /// The manifest.
    pub manifest: ImageManifest,
    /// The manifest's exact bytes.
    pub manifest_bytes: Vec<u8>,
    /// The configuration.
    pub config: ImageConfig,
}

impl OciLayout {
    /// Opens a layout that exists.
    ///
    /// # Errors
    /// No layout there, or one of an unknown version.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, LayoutError> {
        #[derive(serde::Deserialize)]
        struct Marker {
            #[serde(rename = "imageLayoutVersion")]
            version: String,
        }
        let root = root.into();
        let path = root.join(MARKER);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Err(LayoutError::NotALayout { path: root });
            }
            Err(source) => return Err(LayoutError::io("read", &path, source)),
        };
        let marker: Marker =
            serde_json::from_slice(&bytes).map_err(|source| LayoutError::Json {
                path: path.clone(),
                source,
            })?;
        if marker.version != "1.0.0" {
            return Err(LayoutError::Version {
                path: root,
                version: marker.version,
            });
        }
        Ok(Self { root })
    }

    /// Opens a layout for writing; makes an empty one where there is none.
    ///
    /// # Errors
    /// A folder that holds other things, an unknown version, or a disk that refuses.
    pub fn create(root: impl Into<PathBuf>) -> Result<Self, LayoutError> {
        let root = root.into();
        fs::create_dir_all(&root).map_err(|source| LayoutError::io("create", &root, source))?;
        if !root.join(MARKER).exists() {
            let occupied = fs::read_dir(&root)
                .map_err(|source| LayoutError::io("read", &root, source))?
                .filter_map(Result::ok)
                // What an interrupted or concurrent creation may have made already.
                .any(|entry| {
                    let name = entry.file_name();
                    ![STAGING, LOCK, "blobs", INDEX, MARKER]
                        .iter()
                        .any(|ours| name == *ours)
                });
            if occupied {
                return Err(LayoutError::Occupied { path: root });
            }
        }
        let layout = Self { root };
        for folder in [STAGING, "blobs/sha256"] {
            let path = layout.root.join(folder);
            fs::create_dir_all(&path).map_err(|source| LayoutError::io("create", &path, source))?;
        }
        let lock = layout.lock()?;
        layout.sweep();
        let index = layout.root.join(INDEX);
        if !index.exists() {
            layout.replace(INDEX, &json(&ImageIndex::new(Vec::new())))?;
        }
        // The marker comes last: a folder that has it is complete.
        if !layout.root.join(MARKER).exists() {
            layout.replace(MARKER, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        drop(lock);
        Self::open(layout.root)
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.root
    }

    pub(super) fn lock(&self) -> Result<File, LayoutError> {
        let path = self.root.join(LOCK);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|source| LayoutError::io("open", &path, source))?;
        file.lock()
            .map_err(|source| LayoutError::io("lock", &path, source))?;
        Ok(file)
    }

    /// Removes what killed writers left behind. Failing to is no reason not to go on.
    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(self.root.join(STAGING)) else {
            return;
        };
        for entry in entries.filter_map(Result::ok) {
            let abandoned =
                File::open(entry.path()).is_ok_and(|file| file.try_lock_shared().is_ok());
            if abandoned {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    pub(super) fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), LayoutError> {
        let path = self.root.join(name);
        let staging = self.root.join(STAGING);
        let write = || -> io::Result<()> {
            let mut file = unpublished(&staging)?;
            file.write_all(bytes)?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            sync_folder(&self.root)
        };
        write().map_err(|source| LayoutError::io("write", &path, source))
    }
}

impl fmt::Display for OciLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OCI layout {}", self.root.display())
    }
}

/// The compact JSON of one of our own types, none of which can fail to serialise.
pub(super) fn json<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Digest, Platform, media_type};

    fn store(layout: &OciLayout, content: &[u8]) -> Descriptor {
        let layer = layout.write_blob(media_type::LAYER_TAR, content).unwrap();
        let mut config = ImageConfig::new(Platform::host());
        config.rootfs.diff_ids.push(layer.digest.clone());
        let config = layout
            .write_blob(media_type::IMAGE_CONFIG, &json(&config))
            .unwrap();
        let manifest = ImageManifest::new(config, vec![layer]);
        layout
            .write_blob(media_type::IMAGE_MANIFEST, &json(&manifest))
            .unwrap()
    }

    #[test]
    fn tags_move_and_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let layout = OciLayout::create(dir.path().join("new/layout")).unwrap();
        let first = store(&layout, b"first");
        let second = store(&layout, b"second");
        layout.set_tag(Some("v1"), &first).unwrap();
        layout.set_tag(None, &first).unwrap();
        assert_eq!(layout.resolve(None).unwrap().digest, first.digest);
        layout.set_tag(Some("v1"), &second).unwrap();
        layout.set_tag(Some("v0"), &first).unwrap();
        assert_eq!(layout.tags().unwrap(), ["v1", "v0"]);
        assert_eq!(layout.resolve(Some("v1")).unwrap().digest, second.digest);
        let digest = first.digest.to_string();
        assert_eq!(layout.resolve(Some(&digest)).unwrap().digest, first.digest);
        assert!(matches!(
            layout.resolve(None),
            Err(LayoutError::Ambiguous { .. })
        ));
        let error = layout.resolve(Some("v2")).unwrap_err().to_string();
        assert!(error.ends_with("it holds v1, v0"), "{error}");
        let image = layout
            .image(&layout.resolve(Some("v0")).unwrap(), &Platform::host())
            .unwrap();
        assert_eq!(image.config.rootfs.diff_ids, [Digest::sha256(b"first")]);
        let again = OciLayout::create(layout.path()).unwrap();
        assert_eq!(again.index().unwrap(), layout.index().unwrap());
    }

    #[test]
    fn damage_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let layout = OciLayout::create(dir.path()).unwrap();
        let blob = layout.write_blob("text/plain", b"hello").unwrap();
        fs::write(layout.blob_path(&blob.digest), b"jello").unwrap();
        assert!(matches!(
            layout.read_blob(&blob),
            Err(LayoutError::WrongDigest { .. })
        ));
        assert!(matches!(
            layout.verify_blob(&blob),
            Err(LayoutError::WrongDigest { .. })
        ));
        fs::write(layout.blob_path(&blob.digest), b"hell").unwrap();
        assert!(matches!(
            layout.read_blob(&blob),
            Err(LayoutError::WrongSize { .. })
        ));
        fs::remove_file(layout.blob_path(&blob.digest)).unwrap();
        assert!(matches!(
            layout.read_blob(&blob),
            Err(LayoutError::MissingBlob { .. })
        ));
    }

    #[test]
    fn a_lie_is_not_published() {
        let dir = tempfile::tempdir().unwrap();
        let layout = OciLayout::create(dir.path()).unwrap();
        let mut writer = layout.blob_writer().unwrap();
        writer.write_all(b"something else").unwrap();
        let wanted = Digest::sha256(b"wanted");
        assert!(matches!(
            writer.commit(Some(&wanted)),
            Err(LayoutError::WrongDigest { .. })
        ));
        assert_eq!(layout.blob_size(&wanted), None);
        assert_eq!(fs::read_dir(dir.path().join(STAGING)).unwrap().count(), 0);
    }

    #[test]
    fn foreign_folders_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.txt"), "x").unwrap();
        assert!(matches!(
            OciLayout::create(dir.path()),
            Err(LayoutError::Occupied { .. })
        ));
        assert!(matches!(
            OciLayout::open(dir.path()),
            Err(LayoutError::NotALayout { .. })
        ));
        assert!(matches!(
            OciLayout::open(dir.path().join("thesis.txt")),
            Err(LayoutError::NotALayout { .. })
        ));
    }

    #[test]
    fn leftovers_go_and_running_writers_stay() {
        let dir = tempfile::tempdir().unwrap();
        let layout = OciLayout::create(dir.path()).unwrap();
        let leftover = dir.path().join(STAGING).join("killed");
        fs::write(&leftover, "half").unwrap();
        let mut writer = layout.blob_writer().unwrap();
        writer.write_all(b"in flight").unwrap();
        OciLayout::create(dir.path()).unwrap();
        assert!(!leftover.exists());
        let (digest, _) = writer.commit(None).unwrap();
        assert_eq!(layout.blob_size(&digest), Some(9));
    }

    #[test]
    fn a_staged_file_stays_as_long_as_its_program_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let layout = OciLayout::create(dir.path()).unwrap();
        let staged = layout.staged().unwrap();
        let path = staged.path().to_owned();
        assert_eq!(path.parent(), Some(dir.path().join(STAGING).as_path()));
        // Another one writes to it by its name, and a third one sweeps.
        fs::write(&path, "saved").unwrap();
        OciLayout::create(dir.path()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"saved");
        // As a killed program leaves it.
        let (file, path) = staged.keep().unwrap();
        drop(file);
        OciLayout::create(dir.path()).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn many_writers_lose_no_tag() {
        let dir = tempfile::tempdir().unwrap();
        let layout = OciLayout::create(dir.path()).unwrap();
        std::thread::scope(|scope| {
            for number in 0..8 {
                let root = dir.path();
                scope.spawn(move || {
                    let layout = OciLayout::create(root).unwrap();
                    let image = store(&layout, format!("image {number}").as_bytes());
                    layout.set_tag(Some(&format!("t{number}")), &image).unwrap();
                });
            }
        });
        assert_eq!(layout.tags().unwrap().len(), 8);
    }
}
