//! Requests to registries: which scheme, authenticated, in time, and again when it is worth it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pipeline_core::error_chain;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderValue};
use reqwest::{Certificate, Client, Method, NoProxy, Proxy, Url, redirect};
use tokio::sync::OnceCell;

use super::answer::Answer;
use super::authenticator::Authenticator;
use super::challenge::Challenge;
use super::error::{BoxError, RegistryError};
use super::host::Host;
use super::options::RegistryOptions;
use super::progress::Operation;
use super::rate_limit::RateLimit;
use super::request::{Body, Call, Request};
use super::retry;
use crate::reference::api_host;

/// Content delivery networks need one or two.
const MAX_REDIRECTS: usize = 10;

/// The connections to all registries.
#[derive(Debug)]
pub(crate) struct Transport {
    client: Client,
    options: RegistryOptions,
    hosts: Mutex<HashMap<String, Arc<OnceCell<Arc<Host>>>>>,
}

impl Transport {
    pub(crate) fn new(options: RegistryOptions) -> Result<Self, RegistryError> {
        crate::tls::ensure();
        let wrong = |what: &str, error: reqwest::Error| RegistryError::Configuration {
            what: what.to_owned(),
            source: Some(Box::new(error)),
        };
        let mut authorities = Vec::new();
        for pem in &options.ca_pem {
            let parsed = Certificate::from_pem_bundle(pem)
                .map_err(|error| wrong("a certificate authority is not valid PEM", error))?;
            if parsed.is_empty() {
                return Err(RegistryError::Configuration {
                    what: "a certificate authority's text holds no PEM certificate".to_owned(),
                    source: None,
                });
            }
            authorities.extend(parsed);
        }
        let proxy = match &options.proxy {
            Some(url) => Some(
                Proxy::all(url.expose())
                    .map_err(|error| wrong("the proxy's address is not valid", error))?
                    .no_proxy(NoProxy::from_string("localhost,127.0.0.0/8,::1")),
            ),
            None => None,
        };
        let builder = || {
            let builder = Client::builder()
                .user_agent(options.user_agent.as_str())
                .connect_timeout(options.connect_timeout)
                .redirect(redirect::Policy::custom(follow))
                .referer(false)
                .no_proxy();
            match &proxy {
                Some(proxy) => builder.proxy(proxy.clone()),
                None => builder,
            }
        };
        let client = match builder().tls_certs_merge(authorities.clone()).build() {
            Ok(client) => client,
            // A machine without any authority of its own can still speak plain HTTP to loopback;
            // every TLS connection will fail with a message about the certificate.
            Err(_) if authorities.is_empty() => builder()
                .tls_certs_only([])
                .build()
                .map_err(|error| wrong("cannot be made", error))?,
            Err(error) => return Err(wrong("cannot be made with these authorities", error)),
        };
        Ok(Self {
            client,
            options,
            hosts: Mutex::new(HashMap::new()),
        })
    }

    pub(crate) fn options(&self) -> &RegistryOptions {
        &self.options
    }

    /// The registry at `domain`; the first call finds out what it speaks.
    pub(crate) async fn host(
        &self,
        domain: &str,
        operation: &Operation,
    ) -> Result<Arc<Host>, RegistryError> {
        let cell = {
            let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(hosts.entry(domain.to_owned()).or_default())
        };
        let host = cell
            .get_or_try_init(|| self.connect(domain, operation))
            .await?;
        Ok(Arc::clone(host))
    }

