//! Unpacks any archive from front to back: foreign ones, gzip and plain tar.

use std::io::{self, BufReader, Read};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use super::entry_reader::{EndMark, EntryReader};
use super::makers::{HandOver, Makers};
use super::read_ahead::read_ahead;
use super::tree_writer::SameName;
use super::unpack::{Sink, Unpacked};
use super::{ArchiveError, Limits, Refusal};
use crate::store::{Codec, Payload, PayloadReader, Sha256Digest, StoredEntry};

pub(crate) fn unpack_stream(
    entry: &StoredEntry,
    sink: &Sink<'_>,
    limits: &Limits,
    workers: usize,
) -> Result<Unpacked, ArchiveError> {
    if entry.metadata.raw_size == 0 {
        // Nobody knows how much comes out: look before anything is written, so that a bomb costs
        // no disk.
        read_stream(entry, limits, |decoded| {
            let reader = BufReader::with_capacity(256 * 1024, decoded);
            let mut reader = EntryReader::new(reader, limits, EndMark::Required);
            while reader.next_entry()?.is_some() {
                sink.check_cancelled()?;
            }
            Ok(())
        })?;
    }
    read_stream(entry, limits, |decoded| {
        if workers < 2 {
            let reader = BufReader::with_capacity(256 * 1024, decoded);
            return read_all(reader, sink, limits, workers);
        }
        let (reading, ahead) = read_ahead();
        std::thread::scope(|scope| {
            scope.spawn(|| reading.run(decoded));
            read_all(ahead, sink, limits, workers)
        })
    })
}

type Decoded = Bounded<Box<dyn Read + Send>>;

/// Reads an archive from front to back and compares its digest.
fn read_stream<T>(
    entry: &StoredEntry,
    limits: &Limits,
    read: impl FnOnce(Decoded) -> Result<T, ArchiveError>,
) -> Result<T, ArchiveError> {
    let hashed = Hashed::new(&entry.payload);
    let result = decoder(entry.metadata.codec, hashed.clone(), limits).and_then(|decoder| {
        read(Bounded {
            inner: decoder,
            left: limits.max_bytes.unwrap_or(u64::MAX),
        })
    });
    // Whatever went wrong: damage is the better answer than what damage looks like.
    let unread = hashed.finish()?;
    let actual = hashed.digest();
    if actual != entry.metadata.digest {
        return Err(ArchiveError::Damaged {
            what: format!(
                "the payload's SHA-256 is {actual}, not {}",
                entry.metadata.digest
            ),
        });
    }
    let value = result?;
    if unread > 0 {
        return Err(ArchiveError::refuse(b"(end)", Refusal::TrailingData));
    }
    Ok(value)
}

/// Writes all entries: this thread and the other workers make files from what this one reads.
fn read_all<R: io::BufRead>(
    source: R,
    sink: &Sink<'_>,
    limits: &Limits,
    workers: usize,
) -> Result<Unpacked, ArchiveError> {
    let makers = Makers::default();
    std::thread::scope(|scope| {
        for _ in 1..workers {
            scope.spawn(|| makers.work(&mut sink.staging.writers(SameName::Replace)));
        }
        let mut hand_over = HandOver::new(&makers);
        let mut writers = sink.staging.writers(SameName::Replace);
        let mut unpacked = Unpacked::default();
        let mut reader = EntryReader::new(source, limits, EndMark::Required);
        while let Some(entry) = reader.next_entry()? {
            sink.hand_over(
                entry,
                &mut reader,
                &mut writers,
                &mut hand_over,
                &mut unpacked,
            )?;
            unpacked.check(limits)?;
        }
        hand_over.finish(&mut writers)?;
        Ok(unpacked)
    })
}

/// A decoder for a codec.
pub(crate) fn decoder<'a, R: Read + Send + 'a>(
    codec: Codec,
    packed: R,
    limits: &Limits,
) -> Result<Box<dyn Read + Send + 'a>, ArchiveError> {
    #[cfg(not(feature = "zstd"))]
    let _ = limits;
    match codec {
        Codec::None => Ok(Box::new(packed)),
        #[cfg(feature = "gzip")]
        Codec::Gzip => Ok(Box::new(flate2::bufread::MultiGzDecoder::new(
            BufReader::with_capacity(128 * 1024, packed),
        ))),
        #[cfg(feature = "zstd")]
        Codec::Zstd => {
            let mut decoder =
                zstd::stream::read::Decoder::new(packed).map_err(ArchiveError::Payload)?;
            let window = limits.max_window.clamp(1 << 10, 1 << 31).ilog2();
            decoder
                .window_log_max(window)
                .map_err(ArchiveError::Payload)?;
            Ok(Box::new(decoder))
        }
        #[expect(
            clippy::allow_attributes,
            reason = "whether the arm can be reached depends on features"
        )]
        #[allow(unreachable_patterns)]
        other => Err(ArchiveError::Codec { codec: other }),
    }
}

/// Hashes a payload while it is read, and remembers trouble of the medium, which a decoder would
/// pass on as damage.
#[derive(Clone)]
struct Hashed(Arc<Mutex<HashedState>>);

struct HashedState {
    reader: PayloadReader,
    hasher: Sha256,
    failure: Option<io::Error>,
}

impl Hashed {
    fn new(payload: &Payload) -> Self {
        Self(Arc::new(Mutex::new(HashedState {
            reader: payload.reader(),
            hasher: Sha256::new(),
            failure: None,
        })))
    }

    /// Reads the rest. Says how much there was.
    fn finish(&self) -> Result<u64, ArchiveError> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(failure) = state.failure.take() {
            return Err(ArchiveError::Payload(failure));
        }
        let mut buffer = vec![0; 256 * 1024];
        let mut unread = 0;
        loop {
            match state
                .reader
                .read(&mut buffer)
                .map_err(ArchiveError::Payload)?
            {
                0 => return Ok(unread),
                read => {
                    state.hasher.update(&buffer[..read]);
                    unread += read as u64;
                }
            }
        }
    }

    fn digest(&self) -> Sha256Digest {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Sha256Digest::from_bytes(state.hasher.clone().finalize().into())
    }
}

impl Read for Hashed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match state.reader.read(buffer) {
            Ok(read) => {
                state.hasher.update(&buffer[..read]);
                Ok(read)
            }
            Err(error) => {
                state.failure = Some(error);
                Err(io::ErrorKind::Other.into())
            }
        }
    }
}

/// Ends with an error when more than allowed comes out.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self
            .left
            .checked_sub(read as u64)
            .ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(read)
    }
}
