//! Docker's configuration file as a source of credentials.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use pipeline_core::Secret;
use serde::Deserialize;

use super::helper;
use super::source::{CredentialChain, CredentialError, CredentialSource, Credentials};

/// The key under which docker keeps the credentials of `docker.io`.
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// Other spellings of the same registry in keys.
const HUB_ALIASES: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];
/// How long a helper may take unless told otherwise.
const HELPER_LIMIT: Duration = Duration::from_secs(30);

/// Docker's writers pad, others do not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why docker's configuration file cannot be used. A missing file is an empty one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DockerConfigError {
    /// The file cannot be read.
    #[error("docker's configuration {origin} cannot be read")]
    Read {
        /// The file.
        origin: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The text is not the JSON document that docker writes.
    ///
    /// The parser's own message is left out, since it may quote a secret.
    #[error("docker's configuration {origin} is not valid (line {line}, column {column})")]
    Json {
        /// The file.
        origin: String,
        /// Line of the mistake.
        line: usize,
        /// Column of the mistake.
        column: usize,
    },
    /// An `auth` value is not base64 of `user:password`.
    #[error(
        "docker's configuration {origin} has an `auth` for {key:?} that is not base64 of user:password; log in again"
    )]
    Auth {
        /// The file.
        origin: String,
        /// The entry.
        key: String,
    },
}

/// The credentials in a docker configuration file (`config.json`, podman's `auth.json`).
///
/// For a registry the helper named for it in `credHelpers` is asked, then the entry in `auths` is
/// read, then the general `credsStore` is asked. `docker.io` is found under all the keys that
/// docker and its imitators use. A helper runs as a child with a deadline (default 30 s), is
/// killed when the question is dropped, and what it says never reaches a log.
#[derive(Clone)]
pub struct DockerConfig {
    origin: String,
    file: File,
    helper_limit: Duration,
    helper_folder: Option<PathBuf>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    #[serde(default)]
    creds_store: Option<String>,
}

#[derive(Clone, Default, Deserialize)]
struct Entry {
    #[serde(default)]
    auth: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    identitytoken: Option<String>,
    #[serde(default)]
    registrytoken: Option<String>,
}

impl DockerConfig {
    /// Reads a configuration file; a missing one knows nothing.
    ///
    /// # Errors
    ///
    /// [`DockerConfigError`] if the file is there and cannot be read or understood.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, DockerConfigError> {
        let path = path.as_ref();
        let origin = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(origin, &text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::empty(origin)),
            Err(source) => Err(DockerConfigError::Read { origin, source }),
        }
    }

    /// Reads a configuration from a text; `origin` names it in errors.
    ///
    /// # Errors
    ///
    /// [`DockerConfigError::Json`].
    pub fn parse(origin: impl Into<String>, text: &str) -> Result<Self, DockerConfigError> {
        let origin = origin.into();
        if text.trim().is_empty() {
            return Ok(Self::empty(origin));
        }
        match serde_json::from_str(text) {
            Ok(file) => Ok(Self {
                file,
                ..Self::empty(origin)
            }),
            Err(error) => Err(DockerConfigError::Json {
                origin,
                line: error.line(),
                column: error.column(),
            }),
        }
    }

    fn empty(origin: String) -> Self {
        Self {
            origin,
            file: File::default(),
            helper_limit: HELPER_LIMIT,
            helper_folder: None,
        }
    }

    /// Sets how long a credential helper may take. Default 30 s.
    #[must_use]
    pub fn with_helper_limit(mut self, limit: Duration) -> Self {
        self.helper_limit = limit;
        self
    }

    /// Sets a folder where helpers are looked for before the search path. Default none.
    #[must_use]
    pub fn with_helper_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.helper_folder = Some(folder.into());
        self
    }

    async fn ask(&self, helper: &str, key: &str) -> Result<Option<Credentials>, CredentialError> {
        let folder = self.helper_folder.as_deref();
        Ok(helper::ask(helper, folder, key, self.helper_limit).await?)
    }

    /// The credentials in the `auths` section under any key that means `registry`.
    fn stored(&self, registry: &str) -> Result<Option<Credentials>, DockerConfigError> {
        let exact = keys(registry)
            .into_iter()
            .find_map(|key| self.file.auths.get_key_value(&key));
        let entry = exact.or_else(|| {
            self.file.auths.iter().find(|(key, _)| {
                let host = host_of(key);
                host == registry || (is_hub(registry) && is_hub(host))
            })
        });
        let Some((key, entry)) = entry else {
            return Ok(None);
        };
        let secret = |value: &Option<String>| {
            value
                .as_ref()
                .filter(|value| !value.is_empty())
                .map(Secret::new)
        };
        if let Some(token) = secret(&entry.registrytoken) {
            return Ok(Some(Credentials::access_token(token)));
        }
        if let Some(token) = secret(&entry.identitytoken) {
            return Ok(Some(Credentials::identity_token(token)));
        }
        if let Some(auth) = entry.auth.as_ref().filter(|auth| !auth.is_empty()) {
            let wrong = || DockerConfigError::Auth {
                origin: self.origin.clone(),
                key: key.clone(),
            };
            let decoded = BASE64.decode(auth.trim()).map_err(|_| wrong())?;
            let text = String::from_utf8(decoded).map_err(|_| wrong())?;
            // A password may hold colons, a user name may not.
            let (username, password) = text.split_once(':').ok_or_else(wrong)?;
            let password = password.trim_end_matches('\0');
            return Ok(Some(Credentials::password(username, Secret::new(password))));
        }
        if let (Some(username), Some(password)) = (&entry.username, secret(&entry.password)) {
            return Ok(Some(Credentials::password(username, password)));
        }
        // What `docker login` leaves behind when a store keeps the secret.
        Ok(None)
    }
}

