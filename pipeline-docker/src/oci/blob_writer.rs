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
    /// A whole blob of the same digest that is there already stays; a damaged one is replaced.
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
        if self.layout.has_whole_blob(&digest, size) {
            return Ok((digest, size));
        }
        let publish = || -> io::Result<()> {
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

/// A file that will be published: unlike other temporary files, for whom the umask says.
pub(crate) fn unpublished(folder: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder)
}

pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    File::open(path)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}
