//! [`Holdings`]: what was made on the engine for a job, removed in any case.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::models::{ContainerCreateBody, NetworkCreateRequest};
use bollard::query_parameters::{CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder};

use super::owner::NAME_LABEL;
use super::requests::Requests;
use crate::engine::{Engine, EngineError, EngineErrorKind};

/// How long removals are tried again, all of them together, while the engine is busy or away.
const LIMIT: Duration = Duration::from_secs(30);
/// How long one request may take. An engine that stops a container needs a few seconds.
pub(crate) const ANSWER: Duration = Duration::from_secs(15);
/// How long the first request for a thing may take when the time for all is up.
const LAST: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(100);

/// Containers and a network. [`release`](Self::release) removes them; dropping does so in the
/// background.
///
/// Names are chosen here and noted before the engine is asked.
#[derive(Debug)]
pub(crate) struct Holdings {
    engine: Engine,
    held: Mutex<Held>,
    requests: Requests,
}

#[derive(Clone, Debug, Default)]
struct Held {
    containers: Vec<String>,
    networks: Vec<String>,
}

impl Holdings {
    pub(crate) fn new(engine: Engine) -> Self {
        Self {
            engine,
            held: Mutex::default(),
            requests: Requests::default(),
        }
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Makes a container and returns its id. `image` is what it is called in messages.
    pub(crate) async fn create(
        &self,
        name: &str,
        image: &str,
        mut body: ContainerCreateBody,
    ) -> Result<String, EngineError> {
        let labels = body.labels.get_or_insert_default();
        labels.insert(NAME_LABEL.to_owned(), name.to_owned());
        lock(&self.held).containers.push(name.to_owned());
        let action = format!("create a container of the image {image}");
        let engine = self.engine.clone();
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        self.requests
            .ask(name, async move {
                let made = engine.client().create_container(Some(options), body).await;
                made.map(|made| made.id)
                    .map_err(|error| engine.error(&action, error))
            })
            .await
    }

    /// Makes a network that only this job uses.
    pub(crate) async fn create_network(
        &self,
        name: &str,
        mut labels: HashMap<String, String>,
    ) -> Result<(), EngineError> {
        labels.insert(NAME_LABEL.to_owned(), name.to_owned());
        lock(&self.held).networks.push(name.to_owned());
        let request = NetworkCreateRequest {
            name: name.to_owned(),
            driver: Some("bridge".to_owned()),
            labels: Some(labels),
            ..NetworkCreateRequest::default()
        };
        let engine = self.engine.clone();
        self.requests
            .ask(name, async move {
                let made = engine.client().create_network(request).await;
                made.map(drop)
                    .map_err(|error| engine.error("create a network", error))
            })
            .await
    }

    /// Removes a container before the others.
    pub(crate) async fn remove(&self, name: &str) -> Result<(), EngineError> {
        remove_container(&self.engine, name, limit()).await?;
        lock(&self.held).containers.retain(|held| held != name);
        Ok(())
    }

    /// Removes everything; what could not be removed is still held.
    pub(crate) async fn release(&self) -> Result<(), EngineError> {
        clear(&self.engine, &self.held, &self.requests).await
    }
}

impl Drop for Holdings {
    fn drop(&mut self) {
        let held = lock(&self.held).clone();
        if held.containers.is_empty() && held.networks.is_empty() {
            return;
        }
        // Without a runtime the next start finds it by its labels.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        // The task owns plain names: a runtime that is shutting down drops it at once, and a value
        // like this one would try the same again, for ever.
        let (engine, requests) = (self.engine.clone(), self.requests.clone());
        let held = Mutex::new(held);
        runtime.spawn(async move { clear(&engine, &held, &requests).await.ok() });
    }
}

fn lock(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes what is held, once the engine has answered for all of it.
async fn clear(
    engine: &Engine,
    held: &Mutex<Held>,
    requests: &Requests,
) -> Result<(), EngineError> {
    requests.answered().await;
    let now = lock(held).clone();
    let until = limit();
    let containers = now.containers.iter().map(|name| async move {
        let pending = requests.is_pending(name);
        let removed = surely(pending, until, || remove_container(engine, name, until)).await;
        if removed.is_ok() {
            lock(held).containers.retain(|held| held != name);
        }
        removed
    });
    let removed = futures_util::future::join_all(containers).await;
    let mut result = removed.into_iter().collect::<Result<Vec<_>, _>>().map(drop);
    for name in &now.networks {
        let pending = requests.is_pending(name);
        let removed = surely(pending, until, || remove_network(engine, name, until)).await;
        if removed.is_ok() {
            lock(held).networks.retain(|held| held != name);
        }
        result = result.and(removed.map(drop));
    }
    result
}

/// Whether something was there to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removal {
    Removed,
    WasNotThere,
}

/// When removals that begin now are given up.
pub(crate) fn limit() -> Instant {
    Instant::now() + LIMIT
}

/// Removes something; while its making is `pending`, that it is not there yet says nothing.
pub(crate) async fn surely<F, R>(
    pending: bool,
    until: Instant,
    remove: F,
) -> Result<Removal, EngineError>
where
    F: Fn() -> R,
    R: Future<Output = Result<Removal, EngineError>>,
{
    loop {
        let removed = remove().await;
        let is_over = !pending || Instant::now() > until;
        if is_over || !matches!(removed, Ok(Removal::WasNotThere)) {
            return removed;
        }
        tokio::time::sleep(5 * PAUSE).await;
    }
}

/// Removes a container with its anonymous volumes, running or not. One that is gone is fine.
pub(crate) async fn remove_container(
    engine: &Engine,
    name: &str,
    until: Instant,
) -> Result<Removal, EngineError> {
    let action = &format!("remove the container {name}");
    persist(engine, until, |client| async move {
        let options = RemoveContainerOptionsBuilder::default()
            .force(true)
            .v(true)
            .build();
        let removed = client.remove_container(name, Some(options)).await;
        removed.map_err(|error| engine.error(action, error))
    })
    .await
}

/// Removes a network. One that is gone is fine.
pub(crate) async fn remove_network(
    engine: &Engine,
    name: &str,
    until: Instant,
) -> Result<Removal, EngineError> {
    let action = &format!("remove the network {name}");
    persist(engine, until, |client| async move {
        let removed = client.remove_network(name).await;
        removed.map_err(|error| engine.error(action, error))
    })
    .await
}

/// An engine that is busy removing says "conflict", and so does one whose network still has an
/// endpoint; one that restarts does not answer. Both pass; one that hangs may not. It is asked at
/// least once.
pub(crate) async fn persist<F, R>(
    engine: &Engine,
    until: Instant,
    remove: F,
) -> Result<Removal, EngineError>
where
    F: Fn(Docker) -> R,
    R: Future<Output = Result<(), EngineError>>,
{
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let client = engine.client_within(Some(left.clamp(LAST, ANSWER)));
        match remove(client).await {
            Ok(()) => return Ok(Removal::Removed),
            Err(error) if error.kind() == EngineErrorKind::NotFound => {
                return Ok(Removal::WasNotThere);
            }
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// A name that is free, and says whose it is.
pub(crate) fn unique_name(role: &str, job: &str) -> String {
    let job: String = job
        .chars()
        .map(|symbol| {
            if symbol.is_ascii_alphanumeric() {
                symbol
            } else {
                '-'
            }
        })
        .take(40)
        .collect();
    let word = super::record::unguessable();
    format!("pipeline-{role}-{job}-{}", &word[..12])
}
