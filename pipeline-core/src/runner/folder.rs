use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// A second run at the same time gets a folder of its own; this many at once
/// is more than one machine can use.
const MAX_CONCURRENT_RUNS: usize = 64;

/// The job folders of one run: locked when first used, until the run ends.
#[derive(Debug)]
pub(super) struct FolderPool {
    work: PathBuf,
    run: String,
    leased: Mutex<BTreeMap<String, Arc<FolderLease>>>,
}

/// A job folder that belongs to this run. The lock is the system's, so it is
/// free again the moment the process is gone, however it went.
#[derive(Debug)]
pub(super) struct FolderLease {
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// The folder that was wanted is in use by another run.
    pub(super) moved: bool,
    _lock: File,
}

impl FolderPool {
    pub(super) fn new(data_dir: &Path, run: &str) -> Self {
        Self {
            work: data_dir.join("work"),
            run: run.to_owned(),
            leased: Mutex::default(),
        }
    }

    pub(super) fn lease(&self, name: &str) -> io::Result<Arc<FolderLease>> {
        let mut leased = self.leased.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lease) = leased.get(name) {
            return Ok(Arc::clone(lease));
        }
        fs::create_dir_all(&self.work)?;
        for number in 1..=MAX_CONCURRENT_RUNS {
            let actual = if number == 1 {
                name.to_owned()
            } else {
                format!("{name}-{number}")
            };
            // The lock stands beside the folder: a step may empty the folder.
            let lock = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(self.work.join(format!(".{actual}.lock")))?;
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(error)) => return Err(error),
            }
            let path = self.work.join(&actual);
            fs::create_dir_all(&path)?;
            fs::write(owner_path(&self.work, &actual), &self.run)?;
            let lease = Arc::new(FolderLease {
                name: actual,
                path,
                moved: number > 1,
                _lock: lock,
            });
            leased.insert(name.to_owned(), Arc::clone(&lease));
            return Ok(lease);
        }
        Err(io::Error::other(format!(
            "{MAX_CONCURRENT_RUNS} runs already use the folder {name}"
        )))
    }
}

/// The run that used a folder last; `None` when that is not known.
pub(super) fn last_owner(data_dir: &Path, folder: &str) -> Option<String> {
    fs::read_to_string(owner_path(&data_dir.join("work"), folder)).ok()
}

fn owner_path(work: &Path, folder: &str) -> PathBuf {
    work.join(format!(".{folder}.run"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_gets_its_own_folder_and_the_first_keeps_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let first = FolderPool::new(dir.path(), "1");
        let lease = first.lease("site").unwrap();
        assert!(!lease.moved);
        assert!(Arc::ptr_eq(&lease, &first.lease("site").unwrap()));

        let second = FolderPool::new(dir.path(), "2");
        let other = second.lease("site").unwrap();
        assert!(other.moved && other.path != lease.path);

        let path = lease.path.clone();
        drop((lease, first));
        assert_eq!(
            FolderPool::new(dir.path(), "3").lease("site").unwrap().path,
            path
        );
        assert_eq!(last_owner(dir.path(), "site").as_deref(), Some("3"));
    }
}
