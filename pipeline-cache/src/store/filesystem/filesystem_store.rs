use std::fmt;
use std::fs::{File, FileTimes, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use async_trait::async_trait;
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::layout::{FileKind, Layout, classify, is_at};
use crate::key::CacheKey;
use crate::store::entry_metadata::MAX_DOCUMENT;
use crate::store::payload::PayloadBytes;
use crate::store::{
    CacheStore, DeleteOutcome, EntryMetadata, GetOptions, MetadataError, NewEntry, Payload,
    ProducePayload, PutOptions, PutOutcome, RecordUse, StoreError, StoreErrorKind, StoredEntry,
    run_blocking,
};

/// How sure a stored entry must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// Files and folders are synced before an entry is said to be stored: it survives a power cut.
    #[default]
    Synced,
    /// Left to the system: faster on slow disks. After a power cut an entry may be gone or
    /// damaged; damage is still found before it is restored.
    Unsynced,
}

/// A folder as store: safe for many processes at once, and for readers without write access.
///
/// Payloads are ordinary `.tar.zst`, `.tar.gz` or `.tar` files with a JSON description beside
/// them. Nothing is created before the first write.
///
/// The last use of an entry is the modification time of its description, so a use can be noted
/// without writing a file anew.
#[derive(Clone, Debug)]
pub struct FilesystemStore {
    pub(super) layout: Layout,
    pub(super) durability: Durability,
}

