//! [`BlobWriter`]: a blob on its way into a layout.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use tempfile::NamedTempFile;

use super::{Digest, DigestAlgorithm, DigestHasher, LayoutError, OciLayout};

/// A blob on its way into a layout. Dropping it without [`commit`](Self::commit) leaves nothing.
#[derive(Debug)]
pub struct BlobWriter {
    layout: OciLayout,
    file: NamedTempFile,
    hasher: DigestHasher,
}

impl BlobWriter {
    pub(super) fn new(layout: &OciLayout, file: NamedTempFile, algorithm: DigestAlgorithm) -> Self {
        Self {
            layout: layout.clone(),
            file,
            hasher: DigestHasher::new(algorithm),
        }
    }

    /// How many bytes were written.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.hasher.bytes()
    }

    /// Publishes the blob and says its digest and size.
    ///
    /// A blob of the same digest that is there already stays; both hold the same bytes.
    ///
    /// # Errors
    /// The bytes are not those of `expected`, or the disk refuses; then nothing is published.
    pub fn commit(self, expected: Option<&Digest>) -> Result<(Digest, u64), LayoutError> {
        let size = self.hasher.bytes();
        let digest = self.hasher.finish();
        if let Some(expected) = expected
            && *expected != digest
        {
            return Err(LayoutError::WrongDigest {
                expected: expected.clone(),
                actual: digest,
            });
        }
        let path = self.layout.blob_path(&digest);
        if self.layout.blob_size(&digest) == Some(size) {
            return Ok((digest, size));
        }
        let publish = || -> io::Result<()> {
            readable(self.file.as_file())?;
            self.file.as_file().sync_all()?;
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
                self.file.persist(&path)?;
                sync_folder(parent)?;
            }
            Ok(())
        };
        publish().map_err(|source| LayoutError::io("publish", &path, source))?;
        Ok((digest, size))
    }
}

impl Write for BlobWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.file.write(buffer)?;
        self.hasher.update(buffer.get(..written).unwrap_or(buffer));
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Temporary files are private; what is published is for everybody to read.
pub(super) fn readable(file: &File) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
    }
    #[cfg(not(unix))]
    let _ = file;
    Ok(())
}

pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    File::open(path)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}
