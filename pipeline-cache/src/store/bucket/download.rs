use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::bucket_store::{BucketStore, entry_object};
use crate::store::filesystem::digest_of;
use crate::store::filesystem::layout::unique;
use crate::store::payload::PayloadBytes;
use crate::store::{EntryMetadata, Payload, Sha256Digest, StoreError, run_blocking};

/// What came of fetching a payload.
pub(super) enum Fetched {
    Whole(Payload),
    /// It is gone.
    Absent,
    /// What the bucket holds has another digest than described.
    Damaged(Sha256Digest),
}

impl BucketStore {
    /// Fetches a payload and compares its digest: whoever opens an entry reads it undisturbed by
    /// the network and by whatever happens to the bucket. What does not fit is fetched a second
    /// time, since a network can damage it as well as a disk.
    pub(super) async fn fetch(&self, metadata: &EntryMetadata) -> Result<Fetched, StoreError> {
        let mut fetched = self.fetch_once(metadata).await?;
        if matches!(fetched, Fetched::Damaged(_)) {
            fetched = self.fetch_once(metadata).await?;
        }
        Ok(fetched)
    }

    async fn fetch_once(&self, metadata: &EntryMetadata) -> Result<Fetched, StoreError> {
        let name = entry_object(&metadata.payload);
        let size = metadata.packed_size;
        if size <= self.options.part_bytes as u64 {
            let bytes = match size {
                // No range is empty.
                0 => self.objects.size(&name).await?.map(|_| Bytes::new()),
                size => self.objects.range(&name, 0..size).await?,
            };
            let Some(bytes) = bytes else {
                return Ok(Fetched::Absent);
            };
            let actual = Sha256Digest::of(&bytes);
            return Ok(if actual == metadata.digest {
                Fetched::Whole(Payload::new(InMemory(bytes)))
            } else {
                Fetched::Damaged(actual)
            });
        }
        let file = Arc::new(spool_file(&self.options.spool_folder)?);
        let ranges = stream::iter(ranges(size, self.options.part_bytes as u64));
        let whole: Result<Vec<bool>, StoreError> = ranges
            .map(|range| self.fetch_range(&name, range, &file))
            .buffer_unordered(self.options.parallel)
            .try_collect()
            .await;
        if !whole?.into_iter().all(|there| there) {
            return Ok(Fetched::Absent);
        }
        let (hashed, folder) = (Arc::clone(&file), self.options.spool_folder.clone());
        let actual =
            run_blocking(move |_| digest_of(&hashed).map_err(|error| spool_error(&folder, error)))
                .await?;
        Ok(if actual == metadata.digest {
            Fetched::Whole(Payload::new(Spooled { file, size }))
        } else {
            Fetched::Damaged(actual)
        })
    }

    /// Whether the object is still there.
    async fn fetch_range(
        &self,
        name: &str,
        range: Range<u64>,
        file: &Arc<File>,
    ) -> Result<bool, StoreError> {
        let Some(bytes) = self.objects.range(name, range.clone()).await? else {
            return Ok(false);
        };
        // Fewer bytes leave a hole, which the digest tells.
        let (file, folder) = (Arc::clone(file), self.options.spool_folder.clone());
        run_blocking(move |_| {
            file.write_all_at(&bytes, range.start)
                .map_err(|error| spool_error(&folder, error))
        })
        .await?;
        Ok(true)
    }
}

fn ranges(size: u64, part: u64) -> impl Iterator<Item = Range<u64>> {
    (0..size.div_ceil(part)).map(move |index| {
        let start = index * part;
        start..(start + part).min(size)
    })
}

fn spool_error(folder: &Path, error: io::Error) -> StoreError {
    StoreError::io("spool in", folder.to_string_lossy(), None, error)
}

/// A file without a name: it is gone when it is closed, however that happens.
fn spool_file(folder: &Path) -> Result<File, StoreError> {
    let path = folder.join(format!(
        ".pipeline-cache-{}-{}",
        std::process::id(),
        unique()
    ));
    let open = || {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(file)
    };
    open().map_err(|error| spool_error(folder, error))
}

#[derive(Debug)]
struct InMemory(Bytes);

impl PayloadBytes for InMemory {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let start = usize::try_from(position).map_or(self.0.len(), |at| at.min(self.0.len()));
        let count = buffer.len().min(self.0.len() - start);
        buffer[..count].copy_from_slice(&self.0[start..start + count]);
        Ok(count)
    }
}

#[derive(Debug)]
struct Spooled {
    file: Arc<File>,
    size: u64,
}

impl PayloadBytes for Spooled {
    fn len(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.file.read_at(buffer, position)
    }
}
