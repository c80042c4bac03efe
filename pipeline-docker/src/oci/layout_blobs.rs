//! The blobs of an [`OciLayout`].

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::PathBuf;

use tempfile::NamedTempFile;

use super::blob_writer::unpublished;
use super::layout::{MAX_METADATA, STAGING};
use super::{
    BlobWriter, Descriptor, Digest, DigestAlgorithm, DigestHasher, LayoutError, OciLayout,
};

impl OciLayout {
    /// Where the bytes of `digest` lie, whether they exist or not.
    #[must_use]
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root
            .join("blobs")
            .join(digest.algorithm().as_str())
            .join(digest.hex())
    }

    /// The size of a blob, or `None` when the layout does not have it.
    #[must_use]
    pub fn blob_size(&self, digest: &Digest) -> Option<u64> {
        let metadata = fs::metadata(self.blob_path(digest)).ok()?;
        metadata.is_file().then_some(metadata.len())
    }

    /// Opens a blob for reading, without verifying it.
    ///
    /// # Errors
    /// The blob is missing, is unreadable, or has another size than the descriptor says.
    pub fn open_blob(&self, descriptor: &Descriptor) -> Result<File, LayoutError> {
        let path = self.blob_path(&descriptor.digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(LayoutError::MissingBlob {
                    digest: descriptor.digest.clone(),
                    path: self.root.clone(),
                });
            }
            Err(source) => return Err(LayoutError::io("read", &path, source)),
        };
        let actual = file
            .metadata()
            .map_err(|source| LayoutError::io("read", &path, source))?
            .len();
        if actual != descriptor.size {
            return Err(LayoutError::WrongSize {
                digest: descriptor.digest.clone(),
                expected: descriptor.size,
                actual,
            });
        }
        Ok(file)
    }

    /// Reads a small blob and verifies it.
    ///
    /// # Errors
    /// The blob is missing, damaged, or larger than [`MAX_METADATA`].
    pub fn read_blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, LayoutError> {
        if descriptor.size > MAX_METADATA {
            return Err(LayoutError::TooLarge {
                what: "blob",
                digest: descriptor.digest.clone(),
                size: descriptor.size,
            });
        }
        let mut bytes = Vec::new();
        self.open_blob(descriptor)?
            .take(MAX_METADATA + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| {
                LayoutError::io("read", &self.blob_path(&descriptor.digest), source)
            })?;
        if !descriptor.digest.matches(&bytes) {
            return Err(LayoutError::WrongDigest {
                expected: descriptor.digest.clone(),
                actual: Digest::sha256(&bytes),
            });
        }
        Ok(bytes)
    }

    /// Reads a blob to its end and compares its digest.
    ///
    /// # Errors
    /// The blob is missing, damaged or unreadable.
    pub fn verify_blob(&self, descriptor: &Descriptor) -> Result<(), LayoutError> {
        let actual = self.hash(&descriptor.digest, self.open_blob(descriptor)?)?;
        if actual == descriptor.digest {
            Ok(())
        } else {
            Err(LayoutError::WrongDigest {
                expected: descriptor.digest.clone(),
                actual,
            })
        }
    }

    /// Whether a blob is here and its bytes are those that its name says.
    ///
    /// Hashing takes a small part of what compressing or sending takes, and what damaged a blob, such
    /// as a power cut, need not have changed its size.
    pub(crate) fn has_whole_blob(&self, digest: &Digest, size: u64) -> bool {
        self.blob_size(digest) == Some(size)
            && File::open(self.blob_path(digest)).is_ok_and(|file| {
                self.hash(digest, file)
                    .is_ok_and(|actual| actual == *digest)
            })
    }

    /// What the file with the bytes of `digest` really holds.
    fn hash(&self, digest: &Digest, file: File) -> Result<Digest, LayoutError> {
        let mut reader = BufReader::with_capacity(256 * 1024, file);
        let mut hasher = DigestHasher::new(digest.algorithm());
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let count = reader
                .read(&mut buffer)
                .map_err(|source| LayoutError::io("read", &self.blob_path(digest), source))?;
            if count == 0 {
                return Ok(hasher.finish());
            }
            hasher.update(buffer.get(..count).unwrap_or_default());
        }
    }

    /// Writes small bytes as a blob. One that is here and damaged is replaced.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn write_blob(&self, media_type: &str, bytes: &[u8]) -> Result<Descriptor, LayoutError> {
        let descriptor = Descriptor::of(media_type, bytes);
        if self.has_whole_blob(&descriptor.digest, descriptor.size) {
            return Ok(descriptor);
        }
        let mut writer = self.blob_writer()?;
        writer
            .write_all(bytes)
            .map_err(|source| LayoutError::io("write", &self.root, source))?;
        writer.commit(Some(&descriptor.digest))?;
        Ok(descriptor)
    }

    /// A blob that is written piece by piece and hashed on the way.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn blob_writer(&self) -> Result<BlobWriter, LayoutError> {
        self.blob_writer_for(DigestAlgorithm::Sha256)
    }

    /// A blob that will be named by `algorithm`.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn blob_writer_for(&self, algorithm: DigestAlgorithm) -> Result<BlobWriter, LayoutError> {
        Ok(BlobWriter::new(self, self.staged()?, algorithm))
    }

    /// An unfinished file, which goes with its program: the next writer removes it if this one is
    /// killed.
    pub(crate) fn staged(&self) -> Result<NamedTempFile, LayoutError> {
        let staging = self.root.join(STAGING);
        // Under the layout's lock, because the sweep takes files that nobody has locked.
        let lock = self.lock()?;
        let file = unpublished(&staging)
            .map_err(|source| LayoutError::io("create a file in", &staging, source))?;
        file.as_file()
            .lock()
            .map_err(|source| LayoutError::io("lock", file.path(), source))?;
        drop(lock);
        Ok(file)
    }

    /// Takes over a blob that lies in another layout: verified, then linked where the file system
    /// allows it and copied where not.
    ///
    /// A whole blob that is here already is left alone; a damaged one is replaced.
    ///
    /// # Errors
    /// The blob is missing or damaged there, or the disk refuses here.
    pub fn adopt_blob(&self, from: &Self, descriptor: &Descriptor) -> Result<(), LayoutError> {
        if self.has_whole_blob(&descriptor.digest, descriptor.size) {
            return Ok(());
        }
        from.verify_blob(descriptor)?;
        let (source, target) = (
            from.blob_path(&descriptor.digest),
            self.blob_path(&descriptor.digest),
        );
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(|error| LayoutError::io("create", parent, error))?;
        }
        if fs::hard_link(&source, &target).is_ok() {
            return Ok(());
        }
        // Another file system, one without links, somebody who was faster, or a damaged blob here.
        let mut reader = from.open_blob(descriptor)?;
        let mut writer = self.blob_writer_for(descriptor.digest.algorithm())?;
        io::copy(&mut reader, &mut writer)
            .map_err(|error| LayoutError::io("copy", &source, error))?;
        writer.commit(Some(&descriptor.digest))?;
        Ok(())
    }
}
