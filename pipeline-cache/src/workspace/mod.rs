//! Files that jobs hand to the jobs after them, and files that a run keeps.
//!
//! A [`Persist`] step makes a layer of files of its job; its value, a [`WorkspaceLayer`], is what
//! an [`Attach`] step of a later job takes, and that draws the edge between the two jobs. Layers
//! are ordinary archives in a [`CacheStore`](crate::store::CacheStore), named for their content:
//! files that did not change are not stored again.
//!
//! The rules are `CircleCI`'s: a layer of a job that ran later wins over those of the jobs before
//! it, and two jobs of which none waits for the other may not persist different files under one
//! name. That is found when the second of them persists; files of equal content are no conflict.
//!
//! [`StoreArtifacts`] copies files into the run's own folder.
//!
//! | fact | data |
//! |---|---|
//! | `workspace.persisted` | `layer`, `files`, `bytes`, `reused`, `unmatched` |
//! | `workspace.conflict` | `jobs`, `paths` (the first 20), `count` |
//! | `workspace.attached` | `layers` (`layer`, `job`, `files`, `used`), `files`, `bytes` |
//! | `artifacts.stored` | `files` (`path`, `size`, `digest`), `bytes` |

mod artifacts;
mod attach;
mod conflict;
mod layer;
mod manifest;
mod merge;
mod persist;
mod place;
mod register;

pub use artifacts::{Artifact, StoreArtifacts, StoredArtifacts};
pub use attach::{Attach, Attached};
pub use layer::{Workspace, WorkspaceLayer};
pub use persist::Persist;
