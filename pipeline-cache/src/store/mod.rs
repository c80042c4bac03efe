//! Stores: payload bytes and their description under a key.
//!
//! [`CacheStore`] is the seam. A payload moves *in* by being produced straight into the store's
//! own writer ([`ProducePayload`]), so that a local store needs no second copy, and *out* as a
//! [`Payload`] with positional reads, so that several threads can unpack it at once and a remote
//! store can spool it, read ranges, or assemble it from chunks.

mod blocking;
#[cfg(feature = "object-store")]
#[cfg_attr(
    not(any(feature = "s3", feature = "gcs", feature = "azure")),
    expect(dead_code, reason = "nothing opens a bucket then")
)]
mod bucket;
mod cache_store;
mod copy;
mod entry_metadata;
mod eviction;
mod filesystem;
mod memory_store;
mod options;
mod payload;
mod produce_payload;
mod read_only_store;
mod sha256_digest;
#[cfg(feature = "signed")]
mod signed;
mod store_error;
mod tiered;

#[cfg(all(feature = "chunked", feature = "object-store", feature = "testing"))]
pub(crate) use bucket::read_index_bytes;
#[cfg(feature = "s3")]
pub use bucket::{AddressStyle, S3Bucket, S3Credentials};
#[cfg(feature = "azure")]
pub use bucket::{AzureContainer, AzureCredentials};
#[cfg(feature = "object-store")]
pub use bucket::{BucketError, BucketOptions, BucketStore, PlainHttp};
#[cfg(feature = "gcs")]
pub use bucket::{GcsBucket, GcsCredentials};
pub use cache_store::{CacheStore, CacheStoreExt};
pub use entry_metadata::{
    Codec, EntryFacts, EntryMetadata, EntrySignature, METADATA_FORMAT, MetadataError, NewEntry,
    Producer,
};
#[cfg(feature = "chunked")]
pub(crate) use entry_metadata::{SHARED_NOTES, SHARED_PARTS};
#[cfg(feature = "chunked")]
pub(crate) use eviction::plan_with_parts;
pub use eviction::{EvictionPlan, EvictionPolicy, EvictionReason, plan_eviction};
pub use filesystem::{Durability, FilesystemStore, Finding, RepairReport, SweepReport};
pub use memory_store::MemoryStore;
pub use options::{
    DeleteOutcome, GetOptions, IfExists, IfUnsure, PutOptions, PutOutcome, ReadPlan, RecordUse,
};
pub use payload::{Payload, PayloadBytes, PayloadReader, StoredEntry};
pub use produce_payload::{ProduceError, ProducePayload, produce_with};
pub use read_only_store::ReadOnlyStore;
pub use sha256_digest::{InvalidDigest, Sha256Digest};
#[cfg(feature = "signed")]
pub use signed::{InvalidKey, PublicKey, SignatureError, SignedStore, SigningKey};
pub use store_error::{StoreError, StoreErrorKind};
pub use tiered::{DrainReport, Tier, TierProblem, TieredStore};

#[cfg(feature = "chunked")]
pub(crate) use blocking::AbandonableWriter;
pub(crate) use blocking::run_blocking;
pub(crate) use filesystem::is_at;
