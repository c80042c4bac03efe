//! [`ContainerEnvironment`]: the place of one job.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bollard::container::AttachContainerResults;
use pipeline_core::executor::Survivors;
use pipeline_core::{CommandSpec, Environment, EnvironmentFacts, ExecutorError, Process};
use tokio::io::AsyncWrite;

use super::error::ContainerError;
use super::files;
use super::process::ContainerProcess;
use super::shared::Shared;
use crate::service::RunningService;

/// The connection to the holder's input and output. The container ends when it is closed, also by
/// the death of this program.
pub(super) struct Lifeline {
    _input: Mutex<Pin<Box<dyn AsyncWrite + Send>>>,
}

impl Lifeline {
    pub(super) fn new(attached: AttachContainerResults) -> Self {
        Self {
            _input: Mutex::new(attached.input),
        }
    }
}

pub(super) struct ContainerEnvironment {
    pub(super) shared: Arc<Shared>,
    pub(super) facts: EnvironmentFacts,
    /// The folder on this machine; `None` when it was copied.
    pub(super) host_root: Option<PathBuf>,
    /// Where a copied folder goes back to.
    pub(super) copied_from: Option<PathBuf>,
    /// Whether only a part of it could be copied in again.
    pub(super) is_half: AtomicBool,
    pub(super) services: Vec<RunningService>,
    pub(super) lifeline: Mutex<Option<Lifeline>>,
}

impl fmt::Debug for ContainerEnvironment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContainerEnvironment")
            .field("shared", &self.shared)
            .field("facts", &self.facts)
            .field("services", &self.services)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for ContainerEnvironment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.shared.id.get(..12).unwrap_or(&self.shared.id);
        write!(f, "container({}, {id})", self.shared.image)
    }
}

impl ContainerEnvironment {
    async fn bring_back(&self, folder: &Path) -> Result<(), ExecutorError> {
        let brought = match self.is_half.load(Ordering::Relaxed) {
            true => Err(io::Error::other(
                "inside is only a part of what was handed on",
            )),
            false => files::bring_back(&self.shared, folder).await,
        };
        brought.map_err(|source| ExecutorError::Copy {
            from: self.shared.root.clone(),
            to: folder.to_owned(),
            source,
        })
    }

    /// Runs a line of shell in the job folder.
    async fn run_quietly(&self, line: &str) -> io::Result<()> {
        let spec = CommandSpec::new("/bin/sh").args(["-c", line]);
        let started = ContainerProcess::start(Arc::clone(&self.shared), &spec).await;
        let mut process = started.map_err(io::Error::other)?;
        let mut said = Vec::new();
        while let Some(chunk) = process.output().await {
            said.extend_from_slice(&chunk.bytes);
        }
        let status = process.wait().await.map_err(io::Error::other)?;
        if status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&said);
        Err(io::Error::other(format!(
            "{line}: {status}: {}",
            said.trim()
        )))
    }

    /// The last lines of each service, for whoever reads about a failed command.
    async fn tell_of_services(&self) {
        if self.shared.failed().is_none() {
            return;
        }
        for service in &self.services {
            let tail = service.tail();
            if !tail.is_empty() {
                self.shared
                    .events
                    .fact(
                        "container.service_log",
                        serde_json::json!({ "service": service.name(), "tail": tail }),
                    )
                    .await;
            }
        }
    }
}

#[async_trait]
impl Environment for ContainerEnvironment {
    fn root(&self) -> &Path {
        &self.shared.root
    }

    fn host_root(&self) -> Option<&Path> {
        self.host_root.as_deref()
    }

    fn facts(&self) -> &EnvironmentFacts {
        &self.facts
    }

    async fn spawn(&self, spec: &CommandSpec) -> Result<Box<dyn Process>, ExecutorError> {
        let broken = self.shared.broken.borrow().clone();
        if let Some(service) = broken {
            return Err(ContainerError::Service(service).into());
        }
        let process = ContainerProcess::start(Arc::clone(&self.shared), spec).await?;
        Ok(Box::new(process))
    }

    async fn copy_in(&self, host: &Path, inside: &Path) -> Result<(), ExecutorError> {
        let target = self.shared.root.join(inside);
        files::copy_in(&self.shared, host, &target)
            .await
            .map_err(|source| ExecutorError::Copy {
                from: host.to_owned(),
                to: target,
                source,
            })
    }

    async fn copy_out(&self, inside: &Path, host: &Path) -> Result<(), ExecutorError> {
        let from = self.shared.root.join(inside);
        files::copy_out(&self.shared, &from, host)
            .await
            .map_err(|source| ExecutorError::Copy {
                from,
                to: host.to_owned(),
                source,
            })
    }

    async fn bring_out(&self) -> Result<(), ExecutorError> {
        match &self.copied_from {
            Some(folder) => self.bring_back(folder).await,
            None => Ok(()),
        }
    }

    async fn bring_in(&self) -> Result<(), ExecutorError> {
        let Some(folder) = &self.copied_from else {
            return Ok(());
        };
        // Until it is all there, what is inside must not come back.
        self.is_half.store(true, Ordering::Relaxed);
        let replaced = async {
            let empty = "rm -rf -- ./* ./.[!.]* ./..?*";
            self.run_quietly(empty).await?;
            files::copy_in(&self.shared, folder, &self.shared.root).await
        };
        replaced.await.map_err(|source| ExecutorError::Copy {
            from: folder.clone(),
            to: self.shared.root.clone(),
            source,
        })?;
        self.is_half.store(false, Ordering::Relaxed);
        Ok(())
    }

    async fn shutdown(&self) -> Result<Survivors, ExecutorError> {
        // Held until the files are back: an engine need not give files of a container that ends.
        let lifeline = self
            .lifeline
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let mut brought = Ok(());
        if lifeline.is_some() {
            self.tell_of_services().await;
            brought = self.bring_out().await;
        }
        drop(lifeline);
        self.shared.holdings.release().await.map_err(|error| {
            ExecutorError::environment(
                "could not remove the job's containers; the next start tries again",
                error,
            )
        })?;
        brought?;
        Ok(self.shared.survivors())
    }
}
