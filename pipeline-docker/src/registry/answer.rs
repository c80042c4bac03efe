//! What a registry answered.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::HeaderMap;
use reqwest::{Response, Url};
use serde::Deserialize;

use super::error::RegistryError;
use super::retry;
use super::transport::connection_error;
use crate::oci::Digest;

/// As much of an error's text as anybody reads.
const MAX_TEXT: usize = 300;
/// As much of an error's body as is looked at.
const MAX_ERROR_BODY: usize = 64 * 1024;

/// An answer together with whom and what we asked.
#[derive(Debug)]
pub(crate) struct Answer {
    response: Response,
    registry: String,
    action: String,
    idle: Duration,
}

#[derive(Deserialize)]
struct ErrorBody {
    #[serde(default)]
    errors: Vec<ErrorEntry>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// Token services answer in the style of OAuth or in styles of their own.
#[derive(Deserialize)]
struct OtherBody {
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    error_description: Option<String>,
    #[serde(default)]
    details: Option<String>,
    #[serde(default)]
    message: Option<String>,
}

impl Answer {
    pub(crate) fn new(response: Response, registry: &str, action: &str, idle: Duration) -> Self {
        Self {
            response,
            registry: registry.to_owned(),
            action: action.to_owned(),
            idle,
        }
    }

    pub(crate) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// The address that answered, after redirects.
    pub(crate) fn url(&self) -> &Url {
        self.response.url()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.response
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    }

    /// The `Docker-Content-Digest` header, if there is one that is a digest.
    pub(crate) fn content_digest(&self) -> Option<Digest> {
        self.header("docker-content-digest")
            .and_then(|text| text.trim().parse().ok())
    }

    /// This answer if its status is one of these, else the error it stands for.
    pub(crate) async fn expect(self, statuses: &[u16]) -> Result<Self, RegistryError> {
        if statuses.contains(&self.status()) {
            Ok(self)
        } else {
            Err(self.into_error().await)
        }
    }

    /// The next bytes of the body; `None` at its end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, RegistryError> {
        match tokio::time::timeout(self.idle, self.response.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(error)) => Err(connection_error(&self.registry, &self.action, error)),
            Err(_elapsed) => Err(RegistryError::Stalled {
                registry: self.registry.clone(),
                action: self.action.clone(),
                idle: self.idle,
            }),
        }
    }

    /// The whole body, which must not be longer than `limit` bytes.
    pub(crate) async fn into_bytes(mut self, limit: usize) -> Result<Vec<u8>, RegistryError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if bytes.len() + chunk.len() > limit {
                return Err(self.protocol(format!("its answer is longer than {limit} bytes")));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    /// What the registry says in an error's body, on one line.
    pub(crate) async fn into_text(mut self) -> String {
        let mut bytes = Vec::new();
        while let Ok(Some(chunk)) = self.chunk().await {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > MAX_ERROR_BODY {
                break;
            }
        }
        explanation(&bytes)
    }

    pub(crate) fn protocol(&self, what: impl Into<String>) -> RegistryError {
        RegistryError::Protocol {
            registry: self.registry.clone(),
            action: self.action.clone(),
            what: what.into(),
        }
    }

    /// The error that this answer stands for.
    pub(crate) async fn into_error(self) -> RegistryError {
        let status = self.status();
        let retry_after = retry::retry_after(self.headers());
        let (registry, action) = (self.registry.clone(), self.action.clone());
        let answer = self.into_text().await;
        match status {
            401 => RegistryError::Unauthorized {
                registry,
                action,
                advice: "it does not accept the credentials".to_owned(),
                answer,
            },
            403 => RegistryError::Denied {
                registry,
                action,
                answer,
            },
            404 => RegistryError::NotFound {
                registry,
                action,
                answer,
            },
            429 => RegistryError::RateLimited {
                registry,
                action,
                retry_after,
                answer,
            },
            _ => RegistryError::Status {
                registry,
                action,
                status,
                retry_after,
                answer,
            },
        }
    }
}

/// The registry's words in the error document of the specification, or its plain text.
fn explanation(bytes: &[u8]) -> String {
    let text = match serde_json::from_slice::<ErrorBody>(bytes) {
        Ok(body) if !body.errors.is_empty() => body
            .errors
            .iter()
            .map(|entry| format!("{}: {}", entry.code, entry.message))
            .collect::<Vec<_>>()
            .join("; "),
        _ => match serde_json::from_slice::<OtherBody>(bytes) {
            Ok(body) => [
                body.error,
                body.error_description,
                body.details,
                body.message,
            ]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(": "),
            Err(_) => {
                let text = String::from_utf8_lossy(bytes);
                // A page for browsers helps nobody in a log.
                if text.trim_start().starts_with('<') {
                    String::new()
                } else {
                    text.into_owned()
                }
            }
        },
    };
    let mut line: String = text
        .split(|character: char| character.is_control())
        .collect::<Vec<_>>()
        .join(" ");
    line.truncate(line.trim_end().len());
    if let Some((end, _)) = line.char_indices().nth(MAX_TEXT) {
        line.truncate(end);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registrys_words_are_found_and_cannot_take_over_a_terminal() {
        let body = br#"{"errors":[{"code":"DENIED","message":"no\n\u001b[31mway","detail":{}},{"code":"X"}]}"#;
        assert_eq!(explanation(body), "DENIED: no  [31mway; X:");
        assert_eq!(
            explanation(br#"{"details":"incorrect username"}"#),
            "incorrect username"
        );
        assert_eq!(
            explanation(br#"{"error":"invalid_grant","error_description":"old"}"#),
            "invalid_grant: old"
        );
        assert_eq!(explanation(b"not found\n"), "not found");
        assert_eq!(explanation(b"<html>"), "");
        assert_eq!(explanation(b""), "");
        assert_eq!(
            explanation("ä".repeat(1000).as_bytes()).chars().count(),
            MAX_TEXT + 1
        );
    }
}
