use std::error::Error;

use thiserror::Error;

/// Why a bucket cannot be opened. Nothing was sent anywhere yet.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BucketError {
    /// The address would send everything in the clear over a network.
    #[error(
        "{endpoint} is plain HTTP beyond this host; use https, or allow it with PlainHttp::Allowed"
    )]
    PlainHttp {
        /// The address given.
        endpoint: String,
    },
    /// The prefix cannot be part of object names.
    #[error("{prefix:?} cannot be the prefix of a store: use names joined by single slashes")]
    Prefix {
        /// The prefix given.
        prefix: String,
    },
    /// What was given does not make a client: something is missing or malformed.
    #[error("cannot open {bucket}")]
    Client {
        /// The bucket.
        bucket: String,
        /// What is wrong.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}
