//! What can go wrong between us and a registry.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::oci::{Digest, ManifestError, Platform};
use crate::reference::{ImageReference, ReferenceError};

use crate::credentials::CredentialError;

/// A cause from another crate.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a registry operation failed.
///
/// A blob or manifest that is not there is an error only for operations that need it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The client cannot be made with these options.
    #[error("registry client: {what}")]
    Configuration {
        /// What is wrong.
        what: String,
        /// Why, if something else said so.
        #[source]
        source: Option<BoxError>,
    },
    /// A name or a tag is not valid.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The reference has neither tag nor digest, and the operation invents none.
    #[error("{reference} has no tag; name one, such as a revision or build number")]
    NoTag {
        /// The reference.
        reference: Box<ImageReference>,
    },
    /// The credentials for the registry could not be found out.
    #[error("credentials for {registry} cannot be found out")]
    Credentials {
        /// The registry.
        registry: String,
        /// Why.
        #[source]
        source: Box<CredentialError>,
    },
    /// The registry (or its token service) does not accept who we are.
    #[error("{registry} refused to {action}: {advice}{}", detail(.answer))]
    Unauthorized {
        /// The registry.
        registry: String,
        /// What was to be done.
        action: String,
        /// What to do about it.
        advice: String,
        /// What the registry said.
        answer: String,
    },
    /// The registry knows us and forbids it.
    #[error("{registry} forbids to {action}; check what the account may do there{}", detail(.answer))]
    Denied {
        /// The registry.
        registry: String,
        /// What was to be done.
        action: String,
        /// What the registry said.
        answer: String,
    },
    /// The registry has no such thing.
    #[error("{registry} has nothing to {action}{}", detail(.answer))]
    NotFound {
        /// The registry.
        registry: String,
        /// What was to be done.
        action: String,
        /// What the registry said.
        answer: String,
    },
    /// The registry grants no more requests for now.
    #[error(
        "{registry} refused to {action}: too many requests{}; wait, or log in for a higher limit{}",
        retry_hint(.retry_after), detail(.answer)
    )]
    RateLimited {
        /// The registry.
        registry: String,
        /// What was to be done.
        action: String,
        /// How long the registry wants us to wait, if it says so.
        retry_after: Option<Duration>,
        /// What the registry said.
        answer: String,
    },
    /// The registry answered with another status that is no success.
    #[error("{registry} answered {status} when asked to {action}{}", detail(.answer))]
    Status {
        /// The registry.
        registry: String,
        /// What was to be done.
        action: String,
        /// The HTTP status.
        status: u16,
        /// How long the registry wants us to wait, if it says so.
        retry_after: Option<Duration>,
        /// What the registry said.
        answer: String,
    },
    /// No connection, or it broke.
    #[error("connection to {registry} failed while trying to {action}")]
    Connection {
        /// The registry.
        registry: String,
        /// What was to be done.
        action: String,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// The registry's certificate is not trusted.
    #[error(
        "the certificate of {registry} is not accepted; add its authority with `with_ca_pem`, or allow plain HTTP if that is what it speaks"
    )]
    Certificate {
        /// The registry.
        registry: String,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// Nothing moved for too long.
    #[error("{registry} stalled for {idle:?} while trying to {action}")]
    Stalled {
        /// The registry.
        registry: String,
        /// What was to be done.
        action: String,
        /// How long nothing moved.
        idle: Duration,
    },
    /// The registry broke the protocol.
    #[error("{registry} broke the protocol when asked to {action}: {what}")]
    Protocol {
        /// The registry.
        registry: String,
        /// What was to be done.
        action: String,
        /// What is wrong with its answer.
        what: String,
    },
    /// Bytes are not what their digest says.
    #[error("{what} from {origin} is not what was asked for: expected {expected}, got {actual}")]
    DigestMismatch {
        /// Blob, manifest, ...
        what: &'static str,
        /// Who gave the bytes.
        origin: String,
        /// The digest asked for.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
    /// There are more or fewer bytes than the descriptor says.
    #[error("blob {digest} from {origin} has {actual} bytes, its descriptor says {expected}")]
    SizeMismatch {
        /// The blob.
        digest: Digest,
        /// Who gave the bytes.
        origin: String,
        /// Bytes by the descriptor.
        expected: u64,
        /// Bytes that came (at least, if reading was stopped).
        actual: u64,
    },
    /// The tag names another image already, and moving it was not asked for.
    #[error(
        "{reference} exists with another content ({existing}, not {wanted}); use a new tag, or allow the tag to move"
    )]
    TagExists {
        /// The tag.
        reference: Box<ImageReference>,
        /// What it names now.
        existing: Digest,
        /// What it was to name.
        wanted: Digest,
    },
    /// A manifest cannot be used.
    #[error("manifest of {origin} cannot be used")]
    Manifest {
        /// The image.
        origin: String,
        /// Why.
        #[source]
        source: ManifestError,
    },
    /// The image is not there for the platform asked for.
    #[error("{reference} is not there for {wanted}; it is there for {available}")]
    NoPlatform {
        /// The image.
        reference: Box<ImageReference>,
        /// The platform asked for.
        wanted: Box<Platform>,
        /// The platforms there are.
        available: String,
    },
    /// The OCI layout cannot be read or written.
    #[error("OCI layout {} cannot be used", .path.display())]
    Layout {
        /// The layout's folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// A local file cannot be read or written.
    #[error("{} cannot be used", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The coarse classes of [`RegistryError`], to decide on without matching texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RegistryErrorKind {
    /// Options, names or input are wrong.
    Invalid,
    /// Credentials are missing, wrong or cannot be found out.
    Unauthorized,
    /// Known and not allowed.
    Denied,
    /// Not there.
    NotFound,
    /// The tag names something else.
    TagExists,
    /// Too many requests.
    RateLimited,
    /// Cannot be reached, broke off, stalled or has trouble of its own (5xx).
    Unavailable,
    /// Its certificate is not trusted.
    Certificate,
    /// It lied or broke the protocol.
    Untrustworthy,
    /// Local files.
    Local,
}