    /// Asks `GET /v2/` without credentials: scheme and challenge in one question.
    async fn connect(
        &self,
        domain: &str,
        operation: &Operation,
    ) -> Result<Arc<Host>, RegistryError> {
        const ACTION: &str = "say what it speaks";
        let address = api_host(domain);
        let base = |scheme: &str| {
            Url::parse(&format!("{scheme}://{address}/")).map_err(|error| {
                RegistryError::Configuration {
                    what: format!("{domain:?} is no address"),
                    source: Some(Box::new(error)),
                }
            })
        };
        let host_only = base("http")?.host_str().unwrap_or_default().to_owned();
        let plain = self.options.plain_http.contains(domain);
        let mut scheme = if plain { "http" } else { "https" };
        if !plain && is_loopback(&host_only) {
            // Plain first: a TLS server refuses it at once, while a plain server may wait for
            // the end of what it takes for a strange request. Once: whatever speaks no HTTP
            // would not learn it from a repetition.
            let request = Request::new(Method::GET, root(&base("http")?));
            let tls = match self
                .execute(domain, ACTION, &request, None, operation)
                .await
            {
                // "client sent an HTTP request to an HTTPS server"
                Ok(answer) => answer.status() == 400,
                // Nobody there at all may be a registry that is just starting.
                Err(RegistryError::Connection { source, .. }) => !is_connect_error(&source),
                Err(_) => true,
            };
            if !tls {
                scheme = "http";
            }
        }
        let base = base(scheme)?;
        let request = Request::new(Method::GET, root(&base));
        let answer = self
            .send_unauthenticated(domain, ACTION, &request, operation)
            .await?;
        let challenge = (answer.status() == 401)
            .then(|| Challenge::from_headers(answer.headers()))
            .flatten();
        Ok(Arc::new(Host {
            name: domain.to_owned(),
            base,
            authenticator: Authenticator::new(domain, scheme == "https", challenge),
        }))
    }

    /// Sends a request in our name, again as often as the policy says.
    ///
    /// Any answer that is no retryable failure comes back, 404 too.
    pub(crate) async fn send(
        &self,
        call: Call<'_>,
        request: &Request<'_>,
    ) -> Result<Answer, RegistryError> {
        self.repeat(call.action, call.operation, || {
            self.send_once(call, request)
        })
        .await
    }

    /// Sends a request in our name; a 401 is answered once with new or better credentials.
    pub(crate) async fn send_once(
        &self,
        call: Call<'_>,
        request: &Request<'_>,
    ) -> Result<Answer, RegistryError> {
        let Call {
            host,
            action,
            operation,
            ..
        } = call;
        if !host.owns(&request.url) {
            // An upload may go on at a storage service by a signed address: no header of ours.
            return self
                .execute(&host.name, action, request, None, operation)
                .await;
        }
        let mut scopes = call.scopes.clone();
        let mut first = true;
        loop {
            let authorization = host
                .authenticator
                .authorization(self, &scopes, action, operation)
                .await?;
            let answer = self
                .execute(
                    &host.name,
                    action,
                    request,
                    authorization.as_ref(),
                    operation,
                )
                .await?;
            if answer.status() != 401 {
                return Ok(answer);
            }
            let better = if first {
                host.authenticator
                    .refused(self, answer.headers(), &scopes, authorization.as_ref())
                    .await?
            } else {
                None
            };
            first = false;
            match better {
                Some(better) => scopes = better,
                None => {
                    return Err(host
                        .authenticator
                        .unauthorized(action, answer.into_text().await)
                        .await);
                }
            }
        }
    }

    /// Sends a request without credentials of ours, again as often as the policy says.
    pub(crate) async fn send_unauthenticated(
        &self,
        registry: &str,
        action: &str,
        request: &Request<'_>,
        operation: &Operation,
    ) -> Result<Answer, RegistryError> {
        self.repeat(action, operation, || {
            self.execute(registry, action, request, None, operation)
        })
        .await
    }

