//! Answers the challenges of one registry.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pipeline_core::Secret;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Url};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::challenge::Challenge;
use super::error::RegistryError;
use super::progress::Operation;
use super::request::Request;
use super::scope::Scopes;
use super::transport::{Transport, is_loopback};
use crate::credentials::Credentials;

/// What the token specification says when `expires_in` is absent.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);
/// A token is renewed this long before its end, or after three quarters of a short life.
const MARGIN: Duration = Duration::from_secs(10);
/// The name that token services know clients by.
const CLIENT_ID: &str = "pipeline-docker";
/// No token is longer.
const MAX_ANSWER: usize = 1024 * 1024;

/// The authentication state of one registry, shared by all requests to it.
#[derive(Debug)]
pub(crate) struct Authenticator {
    /// As users write it.
    registry: String,
    /// Whether the registry is spoken to in TLS.
    secure: bool,
    known: Mutex<Option<Known>>,
    state: Mutex<State>,
}

/// What the source said, and when.
#[derive(Debug)]
struct Known {
    credentials: Option<Credentials>,
    asked_at: Instant,
}

#[derive(Debug, Default)]
struct State {
    challenge: Option<Challenge>,
    tokens: HashMap<Scopes, Token>,
}

#[derive(Clone, Debug)]
struct Token {
    header: HeaderValue,
    renew_at: Option<Instant>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<f64>,
}

impl Authenticator {
    pub(crate) fn new(registry: &str, secure: bool, challenge: Option<Challenge>) -> Self {
        Self {
            registry: registry.to_owned(),
            secure,
            known: Mutex::new(None),
            state: Mutex::new(State {
                challenge,
                tokens: HashMap::new(),
            }),
        }
    }

    /// The credentials for this registry, asked for again once they are old.
    pub(crate) async fn credentials(
        &self,
        transport: &Transport,
    ) -> Result<Option<Credentials>, RegistryError> {
        let options = transport.options();
        let mut known = self.known.lock().await;
        if let Some(known) = known.as_ref()
            && known.asked_at.elapsed() < options.credentials_lifetime
        {
            return Ok(known.credentials.clone());
        }
        match options.credentials.credentials(&self.registry).await {
            Ok(credentials) => {
                *known = Some(Known {
                    credentials: credentials.clone(),
                    asked_at: Instant::now(),
                });
                Ok(credentials)
            }
            Err(source) => match known.as_ref() {
                // A keychain that was locked meanwhile does not break a push that is under way.
                Some(known) => Ok(known.credentials.clone()),
                None => Err(RegistryError::Credentials {
                    registry: self.registry.clone(),
                    source: Box::new(source),
                }),
            },
        }
    }

    /// Whether the registry has asked who we are.
    pub(crate) async fn is_challenged(&self) -> bool {
        self.state.lock().await.challenge.is_some()
    }

    /// The `Authorization` header for a request that needs `scopes`, as far as known.
    ///
    /// The lock is held while a token is fetched, so that parallel requests share one.
    pub(crate) async fn authorization(
        &self,
        transport: &Transport,
        scopes: &Scopes,
        action: &str,
        operation: &Operation,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let mut state = self.state.lock().await;
        match state.challenge.clone() {
            None => Ok(None),
            Some(Challenge::Basic) => match self.credentials(transport).await? {
                Some(Credentials::Password { username, password }) => basic(&username, &password)
                    .map(Some)
                    .ok_or_else(|| self.unusable(action)),
                Some(Credentials::AccessToken { token }) => bearer(token.expose())
                    .map(Some)
                    .ok_or_else(|| self.unusable(action)),
                Some(Credentials::IdentityToken { .. }) => Err(RegistryError::Unauthorized {
                    registry: self.registry.clone(),
                    action: action.to_owned(),
                    advice:
                        "it wants a user name and a password, and only an identity token was found"
                            .to_owned(),
                    answer: String::new(),
                }),
                None => Ok(None),
            },
            Some(Challenge::Bearer { realm, service, .. }) => {
                if let Some(token) = state.tokens.get(scopes)
                    && token
                        .renew_at
                        .is_none_or(|instant| Instant::now() < instant)
                {
                    return Ok(Some(token.header.clone()));
                }
                let token = self
                    .fetch(
                        transport,
                        &realm,
                        service.as_deref(),
                        scopes,
                        action,
                        operation,
                    )
                    .await?;
                let header = token.header.clone();
                state.tokens.insert(scopes.clone(), token);
                Ok(Some(header))
            }
        }
    }