impl fmt::Debug for DockerConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("DockerConfig")
            .field("origin", &self.origin)
            .field("registries", &self.file.auths.keys().collect::<Vec<_>>())
            .field("helpers", &self.file.cred_helpers)
            .field("store", &self.file.creds_store)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for DockerConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.origin)
    }
}

#[async_trait]
impl CredentialSource for DockerConfig {
    async fn credentials(&self, registry: &str) -> Result<Option<Credentials>, CredentialError> {
        let names = keys(registry);
        let own = names.iter().find_map(|key| {
            self.file
                .cred_helpers
                .get(key)
                .map(|helper| (helper.as_str(), key.as_str()))
        });
        if let Some((helper, key)) = own {
            let found = self.ask(helper, key).await?;
            if found.is_some() {
                return Ok(found);
            }
        }
        if let Some(found) = self.stored(registry)? {
            return Ok(Some(found));
        }
        let Some(store) = self
            .file
            .creds_store
            .as_deref()
            .filter(|name| !name.is_empty())
        else {
            return Ok(None);
        };
        let key = names.first().map_or(registry, String::as_str);
        self.ask(store, key).await
    }
}

impl CredentialChain {
    /// The sources that docker and podman users have, in order of precedence.
    ///
    /// Reads the process's environment, which is the point of it: the document in
    /// `DOCKER_AUTH_CONFIG`; `config.json` in `DOCKER_CONFIG`, else in `~/.docker`; podman's
    /// `REGISTRY_AUTH_FILE`, else `containers/auth.json` in `XDG_RUNTIME_DIR`.
    ///
    /// # Errors
    ///
    /// [`DockerConfigError`] if one of them is there and cannot be read.
    pub fn from_env() -> Result<Self, DockerConfigError> {
        Self::from_lookup(|name| std::env::var_os(name))
    }

