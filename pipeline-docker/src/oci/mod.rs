//! The OCI image model: digests, descriptors, manifests, configurations.

mod config;
mod descriptor;
mod digest;
mod manifest;
pub mod media_type;
mod platform;

pub use config::{HealthConfig, HistoryEntry, ImageConfig, RootFs, RunConfig};
pub use descriptor::Descriptor;
pub use digest::{Digest, DigestAlgorithm, DigestError, DigestHasher, DigestWriter};
pub use manifest::{ImageIndex, ImageManifest, Manifest, ManifestError};
pub use platform::{Platform, PlatformError};
