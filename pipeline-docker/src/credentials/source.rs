//! Who we are at a registry, and who may tell.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use pipeline_core::Secret;

use super::docker_config::DockerConfigError;
use super::helper::HelperError;

/// What proves to a registry who we are.
///
/// `Debug` shows the user name and never a secret.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Credentials {
    /// User name and password (or an access token in its place).
    Password {
        /// The user name.
        username: String,
        /// The password.
        password: Secret,
    },
    /// An identity token: exchanged for access tokens at the registry's token service.
    IdentityToken {
        /// The token.
        token: Secret,
    },
    /// A ready access token, sent as it is.
    AccessToken {
        /// The token.
        token: Secret,
    },
}

impl Credentials {
    /// User name and password.
    #[must_use]
    pub fn password(username: impl Into<String>, password: Secret) -> Self {
        Self::Password {
            username: username.into(),
            password,
        }
    }

    /// An identity token.
    #[must_use]
    pub fn identity_token(token: Secret) -> Self {
        Self::IdentityToken { token }
    }

    /// A ready access token.
    #[must_use]
    pub fn access_token(token: Secret) -> Self {
        Self::AccessToken { token }
    }
}

/// Why credentials could not be found out. Having none is an answer, not an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// Docker's configuration file cannot be used.
    #[error(transparent)]
    Config(#[from] DockerConfigError),
    /// A credential helper failed.
    #[error(transparent)]
    Helper(#[from] HelperError),
    /// A source of another crate failed.
    #[error("{origin} gave no credentials for {registry}")]
    Other {
        /// The source.
        origin: String,
        /// The registry asked about.
        registry: String,
        /// What went wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Knows credentials by registry.
///
/// # Contract
///
/// `registry` is the domain as users write it, with its port: `docker.io`, `localhost:5000`. The
/// answer `None` means that this source knows nothing about it; the next source or anonymous
/// access is tried then. A registry client keeps the answer for a while (its options say how
/// long); if it cannot get a new one, it goes on with the old one.
///
/// # Errors
///
/// Only when the question could not be answered, such as a helper that hangs. An error ends the
/// operation: going on anonymously would hide it.
///
/// # Cancellation
///
/// Dropping the future leaves no child process behind.
#[async_trait]
pub trait CredentialSource: fmt::Debug + fmt::Display + Send + Sync {
    /// The credentials for `registry`, if this source has any.
    async fn credentials(&self, registry: &str) -> Result<Option<Credentials>, CredentialError>;
}

/// Knows no credentials: everything is done anonymously.
#[derive(Clone, Copy, Debug, Default)]
pub struct Anonymous;

impl fmt::Display for Anonymous {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("anonymous")
    }
}

#[async_trait]
impl CredentialSource for Anonymous {
    async fn credentials(&self, _registry: &str) -> Result<Option<Credentials>, CredentialError> {
        Ok(None)
    }
}

/// Credentials given by hand, for one registry each.
#[derive(Clone, Debug, Default)]
pub struct StaticCredentials {
    entries: Vec<(String, Credentials)>,
}

impl StaticCredentials {
    /// Credentials for `registry` (as users write it: `docker.io`, `localhost:5000`).
    #[must_use]
    pub fn new(registry: impl Into<String>, credentials: Credentials) -> Self {
        Self::default().with(registry, credentials)
    }

    /// Adds credentials for a further registry; the last ones given for a registry count.
    #[must_use]
    pub fn with(mut self, registry: impl Into<String>, credentials: Credentials) -> Self {
        let registry = registry.into();
        self.entries.retain(|(known, _)| *known != registry);
        self.entries.push((registry, credentials));
        self
    }
}

impl fmt::Display for StaticCredentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("given credentials")
    }
}

#[async_trait]
impl CredentialSource for StaticCredentials {
    async fn credentials(&self, registry: &str) -> Result<Option<Credentials>, CredentialError> {
        let found = self.entries.iter().find(|(known, _)| known == registry);
        Ok(found.map(|(_, credentials)| credentials.clone()))
    }
}

/// Several sources in order of precedence: the first that knows a registry answers.
#[derive(Clone, Debug, Default)]
pub struct CredentialChain {
    sources: Vec<Arc<dyn CredentialSource>>,
}

impl CredentialChain {
    /// A chain without sources: anonymous.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a source that is asked when those before it know nothing.
    #[must_use]
    pub fn then(mut self, source: impl CredentialSource + 'static) -> Self {
        self.sources.push(Arc::new(source));
        self
    }
}

impl fmt::Display for CredentialChain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("chain(")?;
        for (index, source) in self.sources.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(formatter, "{comma}{source}")?;
        }
        formatter.write_str(")")
    }
}

#[async_trait]
impl CredentialSource for CredentialChain {
    async fn credentials(&self, registry: &str) -> Result<Option<Credentials>, CredentialError> {
        for source in &self.sources {
            if let Some(credentials) = source.credentials(registry).await? {
                return Ok(Some(credentials));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(registry: &str, user: &str) -> StaticCredentials {
        StaticCredentials::new(
            registry,
            Credentials::password(user, Secret::new("pass-word")),
        )
    }

    #[test]
    fn the_trait_is_object_safe_and_shared() {
        fn shared<T: Send + Sync + fmt::Debug + ?Sized>() {}
        shared::<dyn CredentialSource>();
    }

    #[tokio::test]
    async fn the_first_source_that_knows_answers() {
        let chain = CredentialChain::new()
            .then(Anonymous)
            .then(given("a.example", "first"))
            .then(given("a.example", "second").with(
                "b.example",
                Credentials::identity_token(Secret::new("t0ken")),
            ));
        let user = |credentials| match credentials {
            Some(Credentials::Password { username, .. }) => username,
            other => format!("{other:?}"),
        };
        assert_eq!(user(chain.credentials("a.example").await.unwrap()), "first");
        let token = user(chain.credentials("b.example").await.unwrap());
        assert!(
            token.contains("IdentityToken") && !token.contains("t0ken"),
            "{token}"
        );
        assert_eq!(user(chain.credentials("c.example").await.unwrap()), "None");
        assert_eq!(
            chain.to_string(),
            "chain(anonymous, given credentials, given credentials)"
        );
    }
}
