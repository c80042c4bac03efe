//! Unpacks our own zstd archives: every worker reads, checks, decodes and writes its own frames.

use super::unpack::{Sink, Unpacked};
use super::{ArchiveError, Limits};
use crate::store::{Codec, Payload, Sha256Digest, StoredEntry};

#[cfg(not(feature = "zstd"))]
pub(crate) fn unpack_frames(
    _entry: &StoredEntry,
    _sink: &Sink<'_>,
    _limits: &Limits,
    _workers: usize,
) -> Option<Result<Unpacked, ArchiveError>> {
    None
}

#[cfg(feature = "zstd")]
pub(crate) use with_zstd::unpack_frames;

/// SHA-256 of the frame index at the end of a payload, if there is one.
pub(crate) fn index_digest_of(
    codec: Codec,
    payload: &Payload,
) -> std::io::Result<Option<Sha256Digest>> {
    match codec {
        #[cfg(feature = "zstd")]
        Codec::Zstd => with_zstd::find_index_digest(payload),
        _ => {
            let _ = payload;
            Ok(None)
        }
    }
}

#[cfg(feature = "zstd")]
mod with_zstd {
    use std::io::{self, BufRead, Read};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Mutex, PoisonError};

    use super::{ArchiveError, Limits, Payload, Sha256Digest, Sink, StoredEntry, Unpacked};
    use crate::archive::Refusal;
    use crate::archive::entry_reader::{EndMark, EntryReader};
    use crate::archive::frame_index::{Frame, FrameIndex, TAIL};
    use crate::archive::tree_writer::SameName;
    use crate::archive::unpack::HardLinks;

    /// The largest block that is decoded at once. Packing never makes more than a third of it.
    const MAX_RAW: u64 = 16 << 20;

    /// SHA-256 of the index at the end of a payload, if there is one.
    pub(super) fn find_index_digest(payload: &Payload) -> io::Result<Option<Sha256Digest>> {
        Ok(read_index(payload)?.map(|bytes| Sha256Digest::of(&bytes)))
    }

    fn read_index(payload: &Payload) -> io::Result<Option<Vec<u8>>> {
        let Some(tail_at) = payload.len().checked_sub(TAIL as u64) else {
            return Ok(None);
        };
        let mut tail = [0; TAIL];
        payload.read_exact_at(&mut tail, tail_at)?;
        let Some(length) = FrameIndex::length_from_tail(&tail) else {
            return Ok(None);
        };
        let Some(start) = payload.len().checked_sub(u64::from(length)) else {
            return Ok(None);
        };
        let mut bytes = vec![0; length as usize];
        payload.read_exact_at(&mut bytes, start)?;
        Ok(Some(bytes))
    }

    /// `None` when the archive has no index, or one that is not for this way of unpacking.
    pub(crate) fn unpack_frames(
        entry: &StoredEntry,
        sink: &Sink<'_>,
        limits: &Limits,
        workers: usize,
    ) -> Option<Result<Unpacked, ArchiveError>> {
        let wanted = entry.metadata.index_digest?;
        let damaged = |what: &str| ArchiveError::Damaged {
            what: what.to_owned(),
        };
        let bytes = match read_index(&entry.payload) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Some(Err(damaged("the frame index is gone"))),
            Err(error) => return Some(Err(ArchiveError::Payload(error))),
        };
        if Sha256Digest::of(&bytes) != wanted {
            return Some(Err(damaged("the frame index is not the one stored")));
        }
        let index = match FrameIndex::decode(&bytes, entry.payload.len(), |packed, length| {
            zstd::bulk::decompress(packed, length).ok()
        }) {
            Ok(index) => index,
            Err(reason) => return Some(Err(ArchiveError::refuse(b"(index)", reason))),
        };
        if index
            .frames
            .iter()
            .any(|frame| frame.raw > MAX_RAW || frame.packed > MAX_RAW + (1 << 20))
        {
            return None;
        }
        Some(Frames::new(&entry.payload, index).unpack(sink, limits, workers))
    }

    /// A run of frames that starts and ends between two entries.
    #[derive(Clone, Copy)]
    struct Run {
        from: usize,
        to: usize,
        first_entry: usize,
    }

    struct Frames<'a> {
        payload: &'a Payload,
        index: FrameIndex,
        offsets: Vec<u64>,
        runs: Vec<Run>,
    }

    impl<'a> Frames<'a> {
        fn new(payload: &'a Payload, index: FrameIndex) -> Self {
            let mut offsets = Vec::with_capacity(index.frames.len());
            let mut runs: Vec<Run> = Vec::new();
            let (mut offset, mut first_entry) = (0, 0);
            for (at, frame) in index.frames.iter().enumerate() {
                offsets.push(offset);
                offset += frame.packed;
                match runs.last_mut() {
                    Some(run) if frame.entries == 0 => run.to = at + 1,
                    _ => runs.push(Run {
                        from: at,
                        to: at + 1,
                        first_entry,
                    }),
                }
                first_entry += usize::try_from(frame.entries).unwrap_or(usize::MAX);
            }
            Self {
                payload,
                index,
                offsets,
                runs,
            }
        }

        fn unpack(
            &self,
            sink: &Sink<'_>,
            limits: &Limits,
            workers: usize,
        ) -> Result<Unpacked, ArchiveError> {
            let sum = |field: fn(&Frame) -> u64| self.index.frames.iter().map(field).sum::<u64>();
            for (what, found, limit) in [
                (
                    "bytes",
                    sum(|frame| frame.raw),
                    limits.max_bytes.unwrap_or(u64::MAX),
                ),
                ("entries", sum(|frame| frame.entries), limits.max_entries),
            ] {
                if found > limit {
                    return Err(ArchiveError::TooLarge { what, limit });
                }
            }
            let next = AtomicUsize::new(0);
            let failed: Mutex<Option<ArchiveError>> = Mutex::new(None);
            let lock = || failed.lock().unwrap_or_else(PoisonError::into_inner);
            let work = || {
                let mut unpacked = Unpacked::default();
                let mut writers = sink.staging.writers(SameName::Refuse);
                let mut source = FrameSource::new(self);
                while lock().is_none() {
                    let Some(&run) = self.runs.get(next.fetch_add(1, Ordering::Relaxed)) else {
                        break;
                    };
                    let done = source.and_then(|source| {
                        self.unpack_run(run, source, sink, limits, &mut writers, &mut unpacked)
                    });
                    match done.and_then(|source| unpacked.check(limits).map(|()| source)) {
                        Ok(back) => source = Ok(back),
                        Err(error) => {
                            lock().get_or_insert(error);
                            break;
                        }
                    }
                }
                unpacked
            };
            let mut unpacked = Unpacked::default();
            std::thread::scope(|scope| {
                let others: Vec<_> = (1..workers.min(self.runs.len()))
                    .map(|_| scope.spawn(work))
                    .collect();
                unpacked.absorb(work());
                for other in others {
                    match other.join() {
                        Ok(part) => unpacked.absorb(part),
                        Err(panic) => std::panic::resume_unwind(panic),
                    }
                }
            });
            if let Some(error) = lock().take() {
                return Err(error);
            }
            unpacked.check(limits)?;
            let mut writers = sink.staging.writers(SameName::Refuse);
            for (stage, path, target) in std::mem::take(&mut unpacked.hard_links) {
                writers[stage].hard_link(&path, &target)?;
            }
            Ok(unpacked)
        }

        fn unpack_run(
            &self,
            run: Run,
            mut source: FrameSource<'a>,
            sink: &Sink<'_>,
            limits: &Limits,
            writers: &mut [crate::archive::tree_writer::TreeWriter<'_>],
            unpacked: &mut Unpacked,
        ) -> Result<FrameSource<'a>, ArchiveError> {
            source.start(self, run);
            let is_last = run.to == self.index.frames.len();
            let end_mark = if is_last {
                EndMark::Required
            } else {
                EndMark::Absent
            };
            let mut reader = EntryReader::new(source, limits, end_mark);
            let mut count = 0;
            let mut read = || -> Result<(), ArchiveError> {
                while let Some(entry) = reader.next_entry()? {
                    let time = self.index.times.get(run.first_entry + count).copied();
                    count += 1;
                    sink.write(
                        entry,
                        time,
                        &mut reader,
                        writers,
                        HardLinks::Later,
                        unpacked,
                    )?;
                }
                Ok(())
            };
            let result = read();
            let mut source = reader.into_source();
            // What the frames said comes before what the reader made of it.
            if let Some(error) = source.failure.take() {
                return Err(error);
            }
            result?;
            if count as u64 != self.index.frames[run.from].entries {
                return Err(ArchiveError::refuse(b"(index)", Refusal::Index));
            }
            Ok(source)
        }
    }

    /// The tar bytes of one run of frames, each frame checked before it is decoded.
    struct FrameSource<'a> {
        payload: &'a Payload,
        decompressor: zstd::bulk::Decompressor<'static>,
        frames: Vec<(u64, Frame)>,
        next: usize,
        packed: Vec<u8>,
        raw: Vec<u8>,
        used: usize,
        failure: Option<ArchiveError>,
    }

    impl<'a> FrameSource<'a> {
        fn new(frames: &Frames<'a>) -> Result<Self, ArchiveError> {
            Ok(Self {
                payload: frames.payload,
                decompressor: zstd::bulk::Decompressor::new().map_err(ArchiveError::Payload)?,
                frames: Vec::new(),
                next: 0,
                packed: Vec::new(),
                raw: Vec::new(),
                used: 0,
                failure: None,
            })
        }

        fn start(&mut self, frames: &Frames<'a>, run: Run) {
            self.frames.clear();
            self.frames.extend(
                frames.offsets[run.from..run.to]
                    .iter()
                    .copied()
                    .zip(frames.index.frames[run.from..run.to].iter().cloned()),
            );
            self.next = 0;
            self.raw.clear();
            self.used = 0;
        }

        fn load(&mut self) -> Result<(), ArchiveError> {
            let (offset, frame) = &self.frames[self.next];
            let length = usize::try_from(frame.packed).unwrap_or(usize::MAX);
            let raw = usize::try_from(frame.raw).unwrap_or(usize::MAX);
            if self.packed.len() < length {
                self.packed.resize(length, 0);
            }
            let packed = &mut self.packed[..length];
            self.payload
                .read_exact_at(packed, *offset)
                .map_err(ArchiveError::Payload)?;
            if Sha256Digest::of(packed) != frame.digest {
                return Err(ArchiveError::Damaged {
                    what: format!("the frame at byte {offset} is not the one stored"),
                });
            }
            self.raw.clear();
            self.raw.reserve(raw);
            self.used = 0;
            let decoded = self
                .decompressor
                .decompress_to_buffer(packed, &mut self.raw);
            if decoded.is_err() {
                return Err(ArchiveError::refuse(b"(frame)", Refusal::Compression));
            }
            if self.raw.len() != raw {
                return Err(ArchiveError::refuse(b"(frame)", Refusal::Index));
            }
            self.next += 1;
            Ok(())
        }
    }

    impl Read for FrameSource<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let available = self.fill_buf()?;
            let count = available.len().min(buffer.len());
            buffer[..count].copy_from_slice(&available[..count]);
            self.consume(count);
            Ok(count)
        }
    }

    impl BufRead for FrameSource<'_> {
        fn fill_buf(&mut self) -> io::Result<&[u8]> {
            if self.used == self.raw.len() && self.next < self.frames.len() {
                self.load().map_err(|error| {
                    self.failure = Some(error);
                    io::Error::from(io::ErrorKind::InvalidData)
                })?;
            }
            Ok(&self.raw[self.used..])
        }

        fn consume(&mut self, count: usize) {
            self.used += count;
        }
    }
}
