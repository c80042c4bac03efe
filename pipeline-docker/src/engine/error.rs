//! What can go wrong between us and an engine.

use std::io;

use bollard::errors::Error as BollardError;

/// A cause from another crate.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why an engine did not do what it was asked to.
///
/// A container's exit code is an answer, not an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The address of the engine cannot be used.
    #[error("{address} is no address of an engine that can be used: {why}")]
    Address {
        /// The address, or where it came from.
        address: String,
        /// What is wrong, and what to do.
        why: String,
    },
    /// There is no engine, or the connection to it broke.
    #[error("{what} at {address}; {cure}")]
    Unavailable {
        /// What failed: connecting, or going on.
        what: String,
        /// The engine.
        address: String,
        /// What to do.
        cure: String,
        /// Why.
        #[source]
        source: Option<BoxError>,
    },
    /// The engine is too old.
    #[error("the engine at {address} speaks API {found}; at least {needed} is needed for {what}")]
    TooOld {
        /// The engine.
        address: String,
        /// What it speaks.
        found: super::ApiVersion,
        /// What is needed.
        needed: super::ApiVersion,
        /// What for.
        what: String,
    },
    /// The engine has no such thing, or the registry that it asked has not.
    #[error("could not {action}: not found ({message})")]
    NotFound {
        /// What was to be done.
        action: String,
        /// What the engine said.
        message: String,
    },
    /// Something is in the way, such as a name that is taken.
    #[error("could not {action}: {message}")]
    Conflict {
        /// What was to be done.
        action: String,
        /// What the engine said.
        message: String,
    },
    /// The registry refused the engine's credentials, or it had none.
    #[error("could not {action}: the registry refused ({message}); {advice}")]
    Unauthorized {
        /// What was to be done.
        action: String,
        /// What the engine said.
        message: String,
        /// What to do.
        advice: String,
    },
    /// The credentials for a registry could not be found out.
    #[error("credentials for {registry} cannot be found out")]
    Credentials {
        /// The registry.
        registry: String,
        /// Why.
        #[source]
        source: Box<crate::credentials::CredentialError>,
    },
    /// The engine could not reach a registry.
    #[error("could not {action}: the engine cannot reach the registry ({message})")]
    RegistryUnreachable {
        /// What was to be done.
        action: String,
        /// What the engine said.
        message: String,
    },
    /// The engine's disk is full.
    #[error(
        "could not {action}: the engine's disk is full ({message}); remove images that nothing needs"
    )]
    DiskFull {
        /// What was to be done.
        action: String,
        /// What the engine said.
        message: String,
    },
    /// The engine did not answer in time.
    #[error("could not {action}: the engine at {address} did not answer in time")]
    TimedOut {
        /// What was to be done.
        action: String,
        /// The engine.
        address: String,
    },
    /// The engine said no for another reason.
    #[error("could not {action}: {message}")]
    Refused {
        /// What was to be done.
        action: String,
        /// The HTTP status, if it said so before any other answer.
        status: Option<u16>,
        /// What the engine said.
        message: String,
    },
    /// The engine's answer cannot be understood.
    #[error("could not {action}: the engine's answer cannot be understood")]
    Answer {
        /// What was to be done.
        action: String,
        /// Why.
        #[source]
        source: BoxError,
    },
}

/// What kind of failure it was, for deciding what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EngineErrorKind {
    /// No such container, image or network.
    NotFound,
    /// A name that is taken, or a state that does not allow it.
    Conflict,
    /// Credentials were refused or are missing.
    Unauthorized,
    /// The engine cannot reach a registry.
    RegistryUnreachable,
    /// The engine cannot be reached, or the connection broke.
    Unavailable,
    /// No space is left where the engine keeps its files.
    DiskFull,
    /// Everything else.
    Other,
}

impl EngineError {
    /// What kind of failure it is.
    #[must_use]
    pub const fn kind(&self) -> EngineErrorKind {
        match self {
            Self::NotFound { .. } => EngineErrorKind::NotFound,
            Self::Conflict { .. } => EngineErrorKind::Conflict,
            Self::Unauthorized { .. } => EngineErrorKind::Unauthorized,
            Self::RegistryUnreachable { .. } => EngineErrorKind::RegistryUnreachable,
            Self::Unavailable { .. } | Self::TimedOut { .. } => EngineErrorKind::Unavailable,
            Self::DiskFull { .. } => EngineErrorKind::DiskFull,
            Self::Address { .. }
            | Self::Credentials { .. }
            | Self::TooOld { .. }
            | Self::Refused { .. }
            | Self::Answer { .. } => EngineErrorKind::Other,
        }
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(
            self.kind(),
            EngineErrorKind::Unavailable | EngineErrorKind::RegistryUnreachable
        )
    }

