//! One blob on its way into a repository.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pipeline_core::error_chain;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderValue, LOCATION};
use reqwest::{Method, Url};

use super::answer::Answer;
use super::body::Meter;
use super::error::RegistryError;
use super::origin::BlobBody;
use super::progress::{BlobOutcome, TransferEvent};
use super::report::BlobReport;
use super::repository::Repository;
use super::request::{Call, Request};
use super::retry;
use crate::oci::Descriptor;

const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// Where an upload stands.
struct Session {
    location: Url,
    /// Bytes that the registry has.
    offset: u64,
    /// The smallest chunk that the registry takes.
    least: u64,
}

/// What one try came to.
enum Failure {
    /// Worth another try, perhaps after what the registry asked for.
    Again(RegistryError, Option<Duration>),
    /// The registry has lost the upload or cannot go on with it; a new one may work.
    Restart(RegistryError),
    Final(RegistryError),
}

impl Failure {
    fn of(error: RegistryError) -> Self {
        if error.is_retryable() {
            Self::Again(error, None)
        } else {
            Self::Final(error)
        }
    }

    async fn of_answer(answer: Answer) -> Self {
        let after = retry::retry_after(answer.headers());
        let again = retry::is_retryable_status(answer.status());
        let error = answer.into_error().await;
        if again {
            Self::Again(error, after)
        } else {
            Self::Final(error)
        }
    }
}

impl Repository {
    /// Makes sure that the repository has `blob`: it has, takes it over from one of `mounts`, or
    /// gets its bytes.
    pub(crate) async fn push_blob(
        &self,
        blob: &Descriptor,
        body: &dyn BlobBody,
        mounts: &[String],
    ) -> Result<BlobReport, RegistryError> {
        let started = Instant::now();
        self.operation.tell(&TransferEvent::BlobStarted {
            digest: blob.digest.clone(),
            size: blob.size,
        });
        let meter = Meter::new(Arc::clone(&self.operation), blob.clone());
        let outcome = if self.has_blob(&blob.digest).await? {
            BlobOutcome::Existed
        } else {
            match self.mount(blob, mounts).await? {
                Mount::Done { from } => BlobOutcome::Mounted { from },
                Mount::Session(session) => {
                    self.upload(blob, body, &meter, session).await?;
                    BlobOutcome::Uploaded
                }
            }
        };
        self.operation.tell(&TransferEvent::BlobFinished {
            digest: blob.digest.clone(),
            outcome: outcome.clone(),
        });
        Ok(BlobReport::new(
            blob,
            outcome,
            meter.total(),
            started.elapsed(),
        ))
    }

    /// Asks the registry to take the blob over from another of its repositories.
    ///
    /// The token must be good for reading there. Whatever is wrong with a mount is no reason to
    /// fail: then the bytes are sent.
    async fn mount(&self, blob: &Descriptor, mounts: &[String]) -> Result<Mount, RegistryError> {
        for from in mounts.iter().filter(|from| **from != self.name) {
            let action = format!("mount blob {} from {from} into {}", blob.digest, self.name);
            let scopes = self.scopes.clone().and(&format!("repository:{from}:pull"));
            let mut url = self.url("blobs/uploads/");
            url.query_pairs_mut()
                .append_pair("mount", &blob.digest.to_string())
                .append_pair("from", from);
            let request = Request::new(Method::POST, url);
            let call = Call {
                scopes: &scopes,
                ..self.call(&action)
            };
            match self.transport.send(call, &request).await {
                Ok(answer) if answer.status() == 201 => {
                    return Ok(Mount::Done { from: from.clone() });
                }
                // Not taken over, but an upload is open now: that one is used, not a second.
                Ok(answer) if answer.status() == 202 => {
                    return Ok(Mount::Session(Some(self.session(&action, &answer)?)));
                }
                // Refused, forbidden, or too much for the registry at the moment.
                Ok(_) | Err(_) => {}
            }
        }
        Ok(Mount::Session(None))
    }

    async fn upload(
        &self,
        blob: &Descriptor,
        body: &dyn BlobBody,
        meter: &Meter,
        mut session: Option<Session>,
    ) -> Result<(), RegistryError> {
        let action = format!("store blob {} in {}", blob.digest, self.name);
        let policy = &self.transport.options().retry;
        let mut delays = policy.delays();
        let mut attempt = 1;
        let mut best = 0;
        loop {
            let (error, retry_after) =
                match self.attempt(&action, blob, body, meter, &mut session).await {
                    Ok(()) => return Ok(()),
                    Err(Failure::Again(error, retry_after)) => (error, retry_after),
                    Err(Failure::Restart(error)) => {
                        session = None;
                        (error, None)
                    }
                    Err(Failure::Final(error)) => {
                        self.abandon(&action, session).await;
                        return Err(error);
                    }
                };
            // Only a chunk that is safely there counts as progress that earns new tries.
            let offset = session.as_ref().map_or(0, |session| session.offset);
            if offset > best {
                best = offset;
                delays = policy.delays();
                attempt = 1;
            }
            let Some(delay) = delays.next(retry_after) else {
                self.abandon(&action, session).await;
                return Err(error);
            };
            attempt += 1;
            self.operation
                .retrying(&action, attempt, delay, error_chain(&error));
            tokio::time::sleep(delay).await;
            // The broken request may have been the one that completed it.
            if self.has_blob(&blob.digest).await? {
                return Ok(());
            }
            session = match session {
                Some(session) => self.resume(&action, session, blob.size).await,
                None => None,
            };
        }
    }

