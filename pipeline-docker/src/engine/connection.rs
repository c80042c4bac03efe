//! [`Engine`]: the connection.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bollard::errors::Error as BollardError;
use bollard::{API_DEFAULT_VERSION, Docker};

use super::{ApiVersion, EngineAddress, EngineError, EngineInfo};

/// Until the first byte of an answer.
const ANSWER: Duration = Duration::from_secs(120);
/// Nobody waits longer than this; cancelling ends a request.
const PATIENT: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// The first answer; podman starts up for it.
const PROBE: Duration = Duration::from_secs(30);
/// Docker 19.03, the oldest whose answers we know.
const OLDEST: ApiVersion = ApiVersion::new(1, 40);

/// A connection to an engine. Clones share it.
///
/// Each request opens a connection of its own, so an engine that restarts is found again by the
/// next request.
#[derive(Clone)]
pub struct Engine {
    client: Docker,
    shared: Arc<Shared>,
}

struct Shared {
    address: EngineAddress,
    info: EngineInfo,
}

impl Engine {
    /// Connects to the engine that the docker command line would use; see
    /// [`EngineAddress::from_env`].
    ///
    /// # Errors
    /// As for [`Engine::connect`], or [`EngineError::Address`].
    pub async fn from_env() -> Result<Self, EngineError> {
        Self::connect(&EngineAddress::from_env()?).await
    }

    /// Connects to an engine and asks what it is.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] names the address and what to do; [`EngineError::TooOld`] for
    /// engines before Docker 19.03.
    pub async fn connect(address: &EngineAddress) -> Result<Self, EngineError> {
        let text = address.to_string();
        let fail = |error| EngineError::new(&text, "ask the engine what it is", error);
        let client = client(address)?.with_request_modifier(|mut request| {
            // The client encodes credentials with the standard alphabet; engines expect the
            // URL-safe one, drop what they cannot read and go on without credentials.
            for name in ["x-registry-auth", "x-registry-config"] {
                let Some(value) = request.headers_mut().get_mut(name) else {
                    continue;
                };
                let Ok(text) = value.to_str() else { continue };
                if let Ok(mut safe) = text.replace('+', "-").replace('/', "_").parse() {
                    std::mem::swap(value, &mut safe);
                }
                value.set_sensitive(true);
            }
            request
        });
        let probe = client.clone().with_timeout(PROBE);
        let version = probe.version().await.map_err(fail)?;
        let info = probe.info().await.map_err(fail)?;
        let info = EngineInfo::new(version, info).ok_or_else(|| EngineError::Refused {
            action: "ask the engine what it is".to_owned(),
            status: None,
            message: format!("{text} names no version of its interface"),
        })?;
        if info.api < OLDEST {
            return Err(EngineError::TooOld {
                address: text,
                found: info.api,
                needed: OLDEST,
                what: "anything".to_owned(),
            });
        }
        Ok(Self {
            client,
            shared: Arc::new(Shared {
                address: address.clone(),
                info,
            }),
        })
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> &EngineAddress {
        &self.shared.address
    }

    /// What it is and offers.
    #[must_use]
    pub fn info(&self) -> &EngineInfo {
        &self.shared.info
    }

    /// Whether this program cannot connect to addresses of the engine's own networks, wherever the
    /// engine is: they are not this kernel's, or in a namespace of the engine's own.
    pub(crate) fn hides_its_networks(&self) -> bool {
        let info = self.info();
        !cfg!(target_os = "linux") || info.os != "linux" || info.is_rootless || info.is_desktop
    }

    /// Asks whether it is there.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] if it is not.
    pub async fn ping(&self) -> Result<(), EngineError> {
        match self.client_within(Some(PROBE)).ping().await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.error("reach the engine", error)),
        }
    }

    /// The client, for requests that are answered at once.
    pub(crate) fn client(&self) -> &Docker {
        &self.client
    }

    /// The client with another limit to the first byte of an answer. `None` is for requests whose
    /// answer begins when something has ended: builds, loads, waits.
    pub(crate) fn client_within(&self, limit: Option<Duration>) -> Docker {
        self.client().clone().with_timeout(limit.unwrap_or(PATIENT))
    }

    /// What an error of the client means; `action` completes "could not".
    pub(crate) fn error(&self, action: &str, error: BollardError) -> EngineError {
        EngineError::new(&self.shared.address.to_string(), action, error)
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("address", &self.shared.address)
            .field("info", &self.shared.info)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "engine({})", self.shared.address)
    }
}

fn client(address: &EngineAddress) -> Result<Docker, EngineError> {
    let text = address.to_string();
    let seconds = ANSWER.as_secs();
    let made = match address {
        EngineAddress::Socket(path) => {
            let path = path.to_str().ok_or_else(|| EngineError::Address {
                address: text.clone(),
                why: "the path is no UTF-8 text".to_owned(),
            })?;
            Docker::connect_with_unix(path, seconds, API_DEFAULT_VERSION)
        }
        EngineAddress::Tcp(host) => Docker::connect_with_http(host, seconds, API_DEFAULT_VERSION),
        EngineAddress::Tls { host, certificates } => {
            return tls_client(&text, host, certificates, seconds);
        }
    };
    made.map_err(|error| EngineError::new(&text, "connect", error))
}

#[cfg(feature = "engine-tls")]
fn tls_client(
    text: &str,
    host: &str,
    certificates: &std::path::Path,
    seconds: u64,
) -> Result<Docker, EngineError> {
    crate::tls::ensure();
    let files = ["key.pem", "cert.pem", "ca.pem"].map(|name| certificates.join(name));
    for file in &files {
        // The client would go on without them, and the engine hang up without a word.
        std::fs::read(file).map_err(|error| EngineError::Address {
            address: text.to_owned(),
            why: format!(
                "{} cannot be read ({error}); set DOCKER_CERT_PATH to the folder with ca.pem, cert.pem and key.pem",
                file.display()
            ),
        })?;
    }
    let [key, certificate, authority] = files;
    Docker::connect_with_ssl(
        host,
        &key,
        &certificate,
        &authority,
        seconds,
        API_DEFAULT_VERSION,
    )
    .map_err(|error| EngineError::new(text, "connect", error))
}

#[cfg(not(feature = "engine-tls"))]
fn tls_client(
    text: &str,
    _host: &str,
    _certificates: &std::path::Path,
    _seconds: u64,
) -> Result<Docker, EngineError> {
    Err(EngineError::Address {
        address: text.to_owned(),
        why: "TLS needs the feature `engine-tls` of pipeline-docker".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_by_tasks() {
        fn shared<T: fmt::Debug + fmt::Display + Clone + Send + Sync>() {}
        shared::<Engine>();
    }
}