    /// Takes note of a 401. Answers whether another try has a chance, and with which scopes.
    pub(crate) async fn refused(
        &self,
        transport: &Transport,
        headers: &HeaderMap,
        scopes: &Scopes,
        used: Option<&HeaderValue>,
    ) -> Result<Option<Scopes>, RegistryError> {
        let Some(challenge) = Challenge::from_headers(headers) else {
            return Ok(None);
        };
        let wanted = match &challenge {
            Challenge::Basic => None,
            Challenge::Bearer { scope, .. } => Some(scope.clone().unwrap_or_default()),
        };
        let mut state = self.state.lock().await;
        state.challenge = Some(challenge);
        match wanted {
            // The same password again would be refused again.
            None => {
                let known = used.is_none() && self.credentials(transport).await?.is_some();
                Ok(known.then(|| scopes.clone()))
            }
            Some(scope) => {
                let wider = scopes.clone().and(&scope);
                for scopes in [scopes, &wider] {
                    // Unless a parallel request has renewed it already.
                    if state
                        .tokens
                        .get(scopes)
                        .is_some_and(|token| Some(&token.header) == used)
                    {
                        state.tokens.remove(scopes);
                    }
                }
                Ok(Some(wider))
            }
        }
    }

    /// The error for a request that stays refused.
    pub(crate) async fn unauthorized(&self, action: &str, answer: String) -> RegistryError {
        let known = self.known.lock().await;
        let advice = match known.as_ref().and_then(|known| known.credentials.as_ref()) {
            Some(Credentials::Password { username, .. }) => {
                format!(
                    "the password of user {username:?} is not accepted or not enough; log in again"
                )
            }
            Some(Credentials::IdentityToken { .. } | Credentials::AccessToken { .. }) => {
                "the token is not accepted or not enough; log in again".to_owned()
            }
            None => format!(
                "it wants credentials and there are none; run `docker login {}`, or the name is wrong",
                self.registry
            ),
        };
        RegistryError::Unauthorized {
            registry: self.registry.clone(),
            action: action.to_owned(),
            advice,
            answer,
        }
    }

