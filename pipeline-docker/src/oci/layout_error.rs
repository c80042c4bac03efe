//! [`LayoutError`]: why a layout could not be used.

use std::io;
use std::path::{Path, PathBuf};

use super::{Digest, MAX_METADATA, ManifestError};

/// Why a layout could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// The folder is no layout.
    #[error("{} is no OCI layout: it has no file oci-layout", path.display())]
    NotALayout {
        /// The folder.
        path: PathBuf,
    },
    /// The folder holds other things.
    #[error("{} is neither empty nor an OCI layout; give a new folder", path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
    },
    /// The layout is of a version that is not understood.
    #[error("{} has layout version {version:?}; only 1.0.0 is understood", path.display())]
    Version {
        /// The folder.
        path: PathBuf,
        /// What it says.
        version: String,
    },
    /// A file of the layout could not be read or written.
    #[error("could not {action} {}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A document in the layout is not what it should be.
    #[error("{} is not valid JSON of its kind", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// A manifest is not what it should be.
    #[error("manifest {digest} cannot be used")]
    Manifest {
        /// The manifest.
        digest: Digest,
        /// Why not.
        #[source]
        source: ManifestError,
    },
    /// A blob that is needed is not there.
    #[error("blob {digest} is missing from {}", path.display())]
    MissingBlob {
        /// The blob.
        digest: Digest,
        /// The layout.
        path: PathBuf,
    },
    /// A blob's bytes are not the ones its name says.
    #[error("blob {expected} is damaged: its bytes are {actual}")]
    WrongDigest {
        /// What the descriptor says.
        expected: Digest,
        /// What the bytes are.
        actual: Digest,
    },
    /// A blob has another size than its descriptor says.
    #[error("blob {digest} is damaged: {actual} bytes instead of {expected}")]
    WrongSize {
        /// The blob.
        digest: Digest,
        /// What the descriptor says.
        expected: u64,
        /// What was found.
        actual: u64,
    },
    /// A manifest or configuration is too large to be one.
    #[error("{what} {digest} has {size} bytes; more than {MAX_METADATA} are refused")]
    TooLarge {
        /// Manifest or configuration.
        what: &'static str,
        /// Which one.
        digest: Digest,
        /// Its size.
        size: u64,
    },
    /// No image goes by this name.
    #[error("no image {wanted:?} in {}; it holds {}", path.display(), list(available))]
    UnknownTag {
        /// What was asked for.
        wanted: String,
        /// The layout.
        path: PathBuf,
        /// The tags there are.
        available: Vec<String>,
    },
    /// No name was given and there are several images.
    #[error("{} holds several images ({}); name one of them", path.display(), list(available))]
    Ambiguous {
        /// The layout.
        path: PathBuf,
        /// The tags there are.
        available: Vec<String>,
    },
    /// The tag names another image already.
    #[error(
        "{tag} in {} names another image ({existing}, not {wanted}); use a new tag, or allow the tag to move",
        path.display()
    )]
    TagExists {
        /// The tag.
        tag: String,
        /// The layout.
        path: PathBuf,
        /// What it names now.
        existing: Digest,
        /// What it was to name.
        wanted: Digest,
    },
    /// The image exists, but not for this platform.
    #[error(
        "image {digest} has nothing for {wanted}; it offers {}",
        list(available)
    )]
    NoPlatform {
        /// The index.
        digest: Digest,
        /// What was asked for.
        wanted: String,
        /// What it offers.
        available: Vec<String>,
    },
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

impl LayoutError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}
