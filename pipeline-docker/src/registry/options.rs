//! [`RegistryOptions`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use pipeline_core::Secret;

use super::progress::TransferObserver;
use super::retry::RetryPolicy;
use crate::credentials::{Anonymous, CredentialSource};

const MIB: u64 = 1024 * 1024;

/// How a [`Registry`](super::Registry) client works.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RegistryOptions {
    /// Where credentials come from. Default [`Anonymous`]; nothing is read from the process's
    /// environment unless [`CredentialChain::from_env`](super::CredentialChain::from_env) is
    /// given here.
    pub credentials: Arc<dyn CredentialSource>,
    /// How long an answer of the credential source counts; then it is asked again, so that a
    /// program that runs for days follows a changed password. Default 300 s.
    pub credentials_lifetime: Duration,
    /// Registries (`host` or `host:port`) that are spoken to in plain HTTP. Default none.
    ///
    /// Loopback addresses and `localhost` need no entry: what they speak is found out, plain HTTP
    /// first. Every other registry is spoken to in TLS only.
    pub plain_http: BTreeSet<String>,
    /// Certificate authorities trusted beside those of the system, in PEM. Default none.
    pub ca_pem: Vec<Vec<u8>>,
    /// An HTTP proxy for everything that is not loopback, `http://host:port`. Default none; the
    /// proxy variables of the environment are not read. The address may hold a password.
    pub proxy: Option<Secret>,
    /// Default `pipeline-docker/<version>`.
    pub user_agent: String,
    /// Default: five tries, see [`RetryPolicy`].
    pub retry: RetryPolicy,
    /// Blobs that move at the same time. Default 4; 0 counts as 1.
    pub parallel: usize,
    /// Blobs up to this size go in one request, larger ones in chunks. Default 64 MiB.
    pub single_request_limit: u64,
    /// Size of a chunk. Default 16 MiB; a registry that asks for larger ones gets them. A chunk is
    /// streamed, not held in memory.
    pub chunk_size: u64,
    /// Time for a connection. Default 10 s.
    pub connect_timeout: Duration,
    /// Time without a byte moving after which a transfer counts as stalled. Default 60 s.
    pub idle_timeout: Duration,
    /// Time for an answer once everything is sent; a registry that stores large blobs elsewhere
    /// may be slow with it. Default 300 s.
    pub answer_timeout: Duration,
    /// Hears events of all operations, unless [`Registry::observed_by`](super::Registry::observed_by)
    /// names another. Default none.
    pub observer: Option<Arc<dyn TransferObserver>>,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            credentials: Arc::new(Anonymous),
            credentials_lifetime: Duration::from_secs(300),
            plain_http: BTreeSet::new(),
            ca_pem: Vec::new(),
            proxy: None,
            user_agent: concat!("pipeline-docker/", env!("CARGO_PKG_VERSION")).to_owned(),
            retry: RetryPolicy::default(),
            parallel: 4,
            single_request_limit: 64 * MIB,
            chunk_size: 16 * MIB,
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            answer_timeout: Duration::from_secs(300),
            observer: None,
        }
    }
}

impl RegistryOptions {
    /// Sets where credentials come from.
    #[must_use]
    pub fn with_credentials(mut self, source: impl CredentialSource + 'static) -> Self {
        self.credentials = Arc::new(source);
        self
    }

    /// Sets how long an answer of the credential source counts.
    #[must_use]
    pub fn with_credentials_lifetime(mut self, lifetime: Duration) -> Self {
        self.credentials_lifetime = lifetime;
        self
    }

    /// Allows plain HTTP to one registry (`host` or `host:port`).
    #[must_use]
    pub fn with_plain_http(mut self, registry: impl Into<String>) -> Self {
        self.plain_http.insert(registry.into());
        self
    }

    /// Trusts the certificate authorities in a PEM file's text, beside those of the system.
    #[must_use]
    pub fn with_ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca_pem.push(pem.into());
        self
    }

    /// Sets the HTTP proxy.
    #[must_use]
    pub fn with_proxy(mut self, url: impl Into<String>) -> Self {
        self.proxy = Some(Secret::new(url));
        self
    }

    /// Sets the user agent.
    #[must_use]
    pub fn with_user_agent(mut self, name: impl Into<String>) -> Self {
        self.user_agent = name.into();
        self
    }

    /// Sets when requests are repeated.
    #[must_use]
    pub fn with_retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// Sets how many blobs move at the same time.
    #[must_use]
    pub fn with_parallel(mut self, blobs: usize) -> Self {
        self.parallel = blobs;
        self
    }

    /// Sets up to which size a blob goes in one request.
    #[must_use]
    pub fn with_single_request_limit(mut self, bytes: u64) -> Self {
        self.single_request_limit = bytes;
        self
    }

    /// Sets the size of a chunk.
    #[must_use]
    pub fn with_chunk_size(mut self, bytes: u64) -> Self {
        self.chunk_size = bytes;
        self
    }

    /// Sets the time for a connection.
    #[must_use]
    pub fn with_connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// Sets after which time without movement a transfer counts as stalled.
    #[must_use]
    pub fn with_idle_timeout(mut self, limit: Duration) -> Self {
        self.idle_timeout = limit;
        self
    }

    /// Sets the time for an answer once everything is sent.
    #[must_use]
    pub fn with_answer_timeout(mut self, limit: Duration) -> Self {
        self.answer_timeout = limit;
        self
    }

    /// Sets who hears the events.
    #[must_use]
    pub fn with_observer(mut self, observer: Arc<dyn TransferObserver>) -> Self {
        self.observer = Some(observer);
        self
    }
}
