//! [`ParallelGzip`]: gzip on several cores whose bytes do not depend on how many.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use flate2::{Compress, Compression, Crc, FlushCompress, Status};

/// Input bytes per block. Part of the output's identity: another size gives other bytes.
pub(super) const BLOCK: usize = 512 * 1024;

/// The name of the exact bytes that [`ParallelGzip`] makes of a stream.
///
/// It stands in the layer cache's keys. Raise the number when the framing changes. The version of
/// this crate stands for the versions of its dependencies.
pub(super) fn scheme(level: u32) -> String {
    format!(
        "gzip{level}-block{}k-2-{}",
        BLOCK / 1024,
        env!("CARGO_PKG_VERSION")
    )
}

/// Cuts a stream into blocks of fixed size, deflates them on worker threads and joins the results
/// into a single gzip member.
///
/// Every block ends with a sync flush, which is what makes the pieces joinable. Memory is bounded
/// by two blocks per thread.
#[derive(Debug)]
pub(super) struct ParallelGzip<W: Write> {
    inner: W,
    block: Vec<u8>,
    crc: Crc,
    jobs: Option<SyncSender<Task>>,
    pending: VecDeque<Receiver<io::Result<Vec<u8>>>>,
    limit: usize,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Task {
    input: Vec<u8>,
    last: bool,
    answer: SyncSender<io::Result<Vec<u8>>>,
}

impl<W: Write> ParallelGzip<W> {
    /// Writes the gzip header and starts the threads.
    pub(super) fn new(mut inner: W, level: u32, threads: NonZeroUsize) -> io::Result<Self> {
        // No time, no name, system "unknown": the header says nothing about this machine.
        inner.write_all(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff])?;
        let limit = threads.get() * 2;
        let (jobs, queue) = sync_channel::<Task>(limit);
        let queue = Arc::new(Mutex::new(queue));
        let threads = (0..threads.get())
            .map(|number| {
                let queue = Arc::clone(&queue);
                std::thread::Builder::new()
                    .name(format!("layer-gzip-{number}"))
                    .spawn(move || work(&queue, level))
            })
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Self {
            inner,
            block: Vec::with_capacity(BLOCK),
            crc: Crc::new(),
            jobs: Some(jobs),
            pending: VecDeque::with_capacity(limit),
            limit,
            threads,
        })
    }

    /// Writes what is left and the trailer.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.submit(true)?;
        while !self.pending.is_empty() {
            self.collect()?;
        }
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // A panic shows as a missing answer, which `collect` has reported.
            let _ = thread.join();
        }
        self.inner.write_all(&self.crc.sum().to_le_bytes())?;
        self.inner.write_all(&self.crc.amount().to_le_bytes())?;
        Ok(self.inner)
    }

    fn submit(&mut self, last: bool) -> io::Result<()> {
        while self.pending.len() >= self.limit {
            self.collect()?;
        }
        self.crc.update(&self.block);
        let input = std::mem::replace(
            &mut self.block,
            Vec::with_capacity(if last { 0 } else { BLOCK }),
        );
        let (answer, receiver) = sync_channel(1);
        let jobs = self.jobs.as_ref().ok_or_else(stopped)?;
        jobs.send(Task {
            input,
            last,
            answer,
        })
        .map_err(|_| stopped())?;
        self.pending.push_back(receiver);
        Ok(())
    }

    fn collect(&mut self) -> io::Result<()> {
        if let Some(receiver) = self.pending.pop_front() {
            let bytes = receiver.recv().map_err(|_| stopped())??;
            self.inner.write_all(&bytes)?;
        }
        Ok(())
    }
}

impl<W: Write> Write for ParallelGzip<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let room = BLOCK - self.block.len();
        let taken = buffer.get(..room.min(buffer.len())).unwrap_or(buffer);
        self.block.extend_from_slice(taken);
        if self.block.len() == BLOCK {
            self.submit(false)?;
        }
        Ok(taken.len())
    }

    /// Does nothing: cutting a block short would change the bytes.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn stopped() -> io::Error {
    io::Error::other("a compression thread stopped early")
}

fn work(queue: &Mutex<Receiver<Task>>, level: u32) {
    loop {
        let task = match queue.lock() {
            Ok(queue) => queue.recv(),
            Err(_) => return,
        };
        let Ok(task) = task else { return };
        let result = is_incompressible(&task.input).and_then(|incompressible| {
            deflate(
                &task.input,
                if incompressible { 0 } else { level },
                task.last,
            )
        });
        // Nobody waits for the answer when the writer was dropped.
        let _ = task.answer.send(result);
    }
}

