use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

/// Where to ask.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Endpoint {
    /// A host name or an address.
    pub host: String,
    /// A TCP port.
    pub port: u16,
}

impl Endpoint {
    /// A port of a host.
    #[must_use]
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
        }
    }

    /// A port of this machine.
    #[must_use]
    pub fn loopback(port: u16) -> Self {
        Self::new("127.0.0.1", port)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Asks once whether something is well.
///
/// # Contract
/// Whatever happens (no connection, nonsense, silence) is a verdict, not an error. A probe
/// ends by itself after a bounded time and changes nothing.
///
/// # Cancellation
/// Dropping the future ends the probe and leaves nothing behind.
#[async_trait]
pub trait HealthCheck: fmt::Debug + fmt::Display + Send + Sync {
    /// Asks at `endpoint`.
    async fn probe(&self, endpoint: &Endpoint) -> Health;
}

/// The verdict of one probe. `Display` prints it in one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Health {
    healthy: bool,
    summary: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answer: Option<Answer>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cure: Option<String>,
}

impl Health {
    /// It is well.
    #[must_use]
    pub fn healthy(summary: impl Into<String>) -> Self {
        Self {
            healthy: true,
            summary: summary.into(),
            answer: None,
            cure: None,
        }
    }

    /// It is not.
    #[must_use]
    pub fn unhealthy(summary: impl Into<String>) -> Self {
        Self {
            healthy: false,
            ..Self::healthy(summary)
        }
    }

    /// Adds what was answered.
    #[must_use]
    pub fn with_answer(mut self, answer: Answer) -> Self {
        self.answer = Some(answer);
        self
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn with_cure(mut self, cure: impl Into<String>) -> Self {
        self.cure = Some(cure.into());
        self
    }

    /// The same without secrets: an application may show them in its answers.
    #[cfg(target_os = "linux")]
    pub(crate) fn redacted(mut self, redactor: &pipeline_core::Redactor) -> Self {
        if let Some(answer) = &mut self.answer {
            answer.body_head = redactor.redact(&answer.body_head);
        }
        self
    }

    /// Whether it is well.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.healthy
    }

    /// What was seen, in one line.
    #[must_use]
    pub fn summary(&self) -> &str {
        &self.summary
    }

    /// What was answered, when there was an answer.
    #[must_use]
    pub fn answer(&self) -> Option<&Answer> {
        self.answer.as_ref()
    }

    /// What to do about it, when the cause was recognised.
    #[must_use]
    pub fn cure(&self) -> Option<&str> {
        self.cure.as_deref()
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.healthy { "healthy" } else { "unhealthy" };
        write!(f, "{verdict}: {}", self.summary)
    }
}

/// What a probe got back: the status of an HTTP answer, and the head of what came with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Answer {
    /// The HTTP status, or a command's exit code.
    pub status: i32,
    /// The first bytes of the body or output, as text.
    pub body_head: String,
}

impl Answer {
    /// An answer with its first bytes.
    #[must_use]
    pub fn new(status: i32, body_head: impl Into<String>) -> Self {
        Self {
            status,
            body_head: body_head.into(),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One line and short: the whole head is in the value.
        let words: Vec<_> = self.body_head.split_whitespace().collect();
        let line = words.join(" ");
        let head: String = line.chars().take(300).collect();
        let more = if head.len() < line.len() { "…" } else { "" };
        write!(f, "{} {head}{more}", self.status)
    }
}
