//! The OCI image model: digests, descriptors, manifests, configurations, and layouts on disk.

mod blob_writer;
mod config;
mod descriptor;
mod digest;
mod docker_archive;
mod layout;
mod layout_blobs;
mod layout_error;
mod layout_index;
mod layout_name;
mod manifest;
pub mod media_type;
mod platform;

pub use blob_writer::BlobWriter;
pub(crate) use blob_writer::unpublished;
pub(crate) use config::time_text;
pub use config::{HealthConfig, HistoryEntry, ImageConfig, RootFs, RunConfig};
pub use descriptor::Descriptor;
pub use digest::{Digest, DigestAlgorithm, DigestError, DigestHasher, DigestWriter};
pub use docker_archive::write_docker_archive;
pub use layout::{LayoutImage, MAX_METADATA, OciLayout, REF_NAME};
pub use layout_error::LayoutError;
pub use layout_name::split_layout_name;
pub use manifest::{ImageIndex, ImageManifest, Manifest, ManifestError};
pub use platform::{Platform, PlatformError};
