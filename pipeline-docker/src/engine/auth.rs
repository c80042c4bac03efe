//! Credentials in the form that engines take.

use bollard::auth::DockerCredentials;

use super::EngineError;
use crate::credentials::{CredentialSource, Credentials};

/// The key of `docker.io` in what engines are sent.
const HUB: &str = "https://index.docker.io/v1/";

/// What the engine is told about a registry; `None` to go there without credentials.
///
/// The answer's own `Debug` shows secrets: make it last, and hand it on at once.
pub(crate) async fn registry_credentials(
    source: &dyn CredentialSource,
    registry: &str,
) -> Result<Option<DockerCredentials>, EngineError> {
    let found = source
        .credentials(registry)
        .await
        .map_err(|source| EngineError::Credentials {
            registry: registry.to_owned(),
            source: Box::new(source),
        })?;
    let Some(found) = found else {
        return Ok(None);
    };
    let mut credentials = DockerCredentials {
        serveraddress: Some(registry_key(registry)),
        ..DockerCredentials::default()
    };
    match found {
        Credentials::Password { username, password } => {
            credentials.username = Some(username);
            credentials.password = Some(password.expose().to_owned());
        }
        Credentials::IdentityToken { token } => {
            credentials.identitytoken = Some(token.expose().to_owned());
        }
        Credentials::AccessToken { token } => {
            credentials.registrytoken = Some(token.expose().to_owned());
        }
    }
    Ok(Some(credentials))
}

/// What engines call a registry in a list of several.
pub(crate) fn registry_key(registry: &str) -> String {
    if registry == "docker.io" {
        HUB.to_owned()
    } else {
        registry.to_owned()
    }
}
