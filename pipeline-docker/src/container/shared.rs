//! [`Shared`]: what an environment and the processes in it have in common.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use futures_util::StreamExt;
use pipeline_core::executor::Survivors;
use pipeline_core::{CommandSpec, EnvValue, EventSink};
use tokio::sync::watch;

use super::error::ContainerError;
use super::holdings::Holdings;
use super::memory::ran_out_of_memory;
use super::record::SWEEP;
use crate::engine::{Engine, EngineError, EngineErrorKind};
use crate::service::ServiceError;

/// Rounds of a sweep; each costs a few milliseconds.
const SWEEP_ROUNDS: &str = "200";
/// A helper command that takes longer has been hindered.
const HELPER_LIMIT: Duration = Duration::from_secs(15);

/// A failure of a service, told to everything that runs in the job.
pub(crate) type Broken = watch::Receiver<Option<Arc<ServiceError>>>;

/// The container of a job while it is there.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(super) holdings: Arc<Holdings>,
    /// The container's id.
    pub(super) id: String,
    /// The process number of the holder inside.
    pub(super) holder: String,
    pub(super) image: String,
    pub(super) memory: Option<u64>,
    pub(super) root: PathBuf,
    pub(super) events: EventSink,
    pub(super) broken: Broken,
    pub(super) user: Option<String>,
    /// User and group of commands, as numbers.
    pub(super) owner: (u64, u64),
    /// Variables for every command.
    pub(super) env: BTreeMap<String, EnvValue>,
    pub(super) state: State,
}

/// What changes while the container is there.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Sweeping and starting exclude each other.
    gate: tokio::sync::RwLock<()>,
    /// Commands that run.
    running: AtomicUsize,
    /// Processes that were ended for want of memory so far.
    out_of_memory: AtomicU64,
    swept: AtomicUsize,
    failed: Mutex<Option<CommandSpec>>,
}

impl Shared {
    pub(super) fn engine(&self) -> &Engine {
        self.holdings.engine()
    }

    /// Counts a command; nothing is swept until it has begun.
    pub(super) async fn enter(&self) -> tokio::sync::RwLockReadGuard<'_, ()> {
        let guard = self.state.gate.read().await;
        self.state.running.fetch_add(1, Ordering::AcqRel);
        guard
    }

    /// A command has ended. If nothing else runs, what `left` something behind is swept.
    pub(super) async fn leave(&self, left: bool) {
        let last = self.state.running.fetch_sub(1, Ordering::AcqRel) == 1;
        if !(last && left) {
            return;
        }
        let _exclusive = self.state.gate.write().await;
        if self.state.running.load(Ordering::Acquire) == 0 {
            self.sweep().await;
        }
    }

    async fn sweep(&self) {
        let command = [
            "/bin/sh",
            "-c",
            SWEEP,
            "pipeline",
            &self.holder,
            SWEEP_ROUNDS,
        ];
        // A container that is gone has nothing left in it.
        let Ok(printed) = self.help(&command).await else {
            return;
        };
        let mut numbers = printed
            .split_whitespace()
            .filter_map(|word| word.parse::<u32>().ok());
        let ended = numbers.next().unwrap_or_default();
        self.state.swept.fetch_add(
            usize::try_from(ended).unwrap_or_default(),
            Ordering::Relaxed,
        );
        let alive: Vec<u32> = numbers.collect();
        if !alive.is_empty() {
            self.events
                .warn(format!(
                    "processes outlived their command in the container: {alive:?}"
                ))
                .await;
        }
    }

    /// What sweeps found. The container is gone, and so is what was in it.
    pub(super) fn survivors(&self) -> Survivors {
        let mut survivors = Survivors::default();
        survivors.ended = self.state.swept.load(Ordering::Relaxed);
        survivors
    }

    /// How many processes were ended for want of memory since this was last asked.
    pub(super) fn new_out_of_memory(&self, total: u64) -> u64 {
        total.saturating_sub(self.state.out_of_memory.fetch_max(total, Ordering::Relaxed))
    }

    /// Sends a signal to a process group; that it is gone already is fine.
    pub(super) async fn signal(&self, group: i32, signals: &[&str]) {
        let script: String = signals
            .iter()
            .map(|signal| format!("kill -{signal} -{group} 2>/dev/null;"))
            .collect();
        self.help(&["/bin/sh", "-c", &script]).await.ok();
    }

    /// Runs a short command of our own as the superuser of the container; what it printed.
    async fn help(&self, command: &[&str]) -> Result<String, EngineError> {
        let engine = self.engine();
        let action = "run a helper in the container";
        let work = async {
            let options = CreateExecOptions {
                attach_stdout: Some(true),
                attach_stderr: Some(true),
                user: Some("0"),
                cmd: Some(command.to_vec()),
                ..CreateExecOptions::default()
            };
            let exec = engine.client().create_exec(&self.id, options).await?;
            let started = engine
                .client()
                .start_exec(&exec.id, Some(StartExecOptions::default()))
                .await?;
            let mut printed = Vec::new();
            if let StartExecResults::Attached { mut output, .. } = started {
                while let Some(piece) = output.next().await {
                    if let LogOutput::StdOut { message } = piece? {
                        printed.extend_from_slice(&message);
                    }
                }
            }
            Ok(String::from_utf8_lossy(&printed).into_owned())
        };
        match tokio::time::timeout(HELPER_LIMIT, work).await {
            Ok(done) => done.map_err(|error| engine.error(action, error)),
            Err(_) => Err(EngineError::said(
                action,
                None,
                &format!("no answer within {}s", HELPER_LIMIT.as_secs()),
            )),
        }
    }

    pub(super) fn note_failed(&self, command: &CommandSpec) {
        *self
            .state
            .failed
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(command.clone());
    }

    /// The last command that did not end with exit code 0.
    pub(super) fn failed(&self) -> Option<CommandSpec> {
        self.state
            .failed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What became of the container.
    pub(super) async fn why_gone(
        &self,
        program: &OsStr,
        error: Option<EngineError>,
    ) -> ContainerError {
        let image = self.image.clone();
        let doing = format!("`{}` ran", program.to_string_lossy());
        let broken = self.broken.borrow().clone();
        if let Some(service) = broken {
            return ContainerError::Service(service);
        }
        let found = self
            .engine()
            .client()
            .inspect_container(&self.id, None)
            .await;
        let state = found.ok().and_then(|container| container.state);
        match (state, error) {
            (Some(state), _) if state.running != Some(true) => {
                let limited = self.memory.is_some();
                if ran_out_of_memory(self.engine(), &self.id, &state, limited).await {
                    ContainerError::OutOfMemory {
                        image,
                        doing,
                        limit: self.memory,
                    }
                } else {
                    ContainerError::Ended {
                        image,
                        doing,
                        code: state.exit_code.unwrap_or(-1),
                    }
                }
            }
            (None, Some(error)) if error.kind() == EngineErrorKind::NotFound => {
                ContainerError::Removed { image, doing }
            }
            (_, Some(source)) => ContainerError::EngineLost { doing, source },
            (_, None) => ContainerError::Removed { image, doing },
        }
    }
}