    /// What an error of the client means; `action` completes "could not".
    pub(crate) fn new(address: &str, action: &str, error: BollardError) -> Self {
        match error {
            BollardError::DockerResponseServerError {
                status_code,
                message,
            } => Self::said(action, Some(status_code), &message),
            BollardError::DockerStreamError { error } => Self::said(action, None, &error),
            BollardError::RequestTimeoutError => Self::TimedOut {
                action: action.to_owned(),
                address: address.to_owned(),
            },
            BollardError::SocketNotFoundError(_) => Self::unreachable(
                address,
                Some(Box::new(io::Error::from(io::ErrorKind::NotFound))),
            ),
            BollardError::HyperLegacyError { err } if err.is_connect() => {
                Self::unreachable(address, Some(Box::new(err)))
            }
            error @ (BollardError::HyperLegacyError { .. }
            | BollardError::HyperResponseError { .. }
            | BollardError::IOError { .. }) => Self::broke(address, action, Box::new(error)),
            error => Self::Answer {
                action: action.to_owned(),
                source: Box::new(error),
            },
        }
    }

    /// No connection could be made.
    pub(crate) fn unreachable(address: &str, source: Option<BoxError>) -> Self {
        let kind = source.as_deref().and_then(|error| io_kind(error));
        let cure = match kind {
            Some(io::ErrorKind::NotFound) => {
                "there is no such socket: start the engine, or set DOCKER_HOST to where it listens"
            }
            Some(io::ErrorKind::PermissionDenied) => {
                "this user may not open the socket: add the user to the group that owns it (mostly `docker`) and log in again, or use a rootless engine"
            }
            Some(io::ErrorKind::ConnectionRefused) => {
                "nobody listens there: start the engine, or set DOCKER_HOST to where it listens"
            }
            _ => "check DOCKER_HOST, and that the engine runs and can be reached",
        };
        Self::Unavailable {
            what: "cannot connect to the engine".to_owned(),
            address: address.to_owned(),
            cure: cure.to_owned(),
            source,
        }
    }

    /// The connection ended before the answer did.
    pub(crate) fn broke(address: &str, action: &str, source: BoxError) -> Self {
        Self::Unavailable {
            what: format!("could not {action}: lost the connection to the engine"),
            address: address.to_owned(),
            cure: "it may have stopped or restarted; try again when it runs".to_owned(),
            source: Some(source),
        }
    }

    /// Engines tell what happened in words only, in one of several places; podman has words of its
    /// own. The wording below is that of Docker 19.03 to 28 and podman 4.
    pub(crate) fn said(action: &str, status: Option<u16>, message: &str) -> Self {
        let action = action.to_owned();
        let message = message.trim().to_owned();
        let low = message.to_ascii_lowercase();
        let has = |parts: &[&str]| parts.iter().any(|part| low.contains(part));
        if has(&["no space left on device", "disk quota exceeded"]) {
            return Self::DiskFull { action, message };
        }
        if has(&[
            "no basic auth credentials",
            "unauthorized",
            "authentication required",
            "access denied",
            "access to the resource is denied",
            "incorrect username or password",
            "invalid username/password",
        ]) {
            let advice = if has(&["no basic auth credentials"]) {
                "it was asked without credentials: log in, or give credentials for this registry"
            } else {
                "check the credentials for this registry, and that the account may do this"
            };
            return Self::Unauthorized {
                action,
                message,
                advice: advice.to_owned(),
            };
        }
        if has(&[
            "dial tcp",
            "connection refused",
            "no such host",
            "i/o timeout",
            "tls handshake timeout",
            "server misbehaving",
            "network is unreachable",
            "server gave http response to https client",
            "request canceled while waiting for connection",
        ]) {
            return Self::RegistryUnreachable { action, message };
        }
        let unknown = has(&[
            "manifest unknown",
            "name unknown",
            "tag does not exist",
            "no such image",
            "no such container",
            "image not known",
        ]) || (low.contains("manifest for") && low.contains("not found"));
        match status {
            Some(404) => Self::NotFound { action, message },
            Some(409) => Self::Conflict { action, message },
            _ if unknown => Self::NotFound { action, message },
            _ => Self::Refused {
                action,
                status,
                message,
            },
        }
    }
}

/// The kind of the first input or output error among an error and its causes.
fn io_kind(error: &(dyn std::error::Error + 'static)) -> Option<io::ErrorKind> {
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return Some(error.kind());
    }
    let mut next = error.source();
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_engines_say_has_a_kind() {
        use EngineErrorKind as Kind;
        let kind = |status, text: &str| EngineError::said("pull x", status, text).kind();
        for (status, text, expected) in [
            (
                Some(404),
                "manifest for localhost:5000/x:1 not found: manifest unknown: manifest unknown",
                Kind::NotFound,
            ),
            (
                Some(500),
                "Get \"http://localhost:5000/v2/x/manifests/1\": no basic auth credentials",
                Kind::Unauthorized,
            ),
            (
                None,
                "unauthorized: authentication required",
                Kind::Unauthorized,
            ),
            (
                None,
                "Get \"https://127.0.0.1:1/v2/\": dial tcp 127.0.0.1:1: connect: connection refused",
                Kind::RegistryUnreachable,
            ),
            (
                None,
                "tag does not exist: localhost:5000/x:1",
                Kind::NotFound,
            ),
            (
                Some(409),
                "Conflict. The container name \"/x\" is already in use",
                Kind::Conflict,
            ),
            (
                None,
                "write /var/lib/x: no space left on device",
                Kind::DiskFull,
            ),
            (Some(500), "something else", Kind::Other),
        ] {
            assert_eq!(kind(status, text), expected, "{text}");
        }
    }
}
