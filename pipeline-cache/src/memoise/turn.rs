//! Lets one run at a time compute a fingerprint.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pipeline_core::StepContext;

use crate::store::is_at;

/// The right to compute. The lock is the system's: it is free again the moment the program is
/// gone, however it went.
#[derive(Debug)]
pub(super) struct Turn {
    path: PathBuf,
    _lock: File,
}

impl Turn {
    /// Waits for the turn. `None` when the step was cancelled meanwhile.
    pub(super) async fn take(
        cx: &StepContext,
        folder: &Path,
        name: &str,
    ) -> io::Result<Option<Self>> {
        fs::create_dir_all(folder)?;
        let path = folder.join(format!("{name}.lock"));
        let mut pause = Duration::from_millis(20);
        let mut told = false;
        loop {
            match Self::try_take(&path)? {
                Some(turn) => return Ok(Some(turn)),
                None if !told => {
                    told = true;
                    cx.log("Another run computes this at the moment; waiting for it")
                        .await;
                }
                None => {}
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(1)),
                () = cx.cancel().cancelled() => return Ok(None),
            }
        }
    }

    fn try_take(path: &Path) -> io::Result<Option<Self>> {
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // The one before may have removed the file after it was opened here.
        Ok(is_at(&lock, path)?.then(|| Self {
            path: path.to_path_buf(),
            _lock: lock,
        }))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // While it is still locked, so that nobody removes the file of the next.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_nothing_stays_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.lock");
        let first = Turn::try_take(&path).unwrap().unwrap();
        assert!(Turn::try_take(&path).unwrap().is_none());
        drop(first);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        // The file of a killed program is there and not locked.
        fs::write(&path, "").unwrap();
        assert!(Turn::try_take(&path).unwrap().is_some());
    }

    #[test]
    #[ignore = "needs flock of util-linux"]
    fn an_owner_that_is_killed_blocks_nobody() {
        use std::os::unix::process::ExitStatusExt as _;

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.lock");
        let (taken, signal) = (dir.path().join("taken"), dir.path().join("signal"));
        // A pipe nobody writes to: the owner waits for ever.
        let made = std::process::Command::new("mkfifo").arg(&signal).status();
        assert!(made.unwrap().success());
        let script = format!(
            "touch {}; read line < {}",
            taken.display(),
            signal.display()
        );
        let mut owner = std::process::Command::new("flock")
            .arg("--no-fork")
            .arg(&path)
            .args(["sh", "-c", &script])
            .spawn()
            .unwrap();
        while !taken.exists() {
            std::thread::yield_now();
        }
        assert!(Turn::try_take(&path).unwrap().is_none());
        owner.kill().unwrap();
        assert_eq!(owner.wait().unwrap().signal(), Some(9));
        assert!(Turn::try_take(&path).unwrap().is_some());
    }
}