    async fn fetch(
        &self,
        transport: &Transport,
        realm: &str,
        service: Option<&str>,
        scopes: &Scopes,
        action: &str,
        operation: &Operation,
    ) -> Result<Token, RegistryError> {
        let protocol = |what: String| RegistryError::Protocol {
            registry: self.registry.clone(),
            action: action.to_owned(),
            what,
        };
        let mut url = Url::parse(realm)
            .map_err(|_| protocol("its token service has no valid address".to_owned()))?;
        if !may_see_credentials(self.secure, &url) {
            return Err(protocol(
                "its token service would get the credentials in plain HTTP".to_owned(),
            ));
        }
        let mut headers = HeaderMap::new();
        let request = match self.credentials(transport).await? {
            Some(Credentials::AccessToken { token }) => {
                let header = bearer(token.expose()).ok_or_else(|| self.unusable(action))?;
                let renew_at = Instant::now().checked_add(transport.options().credentials_lifetime);
                return Ok(Token { header, renew_at });
            }
            Some(Credentials::IdentityToken { token }) => {
                // The form encoder of the URL type; the address itself is not sent.
                let mut form = url.clone();
                form.set_query(None);
                form.query_pairs_mut()
                    .append_pair("grant_type", "refresh_token")
                    .append_pair("service", service.unwrap_or_default())
                    .append_pair("client_id", CLIENT_ID)
                    .append_pair("refresh_token", token.expose())
                    .append_pair("scope", &scopes.to_string());
                let body = form.query().unwrap_or_default().to_owned();
                Request::new(Method::POST, url)
                    .with_header(
                        CONTENT_TYPE,
                        HeaderValue::from_static("application/x-www-form-urlencoded"),
                    )
                    .with_bytes(body)
            }
            other => {
                {
                    let mut query = url.query_pairs_mut();
                    if let Some(service) = service {
                        query.append_pair("service", service);
                    }
                    for scope in scopes.texts() {
                        query.append_pair("scope", &scope);
                    }
                }
                if let Some(Credentials::Password { username, password }) = other {
                    url.query_pairs_mut().append_pair("account", &username);
                    let header =
                        basic(&username, &password).ok_or_else(|| self.unusable(action))?;
                    headers.insert(AUTHORIZATION, header);
                }
                Request::new(Method::GET, url).with_headers(headers)
            }
        };
        let what = format!("{action} (access token)");
        let answer = transport
            .send_unauthenticated(&self.registry, &what, &request, operation)
            .await?;
        let asked_at = Instant::now();
        match answer.status() {
            200 => {}
            // 400 is what OAuth says about a bad refresh token.
            400 | 401 | 403 => {
                return Err(self.unauthorized(action, answer.into_text().await).await);
            }
            _ => return Err(answer.into_error().await),
        }
        let bytes = answer.into_bytes(MAX_ANSWER).await?;
        // The parser's message could quote the token.
        let answer: TokenAnswer = serde_json::from_slice(&bytes)
            .map_err(|_| protocol("its token service gave no valid answer".to_owned()))?;
        let token = answer
            .token
            .filter(|token| !token.is_empty())
            .or(answer.access_token)
            .ok_or_else(|| protocol("its token service gave no token".to_owned()))?;
        let lifetime = answer
            .expires_in
            .filter(|seconds| *seconds > 0.0)
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .unwrap_or(DEFAULT_LIFETIME);
        let header =
            bearer(&token).ok_or_else(|| protocol("its token is no header value".to_owned()))?;
        let renew_at = asked_at.checked_add(lifetime.saturating_sub(MARGIN.min(lifetime / 4)));
        Ok(Token { header, renew_at })
    }

    fn unusable(&self, action: &str) -> RegistryError {
        RegistryError::Unauthorized {
            registry: self.registry.clone(),
            action: action.to_owned(),
            advice: "the credentials hold a character that no header can carry".to_owned(),
            answer: String::new(),
        }
    }
}

/// Whether a token service may get credentials that its registry may get.
fn may_see_credentials(secure: bool, realm: &Url) -> bool {
    match realm.scheme() {
        "https" => true,
        // Plain HTTP is no worse than what the registry itself speaks.
        "http" => !secure || realm.host_str().is_some_and(is_loopback),
        _ => false,
    }
}

fn basic(username: &str, password: &Secret) -> Option<HeaderValue> {
    sensitive(format!(
        "Basic {}",
        STANDARD.encode(format!("{username}:{}", password.expose()))
    ))
}

fn bearer(token: &str) -> Option<HeaderValue> {
    sensitive(format!("Bearer {token}"))
}

/// A header that no `Debug` shows.
fn sensitive(text: String) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_service_in_plain_http_gets_nothing_from_a_registry_in_tls() {
        for (secure, realm, expected) in [
            (true, "https://auth.example/token", true),
            (true, "http://auth.example/token", false),
            (true, "http://127.0.0.1:5001/token", true),
            (false, "http://auth.example/token", true),
            (false, "ftp://auth.example/token", false),
            (true, "file:///etc/passwd", false),
        ] {
            let url = Url::parse(realm).unwrap();
            assert_eq!(
                may_see_credentials(secure, &url),
                expected,
                "{secure} {realm}"
            );
        }
    }

    #[test]
    fn headers_show_no_secret() {
        let header = basic("user", &Secret::new("pass-word")).unwrap();
        assert_eq!(header.to_str().unwrap(), "Basic dXNlcjpwYXNzLXdvcmQ=");
        assert_eq!(format!("{header:?}"), "Sensitive");
        assert!(bearer("line\nbreak").is_none());
    }
}