    /// As [`CredentialChain::from_env`], with the variables taken from `lookup`.
    ///
    /// # Errors
    ///
    /// [`DockerConfigError`] if one of the files is there and cannot be read.
    pub fn from_lookup(
        lookup: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, DockerConfigError> {
        let lookup = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let folder = |name: &str| lookup(name).map(PathBuf::from);
        let mut chain = Self::new();
        if let Some(text) = lookup("DOCKER_AUTH_CONFIG") {
            chain = chain.then(DockerConfig::parse(
                "DOCKER_AUTH_CONFIG",
                &text.to_string_lossy(),
            )?);
        }
        let docker =
            folder("DOCKER_CONFIG").or_else(|| folder("HOME").map(|home| home.join(".docker")));
        if let Some(folder) = docker {
            chain = chain.then(DockerConfig::load(folder.join("config.json"))?);
        }
        let podman = folder("REGISTRY_AUTH_FILE").or_else(|| {
            folder("XDG_RUNTIME_DIR").map(|folder| folder.join("containers/auth.json"))
        });
        if let Some(path) = podman {
            chain = chain.then(DockerConfig::load(path)?);
        }
        Ok(chain)
    }
}

/// The keys that may mean `registry`, the one that helpers know first.
fn keys(registry: &str) -> Vec<String> {
    if is_hub(registry) {
        let mut keys = vec![HUB_KEY.to_owned(), HUB_KEY.trim_end_matches('/').to_owned()];
        keys.extend(HUB_ALIASES.map(str::to_owned));
        keys
    } else {
        vec![registry.to_owned(), format!("https://{registry}")]
    }
}

fn is_hub(host: &str) -> bool {
    HUB_ALIASES.contains(&host)
}

/// The host in a key: without scheme, without path.
fn host_of(key: &str) -> &str {
    let rest = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    rest.split('/').next().unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth(text: &str) -> String {
        base64::engine::general_purpose::STANDARD.encode(text)
    }

    async fn look(json: &str, registry: &str) -> Result<String, CredentialError> {
        let config = DockerConfig::parse("test", json)?;
        let found = config.credentials(registry).await?;
        Ok(match found {
            Some(Credentials::Password { username, password }) => {
                format!("{username}={}", password.expose())
            }
            Some(Credentials::IdentityToken { token }) => format!("identity {}", token.expose()),
            Some(Credentials::AccessToken { token }) => format!("access {}", token.expose()),
            None => "none".to_owned(),
        })
    }

    #[tokio::test]
    async fn every_form_of_entry_is_read() {
        let json = format!(
            r#"{{"auths": {{
                "plain.example": {{"auth": "{}"}},
                "unpadded.example": {{"auth": "{}"}},
                "https://schemed.example/v1/": {{"auth": "{}"}},
                "split.example:5000": {{"username": "u", "password": "p"}},
                "identity.example": {{"auth": "{}", "identitytoken": "id"}},
                "access.example": {{"registrytoken": "ready"}},
                "placeholder.example": {{}}
            }}}}"#,
            auth("user:pa:ss+/word"),
            auth("u:pw").trim_end_matches('='),
            auth("s:t\0\0"),
            auth("00000000:"),
        );
        for (registry, expected) in [
            ("plain.example", "user=pa:ss+/word"),
            ("unpadded.example", "u=pw"),
            ("schemed.example", "s=t"),
            ("split.example:5000", "u=p"),
            ("split.example", "none"),
            ("identity.example", "identity id"),
            ("access.example", "access ready"),
            ("placeholder.example", "none"),
            ("docker.io", "none"),
        ] {
            assert_eq!(look(&json, registry).await.unwrap(), expected, "{registry}");
        }
    }

    #[tokio::test]
    async fn docker_io_has_many_names() {
        for key in [
            HUB_KEY,
            "https://index.docker.io/v1",
            "index.docker.io",
            "docker.io",
            "https://registry-1.docker.io/v2/",
        ] {
            let json = format!(r#"{{"auths": {{"{key}": {{"auth": "{}"}}}}}}"#, auth("u:p"));
            assert_eq!(look(&json, "docker.io").await.unwrap(), "u=p", "{key}");
            assert_eq!(look(&json, "ghcr.io").await.unwrap(), "none", "{key}");
        }
    }

    #[tokio::test]
    async fn broken_files_are_errors_without_the_secret() {
        for json in [
            r#"{"auths": {"a.example": {"auth": "c2VjcmV0"}}}"#,
            r#"{"auths": {"a.example": {"auth": "%%secret%%"}}}"#,
            r#"{"auths": {"a.example": {"auth": ["secret"]}}}"#,
            r#"{"auths": "secret"}"#,
        ] {
            let error = look(json, "a.example").await.unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(!text.contains("secret") && !text.contains("c2Vj"), "{text}");
        }
        assert_eq!(look("", "a.example").await.unwrap(), "none");
        assert_eq!(look("{}", "a.example").await.unwrap(), "none");
    }

    #[test]
    fn a_missing_file_is_empty_and_debug_shows_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        assert!(DockerConfig::load(folder.path().join("config.json")).is_ok());
        let json = format!(
            r#"{{"auths": {{"a.example": {{"auth": "{}", "password": "hush"}}}}}}"#,
            auth("u:hush")
        );
        let config = DockerConfig::parse("x", &json).unwrap();
        let text = format!("{config:?}");
        assert!(
            text.contains("a.example") && !text.contains("hush") && !text.contains(&auth("u:hush"))
        );
    }

    #[tokio::test]
    async fn the_environment_names_the_files_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, user: &str, registry: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let text = format!(
                r#"{{"auths": {{"{registry}": {{"auth": "{}"}}}}}}"#,
                auth(&format!("{user}:p"))
            );
            std::fs::write(path, text).unwrap();
        };
        write(".docker/config.json", "docker", "a.example");
        write("containers/auth.json", "podman", "b.example");
        let chain = CredentialChain::from_lookup(|name| match name {
            "HOME" | "XDG_RUNTIME_DIR" => Some(folder.path().into()),
            "DOCKER_AUTH_CONFIG" => {
                Some(r#"{"auths":{"c.example":{"username":"variable","password":"p"}}}"#.into())
            }
            _ => None,
        })
        .unwrap();
        for (registry, user) in [
            ("a.example", "docker"),
            ("b.example", "podman"),
            ("c.example", "variable"),
        ] {
            let found = chain.credentials(registry).await.unwrap();
            assert!(
                matches!(found, Some(Credentials::Password { username, .. }) if username == user)
            );
        }
    }
}