impl FilesystemStore {
    /// A store in a folder, which need not exist yet.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            layout: Layout {
                root: folder.into(),
            },
            durability: Durability::default(),
        }
    }

    /// Sets how sure a stored entry must be. Default: [`Durability::Synced`].
    #[must_use]
    pub fn with_durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.layout.root
    }

    /// Path of an entry's payload, an ordinary archive.
    #[must_use]
    pub fn payload_path(&self, entry: &EntryMetadata) -> Option<PathBuf> {
        self.layout.payload(&entry.key, &entry.payload)
    }

    pub(super) fn error(
        action: &'static str,
        path: &Path,
        key: Option<&CacheKey>,
        source: io::Error,
    ) -> StoreError {
        StoreError::io(action, path.to_string_lossy(), key, source)
    }

    /// Reads a key's description; the outer error is the medium's, the inner one the content's.
    pub(super) fn describe(
        &self,
        key: &CacheKey,
    ) -> Result<Option<Result<EntryMetadata, MetadataError>>, StoreError> {
        let path = self.layout.description(key);
        Ok(read_description(&path)?.map(|described| {
            described.and_then(|metadata| {
                if metadata.key == *key {
                    Ok(metadata)
                } else {
                    Err(MetadataError::OtherKey {
                        found: metadata.key,
                    })
                }
            })
        }))
    }

    fn get(&self, key: &CacheKey, options: &GetOptions) -> Result<Option<StoredEntry>, StoreError> {
        // An eviction or replacement may take the payload away between reading the description
        // and opening it; then the description says something else by now.
        let mut before = None;
        loop {
            let metadata = match self.describe(key)? {
                None => return Ok(None),
                Some(Ok(metadata)) => metadata,
                Some(Err(source)) => {
                    return Err(StoreError::DamagedMetadata {
                        key: key.clone(),
                        source,
                    });
                }
            };
            if let Some(payload) = self.lease(&metadata)? {
                if options.record_use == RecordUse::Yes {
                    self.touch(key);
                }
                return Ok(Some(StoredEntry::new(metadata, payload)));
            }
            if before.as_deref() == Some(metadata.payload.as_str()) {
                return Ok(None);
            }
            before = Some(metadata.payload);
        }
    }

    /// Opens a payload under a shared lock. `None` when it is gone.
    pub(super) fn lease(&self, metadata: &EntryMetadata) -> Result<Option<Payload>, StoreError> {
        let Some(path) = self.payload_path(metadata) else {
            return Ok(None);
        };
        let file = match open_no_follow(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Self::error("open", &path, Some(&metadata.key), error)),
        };
        let fail = |action, error| Self::error(action, &path, Some(&metadata.key), error);
        file.lock_shared().map_err(|error| fail("lock", error))?;
        if !is_at(&file, &path).map_err(|error| fail("look at", error))? {
            return Ok(None);
        }
        let length = file
            .metadata()
            .map_err(|error| fail("look at", error))?
            .len();
        Ok(Some(Payload::new(LeasedFile { file, length })))
    }

    /// Notes a use. A store that cannot be written is no reason to fail a read.
    fn touch(&self, key: &CacheKey) {
        if let Ok(file) = File::open(self.layout.description(key)) {
            let _ = file.set_times(FileTimes::new().set_modified(SystemTime::now()));
        }
    }

    /// Entries by prefix. A description that cannot be read says nothing about the others; but
    /// nothing is not found for its sake.
    fn list_readable(&self, prefix: &str) -> Result<Vec<EntryMetadata>, StoreError> {
        let mut unreadable = None;
        let found = self.list_with(prefix, |error| {
            // Another user's is of no use here; whoever asks for its key is told.
            if error.kind() != StoreErrorKind::Permission {
                unreadable = Some(error);
            }
            Ok(())
        })?;
        match unreadable {
            Some(error) if found.is_empty() => Err(error),
            _ => Ok(found),
        }
    }

    /// Entries by prefix, sorted; `unreadable` decides about descriptions that cannot be read.
    fn list_with(
        &self,
        prefix: &str,
        mut unreadable: impl FnMut(StoreError) -> Result<(), StoreError>,
    ) -> Result<Vec<EntryMetadata>, StoreError> {
        let mut found = Vec::new();
        for name in self.entry_names()? {
            if !matches!(classify(&name), FileKind::Description { .. }) {
                continue;
            }
            let path = self.layout.entries().join(&name);
            match read_description(&path) {
                Ok(Some(Ok(metadata)))
                    if metadata.key.as_str().starts_with(prefix)
                        && self.layout.description(&metadata.key) == path =>
                {
                    found.push(metadata);
                }
                Ok(_) => {}
                Err(error) => unreadable(error)?,
            }
        }
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    /// Names in `entries/`; none when there is no store yet.
    pub(super) fn entry_names(&self) -> Result<Vec<String>, StoreError> {
        let folder = self.layout.entries();
        let fail = |error| Self::error("list", &folder, None, error);
        let listing = match std::fs::read_dir(&folder) {
            Ok(listing) => listing,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(fail(error)),
        };
        let mut names = Vec::new();
        for item in listing {
            if let Ok(name) = item.map_err(fail)?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Removes an entry; with `payload`, only if it still has this one.
    pub(super) fn remove(
        &self,
        key: &CacheKey,
        payload: Option<&str>,
    ) -> Result<DeleteOutcome, StoreError> {
        let path = self.layout.description(key);
        let metadata = match self.describe(key)? {
            None => return Ok(DeleteOutcome::Absent),
            Some(Err(_)) if payload.is_some() => return Ok(DeleteOutcome::Absent),
            Some(Err(_)) => {
                // Nobody can be reading what cannot be found through its description.
                let outcome = self.remove_description(&path)?;
                self.sweep_now()?;
                return Ok(outcome);
            }
            Some(Ok(metadata)) if payload.is_some_and(|payload| payload != metadata.payload) => {
                return Ok(DeleteOutcome::Absent);
            }
            Some(Ok(metadata)) => metadata,
        };
        let payload = self.payload_path(&metadata);
        let held = match &payload {
            None => None,
            Some(payload) => match open_no_follow(payload) {
                Ok(file) => match file.try_lock() {
                    Ok(()) => Some(file),
                    Err(std::fs::TryLockError::WouldBlock) => return Ok(DeleteOutcome::Leased),
                    Err(std::fs::TryLockError::Error(error)) => {
                        return Err(Self::error("lock", payload, Some(key), error));
                    }
                },
                // Nobody can be reading what cannot be opened.
                Err(error) if error.kind() == io::ErrorKind::NotFound || is_rotten(&error) => None,
                Err(error) => return Err(Self::error("open", payload, Some(key), error)),
            },
        };
        let _replacing = self.lock_replacing(Some(key))?;
        // Another process may have replaced the entry meanwhile: that one is not ours to remove.
        match self.describe(key)? {
            Some(Ok(now)) if now.payload == metadata.payload => {}
            Some(_) => return Ok(DeleteOutcome::Leased),
            None => return Ok(DeleteOutcome::Absent),
        }
        // The description goes first: from here on there is no entry, whatever happens.
        let gone = remove_if_there(&path).map_err(|e| Self::error("remove", &path, None, e))?;
        // Durably so, or a power cut could leave a description without its payload.
        self.sync_entries(None)?;
        if let Some(payload) = &payload {
            remove_if_there(payload).map_err(|e| Self::error("remove", payload, None, e))?;
        }
        let quarantine = self.layout.quarantine(key);
        remove_if_there(&quarantine).map_err(|e| Self::error("remove", &quarantine, None, e))?;
        drop(held);
        Ok(if gone {
            DeleteOutcome::Deleted
        } else {
            DeleteOutcome::Absent
        })
    }

    /// Held while an entry is replaced or removed, so that two of them cannot cross.
    pub(super) fn lock_replacing(&self, key: Option<&CacheKey>) -> Result<File, StoreError> {
        let path = self.layout.lock();
        let open = || {
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)?;
            file.lock()?;
            Ok(file)
        };
        open().map_err(|error| Self::error("lock", &path, key, error))
    }

    pub(super) fn sync_entries(&self, key: Option<&CacheKey>) -> Result<(), StoreError> {
        self.sync_folder(&self.layout.entries(), key)
    }

    /// Makes the names in a folder durable, unless that is not wanted.
    pub(super) fn sync_folder(
        &self,
        folder: &Path,
        key: Option<&CacheKey>,
    ) -> Result<(), StoreError> {
        if self.durability == Durability::Unsynced {
            return Ok(());
        }
        File::open(folder)
            .and_then(|open| open.sync_all())
            .map_err(|error| Self::error("sync", folder, key, error))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.clone();
        run_blocking(move |_| work(&store)).await
    }

    /// Removes what killed writers left behind; every put does the same on its way.
    ///
    /// # Errors
    /// The folder cannot be read or written.
    pub async fn sweep(&self) -> Result<super::SweepReport, StoreError> {
        self.blocking(Self::sweep_now).await
    }

    /// Removes what [`verify`](Self::verify) finds and what [`sweep`](Self::sweep) removes. What is
    /// sound stays as it is; an entry that somebody reads stays too, and is in the report.
    ///
    /// # Errors
    /// The folder cannot be read or written. What was removed until then stays removed.
    pub async fn repair(&self) -> Result<super::RepairReport, StoreError> {
        self.blocking(Self::repair_now).await
    }

    /// Checks every entry, or those of one key, byte by byte against description and digest.
    ///
    /// # Errors
    /// The folder cannot be read. What is wrong with entries is the answer.
    pub async fn verify(&self, key: Option<&CacheKey>) -> Result<Vec<super::Finding>, StoreError> {
        let key = key.cloned();
        self.blocking(move |store| store.verify_now(key.as_ref()))
            .await
    }
}

#[async_trait]
impl CacheStore for FilesystemStore {
    async fn get_opts(
        &self,
        key: &CacheKey,
        options: GetOptions,
    ) -> Result<Option<StoredEntry>, StoreError> {
        let key = key.clone();
        self.blocking(move |store| store.get(&key, &options)).await
    }

    async fn put_opts(
        &self,
        entry: NewEntry,
        payload: Box<dyn ProducePayload>,
        options: PutOptions,
    ) -> Result<PutOutcome, StoreError> {
        let store = self.clone();
        run_blocking(move |abandoned| store.publish(entry, payload, &options, abandoned)).await
    }

    async fn head(&self, key: &CacheKey) -> Result<Option<EntryMetadata>, StoreError> {
        let key = key.clone();
        self.blocking(move |store| store.servable(&key)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<EntryMetadata>, StoreError> {
        let prefix = prefix.to_owned();
        self.blocking(move |store| store.list_readable(&prefix))
            .await
    }

    async fn list_everything(&self) -> Result<Vec<EntryMetadata>, StoreError> {
        self.blocking(|store| store.list_with("", Err)).await
    }

    async fn delete(&self, key: &CacheKey) -> Result<DeleteOutcome, StoreError> {
        let key = key.clone();
        self.blocking(move |store| store.remove(&key, None)).await
    }

    async fn delete_entry(&self, entry: &EntryMetadata) -> Result<DeleteOutcome, StoreError> {
        let entry = entry.clone();
        self.blocking(move |store| match store.describe(&entry.key)? {
            Some(Ok(now)) if now.is_same(&entry) => store.remove(&entry.key, Some(&now.payload)),
            _ => Ok(DeleteOutcome::Absent),
        })
        .await
    }

    async fn quarantine(&self, entry: &EntryMetadata, reason: &str) -> Result<(), StoreError> {
        let (entry, reason) = (entry.clone(), reason.to_owned());
        self.blocking(move |store| store.mark(&entry, &reason))
            .await
    }
}

/// `filesystem(FOLDER)`.
impl fmt::Display for FilesystemStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "filesystem({})", self.layout.root.display())
    }
}

