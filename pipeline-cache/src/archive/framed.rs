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
    use std::io;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Mutex, PoisonError};

    use super::{ArchiveError, Limits, Payload, Sha256Digest, Sink, StoredEntry, Unpacked};
    use crate::archive::Refusal;
    use crate::archive::entry_reader::{EndMark, EntryReader};
    use crate::archive::frame_index::{Frame, FrameIndex, TAIL};
    use crate::archive::frame_source::{Decoder, FrameSource, Frames, LongRun, Run};
    use crate::archive::tree_writer::SameName;
    use crate::archive::unpack::HardLinks;

    /// The largest block that is decoded at once. Packing makes 14 MiB at most.
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
        let index = match FrameIndex::decode(
            &bytes,
            entry.payload.len(),
            limits.max_entries,
            |packed, length| zstd::bulk::decompress(packed, length).ok(),
        ) {
            Ok(index) => index,
            Err(reason) => return Some(Err(ArchiveError::refuse(b"(index)", reason))),
        };
        drop(bytes);
        if index
            .frames
            .iter()
            .any(|frame| frame.raw > MAX_RAW || frame.packed > MAX_RAW + (1 << 20))
        {
            return None;
        }
        Some(Frames::new(&entry.payload, index).unpack(sink, limits, workers))
    }

    /// A run of more frames than this is decoded by whoever has nothing else to do.
    const LONG: usize = 3;

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
            // The longest first, so that nobody is left with one at the end.
            let (mut order, short): (Vec<Run>, Vec<Run>) =
                self.runs.iter().partition(|run| run.to - run.from > LONG);
            order.sort_by_key(|run| std::cmp::Reverse(run.to - run.from));
            let long: Vec<LongRun> = order.iter().map(|run| LongRun::new(*run)).collect();
            order.extend(short);
            let next = AtomicUsize::new(0);
            let failed: Mutex<Option<ArchiveError>> = Mutex::new(None);
            let lock = || failed.lock().unwrap_or_else(PoisonError::into_inner);
            let work = || {
                let mut unpacked = Unpacked::default();
                let mut writers = sink.staging.writers(SameName::Refuse);
                let mut work = || -> Result<(), ArchiveError> {
                    let mut decoder = Decoder::new(self)?;
                    while lock().is_none() {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let Some(&run) = order.get(number) else {
                            // Others still write large files: decode for them meanwhile.
                            return long.iter().try_for_each(|long| long.help(&mut decoder));
                        };
                        let source = FrameSource::new(decoder, run, long.get(number));
                        decoder = self.unpack_run(
                            run,
                            source,
                            sink,
                            limits,
                            &mut writers,
                            &mut unpacked,
                        )?;
                        unpacked.check(limits)?;
                    }
                    Ok(())
                };
                let result = work();
                if let Err(error) = result {
                    lock().get_or_insert(error);
                    long.iter().for_each(LongRun::stop);
                }
                unpacked
            };
            let mut unpacked = Unpacked::default();
            std::thread::scope(|scope| {
                let most = self.index.frames.len();
                let others: Vec<_> = (1..workers.min(most)).map(|_| scope.spawn(work)).collect();
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
            source: FrameSource<'a, '_>,
            sink: &Sink<'_>,
            limits: &Limits,
            writers: &mut [crate::archive::tree_writer::TreeWriter<'_>],
            unpacked: &mut Unpacked,
        ) -> Result<Decoder<'a>, ArchiveError> {
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
            // What the frames said comes before what the reader made of it.
            let decoder = reader.into_source().finish()?;
            result?;
            if count as u64 != self.index.frames[run.from].entries {
                return Err(ArchiveError::refuse(b"(index)", Refusal::Index));
            }
            Ok(decoder)
        }
    }
}
