//! Bodies of uploads: streamed from where the blob is, with their progress.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, Stream};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::error::RegistryError;
use super::progress::{Operation, TransferEvent};
use crate::oci::Descriptor;

/// Bytes read at once. Larger reads are not faster over loopback; memory counts per blob.
const READ: usize = 128 * 1024;

/// The progress of one blob, seen by the body and by who waits for it.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    operation: Arc<Operation>,
    blob: Descriptor,
    /// Bytes of the blob before the current request.
    before: AtomicU64,
    /// Bytes that the current request carries.
    wanted: AtomicU64,
    /// Bytes that the current request has taken.
    moved: AtomicU64,
    /// Bytes taken by all requests, repeated ones too.
    total: AtomicU64,
    failure: Mutex<Option<RegistryError>>,
}

impl Meter {
    pub(crate) fn new(operation: Arc<Operation>, blob: Descriptor) -> Self {
        Self {
            shared: Arc::new(Shared {
                operation,
                blob,
                before: AtomicU64::new(0),
                wanted: AtomicU64::new(0),
                moved: AtomicU64::new(0),
                total: AtomicU64::new(0),
                failure: Mutex::new(None),
            }),
        }
    }

    /// The next request starts at this byte of the blob.
    pub(crate) fn set_before(&self, bytes: u64) {
        self.shared.before.store(bytes, Ordering::Relaxed);
    }

    /// A request of `wanted` bytes begins.
    pub(crate) fn restart(&self, wanted: u64) {
        self.shared.moved.store(0, Ordering::Relaxed);
        self.shared.wanted.store(wanted, Ordering::Relaxed);
        drop(self.take_failure());
    }

    /// Bytes taken by all requests for this blob.
    pub(crate) fn total(&self) -> u64 {
        self.shared.total.load(Ordering::Relaxed)
    }

    pub(crate) fn fail(&self, error: RegistryError) {
        *self
            .shared
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    pub(crate) fn take_failure(&self) -> Option<RegistryError> {
        self.shared
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Ends when nothing moved for `idle`, or no answer came for `answer` after the last byte.
    pub(crate) async fn stalled(&self, idle: Duration, answer: Duration) -> Duration {
        loop {
            let moved = self.shared.moved.load(Ordering::Relaxed);
            let complete = moved >= self.shared.wanted.load(Ordering::Relaxed);
            let limit = if complete { answer } else { idle };
            tokio::time::sleep(limit).await;
            if self.shared.moved.load(Ordering::Relaxed) == moved {
                return limit;
            }
        }
    }

    pub(crate) fn moved(&self, bytes: u64) {
        let shared = &self.shared;
        let moved = shared.moved.fetch_add(bytes, Ordering::Relaxed) + bytes;
        shared.total.fetch_add(bytes, Ordering::Relaxed);
        shared.operation.count_sent(bytes);
        shared.operation.tell(&TransferEvent::BlobProgress {
            digest: shared.blob.digest.clone(),
            transferred: shared.before.load(Ordering::Relaxed) + moved,
            size: shared.blob.size,
        });
    }
}

/// A body that broke; the meter knows why.
#[derive(Debug, thiserror::Error)]
#[error("the blob could not be read")]
pub(crate) struct Broken;

/// The bytes `offset..offset + length` of a file. The file is opened when the first byte is asked
/// for; one that is shorter by now breaks the body.
pub(crate) fn file(
    path: &Path,
    offset: u64,
    length: u64,
    meter: &Meter,
) -> impl Stream<Item = Result<Bytes, Broken>> + Send + 'static + use<> {
    struct State {
        path: PathBuf,
        file: Option<File>,
        buffer: BytesMut,
        offset: u64,
        left: u64,
        meter: Meter,
    }
    async fn read(state: &mut State) -> std::io::Result<Bytes> {
        let file = match &mut state.file {
            Some(file) => file,
            empty => {
                let mut file = File::open(&state.path).await?;
                file.seek(std::io::SeekFrom::Start(state.offset)).await?;
                empty.insert(file)
            }
        };
        // Gives the last buffer's memory back if the connection has let go of it.
        state.buffer.reserve(READ);
        let limit = usize::try_from(state.left).unwrap_or(READ).min(READ);
        let count = file.take(limit as u64).read_buf(&mut state.buffer).await?;
        if count == 0 {
            return Err(std::io::Error::new(
                std::io::ErrorKind::UnexpectedEof,
                "the file is shorter than the blob's descriptor says",
            ));
        }
        Ok(state.buffer.split_to(count).freeze())
    }
    let state = State {
        path: path.to_owned(),
        file: None,
        buffer: BytesMut::new(),
        offset,
        left: length,
        meter: meter.clone(),
    };
    stream::try_unfold(state, |mut state| async move {
        if state.left == 0 {
            return Ok(None);
        }
        match read(&mut state).await {
            Ok(bytes) => {
                state.left -= bytes.len() as u64;
                state.meter.moved(bytes.len() as u64);
                Ok(Some((bytes, state)))
            }
            Err(source) => {
                state.meter.fail(RegistryError::Io {
                    path: state.path,
                    source,
                });
                Err(Broken)
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt;

    use super::*;

    fn meter(size: u64) -> Meter {
        let blob = Descriptor::new("x", crate::oci::Digest::sha256(b""), size);
        Meter::new(Operation::new(None), blob)
    }

    #[tokio::test]
    async fn a_part_of_a_file_is_streamed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blob");
        let bytes: Vec<u8> = (0..400_000u32).map(|number| number as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let meter = meter(400_000);
        for (offset, length) in [(0, 400_000), (1, 300_000), (399_999, 1), (400_000, 0)] {
            let parts: Vec<Bytes> = file(&path, offset, length, &meter)
                .try_collect()
                .await
                .unwrap();
            let end = (offset + length) as usize;
            assert_eq!(parts.concat(), bytes[offset as usize..end]);
        }
        assert_eq!(meter.total(), 700_001);
    }

    #[tokio::test]
    async fn a_short_or_missing_file_breaks_the_body_and_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blob");
        for short in [false, true] {
            if short {
                std::fs::write(&path, b"ten bytes.").unwrap();
            }
            let meter = meter(11);
            let result: Result<Vec<Bytes>, Broken> = file(&path, 0, 11, &meter).try_collect().await;
            assert!(result.is_err());
            assert!(matches!(
                meter.take_failure(),
                Some(RegistryError::Io { .. })
            ));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_transfer_without_movement_is_stalled() {
        let meter = meter(10);
        meter.restart(10);
        let (idle, answer) = (Duration::from_secs(60), Duration::from_secs(300));
        assert_eq!(meter.stalled(idle, answer).await, idle);
        meter.moved(10);
        assert_eq!(meter.stalled(idle, answer).await, answer);
    }
}
