//! A folder beside other files, from which files are moved into place.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

const PREFIX: &str = ".pipeline-staging-";

/// Whether this is the staging folder of a step, or of a restore.
pub(super) fn is_staging(name: &OsStr) -> bool {
    is_ours(name) || crate::archive::staging::is_staging(name.as_encoded_bytes())
}

/// Process and number behind the prefix: people give folders of their own names that begin alike.
fn is_ours(name: &OsStr) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    name.to_str()
        .and_then(|name| name.strip_prefix(PREFIX)?.split_once('-'))
        .is_some_and(|(process, number)| is_number(process) && is_number(number))
}

/// Removed when dropped; one that a killed program left behind is removed by the next.
#[derive(Debug)]
pub(crate) struct StagingFolder {
    path: PathBuf,
    /// The system frees the lock when the program is gone, however it went.
    _lock: File,
}

impl StagingFolder {
    pub(crate) fn new(beside: &Path) -> io::Result<Self> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        sweep(beside);
        loop {
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let path = beside.join(format!("{PREFIX}{}-{number}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            }
            // A sweep of another may take it in the moment before it is locked.
            if let Some(lock) = lock(&path)? {
                return Ok(Self { path, _lock: lock });
            }
        }
    }

    /// One beside a file that is to appear whole.
    pub(crate) fn beside_file(file: &Path) -> io::Result<Self> {
        let folder = file.parent().filter(|p| !p.as_os_str().is_empty());
        Self::new(folder.unwrap_or(Path::new(".")))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for StagingFolder {
    fn drop(&mut self) {
        // What cannot be removed now is swept by the next one here.
        remove(&self.path);
    }
}

/// Locks a folder. `None` when it is gone.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let take = || -> io::Result<Option<File>> {
        let file = File::open(path)?;
        file.lock()?;
        let (open, named) = (file.metadata()?, fs::symlink_metadata(path)?);
        Ok(((open.dev(), open.ino()) == (named.dev(), named.ino())).then_some(file))
    };
    match take() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other,
    }
}

/// Removes it, folders in it that deny being emptied included.
fn remove(path: &Path) {
    if let (Some(parent), Some(name)) = (path.parent(), path.file_name())
        && let Ok(parent) = File::open(parent)
    {
        let _ = crate::archive::remove_tree(parent.as_fd(), name.as_encoded_bytes());
    }
}

fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        if is_ours(&entry.file_name())
            && entry.file_type().is_ok_and(|kind| kind.is_dir())
            && let Ok(lock) = File::open(entry.path())
            && lock.try_lock().is_ok()
        {
            remove(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_are_swept_and_folders_in_use_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let left = dir.path().join(format!("{PREFIX}1-99"));
        fs::create_dir(&left).unwrap();
        fs::write(left.join("file"), "x").unwrap();
        let first = StagingFolder::new(dir.path()).unwrap();
        assert!(!left.exists());
        let second = StagingFolder::new(dir.path()).unwrap();
        assert!(first.path().exists());
        drop((first, second));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn folders_of_others_stay_whatever_they_are_called() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["cache-v1", "staging-old", "staging-1-b", "staging-1"];
        for name in names {
            fs::create_dir(dir.path().join(format!(".pipeline-{name}"))).unwrap();
        }
        drop(StagingFolder::new(dir.path()).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), names.len());
        for name in names {
            assert!(!is_staging(OsStr::new(&format!(".pipeline-{name}"))));
        }
    }

    #[test]
    fn many_at_the_same_moment_do_not_sweep_each_other() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let folder = StagingFolder::new(dir.path()).unwrap();
                        fs::write(folder.path().join("file"), "x").unwrap();
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
