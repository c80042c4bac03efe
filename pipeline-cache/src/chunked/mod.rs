//! Chunked entries: a tree as a manifest, its content as chunks that all entries of a store share.
//!
//! [`Codec::Chunked`](crate::store::Codec::Chunked) as the codec of a save asks for it. Files up
//! to 64 KiB are one chunk, larger ones are cut by content (`FastCDC`, 16 to 256 KiB, 64 KiB on
//! average), so that an insertion changes the chunks around it and no others. A chunk is named by
//! its BLAKE3 and stored once, whichever entry needs it. The chunks that a save finds new go, in
//! solid blocks of 4 MiB compressed with zstd, into one new *segment*: an entry of the same store,
//! under a key that lookups do not see. Any [`CacheStore`](crate::store::CacheStore) will do.
//!
//! ```text
//! payload of an entry     manifest: segments used (id, BLAKE3 of their index), then the tree and
//!                         for each file its chunks as (segment, number), in columns, as zstd
//! payload of a segment    blocks, then an index: length and BLAKE3 of every chunk
//! ```
//!
//! Set-id bits are cleared, or refused when a save asks to keep them.
//!
//! The description of an entry binds its key to the manifest's SHA-256, the manifest binds the
//! indexes, an index binds every chunk: a restore checks all of it before anything outside of
//! staging is touched.
//!
//! # Collecting
//!
//! A segment that no manifest needs any more is removed by
//! [`Cache::collect_chunks`](crate::cache::Cache::collect_chunks). Savers that run meanwhile take
//! care of themselves, and no clock decides, but that a collector which has not finished for a day
//! counts as dead:
//!
//! - The collector first *condemns* a segment (an entry beside it), then reads all manifests that
//!   have appeared by then, and removes the segment only if none needs it.
//! - A saver first publishes its manifest, then looks whether any segment of it is condemned, and
//!   then whether each is there. If not, it takes the manifest back and saves again without that
//!   segment.
//!
//! Whichever of the two comes first, the other sees it, as long as the store shows what was
//! written to whoever asks later. A saver that is killed between the two steps may leave a
//! manifest whose segment is gone; restoring that is a miss, and the next save replaces it.
//! Readers hold a lease on the entry and on the segments they use, where the store has leases. One
//! that misses a segment looks again for two seconds, and counts the entry as damaged only if it is
//! still the same by then; an entry that went or was taken back meanwhile is no entry.

mod chunker;
mod collect;
mod evict;
mod export;
mod manifest;
mod read;
mod restore;
mod restore_plan;
mod save;
mod segment;
mod segments;
mod unpacking;

pub use collect::{CollectOptions, CollectReport};
pub use evict::EvictionReport;

pub(crate) use export::export;
#[cfg(any(test, feature = "testing"))]
pub(crate) use manifest::read_manifest_bytes;
pub(crate) use restore::restore;
pub(crate) use save::save;
#[cfg(any(test, feature = "testing"))]
pub(crate) use segment::read_segment_bytes;
pub(crate) use segments::{NeededPart, parts_of};