/// How many samples are taken of a block, and how long each is.
const SAMPLES: usize = 4;
const SAMPLE: usize = 4 * 1024;

/// Whether compressing is no use: archives, pictures, noise. Such a block is stored as it is, which
/// is some twenty times faster. The answer depends on nothing but the block.
fn is_incompressible(block: &[u8]) -> io::Result<bool> {
    if block.len() < SAMPLES * SAMPLE {
        return Ok(false);
    }
    let mut compressed = 0;
    for number in 0..SAMPLES {
        let start = (block.len() - SAMPLE) / (SAMPLES - 1) * number;
        let sample = block.get(start..start + SAMPLE).unwrap_or_default();
        compressed += deflate(sample, 1, true)?.len();
    }
    Ok(compressed > SAMPLES * SAMPLE * 97 / 100)
}

fn deflate(input: &[u8], level: u32, last: bool) -> io::Result<Vec<u8>> {
    let mut deflate = Compress::new(Compression::new(level), false);
    let flush = if last {
        FlushCompress::Finish
    } else {
        FlushCompress::Sync
    };
    // Incompressible data grows by five bytes per 16 KiB at worst.
    let mut output = Vec::with_capacity(input.len() / 2 + 1024);
    loop {
        let done = usize::try_from(deflate.total_in()).map_err(io::Error::other)?;
        let status = deflate
            .compress_vec(input.get(done..).unwrap_or_default(), &mut output, flush)
            .map_err(io::Error::other)?;
        // A sync flush is complete once it leaves room in the output.
        let flushed = deflate.total_in() == input.len() as u64 && output.len() < output.capacity();
        if status == Status::StreamEnd || (!last && flushed) {
            return Ok(output);
        }
        output.reserve(64 * 1024);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn gzip(data: &[u8], threads: usize, piece: usize) -> Vec<u8> {
        let threads = NonZeroUsize::new(threads).unwrap();
        let mut writer = ParallelGzip::new(Vec::new(), 6, threads).unwrap();
        for chunk in data.chunks(piece) {
            writer.write_all(chunk).unwrap();
        }
        writer.finish().unwrap()
    }

    /// Half text, half noise, from a fixed seed.
    fn sample(len: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        (0..len)
            .map(|place| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                if place / 4096 % 2 == 0 {
                    b'a' + (place % 7) as u8
                } else {
                    state as u8
                }
            })
            .collect()
    }

    #[test]
    fn any_length_round_trips_as_one_member() {
        for len in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 12_345] {
            let data = sample(len);
            let packed = gzip(&data, 2, 64 * 1024);
            let mut back = Vec::new();
            // This reader stops after one member, so a second one would show as missing bytes.
            let mut reader = flate2::bufread::GzDecoder::new(&packed[..]);
            reader.read_to_end(&mut back).unwrap();
            assert!(back == data, "length {len}");
            assert!(reader.into_inner().is_empty(), "length {len}");
        }
    }

    #[test]
    fn bytes_depend_on_neither_threads_nor_write_sizes() {
        let data = sample(4 * BLOCK + 99);
        let reference = gzip(&data, 1, data.len());
        assert!(gzip(&data, 3, 1000) == reference);
        assert!(gzip(&data, 8, BLOCK + 7) == reference);
    }

    #[test]
    fn noise_is_stored_and_text_is_not() {
        let noise: Vec<u8> = sample(4 * BLOCK)
            .chunks(4096)
            .skip(1)
            .step_by(2)
            .flatten()
            .copied()
            .collect();
        assert!(is_incompressible(&noise[..BLOCK]).unwrap());
        let packed = gzip(&noise, 2, noise.len());
        assert!(packed.len() < noise.len() + noise.len() / 1000 + 64);
        let text = b"all work and no play ".repeat(BLOCK / 20);
        assert!(!is_incompressible(&text[..BLOCK]).unwrap());
        assert!(gzip(&text, 2, text.len()).len() < text.len() / 50);
    }

    #[test]
    fn a_failing_writer_is_reported() {
        struct Full(usize);
        impl Write for Full {
            fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
                if self.0 < buffer.len() {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                self.0 -= buffer.len();
                Ok(buffer.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let data = sample(40 * BLOCK);
        let mut writer =
            ParallelGzip::new(Full(1_000_000), 6, NonZeroUsize::new(2).unwrap()).unwrap();
        let error = writer.write_all(&data).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
