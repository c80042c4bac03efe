use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use sha2::{Digest as _, Sha256};

use crate::store::Sha256Digest;

/// Size and SHA-256 of a file. Blocks.
pub(crate) fn digest_of(path: &Path) -> io::Result<(u64, Sha256Digest)> {
    copy_with_digest(&mut open_file(path)?, &mut io::sink())
}

/// Opens a file for reading. What is none, a FIFO above all, is an error at once, where opening or
/// reading it would wait for a writer that may never come.
pub(crate) fn open_file(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a regular file",
        ));
    }
    Ok(file)
}

/// Copies everything, and says how much and what it was. Blocks.
pub(crate) fn copy_with_digest(
    from: &mut impl Read,
    to: &mut (impl Write + ?Sized),
) -> io::Result<(u64, Sha256Digest)> {
    let mut hasher = Sha256::new();
    let mut size = 0;
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                hasher.update(&buffer[..read]);
                to.write_all(&buffer[..read])?;
                size += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok((size, Sha256Digest::from_bytes(hasher.finalize().into())))
}