    /// Brings the upload to its end, or to the first failure.
    async fn attempt(
        &self,
        action: &str,
        blob: &Descriptor,
        body: &dyn BlobBody,
        meter: &Meter,
        slot: &mut Option<Session>,
    ) -> Result<(), Failure> {
        let session = match slot {
            Some(session) => session,
            empty => {
                let request = Request::new(Method::POST, self.url("blobs/uploads/"));
                let answer = self
                    .transport
                    .send_once(self.call(action), &request)
                    .await
                    .map_err(Failure::of)?;
                if answer.status() != 202 {
                    return Err(Failure::of_answer(answer).await);
                }
                empty.insert(self.session(action, &answer).map_err(Failure::Final)?)
            }
        };
        let options = self.transport.options();
        if session.offset > 0 || blob.size > options.single_request_limit {
            while session.offset < blob.size {
                let chunk = options.chunk_size.max(session.least).max(1);
                self.send_chunk(action, blob, body, meter, session, chunk)
                    .await?;
            }
        }
        let mut url = session.location.clone();
        url.query_pairs_mut()
            .append_pair("digest", &blob.digest.to_string());
        let rest = blob.size - session.offset;
        let make = || body.body(blob, 0, rest, meter);
        let mut request = Request::new(Method::PUT, url).with_header(CONTENT_TYPE, OCTETS);
        if rest > 0 {
            meter.set_before(0);
            request = request.with_stream(rest, meter, &make);
        }
        let answer = self
            .transport
            .send_once(self.call(action), &request)
            .await
            .map_err(Failure::of)?;
        if !matches!(answer.status(), 200 | 201 | 204) {
            return Err(Failure::of_answer(answer).await);
        }
        match answer.content_digest() {
            Some(actual) if actual != blob.digest => {
                Err(Failure::Final(RegistryError::DigestMismatch {
                    what: "stored blob",
                    origin: self.label(),
                    expected: blob.digest.clone(),
                    actual,
                }))
            }
            _ => Ok(()),
        }
    }

    async fn send_chunk(
        &self,
        action: &str,
        blob: &Descriptor,
        body: &dyn BlobBody,
        meter: &Meter,
        session: &mut Session,
        chunk: u64,
    ) -> Result<(), Failure> {
        let offset = session.offset;
        let length = chunk.min(blob.size - offset);
        let end = offset + length;
        let range = HeaderValue::try_from(format!("{offset}-{}", end - 1))
            .map_err(|_| Failure::Final(self.protocol(action, "a range is no header value")))?;
        let make = || body.body(blob, offset, length, meter);
        meter.set_before(offset);
        let request = Request::new(Method::PATCH, session.location.clone())
            .with_header(CONTENT_TYPE, OCTETS)
            .with_header(CONTENT_RANGE, range)
            .with_stream(length, meter, &make);
        let answer = self
            .transport
            .send_once(self.call(action), &request)
            .await
            .map_err(Failure::of)?;
        if matches!(answer.status(), 404 | 416) {
            return Err(Failure::Restart(answer.into_error().await));
        }
        if !matches!(answer.status(), 201 | 202 | 204) {
            return Err(Failure::of_answer(answer).await);
        }
        // A registry may have kept less than we sent, but never something else.
        let kept = received(&answer).unwrap_or(end);
        if kept <= offset || kept > end {
            let what = format!("it counts {kept} bytes after {offset} + {length} were sent");
            return Err(Failure::Final(self.protocol(action, &what)));
        }
        let next = self.session(action, &answer).map_err(Failure::Final)?;
        *session = Session {
            offset: kept,
            least: session.least,
            ..next
        };
        Ok(())
    }

    /// Asks how much of an interrupted upload has arrived. `None` if it cannot go on.
    async fn resume(&self, action: &str, session: Session, size: u64) -> Option<Session> {
        // Nothing to save: a new upload is as good and surely clean.
        if session.offset == 0 {
            self.abandon(action, Some(session)).await;
            return None;
        }
        let request = Request::new(Method::GET, session.location.clone());
        let answer = self
            .transport
            .send_once(self.call(action), &request)
            .await
            .ok()?;
        if answer.status() != 204 {
            return None;
        }
        // An empty upload is "0-0" in the reference implementation; one byte is then sent again.
        let offset = received(&answer).filter(|offset| *offset <= size)?;
        let offset = if offset == 1 { 0 } else { offset };
        let location = match self.session(action, &answer) {
            Ok(next) => next.location,
            Err(_) => session.location,
        };
        Some(Session {
            location,
            offset,
            least: session.least,
        })
    }

    /// Tells the registry that an upload will not go on. It would expire anyway.
    async fn abandon(&self, action: &str, session: Option<Session>) {
        if let Some(session) = session {
            let request = Request::new(Method::DELETE, session.location);
            drop(self.transport.send_once(self.call(action), &request).await);
        }
    }

    /// Reads where the upload goes on.
    fn session(&self, action: &str, answer: &Answer) -> Result<Session, RegistryError> {
        let location = answer
            .header(LOCATION.as_str())
            .ok_or_else(|| answer.protocol("it opened an upload without a Location"))?;
        let least = answer
            .header("oci-chunk-min-length")
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0);
        let location = self.host.resolve(answer.url(), location, action)?;
        Ok(Session {
            location,
            offset: 0,
            least,
        })
    }
}

enum Mount {
    Done { from: String },
    Session(Option<Session>),
}

/// The bytes that a `Range: 0-N` header acknowledges.
fn received(answer: &Answer) -> Option<u64> {
    let range = answer.header("range")?.trim();
    let range = range.strip_prefix("bytes=").unwrap_or(range);
    let (_, last) = range.split_once('-')?;
    let last: u64 = last.trim().parse().ok()?;
    // A registry that says it has more than there can be is not believed.
    last.checked_add(1)
}
