use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::archive::ArchiveError;
use crate::store::StoreError;

/// Why a cache operation could not be done. A miss is no error.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CacheError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Packing or unpacking failed.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A file to import or export cannot be used.
    #[error("cannot {action} {path:?}")]
    File {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Every try to save lost chunks to a collector.
    #[cfg(feature = "chunked")]
    #[error("chunks were collected again and again while they were saved; save again")]
    Collected,
    /// No key was given.
    #[error("no cache key was given")]
    NoKey,
}

impl CacheError {
    /// Whether the same call may work a little later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Store(error) => error.is_retryable(),
            #[cfg(feature = "chunked")]
            Self::Collected => true,
            _ => false,
        }
    }

    /// Brings an archive's error back out of the store that handed it on.
    pub(crate) fn from_put(error: StoreError) -> Self {
        match error {
            StoreError::Produce { key, source } => match source.downcast::<ArchiveError>() {
                Ok(error) => Self::Archive(*error),
                Err(source) => Self::Store(StoreError::Produce { key, source }),
            },
            other => Self::Store(other),
        }
    }
}
