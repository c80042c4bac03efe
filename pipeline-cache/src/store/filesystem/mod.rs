//! The embedded store: a folder.
//!
//! ```text
//! entries/<sha256 of the key, 40 digits>.json                 description, published last
//! entries/<same>-<unique>.tar.zst                             payload, an ordinary archive
//! entries/<same>.quarantine                                   "replace me", names a payload
//! tmp/                                                        what is being written
//! lock                                                        held while an entry is replaced
//! ```
//!
//! A description appears by a hard link that fails when the name is taken, after the payload is
//! durable: there is no moment at which a reader can see half an entry. Readers hold a shared
//! lock on the payload they read, writers an exclusive one on what they write, so that a file
//! without a lock and without a description is known to be left over and can be swept.

mod filesystem_store;
pub(super) mod layout;
mod publish;
mod repair;
mod sweep;
mod verify;

pub use filesystem_store::{Durability, FilesystemStore};
pub(crate) use layout::is_at;
#[cfg(feature = "object-store")]
pub(super) use publish::digest_of;
pub use repair::RepairReport;
pub use sweep::SweepReport;
pub use verify::Finding;
