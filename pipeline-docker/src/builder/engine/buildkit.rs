//! The answers of BuildKit.

use std::collections::HashMap;

use bollard::errors::Error as BollardError;
use bollard::models::{BuildInfo, BuildInfoAux};
use futures_util::{Stream, StreamExt};

use super::buildkit_error::classify;
use super::classic::{before, image_id};
use super::failure::Trace;
use super::lines::Lines;
use crate::builder::{BuildError, BuildEvent};
use crate::engine::{Engine, EngineError};
use crate::oci::Digest;

/// What is known of one piece of work.
#[derive(Debug, Default)]
struct Vertex {
    name: String,
    lines: Lines,
    started: bool,
    finished: bool,
    failed: bool,
}

/// An id that no other build has.
pub(super) fn session() -> String {
    bollard::grpc::BuildRef::random().into()
}

/// Reads a build to its end; answers the id of the image.
pub(super) async fn follow(
    engine: &Engine,
    stream: impl Stream<Item = Result<BuildInfo, BollardError>>,
    trace: &mut Trace<'_>,
    syntax: Option<&str>,
) -> Result<Digest, BuildError> {
    let mut stream = std::pin::pin!(stream);
    let mut vertexes: HashMap<String, Vertex> = HashMap::new();
    let mut id = None;
    while let Some(info) = stream.next().await {
        let error = match info {
            Ok(info) => {
                id = image_id(&info).or(id);
                match (info.error_detail, info.aux) {
                    (Some(detail), _) => detail.message.unwrap_or_default(),
                    (None, Some(BuildInfoAux::BuildKit(status))) => {
                        for vertex in status.vertexes {
                            let known = vertexes.entry(vertex.digest).or_default();
                            known.name = vertex.name;
                            known.failed |= !vertex.error.is_empty();
                            let done = vertex.completed.is_some() && !known.failed;
                            known.tell(trace, vertex.started.is_some(), done, vertex.cached);
                        }
                        for layer in status.statuses {
                            trace.layer(&layer.id, &layer.name, layer.current, layer.total);
                        }
                        for log in status.logs {
                            let known = vertexes.entry(log.vertex).or_default();
                            known.output(trace, &String::from_utf8_lossy(&log.msg));
                        }
                        for warning in status.warnings {
                            trace.warn(String::from_utf8_lossy(&warning.short));
                        }
                        continue;
                    }
                    _ => continue,
                }
            }
            Err(BollardError::DockerStreamError { error }) => error,
            Err(BollardError::DockerResponseServerError {
                status_code,
                message,
            }) => return Err(before(status_code, &message)),
            Err(other) => return Err(engine.error("build the image", other).into()),
        };
        let failed = vertexes.into_values().find(|vertex| vertex.failed);
        let failed = failed.map(|mut vertex| {
            vertex.end_line(trace);
            (vertex.name, vertex.lines.take_last())
        });
        return Err(classify(&error, syntax, failed));
    }
    id.and_then(|id| id.parse().ok()).ok_or_else(|| {
        // An engine that goes away while it builds just ends its answer.
        let gone = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        let address = engine.address().to_string();
        EngineError::broke(&address, "build the image", Box::new(gone)).into()
    })
}

impl Vertex {
    fn tell(&mut self, trace: &Trace<'_>, started: bool, done: bool, cached: bool) {
        // Its own doings are nothing that a Dockerfile says.
        if self.name.starts_with("[internal]") {
            return;
        }
        if started && !self.started {
            self.started = true;
            trace.tell(&BuildEvent::InstructionStarted {
                instruction: self.name.clone(),
            });
        }
        if done && !self.finished {
            self.end_line(trace);
            self.finished = true;
            trace.tell(&BuildEvent::InstructionFinished {
                instruction: self.name.clone(),
                cached,
            });
        }
    }

    fn output(&mut self, trace: &Trace<'_>, text: &str) {
        self.lines.push(text, &mut |line| trace.line(line));
    }

    fn end_line(&mut self, trace: &Trace<'_>) {
        self.lines.end(&mut |line| trace.line(line));
    }
}
