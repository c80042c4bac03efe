use std::fs::{File, FileTimes, OpenOptions};
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};

use super::filesystem_store::{open_no_follow, remove_if_there};
use super::layout::{is_at, payload_name, unique};
use super::{Durability, FilesystemStore};
use crate::files::copy_with_digest;
use crate::key::CacheKey;
use crate::store::blocking::{AbandonableWriter, Abandoned};
use crate::store::{
    EntryMetadata, IfExists, NewEntry, ProducePayload, PutOptions, PutOutcome, Sha256Digest,
    StoreError,
};

impl FilesystemStore {
    /// Stores an entry; see the module's page for the order of things.
    pub(super) fn publish(
        &self,
        entry: NewEntry,
        payload: Box<dyn ProducePayload>,
        options: &PutOptions,
        abandoned: &Abandoned,
    ) -> Result<PutOutcome, StoreError> {
        let key = entry.key.key().clone();
        if options.if_exists == IfExists::Keep
            && let Some(existing) = self.servable(&key)?
        {
            return Ok(PutOutcome::Exists(existing));
        }
        self.make_folders(&key)?;
        // What others left behind and cannot be removed is no reason not to save.
        let _ = self.sweep_now();
        let written = self.write_payload(entry, payload, abandoned)?;
        if abandoned.is_set() {
            return Err(StoreError::Cancelled);
        }
        self.make_visible(written, options)
    }

    /// Makes the folders of the store, and makes them durable: an entry is only as durable as the
    /// way to it.
    fn make_folders(&self, key: &CacheKey) -> Result<(), StoreError> {
        let root = self.layout.root.as_path();
        let is_new = |folder: &&Path| !folder.as_os_str().is_empty() && !folder.is_dir();
        let above: Vec<PathBuf> = root
            .ancestors()
            .take_while(is_new)
            .filter_map(Path::parent)
            .map(|parent| Path::new(".").join(parent))
            .collect();
        for folder in [self.layout.entries(), self.layout.temporary()] {
            std::fs::create_dir_all(&folder)
                .map_err(|error| Self::error("create", &folder, Some(key), error))?;
        }
        // The root always: whoever made what is in it may have been killed before this.
        self.sync_folder(root, Some(key))?;
        above
            .iter()
            .try_for_each(|folder| self.sync_folder(folder, Some(key)))
    }

    fn write_payload(
        &self,
        entry: NewEntry,
        payload: Box<dyn ProducePayload>,
        abandoned: &Abandoned,
    ) -> Result<Written, StoreError> {
        let key = entry.key.key().clone();
        let mut temporary = Temporary::create(&self.layout.temporary(), &key)?;
        let mut out = AbandonableWriter::new(
            HashingWriter {
                file: &temporary.file,
                hasher: Sha256::new(),
                length: 0,
                failure: None,
            },
            abandoned,
        );
        let produced = payload.produce(&mut out);
        let HashingWriter {
            hasher,
            length,
            failure,
            ..
        } = out.into_inner();
        let facts = match (produced, failure) {
            _ if abandoned.is_set() => return Err(StoreError::Cancelled),
            // The store's own trouble comes first: a producer can only say that writing failed.
            (_, Some(error)) => {
                return Err(Self::error("write", &temporary.path, Some(&key), error));
            }
            (Ok(facts), None) => facts,
            (Err(source), None) => return Err(StoreError::Produce { key, source }),
        };
        let digest = Sha256Digest::from_bytes(hasher.finalize().into());
        let name = payload_name(&key, facts.codec);
        let metadata = entry.complete(&facts, name, length, digest);

        let fail = |action, path: &Path, error| Self::error(action, path, Some(&key), error);
        // An untouched payload carries its entry's time, which makes later checks cheap.
        temporary
            .file
            .set_times(FileTimes::new().set_modified(payload_time(metadata.created)))
            .map_err(|error| fail("set the time of", &temporary.path, error))?;
        if self.durability == Durability::Synced {
            temporary
                .file
                .sync_all()
                .map_err(|error| fail("sync", &temporary.path, error))?;
        }
        let place = self.layout.entries().join(&metadata.payload);
        std::fs::rename(&temporary.path, &place)
            .map_err(|error| fail("move", &temporary.path, error))?;
        temporary.path = place;
        Ok(Written {
            payload: temporary,
            metadata,
        })
    }

