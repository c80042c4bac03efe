use std::error::Error;
use std::io;

use thiserror::Error;

use super::{MetadataError, ProduceError, Sha256Digest};
use crate::key::CacheKey;

/// Why a store could not do what was asked. A missing entry is an answer, not an error.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A file of the store could not be used.
    #[error("cannot {action} {name:?} in the store")]
    Io {
        /// What was being done, for example `create`.
        action: &'static str,
        /// File or object.
        name: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The medium is full; everything written for this entry was removed again.
    #[error("no space left in the store while writing {key}; evict entries or give it more room")]
    NoSpace {
        /// The entry.
        key: CacheKey,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The description of an entry is damaged.
    #[error("{key}: damaged description; saving under this key replaces it")]
    DamagedMetadata {
        /// The key asked for.
        key: CacheKey,
        /// What is wrong.
        #[source]
        source: MetadataError,
    },
    /// The bytes of an entry are not the ones that were stored.
    #[error(
        "{key}: damaged payload, its SHA-256 is {actual}, not {expected}; saving under this key replaces it"
    )]
    DamagedPayload {
        /// The key asked for.
        key: CacheKey,
        /// Digest described.
        expected: Sha256Digest,
        /// Digest of the bytes found.
        actual: Sha256Digest,
    },
    /// Nobody who is trusted vouches for the entry.
    #[error("{key}: not trusted; saving under this key with a trusted signature replaces it")]
    Untrusted {
        /// The key asked for.
        key: CacheKey,
        /// What is wrong with its signature.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The description could not be written.
    #[error("{key}: cannot describe the entry")]
    Metadata {
        /// The entry.
        key: CacheKey,
        /// What is wrong.
        #[source]
        source: MetadataError,
    },
    /// The producer of the payload failed; nothing was stored.
    #[error("{key}: the payload could not be made, nothing was stored")]
    Produce {
        /// The entry.
        key: CacheKey,
        /// What the producer said.
        #[source]
        source: ProduceError,
    },
    /// The store does not take writes.
    #[error("{key}: the store is read-only")]
    ReadOnly {
        /// The entry.
        key: CacheKey,
    },
    /// A remote store cannot be reached or answered with a failure.
    #[error("{key}: the store is unavailable")]
    Unavailable {
        /// The entry, or the prefix that was listed.
        key: String,
        /// What it said.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The work was given up because nobody waits for it any more.
    #[error("the store operation was cancelled")]
    Cancelled,
}

/// What sort of trouble a [`StoreError`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// The medium failed.
    Io,
    /// No right to do this, or the store is read-only.
    Permission,
    /// The medium is full.
    NoSpace,
    /// What is stored is damaged.
    Damaged,
    /// What is stored is vouched for by nobody who is trusted.
    Untrusted,
    /// The producer failed, not the store.
    Produce,
    /// A remote side is not there.
    Unavailable,
    /// Given up by the caller.
    Cancelled,
}

impl StoreError {
    /// A description as it is stored, of the entry with this key.
    pub(super) fn of_metadata(
        key: &CacheKey,
        document: Result<Vec<u8>, MetadataError>,
    ) -> Result<Vec<u8>, Self> {
        document.map_err(|source| Self::Metadata {
            key: key.clone(),
            source,
        })
    }

    /// An error of the medium, with `NoSpace` told apart.
    #[must_use]
    pub fn io(
        action: &'static str,
        name: impl Into<String>,
        key: Option<&CacheKey>,
        source: io::Error,
    ) -> Self {
        match (key, is_full(&source)) {
            (Some(key), true) => Self::NoSpace {
                key: key.clone(),
                source,
            },
            _ => Self::Io {
                action,
                name: name.into(),
                source,
            },
        }
    }

    /// What sort of trouble this is.
    #[must_use]
    pub fn kind(&self) -> StoreErrorKind {
        match self {
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    StoreErrorKind::Permission
                }
                _ if is_full(source) => StoreErrorKind::NoSpace,
                _ => StoreErrorKind::Io,
            },
            Self::NoSpace { .. } => StoreErrorKind::NoSpace,
            Self::DamagedMetadata { .. } | Self::DamagedPayload { .. } => StoreErrorKind::Damaged,
            Self::Untrusted { .. } => StoreErrorKind::Untrusted,
            Self::Metadata { .. } | Self::Produce { .. } => StoreErrorKind::Produce,
            Self::ReadOnly { .. } => StoreErrorKind::Permission,
            Self::Unavailable { .. } => StoreErrorKind::Unavailable,
            Self::Cancelled => StoreErrorKind::Cancelled,
        }
    }

    /// Whether this is an answer about the entry, not a failure of the store.
    pub(crate) fn is_entrys_fault(&self) -> bool {
        matches!(
            self.kind(),
            StoreErrorKind::Damaged | StoreErrorKind::Untrusted
        )
    }

    /// Whether the same call may work a little later. A full disk and a missing right do not mend
    /// themselves.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.kind() == StoreErrorKind::Unavailable
    }
}

pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
