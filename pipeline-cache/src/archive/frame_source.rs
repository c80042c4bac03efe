//! The tar bytes of frames, each checked before it is decoded, alone or with help.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read};

use super::frame_index::FrameIndex;
use super::monitor::Monitor;
use super::{ArchiveError, Refusal};
use crate::store::{Payload, Sha256Digest};

/// A payload and where its frames are.
pub(crate) struct Frames<'a> {
    pub(crate) payload: &'a Payload,
    pub(crate) index: FrameIndex,
    pub(crate) offsets: Vec<u64>,
    pub(crate) runs: Vec<Run>,
}

/// A run of frames that starts and ends between two entries.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) first_entry: usize,
}

/// Reads, checks and decodes single frames. Each worker has its own.
pub(crate) struct Decoder<'a> {
    frames: &'a Frames<'a>,
    decompressor: zstd::bulk::Decompressor<'static>,
    packed: Vec<u8>,
    raw: Vec<u8>,
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(frames: &'a Frames<'a>) -> Result<Self, ArchiveError> {
        Ok(Self {
            frames,
            decompressor: zstd::bulk::Decompressor::new().map_err(ArchiveError::Payload)?,
            packed: Vec::new(),
            raw: Vec::new(),
        })
    }

    /// Decodes a frame into a buffer, which is overwritten.
    fn decode(&mut self, number: usize, out: &mut Vec<u8>) -> Result<(), ArchiveError> {
        let frame = &self.frames.index.frames[number];
        let offset = self.frames.offsets[number];
        let length = usize::try_from(frame.packed).unwrap_or(usize::MAX);
        let raw = usize::try_from(frame.raw).unwrap_or(usize::MAX);
        if self.packed.len() < length {
            self.packed.resize(length, 0);
        }
        let packed = &mut self.packed[..length];
        self.frames
            .payload
            .read_exact_at(packed, offset)
            .map_err(ArchiveError::Payload)?;
        if Sha256Digest::of(packed) != frame.digest {
            return Err(ArchiveError::Damaged {
                what: format!("the frame at byte {offset} is not the one stored"),
            });
        }
        out.clear();
        out.reserve(raw);
        let decoded = self.decompressor.decompress_to_buffer(packed, out);
        if decoded.is_err() {
            return Err(ArchiveError::refuse(b"(frame)", Refusal::Compression));
        }
        if out.len() != raw {
            return Err(ArchiveError::refuse(b"(frame)", Refusal::Index));
        }
        Ok(())
    }
}

/// A run whose frames several workers decode, while one of them writes what is in it: two that
/// write one file would wait for each other.
pub(crate) struct LongRun {
    run: Run,
    state: Monitor<State>,
}

struct State {
    /// The next frame that nobody has taken.
    next: usize,
    /// The frame that is written next.
    position: usize,
    ready: BTreeMap<usize, Result<Vec<u8>, ArchiveError>>,
    spare: Vec<Vec<u8>>,
    started: bool,
    over: bool,
}

/// How many frames helpers may be ahead of what is written: this bounds memory.
const AHEAD: usize = 3;

impl LongRun {
    pub(crate) fn new(run: Run) -> Self {
        Self {
            run,
            state: Monitor::new(State {
                next: run.from,
                position: run.from,
                ready: BTreeMap::new(),
                spare: Vec::new(),
                started: false,
                over: false,
            }),
        }
    }

    /// Nobody waits any more.
    pub(crate) fn stop(&self) {
        self.state.lock().over = true;
        self.state.notify();
    }

    /// Decodes frames for the worker that writes this run, until there are none left.
    ///
    /// # Errors
    /// None of its own: what is wrong with a frame is told to the one who waits for it.
    pub(crate) fn help(&self, decoder: &mut Decoder<'_>) -> Result<(), ArchiveError> {
        loop {
            let mut state = self.state.lock();
            let (number, mut buffer) = loop {
                // One that nobody has started is nobody's to help with: its worker failed.
                if !state.started || state.over || state.next == self.run.to {
                    return Ok(());
                }
                if state.next < state.position + AHEAD {
                    state.next += 1;
                    break (state.next - 1, state.spare.pop().unwrap_or_default());
                }
                state = self.state.wait(state);
            };
            drop(state);
            let mut promise = Promise {
                run: self,
                number,
                result: None,
            };
            let result = decoder.decode(number, &mut buffer);
            promise.result = Some(result.map(|()| buffer));
        }
    }

    /// The next frame, decoded by another worker or by this one.
    fn next(&self, decoder: &mut Decoder<'_>, raw: &mut Vec<u8>) -> Result<(), ArchiveError> {
        let mut state = self.state.lock();
        state.started = true;
        let number = state.position;
        loop {
            if state.over {
                return Err(ArchiveError::Cancelled);
            }
            if let Some(result) = state.ready.remove(&number) {
                state.spare.push(std::mem::replace(raw, result?));
                break;
            }
            if state.next == number {
                state.next += 1;
                drop(state);
                decoder.decode(number, raw)?;
                state = self.state.lock();
                break;
            }
            state = self.state.wait(state);
        }
        state.position = number + 1;
        drop(state);
        self.state.notify();
        Ok(())
    }
}

/// A frame that was taken and that somebody may wait for, also when decoding it panics.
struct Promise<'a> {
    run: &'a LongRun,
    number: usize,
    result: Option<Result<Vec<u8>, ArchiveError>>,
}

impl Drop for Promise<'_> {
    fn drop(&mut self) {
        let result = self.result.take().unwrap_or(Err(ArchiveError::Cancelled));
        self.run.state.lock().ready.insert(self.number, result);
        self.run.state.notify();
    }
}

/// The tar bytes of one run, in order.
pub(crate) struct FrameSource<'a, 'r> {
    decoder: Decoder<'a>,
    run: Run,
    next: usize,
    long: Option<&'r LongRun>,
    raw: Vec<u8>,
    used: usize,
    failure: Option<ArchiveError>,
}

impl<'a, 'r> FrameSource<'a, 'r> {
    pub(crate) fn new(mut decoder: Decoder<'a>, run: Run, long: Option<&'r LongRun>) -> Self {
        let mut raw = std::mem::take(&mut decoder.raw);
        raw.clear();
        Self {
            decoder,
            run,
            next: run.from,
            long,
            raw,
            used: 0,
            failure: None,
        }
    }

    /// The decoder, or why a frame could not be decoded.
    pub(crate) fn finish(mut self) -> Result<Decoder<'a>, ArchiveError> {
        if let Some(error) = self.failure.take() {
            return Err(error);
        }
        if let Some(long) = self.long {
            long.stop();
        }
        let mut decoder = self.decoder;
        decoder.raw = self.raw;
        Ok(decoder)
    }

    fn load(&mut self) -> Result<(), ArchiveError> {
        self.used = 0;
        match self.long {
            Some(long) => long.next(&mut self.decoder, &mut self.raw)?,
            None => self.decoder.decode(self.next, &mut self.raw)?,
        }
        self.next += 1;
        Ok(())
    }
}

impl Read for FrameSource<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for FrameSource<'_, '_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.used == self.raw.len() && self.next < self.run.to {
            self.load().map_err(|error| {
                self.raw.clear();
                self.failure.get_or_insert(error);
                io::Error::from(io::ErrorKind::InvalidData)
            })?;
        }
        Ok(&self.raw[self.used..])
    }

    fn consume(&mut self, count: usize) {
        self.used += count;
    }
}