    fn make_visible(
        &self,
        written: Written,
        options: &PutOptions,
    ) -> Result<PutOutcome, StoreError> {
        let Written {
            mut payload,
            metadata,
        } = written;
        let key = metadata.key.clone();
        let fail = |action, path: &Path, error| Self::error(action, path, Some(&key), error);
        let document = StoreError::of_metadata(&key, metadata.to_document())?;
        let mut temporary = Temporary::create(&self.layout.temporary(), &key)?;
        temporary
            .file
            .write_all(&document)
            .map_err(|error| fail("write", &temporary.path, error))?;
        if self.durability == Durability::Synced {
            temporary
                .file
                .sync_all()
                .map_err(|error| fail("sync", &temporary.path, error))?;
        }
        // The payload's name must be durable before the description that points at it.
        self.sync_entries(Some(&key))?;

        let place = self.layout.description(&key);
        if options.if_exists == IfExists::Keep
            && publish_new(&temporary.path, &place)
                .map_err(|error| fail("publish", &place, error))?
        {
            payload.keep = true;
            self.sync_entries(Some(&key))?;
            return Ok(PutOutcome::Stored(metadata));
        }
        // Taken: by another writer, who wins, or by something damaged, which is replaced.
        let _replacing = self.lock_replacing(Some(&key))?;
        if options.if_exists == IfExists::Keep
            && let Some(existing) = self.servable(&key)?
        {
            return Ok(PutOutcome::Exists(existing));
        }
        let before = self.describe(&key)?.and_then(Result::ok);
        std::fs::rename(&temporary.path, &place).map_err(|error| fail("publish", &place, error))?;
        temporary.keep = true;
        payload.keep = true;
        self.sync_entries(Some(&key))?;
        if let Some(before) = before {
            self.discard_payload(&before);
        }
        let _ = remove_if_there(&self.layout.quarantine(&key));
        Ok(PutOutcome::Stored(metadata))
    }

    /// Removes a payload that no description names any more, unless it is being read; then a
    /// later sweep does.
    fn discard_payload(&self, before: &EntryMetadata) {
        if let Some(path) = self.payload_path(before)
            && let Ok(file) = open_no_follow(&path)
            && file.try_lock().is_ok()
        {
            let _ = remove_if_there(&path);
        }
    }

