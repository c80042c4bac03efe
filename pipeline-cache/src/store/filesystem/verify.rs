use std::fmt;
use std::io;
use std::path::PathBuf;

use super::FilesystemStore;
use super::filesystem_store::{is_rotten, open_no_follow, read_description};
use super::layout::{FileKind, classify};
use super::publish::digest_of;
use crate::key::CacheKey;
use crate::store::{EntryMetadata, MetadataError, Sha256Digest, StoreError};

/// Something wrong with an entry, found by [`FilesystemStore::verify`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Finding {
    /// The description cannot be used.
    Description {
        /// File in the store.
        file: String,
        /// What is wrong.
        error: MetadataError,
    },
    /// The medium cannot read a file of it.
    Unreadable {
        /// The entry's key, where that can be read, else the file in the store.
        what: String,
        /// What the medium says.
        error: io::Error,
    },
    /// The payload is gone.
    PayloadMissing {
        /// The entry.
        key: CacheKey,
    },
    /// The payload has another length.
    Length {
        /// The entry.
        key: CacheKey,
        /// Bytes described.
        expected: u64,
        /// Bytes found.
        actual: u64,
    },
    /// The payload's bytes are not the ones stored.
    Digest {
        /// The entry.
        key: CacheKey,
        /// Digest described.
        expected: Sha256Digest,
        /// Digest of the bytes found.
        actual: Sha256Digest,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Description { file, error } => write!(f, "{file}: damaged: {error}"),
            Self::Unreadable { what, error } => write!(f, "{what}: cannot be read: {error}"),
            Self::PayloadMissing { key } => write!(f, "{key}: damaged: the payload is gone"),
            Self::Length {
                key,
                expected,
                actual,
            } => write!(
                f,
                "{key}: damaged: the payload has {actual} bytes, not {expected}"
            ),
            Self::Digest {
                key,
                expected,
                actual,
            } => write!(
                f,
                "{key}: damaged: the payload's SHA-256 is {actual}, not {expected}"
            ),
        }
    }
}

/// A finding, and where it is.
pub(super) struct Damaged {
    pub(super) finding: Finding,
    pub(super) description: PathBuf,
    /// What the description says, where it can be used.
    pub(super) entry: Option<EntryMetadata>,
}

impl FilesystemStore {
    pub(super) fn verify_now(&self, key: Option<&CacheKey>) -> Result<Vec<Finding>, StoreError> {
        let mut findings = Vec::new();
        if let Some(key) = key {
            match self.describe(key)? {
                None => {}
                Some(Ok(metadata)) => findings.extend(self.check(&metadata)?),
                Some(Err(error)) => findings.push(Finding::Description {
                    file: key.to_string(),
                    error,
                }),
            }
            return Ok(findings);
        }
        let damaged = self.damaged()?;
        findings.extend(damaged.into_iter().map(|damaged| damaged.finding));
        Ok(findings)
    }

    /// Everything that is wrong, with the descriptions it is about.
    pub(super) fn damaged(&self) -> Result<Vec<Damaged>, StoreError> {
        let mut damaged = Vec::new();
        let mut names = self.entry_names()?;
        names.sort_unstable();
        for name in names {
            if !matches!(classify(&name), FileKind::Description { .. }) {
                continue;
            }
            let path = self.layout.entries().join(&name);
            let described = match read_description(&path) {
                Ok(described) => described,
                Err(StoreError::Io { source, .. }) if is_rotten(&source) => {
                    let finding = Finding::Unreadable {
                        what: name,
                        error: source,
                    };
                    damaged.push(Damaged {
                        finding,
                        description: path,
                        entry: None,
                    });
                    continue;
                }
                Err(error) => return Err(error),
            };
            let (finding, entry) = match described {
                None => continue,
                Some(Err(error)) => (Finding::Description { file: name, error }, None),
                Some(Ok(metadata)) if self.layout.description(&metadata.key) != path => {
                    let found = metadata.key;
                    let error = MetadataError::OtherKey { found };
                    (Finding::Description { file: name, error }, None)
                }
                Some(Ok(metadata)) => match self.check(&metadata)? {
                    None => continue,
                    Some(finding) => (finding, Some(metadata)),
                },
            };
            damaged.push(Damaged {
                finding,
                description: path,
                entry,
            });
        }
        Ok(damaged)
    }

    fn check(&self, metadata: &EntryMetadata) -> Result<Option<Finding>, StoreError> {
        match self.check_payload(metadata) {
            Err(StoreError::Io { source, .. }) if is_rotten(&source) => {
                Ok(Some(Finding::Unreadable {
                    what: metadata.key.to_string(),
                    error: source,
                }))
            }
            other => other,
        }
    }

    fn check_payload(&self, metadata: &EntryMetadata) -> Result<Option<Finding>, StoreError> {
        let key = metadata.key.clone();
        let Some(path) = self.payload_path(metadata) else {
            return Ok(Some(Finding::PayloadMissing { key }));
        };
        let fail = |error| Self::error("read", &path, Some(&metadata.key), error);
        let file = match open_no_follow(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Gone together with its description is an eviction, not damage.
                let still = matches!(self.describe(&key)?, Some(Ok(now)) if now.payload == metadata.payload);
                return Ok(still.then_some(Finding::PayloadMissing { key }));
            }
            Err(error) => return Err(fail(error)),
        };
        let actual = file.metadata().map_err(fail)?.len();
        if actual != metadata.packed_size {
            return Ok(Some(Finding::Length {
                key,
                expected: metadata.packed_size,
                actual,
            }));
        }
        let actual = digest_of(&file).map_err(fail)?;
        Ok((actual != metadata.digest).then_some(Finding::Digest {
            key,
            expected: metadata.digest,
            actual,
        }))
    }
}
