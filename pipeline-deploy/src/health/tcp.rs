use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Endpoint, Health, HealthCheck};

/// Healthy when a TCP connection is accepted.
#[derive(Debug, Clone)]
pub struct TcpCheck {
    limit: Duration,
}

impl Default for TcpCheck {
    fn default() -> Self {
        Self {
            limit: Duration::from_secs(5),
        }
    }
}

impl TcpCheck {
    /// Sets how long one probe may take. Default: 5 s.
    #[must_use]
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }
}

impl fmt::Display for TcpCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TCP connect")
    }
}

#[async_trait]
impl HealthCheck for TcpCheck {
    async fn probe(&self, endpoint: &Endpoint) -> Health {
        let connect = TcpStream::connect((endpoint.host.as_str(), endpoint.port));
        match timeout(self.limit, connect).await {
            Ok(Ok(_)) => Health::healthy(format!("{endpoint} accepts connections")),
            Ok(Err(error)) => Health::unhealthy(format!("{endpoint}: {error}")),
            Err(_) => {
                Health::unhealthy(format!("{endpoint}: no connection within {:?}", self.limit))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_listener_is_healthy_and_a_closed_port_is_not() {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
            .await
            .unwrap();
        let endpoint = Endpoint::loopback(listener.local_addr().unwrap().port());
        assert!(TcpCheck::default().probe(&endpoint).await.is_healthy());
        drop(listener);
        let health = TcpCheck::default().probe(&endpoint).await;
        assert!(!health.is_healthy() && health.summary().contains("refused"));
    }
}
