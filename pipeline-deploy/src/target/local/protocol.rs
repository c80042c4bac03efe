//! What a deploying program and the supervisor say to each other: one JSON value per line,
//! an answer for every request, in order. Fields and requests may be added, never changed;
//! unknown fields are ignored, an unknown request is refused by name.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::launch::{Launch, ProcessSpec};
use crate::release::{DeploymentStatus, Release};

/// Counts incompatible changes; there was none yet.
pub(super) const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Envelope {
    pub(super) v: u32,
    #[serde(flatten)]
    pub(super) request: Request,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub(super) enum Request {
    /// How is everything?
    Status,
    /// Run a preparation command; it is ended when the connection closes.
    Run { spec: ProcessSpec, limit: Duration },
    /// Start a candidate; it is ended when the connection closes before it was promoted.
    Start { launch: Box<Launch> },
    /// How is the candidate of this connection?
    Candidate,
    /// End the candidate of this connection.
    Discard,
    /// Give the traffic to the candidate of this connection; keep the former release.
    Promote,
    /// The promoted release is good: end the former one once it is drained.
    Commit,
    /// The promoted release is not good: give the traffic back to the former one.
    Revert,
    /// Start the live release again after a stop.
    Resume,
    /// The live release stands for a newer sequence number, too.
    RecordSequence { sequence: u64 },
    /// End everything.
    Stop,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub(super) enum Reply {
    Status(Box<Status>),
    Started { pid: u32, port: u16 },
    Running,
    Ended(ProcessEnd),
    Done,
    Refused { reason: String },
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProcessEnd {
    pub(super) code: Option<i32>,
    pub(super) signal: Option<i32>,
    #[serde(default)]
    pub(super) over_limit: bool,
}

impl std::fmt::Display for ProcessEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.over_limit, self.code, self.signal) {
            (true, ..) => f.write_str("ran too long and was ended"),
            (_, Some(code), _) => write!(f, "exited with {code}"),
            (_, None, Some(signal)) => write!(f, "was ended by signal {signal}"),
            (_, None, None) => f.write_str("ended in an unknown way"),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Status {
    pub(super) pid: u32,
    pub(super) port: u16,
    pub(super) live: Option<LiveStatus>,
    /// The folder of a release that was promoted and neither committed nor reverted.
    #[serde(default)]
    pub(super) uncommitted: Option<String>,
    /// Folders whose processes still run although they are not live.
    #[serde(default)]
    pub(super) in_use: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct LiveStatus {
    pub(super) folder: String,
    pub(super) release: Release,
    pub(super) configuration: String,
    pub(super) status: DeploymentStatus,
    pub(super) pid: Option<u32>,
    #[serde(default)]
    pub(super) restarts: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_peers_may_add_fields() {
        let line = r#"{"v":1,"request":"status","colour":"green"}"#;
        let envelope: Envelope = serde_json::from_str(line).unwrap();
        assert!(matches!(envelope.request, Request::Status));
        let line = r#"{"reply":"started","pid":1,"port":2,"more":{}}"#;
        assert!(matches!(
            serde_json::from_str(line).unwrap(),
            Reply::Started { pid: 1, port: 2 }
        ));
    }

    #[test]
    fn every_request_reads_back_as_it_was_written() {
        let line = serde_json::to_string(&Envelope {
            v: VERSION,
            request: Request::RecordSequence { sequence: u64::MAX },
        })
        .unwrap();
        let Envelope { v, request } = serde_json::from_str(&line).unwrap();
        assert_eq!(v, VERSION);
        assert!(matches!(
            request,
            Request::RecordSequence { sequence: u64::MAX }
        ));
    }
}
