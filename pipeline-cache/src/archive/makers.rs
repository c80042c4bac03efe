//! Makes small files on several threads, while one reads them from an archive.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher as _, RandomState};

use super::ArchiveError;
use super::monitor::Monitor;
use super::tree_writer::TreeWriter;
use super::unpack::size_of_xattrs;

/// A whole file, ready to be made.
pub(crate) struct SmallFile {
    pub(crate) stage: usize,
    pub(crate) path: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) content: Vec<u8>,
    /// Its name in the archive.
    pub(crate) archived: Vec<u8>,
}

/// Files up to this length are handed over; larger ones are written as they are read.
pub(crate) const SMALL: u64 = 256 << 10;
/// What is handed over at a time: enough to be worth a lock.
const BATCH_FILES: usize = 64;
const BATCH_BYTES: usize = 512 << 10;
/// Batches that wait. With the longest batch this bounds memory.
const WAITING: usize = 4;
/// Names remembered before everything is waited for and they are forgotten.
const REMEMBERED: usize = 100_000;

impl SmallFile {
    fn size(&self) -> usize {
        let names = self.path.len() + self.archived.len();
        self.content.len() + names + size_of_xattrs(&self.xattrs)
    }

    fn make(&self, writers: &mut [TreeWriter<'_>]) -> Result<(), ArchiveError> {
        let mut file = writers[self.stage].file(&self.path, self.mode)?;
        file.write(&self.content, &self.archived)?;
        file.finish(None, &self.xattrs, self.mtime, &self.archived)
    }
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Vec<SmallFile>>,
    busy: usize,
    closed: bool,
    failed: Option<ArchiveError>,
}

/// The queue between the reader of an archive and those who make its files.
#[derive(Default)]
pub(crate) struct Makers {
    state: Monitor<State>,
}

impl Makers {
    /// Makes files until there will be no more.
    pub(crate) fn work(&self, writers: &mut [TreeWriter<'_>]) {
        loop {
            let mut state = self.state.lock();
            let batch = loop {
                if let Some(batch) = state.waiting.pop_front() {
                    break batch;
                }
                if state.closed {
                    return;
                }
                state = self.state.wait(state);
            };
            state.busy += 1;
            drop(state);
            self.state.notify();
            let _busy = Busy(self);
            self.make(&batch, writers);
        }
    }

    fn make(&self, batch: &[SmallFile], writers: &mut [TreeWriter<'_>]) {
        if self.state.lock().failed.is_some() {
            return;
        }
        if let Err(error) = batch.iter().try_for_each(|file| file.make(writers)) {
            self.state.lock().failed.get_or_insert(error);
        }
    }
}

/// Ends a batch also when making it panics: nobody may wait for it for ever.
struct Busy<'a>(&'a Makers);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.busy -= 1;
        if std::thread::panicking() {
            state.failed.get_or_insert(ArchiveError::Cancelled);
        }
        drop(state);
        self.0.state.notify();
    }
}

/// The reader's side. Dropping it lets the makers go.
pub(crate) struct HandOver<'a> {
    makers: &'a Makers,
    batch: Vec<SmallFile>,
    bytes: usize,
    /// Hashes of the names of files that may not be made yet: another entry of the same name has
    /// to wait for them. That two names have one hash costs a wait, no more.
    names: HashSet<u64>,
    hasher: RandomState,
}

impl<'a> HandOver<'a> {
    pub(crate) fn new(makers: &'a Makers) -> Self {
        Self {
            makers,
            batch: Vec::new(),
            bytes: 0,
            names: HashSet::new(),
            hasher: RandomState::new(),
        }
    }

    /// Hands over a file. When nobody is free, makes some with the writers given.
    pub(crate) fn file(
        &mut self,
        file: SmallFile,
        writers: &mut [TreeWriter<'_>],
    ) -> Result<(), ArchiveError> {
        self.bytes += file.size();
        self.names
            .insert(self.hasher.hash_one((file.stage, &*file.path)));
        self.batch.push(file);
        if self.batch.len() < BATCH_FILES && self.bytes < BATCH_BYTES {
            return Ok(());
        }
        self.bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        let mut state = self.makers.state.lock();
        if let Some(error) = state.failed.take() {
            return Err(error);
        }
        if state.waiting.len() < WAITING {
            state.waiting.push_back(batch);
            drop(state);
            self.makers.state.notify();
        } else {
            drop(state);
            batch.iter().try_for_each(|file| file.make(writers))?;
        }
        if self.names.len() > REMEMBERED {
            self.finish(writers)?;
        }
        Ok(())
    }

    /// Waits for an earlier file of the same name, if one may not be made yet.
    pub(crate) fn before(
        &mut self,
        stage: usize,
        path: &[u8],
        writers: &mut [TreeWriter<'_>],
    ) -> Result<(), ArchiveError> {
        if self.names.contains(&self.hasher.hash_one((stage, path))) {
            return self.finish(writers);
        }
        Ok(())
    }

    /// Waits until everything handed over is made.
    pub(crate) fn finish(&mut self, writers: &mut [TreeWriter<'_>]) -> Result<(), ArchiveError> {
        self.bytes = 0;
        self.names.clear();
        let batch = std::mem::take(&mut self.batch);
        batch.iter().try_for_each(|file| file.make(writers))?;
        let mut state = self.makers.state.lock();
        loop {
            if let Some(error) = state.failed.take() {
                return Err(error);
            }
            if let Some(batch) = state.waiting.pop_front() {
                drop(state);
                batch.iter().try_for_each(|file| file.make(writers))?;
                state = self.makers.state.lock();
            } else if state.busy == 0 {
                return Ok(());
            } else {
                state = self.makers.state.wait(state);
            }
        }
    }
}

impl Drop for HandOver<'_> {
    fn drop(&mut self) {
        let mut state = self.makers.state.lock();
        // After a failure nobody wants what still waits.
        state.waiting.clear();
        state.closed = true;
        drop(state);
        self.makers.state.notify();
    }
}
