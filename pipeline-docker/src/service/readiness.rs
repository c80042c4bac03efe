//! [`Readiness`]: when a service can be used.

use std::fmt;
use std::time::Duration;

use regex::Regex;

use super::ServiceError;

/// Something that is true of a service that can be used.
///
/// Connections go straight from this machine to the service's address on the private network. They
/// prove more than a port that an engine's proxy has opened, which accepts connections before the
/// service does. They need an engine of root on this Linux, by whatever address. With a rootless
/// engine or Docker Desktop they are refused at once, and with an engine on another machine they run
/// into [`ServiceSpec::timeout`](super::ServiceSpec::timeout), unless somebody has made a route. Use
/// [`Readiness::exec`], a log line or the engine's health check there.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Readiness {
    /// A port accepts connections.
    Tcp {
        /// The port.
        port: u16,
    },
    /// A page is answered as expected.
    Http(HttpReadiness),
    /// A line was written, to standard output or standard error.
    Log(LogReadiness),
    /// A command in the service's container ends with exit code 0.
    Exec {
        /// Program and arguments.
        command: Vec<String>,
    },
    /// The engine calls the container healthy.
    Health(HealthReadiness),
}

impl Readiness {
    /// See [`Readiness::Tcp`].
    #[must_use]
    pub const fn tcp(port: u16) -> Self {
        Self::Tcp { port }
    }

    /// See [`Readiness::Exec`].
    #[must_use]
    pub fn exec<W: Into<String>>(command: impl IntoIterator<Item = W>) -> Self {
        Self::Exec {
            command: command.into_iter().map(Into::into).collect(),
        }
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { port } => write!(f, "port {port}"),
            Self::Http(http) => {
                write!(f, "HTTP {} on port {}", http.path, http.port)?;
                match &http.json {
                    Some((pointer, value)) => write!(f, " with {pointer} = {value}"),
                    None => Ok(()),
                }
            }
            Self::Log(log) => write!(f, "a line with {:?}", log.pattern.as_str()),
            Self::Exec { command } => write!(f, "`{}`", command.join(" ")),
            Self::Health(_) => f.write_str("the engine's health check"),
        }
    }
}

/// A page that is answered as expected: `GET`, without following redirections.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct HttpReadiness {
    /// The port.
    pub port: u16,
    /// The path, with a query if there is one.
    pub path: String,
    /// The status; 200 by default.
    pub status: u16,
    /// A place in the JSON document of the answer (RFC 6901, such as `/value/ready`), and the value
    /// that has to be there.
    pub json: Option<(String, serde_json::Value)>,
}

impl HttpReadiness {
    /// Status 200 for a path on a port.
    #[must_use]
    pub fn new(port: u16, path: impl Into<String>) -> Self {
        Self {
            port,
            path: path.into(),
            status: 200,
            json: None,
        }
    }

    /// Sets the status.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// Wants a value in the JSON document of the answer.
    #[must_use]
    pub fn with_json(
        mut self,
        pointer: impl Into<String>,
        value: impl Into<serde_json::Value>,
    ) -> Self {
        self.json = Some((pointer.into(), value.into()));
        self
    }
}

/// A line that was written.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LogReadiness {
    /// What the line holds.
    pub(super) pattern: LinePattern,
    /// How many such lines; one by default. Some images start a server twice.
    pub times: u32,
}

/// What a line holds.
#[derive(Clone, Debug)]
pub(super) enum LinePattern {
    Text(String),
    Regex(Regex),
}

impl LinePattern {
    pub(super) fn matches(&self, line: &str) -> bool {
        match self {
            Self::Text(text) => line.contains(text),
            Self::Regex(regex) => regex.is_match(line),
        }
    }

    fn as_str(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Regex(regex) => regex.as_str(),
        }
    }
}

impl LogReadiness {
    /// A line that holds this text.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self {
            pattern: LinePattern::Text(text.into()),
            times: 1,
        }
    }

    /// A line that matches this expression, anywhere in it.
    ///
    /// # Errors
    /// [`ServiceError::Pattern`] if it is no expression, in the syntax of the crate `regex`.
    pub fn regex(pattern: &str) -> Result<Self, ServiceError> {
        let regex = Regex::new(pattern).map_err(|error| ServiceError::Pattern {
            pattern: pattern.to_owned(),
            source: Box::new(error),
        })?;
        Ok(Self {
            pattern: LinePattern::Regex(regex),
            times: 1,
        })
    }

    /// Sets how many such lines.
    #[must_use]
    pub fn with_times(mut self, times: u32) -> Self {
        self.times = times;
        self
    }
}

/// The engine's own health check. podman without systemd never runs it: there, use
/// [`Readiness::Exec`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HealthReadiness {
    /// The command, without a shell; the image's own check by default.
    pub command: Option<Vec<String>>,
    /// Time between two checks; half a second by default. Not used with the image's own check.
    pub interval: Duration,
}

impl HealthReadiness {
    /// The check that the image brings.
    #[must_use]
    pub const fn of_image() -> Self {
        Self {
            command: None,
            interval: Duration::from_millis(500),
        }
    }

    /// A check of our own.
    #[must_use]
    pub fn command<W: Into<String>>(words: impl IntoIterator<Item = W>) -> Self {
        Self {
            command: Some(words.into_iter().map(Into::into).collect()),
            ..Self::of_image()
        }
    }
}