/// A payload file under a shared lock, which ends when the file is closed.
#[derive(Debug)]
struct LeasedFile {
    file: File,
    length: u64,
}

impl PayloadBytes for LeasedFile {
    fn len(&self) -> u64 {
        self.length
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.file.read_at(buffer, position)
    }
}

/// Opens a file of the store. A link, folder or pipe counts as not there: it is neither followed
/// nor waited for, and one thing that does not belong here spoils nothing else.
pub(super) fn open_no_follow(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path);
    let not_there = || Err(io::ErrorKind::NotFound.into());
    match opened {
        Ok(file) if file.metadata()?.is_file() => Ok(file),
        Ok(_) => not_there(),
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => not_there(),
        // A socket.
        Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => not_there(),
        Err(error) => Err(error),
    }
}

/// Whether the medium cannot read what is there.
pub(super) fn is_rotten(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::IO.raw_os_error())
}

pub(super) fn read_description(
    path: &Path,
) -> Result<Option<Result<EntryMetadata, MetadataError>>, StoreError> {
    let fail = |error| FilesystemStore::error("read", path, None, error);
    let file = match open_no_follow(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    let used = file
        .metadata()
        .and_then(|meta| meta.modified())
        .map_err(fail)?;
    let mut bytes = Vec::new();
    file.take(MAX_DOCUMENT)
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    Ok(Some(EntryMetadata::from_document(&bytes).map(
        |mut metadata| {
            metadata.last_used = Some(used);
            metadata
        },
    )))
}

pub(super) fn remove_if_there(path: &Path) -> io::Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