    async fn repeat<F>(
        &self,
        action: &str,
        operation: &Operation,
        send: impl Fn() -> F,
    ) -> Result<Answer, RegistryError>
    where
        F: Future<Output = Result<Answer, RegistryError>>,
    {
        let mut delays = self.options.retry.delays();
        let mut attempt = 1;
        loop {
            let error = match send().await {
                Ok(answer) if retry::is_retryable_status(answer.status()) => {
                    answer.into_error().await
                }
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if !error.is_retryable() {
                return Err(error);
            }
            let Some(delay) = delays.next(error.retry_after()) else {
                return Err(error);
            };
            attempt += 1;
            operation.retrying(action, attempt, delay, error_chain(&error));
            tokio::time::sleep(delay).await;
        }
    }

    async fn execute(
        &self,
        registry: &str,
        action: &str,
        request: &Request<'_>,
        authorization: Option<&HeaderValue>,
        operation: &Operation,
    ) -> Result<Answer, RegistryError> {
        let mut builder = self
            .client
            .request(request.method.clone(), request.url.clone())
            .headers(request.headers.clone());
        if let Some(authorization) = authorization {
            builder = builder.header(AUTHORIZATION, authorization.clone());
        }
        let stalled = |idle: Duration| RegistryError::Stalled {
            registry: registry.to_owned(),
            action: action.to_owned(),
            idle,
        };
        let outcome = match &request.body {
            Body::Empty => {
                if request.method != Method::GET && request.method != Method::HEAD {
                    builder = builder.header(CONTENT_LENGTH, 0);
                }
                let limit = self.options.idle_timeout;
                tokio::time::timeout(limit, builder.send())
                    .await
                    .map_err(|_| stalled(limit))?
            }
            Body::Bytes(bytes) => {
                let limit = self.options.answer_timeout;
                let send = builder.body(bytes.clone()).send();
                tokio::time::timeout(limit, send)
                    .await
                    .map_err(|_| stalled(limit))?
            }
            Body::Stream {
                length,
                meter,
                make,
            } => {
                meter.restart(*length);
                let send = builder.header(CONTENT_LENGTH, *length).body(make()).send();
                let watch = meter.stalled(self.options.idle_timeout, self.options.answer_timeout);
                tokio::select! {
                    outcome = send => {
                        // Our own side of the stream knows best what broke it.
                        if let (Err(_), Some(error)) = (&outcome, meter.take_failure()) {
                            return Err(error);
                        }
                        outcome
                    }
                    idle = watch => return Err(stalled(idle)),
                }
            }
        };
        match outcome {
            Ok(response) => {
                if let Some(limit) = RateLimit::from_headers(response.headers()) {
                    operation.saw_rate_limit(limit);
                }
                Ok(Answer::new(
                    response,
                    registry,
                    action,
                    self.options.idle_timeout,
                ))
            }
            Err(error) => Err(connection_error(registry, action, error)),
        }
    }
}

/// The address that every registry answers.
fn root(base: &Url) -> Url {
    let mut url = base.clone();
    url.set_path("/v2/");
    url
}

/// Follows redirects, but never from TLS to plain HTTP. The client takes our credentials off when
/// the host changes.
fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let downgrade = attempt.url().scheme() != "https"
        && attempt
            .previous()
            .last()
            .is_some_and(|url| url.scheme() == "https");
    if downgrade {
        attempt.error("redirected from HTTPS to plain HTTP")
    } else if attempt.previous().len() > MAX_REDIRECTS {
        attempt.error("too many redirects")
    } else {
        attempt.follow()
    }
}

/// Sorts an error of the HTTP client; its address is dropped, since it may hold a signature.
pub(crate) fn connection_error(
    registry: &str,
    action: &str,
    error: reqwest::Error,
) -> RegistryError {
    let registry = registry.to_owned();
    let certificate = is_certificate_error(&error);
    let source: BoxError = Box::new(error.without_url());
    if certificate {
        RegistryError::Certificate { registry, source }
    } else {
        RegistryError::Connection {
            registry,
            action: action.to_owned(),
            source,
        }
    }
}

fn is_certificate_error(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(rustls::Error::InvalidCertificate(_)) = error.downcast_ref() {
            return true;
        }
        // An I/O error hides what it wraps from `source`.
        let wrapped = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        next = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    false
}

fn is_connect_error(error: &BoxError) -> bool {
    error
        .downcast_ref::<reqwest::Error>()
        .is_some_and(reqwest::Error::is_connect)
}

/// Whether a host (as it stands in an address) is this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loopback() {
        for host in [
            "localhost",
            "LOCALHOST",
            "127.0.0.1",
            "127.9.9.9",
            "[::1]",
            "::1",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "localhost.example",
            "128.0.0.1",
            "0.0.0.0",
            "[::2]",
            "example",
            "",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn wrong_options_are_named() {
        let error = Transport::new(RegistryOptions::default().with_ca_pem("not pem")).unwrap_err();
        assert!(
            error.to_string().contains("certificate authority"),
            "{error}"
        );
        let error = Transport::new(RegistryOptions::default().with_proxy("::")).unwrap_err();
        assert!(error.to_string().contains("proxy"), "{error}");
    }
}
