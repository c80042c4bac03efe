use std::fmt;

use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use pipeline_core::Secret;

use super::{BucketError, BucketOptions, BucketStore, PlainHttp};

/// A container of Azure Blob Storage.
///
/// No server for tests was at hand, so this store is tested up to the client underneath only.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AzureContainer {
    /// Storage account.
    pub account: String,
    /// Name of the container, which must exist.
    pub name: String,
    /// Who asks.
    pub credentials: AzureCredentials,
    /// Address of the server. Default: Azure's for the account.
    pub endpoint: Option<String>,
    /// Whether TLS may be missing. Default: only on this host.
    pub plain_http: PlainHttp,
}

/// Who asks Azure.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum AzureCredentials {
    /// The account's shared key.
    AccessKey(Secret),
    /// Whatever the process is given when the container is opened: `AZURE_STORAGE_*`, a workload
    /// identity, or the machine's identity.
    Environment,
}

impl AzureContainer {
    /// A container of an account.
    pub fn new(
        account: impl Into<String>,
        name: impl Into<String>,
        credentials: AzureCredentials,
    ) -> Self {
        Self {
            account: account.into(),
            name: name.into(),
            credentials,
            endpoint: None,
            plain_http: PlainHttp::default(),
        }
    }

    /// Sets the address of the server.
    #[must_use]
    pub fn with_endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoint = Some(endpoint.into());
        self
    }

    /// Sets whether TLS may be missing.
    #[must_use]
    pub fn with_plain_http(mut self, plain_http: PlainHttp) -> Self {
        self.plain_http = plain_http;
        self
    }
}

/// `az://ACCOUNT/NAME`.
impl fmt::Display for AzureContainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "az://{}/{}", self.account, self.name)
    }
}

impl BucketStore {
    /// Opens a container of Azure Blob Storage. Nothing is sent yet.
    ///
    /// # Errors
    /// An address in plain HTTP beyond this host, a prefix that cannot be one, or settings that
    /// make no client.
    pub fn azure(container: &AzureContainer, options: BucketOptions) -> Result<Self, BucketError> {
        let mut builder = match &container.credentials {
            AzureCredentials::Environment => MicrosoftAzureBuilder::from_env(),
            AzureCredentials::AccessKey(key) => {
                MicrosoftAzureBuilder::new().with_access_key(key.expose())
            }
        };
        if let Some(endpoint) = &container.endpoint {
            builder = builder.with_endpoint(endpoint.clone());
        }
        let endpoint = builder.get_config_value(&AzureConfigKey::Endpoint);
        let plain = container.plain_http.check(endpoint.as_deref())?;
        let client = builder
            .with_account(&container.account)
            .with_container_name(&container.name)
            .with_client_options(options.client(plain))
            .with_retry(options.retry())
            .build();
        Self::opened(client, container, options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_with_a_shared_key_and_shows_no_secret() {
        let key = AzureCredentials::AccessKey(Secret::new("c3dvcmRmaXNo"));
        let container = AzureContainer::new("builds", "cache", key);
        let store = BucketStore::azure(&container, BucketOptions::default()).unwrap();
        assert_eq!(store.to_string(), "bucket(az://builds/cache)");
        let shown = format!("{container:?} {store:?}");
        assert!(!shown.contains("c3dvcmRmaXNo"), "{shown}");
        let plain = container.with_endpoint("http://blobs.example.com");
        let error = BucketStore::azure(&plain, BucketOptions::default()).unwrap_err();
        assert!(matches!(error, BucketError::PlainHttp { .. }), "{error}");
        let allowed = plain.with_plain_http(PlainHttp::Allowed);
        BucketStore::azure(&allowed, BucketOptions::default()).unwrap();
    }
}
