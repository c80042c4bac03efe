use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};

use super::{Cache, CacheError, Saved};
use crate::archive::{ArchiveError, index_digest_of};
use crate::files::StagingFolder;
use crate::key::{CacheKey, RenderedKey};
use crate::store::{
    Codec, EntryFacts, EntryMetadata, GetOptions, NewEntry, Payload, PayloadBytes, PutOutcome,
    RecordUse, Sha256Digest, produce_with, run_blocking,
};

/// Recognises an archive's codec by its first bytes; what is none of the known formats is taken
/// for plain tar, and refused when it is unpacked if it is none.
///
/// # Errors
/// A compression that this library does not know.
pub fn detect_codec(first_bytes: &[u8]) -> Result<Codec, ArchiveError> {
    match first_bytes {
        [0x1f, 0x8b, ..] => Ok(Codec::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Codec::Zstd),
        // xz, bzip2, lz4, zip.
        [0xfd, b'7', b'z', b'X', b'Z', ..]
        | [b'B', b'Z', b'h', b'1'..=b'9', 0x31, ..]
        | [0x04, 0x22, 0x4d, 0x18, ..]
        | [b'P', b'K', 3, 4, ..] => Err(ArchiveError::UnknownFormat),
        _ => Ok(Codec::None),
    }
}

impl Cache {
    /// Makes an archive of other tools an entry, as it is. It is not trusted more for that:
    /// whatever is wrong with it is found when it is restored.
    ///
    /// Restoring it puts what it holds below the destination, as declared path `.` does.
    ///
    /// # Errors
    /// The file cannot be read, its compression is unknown, or the store failed.
    pub async fn import(
        &self,
        key: impl Into<RenderedKey> + Send,
        file: impl Into<PathBuf> + Send,
        created: SystemTime,
    ) -> Result<Saved, CacheError> {
        let started = std::time::Instant::now();
        let path: PathBuf = file.into();
        let key = key.into();
        if let Some(existing) = self.store.head(key.key()).await? {
            return Ok(Saved::Exists(existing));
        }
        let open = path.clone();
        let (file, facts): (File, EntryFacts) =
            run_blocking::<_, CacheError, _>(move |_| look_at(&open)).await?;
        let entry = NewEntry::new(key, created).with_paths(["."]);
        let payload = produce_with(move |out| {
            let mut reader = Payload::new(WholeFile::new(file)?).reader();
            io::copy(&mut reader, out)?;
            Ok(facts)
        });
        let outcome = self
            .store
            .put_opts(entry, payload, crate::store::PutOptions::default())
            .await
            .map_err(CacheError::from_put)?;
        Ok(match outcome {
            PutOutcome::Exists(existing) => Saved::Exists(existing),
            PutOutcome::Stored(metadata) => Saved::Stored(super::SaveReport {
                stored_bytes: metadata.packed_size,
                metadata,
                content_bytes: 0,
                skipped: Vec::new(),
                time: started.elapsed(),
            }),
        })
    }

    /// Copies an entry's payload to a file, checked against its digest. The file appears whole or
    /// not at all, and replaces what was there. A chunked entry is made an ordinary archive, in the
    /// default codec. `None` when there is no such entry.
    ///
    /// # Errors
    /// The entry is damaged, the file cannot be written, or the store failed.
    pub async fn export(
        &self,
        key: &CacheKey,
        file: impl Into<PathBuf> + Send,
    ) -> Result<Option<EntryMetadata>, CacheError> {
        let path: PathBuf = file.into();
        let look = || {
            let options = GetOptions::default().with_record_use(RecordUse::No);
            self.store.get_opts(key, options)
        };
        let Some(entry) = look().await? else {
            return Ok(None);
        };
        #[cfg(feature = "chunked")]
        let mut entry = entry;
        #[cfg(feature = "chunked")]
        while entry.metadata.codec == Codec::Chunked {
            let metadata = entry.metadata.clone();
            if crate::chunked::export(self, entry, &path).await? {
                return Ok(Some(metadata));
            }
            // Another one may be there by now.
            match look().await? {
                Some(now) if !now.metadata.is_same(&metadata) => entry = now,
                _ => return Ok(None),
            }
        }
        run_blocking(move |_| {
            copy_out(&entry.payload, entry.metadata.digest, &path)?;
            Ok(Some(entry.metadata))
        })
        .await
    }
}

fn look_at(path: &Path) -> Result<(File, EntryFacts), CacheError> {
    let fail = |action| {
        move |source| CacheError::File {
            action,
            path: path.to_path_buf(),
            source,
        }
    };
    let file = File::open(path).map_err(fail("open"))?;
    let mut first = Vec::new();
    (&file)
        .take(512)
        .read_to_end(&mut first)
        .map_err(fail("read"))?;
    let codec = detect_codec(&first)?;
    let payload = Payload::new(
        file.try_clone()
            .and_then(WholeFile::new)
            .map_err(fail("read"))?,
    );
    let index = index_digest_of(codec, &payload).map_err(fail("read"))?;
    Ok((file, EntryFacts::opaque(codec).with_index_digest(index)))
}

fn copy_out(payload: &Payload, wanted: Sha256Digest, path: &Path) -> Result<(), CacheError> {
    let fail = |action| {
        move |source| CacheError::File {
            action,
            path: path.to_path_buf(),
            source,
        }
    };
    let folder = StagingFolder::beside_file(path).map_err(fail("create"))?;
    let part = folder.path().join("archive");
    let mut out = File::create_new(&part).map_err(fail("create"))?;
    let mut hasher = Sha256::new();
    let mut reader = payload.reader();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let read = reader
            .read(&mut buffer)
            .map_err(|error| CacheError::Archive(ArchiveError::Payload(error)))?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        out.write_all(&buffer[..read]).map_err(fail("write"))?;
    }
    let actual = Sha256Digest::from_bytes(hasher.finalize().into());
    if actual != wanted {
        return Err(CacheError::Archive(ArchiveError::Damaged {
            what: format!("the payload's SHA-256 is {actual}, not {wanted}"),
        }));
    }
    out.sync_all().map_err(fail("sync"))?;
    std::fs::rename(&part, path).map_err(fail("write"))
}

#[derive(Debug)]
struct WholeFile {
    file: File,
    length: u64,
}

impl WholeFile {
    fn new(file: File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        Ok(Self { file, length })
    }
}

impl PayloadBytes for WholeFile {
    fn len(&self) -> u64 {
        self.length
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.file.read_at(buffer, position)
    }
}