    /// The entry of a key if it can be served as far as that can be told quickly: description
    /// sound, not quarantined, payload there with the right length. A payload that was touched
    /// since it was stored is read in full.
    pub(super) fn servable(&self, key: &CacheKey) -> Result<Option<EntryMetadata>, StoreError> {
        let Some(Ok(metadata)) = self.describe(key)? else {
            return Ok(None);
        };
        let Some(path) = self.payload_path(&metadata) else {
            return Ok(None);
        };
        if self.is_quarantined(&metadata)? {
            return Ok(None);
        }
        let fail = |error| Self::error("read", &path, Some(key), error);
        let file = match open_no_follow(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fail(error)),
        };
        let stat = file.metadata().map_err(fail)?;
        if stat.len() != metadata.packed_size {
            return Ok(None);
        }
        let modified = stat.modified().map_err(fail)?;
        if modified != payload_time(metadata.created)
            && modified != metadata.created
            && digest_of(&file).map_err(fail)? != metadata.digest
        {
            return Ok(None);
        }
        Ok(Some(metadata))
    }

    fn is_quarantined(&self, metadata: &EntryMetadata) -> Result<bool, StoreError> {
        let path = self.layout.quarantine(&metadata.key);
        match open_no_follow(&path) {
            Ok(file) => {
                // Not synced and not sealed: whatever else it says says nothing.
                let mut text = Vec::new();
                file.take(4096)
                    .read_to_end(&mut text)
                    .map_err(|error| Self::error("read", &path, None, error))?;
                let first = text.split(|&byte| byte == b'\n').next();
                Ok(first == Some(metadata.payload.as_bytes()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Self::error("read", &path, None, error)),
        }
    }

    pub(super) fn mark(&self, entry: &EntryMetadata, reason: &str) -> Result<(), StoreError> {
        let key = &entry.key;
        let _replacing = self.lock_replacing(Some(key))?;
        match self.describe(key)? {
            Some(Ok(now)) if now.payload == entry.payload => {}
            _ => return Ok(()),
        }
        let path = self.layout.quarantine(key);
        let reason: String = reason.chars().take(512).collect();
        let mut temporary = Temporary::create(&self.layout.temporary(), key)?;
        writeln!(temporary.file, "{}\n{reason}", entry.payload)
            .and_then(|()| std::fs::rename(&temporary.path, &path))
            .map_err(|error| Self::error("write", &path, Some(key), error))?;
        temporary.keep = true;
        Ok(())
    }
}

/// The time that an untouched payload carries: its entry's, as coarse as any file system keeps
/// times, or every check of it would read it in full there.
fn payload_time(created: SystemTime) -> SystemTime {
    match created.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs() / 2 * 2),
        Err(_) => created,
    }
}

/// Gives a file a name that must be free. `false` when it is taken.
fn publish_new(from: &Path, to: &Path) -> io::Result<bool> {
    match std::fs::hard_link(from, to) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => rename_new(from, to, error),
    }
}

/// For file systems without hard links.
#[cfg(target_os = "linux")]
fn rename_new(from: &Path, to: &Path, _refused: io::Error) -> io::Result<bool> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::EXIST) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn rename_new(_from: &Path, _to: &Path, refused: io::Error) -> io::Result<bool> {
    Err(refused)
}

pub(in crate::store) fn digest_of(mut file: &File) -> io::Result<Sha256Digest> {
    let (_, digest) = copy_with_digest(&mut file, &mut io::sink())?;
    Ok(digest)
}

struct Written {
    payload: Temporary,
    metadata: EntryMetadata,
}

/// A file being written, under an exclusive lock; removed again unless it is kept.
struct Temporary {
    path: PathBuf,
    file: File,
    keep: bool,
}

impl Temporary {
    fn create(folder: &Path, key: &CacheKey) -> Result<Self, StoreError> {
        loop {
            let path = folder.join(unique());
            let fail = |error| FilesystemStore::error("create", &path, Some(key), error);
            let file = OpenOptions::new()
                .write(true)
                .read(true)
                .create_new(true)
                .open(&path)
                .map_err(fail)?;
            file.lock().map_err(fail)?;
            // A sweep may have taken the file in the moment before it was locked.
            if is_at(&file, &path).map_err(fail)? {
                return Ok(Self {
                    path,
                    file,
                    keep: false,
                });
            }
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.keep {
            let _ = remove_if_there(&self.path);
        }
    }
}

/// Hashes what passes through, and remembers the store's own failure.
struct HashingWriter<'a> {
    file: &'a File,
    hasher: Sha256,
    length: u64,
    failure: Option<io::Error>,
}

impl Write for HashingWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.file.write(bytes) {
            Ok(written) => {
                self.hasher.update(&bytes[..written]);
                self.length += written as u64;
                Ok(written)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let copy = match error.raw_os_error() {
                    Some(code) => io::Error::from_raw_os_error(code),
                    None => io::Error::from(error.kind()),
                };
                self.failure = Some(error);
                Err(copy)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
