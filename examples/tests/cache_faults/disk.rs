//! A disk in memory, mounted through FUSE, that fails at a chosen operation: with an error, once
//! or from then on, by having the program killed, or by losing its power. After a power cut only
//! what was synced is certain: content by `fsync` of the file, names by `fsync` of the folder.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fuser::{BackgroundSession, Config, Errno, MountOption};

use crate::disk_contents::Contents;
use crate::full_disk::unmount;
use crate::survives::Survives;

/// What happens at the chosen operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// This one operation fails.
    ErrorOnce,
    /// This operation and all after it fail.
    ErrorFromNow,
    /// From now on nothing that takes room can be done.
    Full,
    /// The program is killed.
    Kill,
    /// The power goes.
    PowerCut,
}

/// Which operations are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counted {
    /// What changes something, and syncing.
    Changes,
    /// Looking, opening and reading.
    Reads,
}

#[derive(Clone)]
pub(crate) struct Disk(Arc<Mutex<Contents>>);

/// A mounted disk; unmounted when dropped.
pub(crate) struct Mounted {
    at: PathBuf,
    _session: BackgroundSession,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&self.at);
    }
}

/// What a running program's fate depends on.
pub(crate) struct Armed {
    reached: Receiver<()>,
    go_on: Sender<()>,
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Contents::empty())))
    }

    /// An independent copy of what is on it, all of it synced.
    pub(crate) fn copy(&self) -> Self {
        let from = self.contents();
        let copy = Self::new();
        {
            let mut to = copy.contents();
            to.now = from.now.clone();
            to.synced = from.now.clone();
            to.next = from.next;
        }
        copy
    }

    pub(crate) fn mount(&self, at: &Path) -> Mounted {
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("faulty".to_owned())];
        Mounted {
            at: at.to_path_buf(),
            _session: fuser::spawn_mount(self.clone(), at, &config).unwrap(),
        }
    }

    /// Chooses a fault for the operation with this number, counted from 0 and from now.
    pub(crate) fn arm(&self, fault: Fault, counted: Counted, number: u64) -> Armed {
        let (tell, reached) = channel();
        let (go_on, wait) = channel();
        let mut contents = self.contents();
        contents.plan = Some((fault, counted, number));
        contents.seen = [0; 2];
        contents.reached = Some((tell, wait));
        Armed { reached, go_on }
    }

    /// No more faults. Says whether the chosen one was reached.
    pub(crate) fn disarm(&self) -> bool {
        let mut contents = self.contents();
        let reached = match contents.plan.take() {
            Some((_, counted, number)) => contents.seen[counted as usize] > number,
            None => false,
        };
        contents.broken = None;
        contents.full = false;
        contents.reached = None;
        reached
    }

    /// From now on the content of a file cannot be read.
    pub(crate) fn rot(&self, file: u64) {
        self.contents().rotten.insert(file);
    }

    /// Switches the power on again. Nothing may be mounted.
    pub(crate) fn switch_on(&self, survives: Survives) {
        let mut contents = self.contents();
        let after = survives.from(&contents.now, &contents.synced);
        contents.now = after.clone();
        contents.synced = after;
        contents.listings.clear();
        contents.off = false;
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an operation and says whether it may go on.
    pub(crate) fn gate(
        &self,
        counted: Counted,
        takes_room: bool,
    ) -> Result<MutexGuard<'_, Contents>, Errno> {
        let mut contents = self.contents();
        if contents.off {
            return Err(Errno::EIO);
        }
        let number = contents.seen[counted as usize];
        contents.seen[counted as usize] += 1;
        if let Some((fault, of, at)) = contents.plan
            && of == counted
            && at == number
        {
            match fault {
                Fault::ErrorOnce => return Err(Errno::EIO),
                Fault::ErrorFromNow => contents.broken = Some(Errno::EIO),
                Fault::Full => contents.full = true,
                Fault::Kill | Fault::PowerCut => {
                    contents.off = fault == Fault::PowerCut;
                    let ends = contents.reached.take();
                    drop(contents);
                    if let Some((tell, wait)) = ends {
                        let _ = tell.send(());
                        let _ = wait.recv();
                    }
                    return Err(Errno::EIO);
                }
            }
        }
        match contents.broken {
            Some(error) => Err(error),
            None if contents.full && takes_room => Err(Errno::ENOSPC),
            None => Ok(contents),
        }
    }
}

impl Armed {
    /// Waits for a program, or kills it at the chosen operation. Says whether it was killed.
    pub(crate) fn attend(&self, child: &mut Child) -> bool {
        loop {
            if self.reached.recv_timeout(Duration::from_millis(1)).is_ok() {
                child.kill().unwrap();
                let _ = self.go_on.send(());
                child.wait().unwrap();
                return true;
            }
            if child.try_wait().unwrap().is_some() {
                return false;
            }
        }
    }
}
