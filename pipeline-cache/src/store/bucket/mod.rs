//! A bucket of an object store: Amazon S3 and what speaks its protocol, Google Cloud Storage,
//! Azure Blob Storage.
//!
//! The objects are the files of a [`FilesystemStore`](super::FilesystemStore), under the same
//! names: a store folder that is copied into a bucket is a store, and the other way round.
//!
//! ```text
//! PREFIX/entries/<sha256 of the key, 40 digits>.json    description, created last and only if absent
//! PREFIX/entries/<same>-<unique>.tar.zst                payload, an ordinary archive
//! PREFIX/entries/<same>.quarantine                      "replace me", names a payload
//! PREFIX/entries/<same>.used                            written by every use, for eviction
//! PREFIX/index.json                                     known descriptions, to save requests
//! ```
//!
//! The only thing asked of the service beyond reading and writing is that it creates an object
//! only when there is none, and replaces one only when it is still the same.

#[cfg(feature = "azure")]
mod azure_container;
mod bucket_error;
mod bucket_options;
mod bucket_store;
mod download;
#[cfg(feature = "gcs")]
mod gcs_bucket;
mod index;
mod listing;
mod objects;
mod publish;
mod remote;
#[cfg(feature = "s3")]
mod s3_bucket;
mod sweep;
#[cfg(all(test, any(feature = "s3", feature = "gcs", feature = "azure")))]
mod tests;
mod upload;

#[cfg(feature = "azure")]
pub use azure_container::{AzureContainer, AzureCredentials};
pub use bucket_error::BucketError;
pub use bucket_options::{BucketOptions, PlainHttp};
pub use bucket_store::BucketStore;
#[cfg(feature = "gcs")]
pub use gcs_bucket::{GcsBucket, GcsCredentials};
#[cfg(all(feature = "chunked", feature = "testing"))]
pub(crate) use index::read_index_bytes;
#[cfg(feature = "s3")]
pub use s3_bucket::{AddressStyle, S3Bucket, S3Credentials};
