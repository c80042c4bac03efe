//! Stores: payload bytes and their description under a key.
//!
//! [`CacheStore`] is the seam. A payload moves *in* by being produced straight into the store's
//! own writer ([`ProducePayload`]), so that a local store needs no second copy, and *out* as a
//! [`Payload`] with positional reads, so that several threads can unpack it at once and a remote
//! store can spool it, read ranges, or assemble it from chunks.

mod blocking;
mod cache_store;
mod entry_metadata;
mod eviction;
mod filesystem;
mod memory_store;
mod options;
mod payload;
mod produce_payload;
mod sha256_digest;
mod store_error;

pub use cache_store::{CacheStore, CacheStoreExt};
pub use entry_metadata::{
    Codec, EntryFacts, EntryMetadata, METADATA_FORMAT, MetadataError, NewEntry, Producer,
};
pub use eviction::{EvictionPlan, EvictionPolicy, EvictionReason, plan_eviction};
pub use filesystem::{Durability, FilesystemStore, Finding, SweepReport};
pub use memory_store::MemoryStore;
pub use options::{DeleteOutcome, GetOptions, IfExists, PutOptions, PutOutcome, RecordUse};
pub use payload::{Payload, PayloadBytes, PayloadReader, StoredEntry};
pub use produce_payload::{ProduceError, ProducePayload, produce_with};
pub use sha256_digest::{InvalidDigest, Sha256Digest};
pub use store_error::{StoreError, StoreErrorKind};

pub(crate) use blocking::run_blocking;
