use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A file that one process at a time holds; the system frees it when that process ends.
#[derive(Debug)]
pub(super) struct LockFile {
    path: PathBuf,
    _file: File,
}

/// The answer to [`LockFile::try_acquire`].
#[derive(Debug)]
pub(super) enum Attempt {
    Acquired(LockFile),
    /// Held by somebody else, who left this note.
    Held(String),
}

impl LockFile {
    /// Takes the lock without waiting and leaves `note` for those who come too late.
    pub(super) fn try_acquire(path: &Path, note: &str) -> io::Result<Attempt> {
        loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Ok(Attempt::Held(fs::read_to_string(path).unwrap_or_default()));
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // The holder removes the file when it is done: a lock on a file that has no name
            // any more protects nothing.
            let ours = file.metadata()?;
            let named = fs::metadata(path).ok();
            if named.is_none_or(|named| (named.dev(), named.ino()) != (ours.dev(), ours.ino())) {
                continue;
            }
            file.set_len(0)?;
            file.write_all(note.as_bytes())?;
            return Ok(Attempt::Acquired(Self {
                path: path.to_path_buf(),
                _file: file,
            }));
        }
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // Still locked here. A failure leaves a file that nobody holds.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_it_the_other_learns_who_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let Attempt::Acquired(lock) = LockFile::try_acquire(&path, "first").unwrap() else {
            panic!("not acquired");
        };
        let Attempt::Held(note) = LockFile::try_acquire(&path, "second").unwrap() else {
            panic!("acquired twice");
        };
        assert_eq!(note, "first");
        drop(lock);
        assert!(!path.exists());
        assert!(matches!(
            LockFile::try_acquire(&path, "third").unwrap(),
            Attempt::Acquired(_)
        ));
    }

    #[test]
    fn under_contention_there_is_never_more_than_one_holder() {
        use std::sync::atomic::{AtomicU32, Ordering};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let (holders, taken) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while taken.load(Ordering::SeqCst) < 200 {
                        if let Attempt::Acquired(_lock) = LockFile::try_acquire(&path, "x").unwrap()
                        {
                            assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
                            taken.fetch_add(1, Ordering::SeqCst);
                            assert_eq!(holders.fetch_sub(1, Ordering::SeqCst), 1);
                        }
                    }
                });
            }
        });
    }
}