impl RegistryError {
    /// The class of this error.
    #[must_use]
    pub fn kind(&self) -> RegistryErrorKind {
        use RegistryErrorKind as Kind;
        match self {
            Self::Configuration { .. }
            | Self::Reference(_)
            | Self::NoTag { .. }
            | Self::NoPlatform { .. } => Kind::Invalid,
            Self::Credentials { .. } | Self::Unauthorized { .. } => Kind::Unauthorized,
            Self::Denied { .. } => Kind::Denied,
            Self::NotFound { .. } => Kind::NotFound,
            Self::TagExists { .. } => Kind::TagExists,
            Self::RateLimited { .. } => Kind::RateLimited,
            Self::Status { status, .. } if *status >= 500 || *status == 408 => Kind::Unavailable,
            Self::Status { .. } => Kind::Invalid,
            Self::Connection { .. } | Self::Stalled { .. } => Kind::Unavailable,
            Self::Certificate { .. } => Kind::Certificate,
            Self::Protocol { .. }
            | Self::DigestMismatch { .. }
            | Self::SizeMismatch { .. }
            | Self::Manifest { .. } => Kind::Untrustworthy,
            Self::Layout { .. } | Self::Io { .. } => Kind::Local,
        }
    }

    /// How long the registry wants us to wait before the next try, if it says so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } | Self::Status { retry_after, .. } => {
                *retry_after
            }
            _ => None,
        }
    }

    /// Whether the same call may succeed later. The client has retried already, by its
    /// [`RetryPolicy`](super::RetryPolicy).
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.kind(),
            RegistryErrorKind::RateLimited | RegistryErrorKind::Unavailable
        )
    }
}

fn detail(answer: &str) -> String {
    if answer.is_empty() {
        String::new()
    } else {
        format!(" ({answer})")
    }
}

fn retry_hint(retry_after: &Option<Duration>) -> String {
    retry_after.map_or_else(String::new, |delay| {
        format!(", again in {} s", delay.as_secs())
    })
}
