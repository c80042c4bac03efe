//! The rate-limit headers of registries.

use std::time::Duration;

use reqwest::header::HeaderMap;
use serde::{Deserialize, Serialize};

/// How many pulls the registry still grants.
///
/// Docker Hub sends it with manifests (`ratelimit-limit: 100;w=21600`); a registry that does not
/// count sends nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RateLimit {
    /// Requests per window.
    pub limit: u64,
    /// Requests left in this window.
    pub remaining: u64,
    /// Length of the window, if given.
    pub window: Option<Duration>,
    /// What is counted (an address or an account), if given.
    pub source: Option<String>,
}

impl RateLimit {
    /// Whether less than a tenth is left.
    #[must_use]
    pub fn is_low(&self) -> bool {
        self.remaining.saturating_mul(10) < self.limit
    }

    pub(crate) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let (limit, window) = counted(text("ratelimit-limit")?)?;
        let (remaining, _) = counted(text("ratelimit-remaining")?)?;
        let source = text("docker-ratelimit-source").map(str::to_owned);
        Some(Self {
            limit,
            remaining,
            window,
            source,
        })
    }
}

/// Reads `100;w=21600`.
fn counted(text: &str) -> Option<(u64, Option<Duration>)> {
    let mut parts = text.split(';').map(str::trim);
    let count = parts.next()?.parse().ok()?;
    let window = parts
        .find_map(|part| part.strip_prefix("w="))
        .and_then(|seconds| seconds.parse().ok())
        .map(Duration::from_secs);
    Some((count, window))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(limit: &'static str, remaining: &'static str) -> Option<RateLimit> {
        let mut headers = HeaderMap::new();
        headers.insert("ratelimit-limit", limit.parse().unwrap());
        headers.insert("ratelimit-remaining", remaining.parse().unwrap());
        headers.insert("docker-ratelimit-source", "192.0.2.1".parse().unwrap());
        RateLimit::from_headers(&headers)
    }

    #[test]
    fn the_headers_of_docker_hub_are_read() {
        let limit = parse("100;w=21600", "9;w=21600").unwrap();
        assert_eq!((limit.limit, limit.remaining), (100, 9));
        assert_eq!(limit.window, Some(Duration::from_secs(21_600)));
        assert_eq!(limit.source.as_deref(), Some("192.0.2.1"));
        assert!(limit.is_low());
        assert!(!parse("100", "10").unwrap().is_low());
        assert_eq!(parse("many", "10"), None);
        assert_eq!(RateLimit::from_headers(&HeaderMap::new()), None);
    }
}
