//! [`SwarmHoldings`]: what was made on the swarm for a job, removed in any case.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bollard::models::{SecretSpec, ServiceSpec};
use bollard::query_parameters::ListTasksOptionsBuilder;

use crate::container::{ANSWER, NAME_LABEL, Removal, Requests, limit, persist, surely};
use crate::credentials::CredentialSource;
use crate::engine::{Engine, EngineError, EngineErrorKind, registry_credentials};
use crate::reference::ImageReference;

/// How often it is asked whether a task is gone.
const PAUSE: Duration = Duration::from_millis(100);
/// What a node may take to tell that a container has ended.
const LATE: Duration = Duration::from_secs(20);

/// Services and secrets. [`release`](Self::release) removes them and waits until their tasks have
/// ended; dropping removes them in the background.
///
/// Names are noted before the engine is asked, and it is asked to the end, so that a request whose
/// answer nobody waited for leaves nothing either.
#[derive(Debug)]
pub(super) struct SwarmHoldings {
    engine: Engine,
    /// How long a task may take to stop.
    grace: Duration,
    held: Mutex<Held>,
    requests: Requests,
}

#[derive(Debug, Default)]
struct Held {
    services: Vec<String>,
    secrets: Vec<String>,
}

impl SwarmHoldings {
    pub(super) fn new(engine: Engine, grace: Duration) -> Self {
        Self {
            engine,
            grace,
            held: Mutex::default(),
            requests: Requests::default(),
        }
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a service; its nodes get the credentials for the image's registry.
    pub(super) async fn create_service(
        &self,
        name: &str,
        mut spec: ServiceSpec,
        image: &ImageReference,
        credentials: &dyn CredentialSource,
    ) -> Result<(), EngineError> {
        let credentials = registry_credentials(credentials, image.domain()).await?;
        let labels = spec.labels.get_or_insert_default();
        labels.insert(NAME_LABEL.to_owned(), name.to_owned());
        self.held().services.push(name.to_owned());
        let engine = self.engine.clone();
        self.requests
            .ask(name, async move {
                let made = engine.client().create_service(spec, credentials).await;
                made.map(drop)
                    .map_err(|error| engine.error("create a service of the swarm", error))
            })
            .await
    }

    /// Keeps a secret in the swarm; its id.
    pub(super) async fn create_secret(
        &self,
        name: &str,
        mut spec: SecretSpec,
    ) -> Result<String, EngineError> {
        let labels = spec.labels.get_or_insert_default();
        labels.insert(NAME_LABEL.to_owned(), name.to_owned());
        self.held().secrets.push(name.to_owned());
        let engine = self.engine.clone();
        self.requests
            .ask(name, async move {
                let made = engine.client().create_secret(spec).await;
                made.map(|made| made.id)
                    .map_err(|error| engine.error("keep a secret in the swarm", error))
            })
            .await
    }

    /// Removes a service before the others.
    pub(super) async fn remove(&self, name: &str) -> Result<(), EngineError> {
        // One that is still being made is there a moment later.
        let (pending, until) = (self.requests.is_pending(name), limit());
        surely(pending, until, || remove_service(&self.engine, name, until)).await?;
        self.held().services.retain(|held| held != name);
        Ok(())
    }

    /// Removes everything, and waits until no task of it runs; what could not be removed is still
    /// held.
    pub(super) async fn release(&self) -> Result<(), EngineError> {
        self.requests.answered().await;
        let services = self.held().services.clone();
        let stopped = services.iter().map(|name| self.stop(name));
        let stopped = futures_util::future::join_all(stopped).await;
        let mut result = stopped
            .into_iter()
            .collect::<Result<Vec<()>, _>>()
            .map(drop);
        // A secret that a service uses cannot be removed.
        let secrets = self.held().secrets.clone();
        let until = limit();
        for name in secrets {
            let pending = self.requests.is_pending(&name);
            let removed =
                surely(pending, until, || remove_secret(&self.engine, &name, until)).await;
            if removed.is_ok() {
                self.held().secrets.retain(|held| *held != name);
            }
            result = result.and(removed.map(drop));
        }
        result
    }

    async fn stop(&self, name: &str) -> Result<(), EngineError> {
        // Without the service, only these ids lead to its tasks.
        let tasks = self.tasks(name).await.unwrap_or_default();
        self.remove(name).await?;
        let limit = Instant::now() + self.grace + LATE;
        for task in tasks {
            while self.is_known(&task).await? {
                if Instant::now() > limit {
                    let action = format!("stop the task {task}");
                    let said = "its node does not tell that it has ended";
                    return Err(EngineError::said(&action, None, said));
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
        Ok(())
    }

    async fn tasks(&self, service: &str) -> Result<Vec<String>, EngineError> {
        let filters = std::collections::HashMap::from([("service", vec![service])]);
        let options = ListTasksOptionsBuilder::default().filters(&filters).build();
        let client = self.engine.client_within(Some(ANSWER));
        let tasks = client.list_tasks(Some(options)).await;
        let tasks = tasks.map_err(|error| self.engine.error("list tasks", error))?;
        Ok(tasks.into_iter().filter_map(|task| task.id).collect())
    }

    /// The swarm forgets a task that is to be removed when its node says that it has ended.
    async fn is_known(&self, task: &str) -> Result<bool, EngineError> {
        let client = self.engine.client_within(Some(ANSWER));
        let found = client.inspect_task(task).await;
        match found.map_err(|error| self.engine.error("look at a task", error)) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == EngineErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Drop for SwarmHoldings {
    fn drop(&mut self) {
        let held = std::mem::take(&mut *self.held());
        if held.services.is_empty() && held.secrets.is_empty() {
            return;
        }
        // Without a runtime the next start finds it by its labels.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        // The task owns plain names: a runtime that is shutting down drops it at once.
        let (engine, requests) = (self.engine.clone(), self.requests.clone());
        runtime.spawn(async move {
            requests.answered().await;
            let until = limit();
            let services = held.services.iter().map(|name| {
                let pending = requests.is_pending(name);
                surely(pending, until, || remove_service(&engine, name, until))
            });
            futures_util::future::join_all(services).await;
            for name in &held.secrets {
                let pending = requests.is_pending(name);
                // What could not be removed is found by its labels, too.
                let removed = surely(pending, until, || remove_secret(&engine, name, until));
                drop(removed.await);
            }
        });
    }
}

/// Removes a service, whose tasks are stopped then. One that is gone is fine.
pub(super) async fn remove_service(
    engine: &Engine,
    name: &str,
    until: Instant,
) -> Result<Removal, EngineError> {
    let action = &format!("remove the service {name}");
    persist(engine, until, |client| async move {
        let removed = client.delete_service(name).await;
        removed.map_err(|error| engine.error(action, error))
    })
    .await
}

/// Removes a secret. One that is gone is fine.
pub(super) async fn remove_secret(
    engine: &Engine,
    name: &str,
    until: Instant,
) -> Result<Removal, EngineError> {
    let action = &format!("remove the secret {name}");
    persist(engine, until, |client| async move {
        let removed = client.delete_secret(name).await;
        removed.map_err(|error| engine.error(action, error))
    })
    .await
}
