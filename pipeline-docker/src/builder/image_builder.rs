//! [`ImageBuilder`], what every builder can be asked for.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

use super::{BuildObserver, BuildRequest, BuiltImage};
use crate::ignore::IgnoreError;
use crate::oci::LayoutError;

/// Makes images.
///
/// # Contract
/// The answer names what exists: when `build` returns, the image is complete at its
/// [location](super::ImageLocation) and its digests are those of the bytes there. A request that
/// the builder cannot serve by its [capabilities](Self::capabilities) is refused with
/// [`BuildError::Unsupported`] before any work.
///
/// # Cancellation
/// Dropping the future stops the build soon after. No tag points at a partial image; complete
/// layers may stay where they were put and are used by the next build.
#[async_trait]
pub trait ImageBuilder: fmt::Debug + fmt::Display + Send + Sync {
    /// What this builder takes.
    fn capabilities(&self) -> BuilderCapabilities;

    /// The same builder, telling `observer` what its builds do.
    fn observed_by(&self, observer: Arc<dyn BuildObserver>) -> Arc<dyn ImageBuilder>;

    /// Builds an image.
    ///
    /// # Errors
    /// See [`BuildError`].
    async fn build(&self, request: &BuildRequest) -> Result<BuiltImage, BuildError>;
}

/// What a builder takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BuilderCapabilities {
    /// Images of layers.
    pub layers: Support,
    /// Bases in a registry, for images of layers.
    pub registry_base: Support,
    /// Images of Dockerfiles.
    pub dockerfiles: Support,
    /// Output into an OCI layout.
    pub layout_output: Support,
    /// Output into an engine's image store.
    pub engine_output: Support,
    /// Output into a file for `docker load`.
    pub archive_output: Support,
    /// Output straight into a registry.
    pub registry_output: Support,
    /// Whether equal requests give equal digests.
    pub reproducible: Support,
}

/// Whether a builder can do something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Support {
    /// It can.
    Yes,
    /// It cannot.
    #[default]
    No,
}

/// Why an image was not built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The builder cannot do this at all.
    #[error("the {builder} builder cannot {what}; {instead}")]
    Unsupported {
        /// Which builder.
        builder: &'static str,
        /// What was asked for.
        what: String,
        /// What to do instead.
        instead: String,
    },
    /// Something in the request makes no sense.
    #[error("{field} {value:?} cannot be used: {why}")]
    Invalid {
        /// Which part of the request.
        field: &'static str,
        /// What it says.
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A file or folder to be packed could not be read.
    #[error("could not read {}", path.display())]
    Source {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file changed its length or vanished while it was packed.
    #[error("{} changed while it was being packed; build again when nothing writes there", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A file that no layer can hold.
    #[error("{} is a {kind}, which cannot be packed; exclude it", path.display())]
    SpecialFile {
        /// The file.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// A file whose name would delete another file.
    #[error("{} begins with .wh., which deletes a file of a lower layer; exclude or rename it", path.display())]
    ReservedName {
        /// The file.
        path: PathBuf,
    },
    /// Two things go to one place in the image.
    #[error("{} and {} both go to /{dest}; exclude one of them", first.display(), second.display())]
    Clash {
        /// The place in the image.
        dest: String,
        /// What goes there.
        first: PathBuf,
        /// What goes there too.
        second: PathBuf,
    },
    /// Something goes below a link or a file of the same layer.
    #[error(
        "/{path} cannot be packed: the same layer makes /{parent} a link or a file; copy to where the link points or put it into a later layer"
    )]
    BelowNoFolder {
        /// The place in the image.
        path: String,
        /// What is no folder above it.
        parent: String,
    },
    /// A pattern of what to leave out cannot be used.
    #[error("could not use the patterns of what to leave out of {}", path.display())]
    Exclude {
        /// The source they belong to.
        path: PathBuf,
        /// Why not.
        #[source]
        source: IgnoreError,
    },
    /// A layer of the base image cannot be read.
    #[error("could not read layer {digest} of the base image")]
    BaseLayer {
        /// The layer.
        digest: crate::oci::Digest,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The base image contradicts itself.
    #[error("base image {digest} is inconsistent: {why}")]
    BrokenBase {
        /// The base's manifest.
        digest: crate::oci::Digest,
        /// The contradiction.
        why: String,
    },
    /// A layout could not be read or written.
    #[error("could not use the OCI layout")]
    Layout(#[from] LayoutError),
    /// The layer's bytes could not be written.
    #[error("could not write the layer {layer:?}")]
    Write {
        /// What the layer holds.
        layer: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// An instruction of a Dockerfile failed.
    #[error("{instruction} failed{}: {message}{}", exit_text(*exit_code), lines_text(last_lines))]
    Instruction {
        /// The instruction with its place, such as `[2/4] RUN make`.
        instruction: String,
        /// The exit code of the command, where one ran.
        exit_code: Option<i64>,
        /// What the engine says.
        message: String,
        /// The last lines that it printed.
        last_lines: Vec<String>,
    },
    /// The Dockerfile cannot be used.
    #[error("the Dockerfile cannot be built: {message}")]
    Dockerfile {
        /// What is wrong.
        message: String,
    },
    /// The frontend that `# syntax=` asks for could not be fetched.
    #[error(
        "BuildKit could not fetch the frontend {frontend} that the Dockerfile's `# syntax=` line asks for; remove the line, name a copy in a registry that the engine reaches, or pull it there first ({message})"
    )]
    Frontend {
        /// The image named in the line.
        frontend: String,
        /// What the engine says.
        message: String,
    },
    /// The build context could not be sent.
    #[error("could not use the build context")]
    Context(#[from] crate::context::ContextError),
    /// The engine could not do it.
    #[cfg(feature = "engine")]
    #[error(transparent)]
    Engine(#[from] crate::engine::EngineError),
    /// A registry could not do it.
    #[cfg(feature = "registry")]
    #[error(transparent)]
    Registry(#[from] crate::registry::RegistryError),
    /// A name of its own is another image's already.
    #[error(
        "{name} names another image in the engine ({existing}, not {wanted}); use a new tag, or allow the tag to move"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// The image that has it.
        existing: String,
        /// The image that was built.
        wanted: crate::oci::Digest,
    },
    /// The file for `docker load` could not be written.
    #[error("could not write the archive {}", path.display())]
    Archive {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The build was cancelled.
    #[error("the build was cancelled")]
    Cancelled,
    /// The worker thread ended without an answer.
    #[error("the build ended without an answer: {message}")]
    Aborted {
        /// What is known.
        message: String,
    },
}

fn exit_text(code: Option<i64>) -> String {
    code.map_or_else(String::new, |code| format!(" with exit code {code}"))
}

fn lines_text(lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    format!("; its last lines:\n  {}", lines.join("\n  "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_safe_and_shareable() {
        fn shareable<T: ?Sized + fmt::Debug + fmt::Display + Send + Sync>() {}
        shareable::<dyn ImageBuilder>();
    }
}
