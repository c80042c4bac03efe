//! Keeps blocks in order and workers near to each other.

use std::collections::BTreeMap;

use super::ArchiveError;
use super::monitor::Monitor;
use crate::store::Sha256Digest;

/// What has become of one block.
pub(crate) struct Packed {
    pub(crate) bytes: Vec<u8>,
    pub(crate) raw: u64,
    pub(crate) entries: u64,
    pub(crate) digest: Option<Sha256Digest>,
    pub(crate) times: Vec<u32>,
}

#[derive(Default)]
struct State {
    next_block: usize,
    next_write: usize,
    ready: BTreeMap<usize, Packed>,
    spare: Vec<Vec<u8>>,
    failed: Option<ArchiveError>,
    /// The writer or a worker has left.
    gone: bool,
}

/// Blocks between those who make them and the one who writes them, in order.
pub(crate) struct Line {
    state: Monitor<State>,
    blocks: usize,
    /// How far workers may be ahead of the writer: this bounds memory.
    ahead: usize,
}

impl Line {
    pub(crate) fn new(blocks: usize, ahead: usize) -> Self {
        Self {
            state: Monitor::default(),
            blocks,
            ahead,
        }
    }

    /// The next block to make and a buffer for it.
    pub(crate) fn take(&self) -> Option<(usize, Vec<u8>)> {
        let mut state = self.state.lock();
        loop {
            if state.gone || state.failed.is_some() || state.next_block == self.blocks {
                return None;
            }
            if state.next_block < state.next_write + self.ahead {
                let block = state.next_block;
                state.next_block += 1;
                return Some((block, state.spare.pop().unwrap_or_default()));
            }
            state = self.state.wait(state);
        }
    }

    pub(crate) fn put(&self, block: usize, packed: Packed) {
        self.state.lock().ready.insert(block, packed);
        self.state.notify();
    }

    /// Every block in order, to the end or until something fails.
    pub(crate) fn write_in_order(
        &self,
        mut write: impl FnMut(&Packed) -> Result<(), ArchiveError>,
    ) -> Result<(), ArchiveError> {
        let result = (0..self.blocks).try_for_each(|block| {
            let packed = self.next(block)?;
            write(&packed)?;
            let mut state = self.state.lock();
            state.next_write = block + 1;
            state.spare.push(packed.bytes);
            drop(state);
            self.state.notify();
            Ok(())
        });
        if result.is_err() {
            self.state.lock().gone = true;
            self.state.notify();
        }
        result
    }

    fn next(&self, block: usize) -> Result<Packed, ArchiveError> {
        let mut state = self.state.lock();
        loop {
            if state.gone || state.failed.is_some() {
                return Err(ArchiveError::Cancelled);
            }
            if let Some(packed) = state.ready.remove(&block) {
                return Ok(packed);
            }
            state = self.state.wait(state);
        }
    }

    /// Ends everybody's work.
    pub(crate) fn fail(&self, error: ArchiveError) {
        self.state.lock().failed.get_or_insert(error);
    }

    /// Why a worker ended the work.
    pub(crate) fn failure(&self) -> Option<ArchiveError> {
        self.state.lock().failed.take()
    }
}

/// Tells the others when a worker ends in a panic: nobody may wait for its block for ever.
pub(crate) struct Leaving<'a>(pub(crate) &'a Line);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        if std::thread::panicking() || state.failed.is_some() {
            state.gone = true;
        }
        drop(state);
        self.0.state.notify();
    }
}
