//! [`Running`]: a job that runs, and how one of its tasks is followed to its end.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bollard::models::{NodeState, Task, TaskState as State};
use bollard::query_parameters::ListTasksOptionsBuilder;
use pipeline_core::{ExitStatus, Redactor};

use super::holdings::SwarmHoldings;
use super::log::TaskLog;
use super::observer::{SwarmEvent, SwarmObserver, TaskState};
use super::spec::{self, KeptSecret};
use super::{SwarmError, SwarmJob, TaskReport};
use crate::container::{ran_out_of_memory, unique_name};
use crate::credentials::CredentialSource;
use crate::engine::{Engine, EngineError, EngineErrorKind};
use crate::reference::ImageReference;

/// How often a task is looked at: engines tell nobody by themselves.
const POLL: Duration = Duration::from_millis(200);
/// What a process that was killed exits with, and so does one that ran out of memory.
const KILLED: i64 = 137;
/// The beginning of what a node says of a container that it could not start.
const NOT_STARTED: &str = "starting container failed";

/// A job while it runs.
pub(super) struct Running<'a> {
    pub(super) engine: &'a Engine,
    pub(super) job: &'a SwarmJob,
    pub(super) observer: &'a dyn SwarmObserver,
    pub(super) credentials: &'a dyn CredentialSource,
    pub(super) holdings: &'a SwarmHoldings,
    /// What runs, pinned if possible.
    pub(super) image: ImageReference,
    /// Why it could not be pinned.
    pub(super) unpinned: Option<String>,
    pub(super) secrets: Vec<KeptSecret>,
    /// What the job keeps secret; nodes quote commands and variables in what they say.
    pub(super) redactor: Redactor,
    /// The node that the engine is.
    pub(super) own_node: String,
}

/// What is known of a task while it is followed.
struct Progress {
    index: u32,
    service: String,
    log: TaskLog,
    /// What was told last: the state, and what was wrong.
    told: Option<(TaskState, Option<String>)>,
    node: Option<String>,
    /// Since when no node suits it.
    unsuited: Option<Instant>,
}

impl Running<'_> {
    /// Runs one task; its service is gone afterwards.
    pub(super) async fn task(&self, index: u32) -> Result<TaskReport, SwarmError> {
        let begun = Instant::now();
        let service = unique_name("task", &format!("{}-{index}", self.job.name));
        let spec = spec::service(self.job, &service, index, &self.image, &self.secrets);
        self.holdings
            .create_service(&service, spec, &self.image, self.credentials)
            .await?;
        let mut progress = Progress {
            index,
            log: TaskLog::new(self.engine.clone(), service.clone()),
            service,
            told: None,
            node: None,
            unsuited: None,
        };
        let (task, code) = self.follow(&mut progress).await?;
        let exit = self.exit(&task, code).await;
        let duration = begun.elapsed();
        let Progress {
            log, service, node, ..
        } = progress;
        self.rest(index, log).await;
        // A manager that restarts would make up for a task that has ended.
        self.holdings.remove(&service).await?;
        let status = task.status.unwrap_or_default();
        Ok(TaskReport {
            index,
            node: node.unwrap_or_default(),
            node_id: task.node_id.unwrap_or_default(),
            exit,
            error: status.err.filter(|text| !text.is_empty()),
            duration,
        })
    }

    /// Until the command has ended; its exit code.
    async fn follow(&self, progress: &mut Progress) -> Result<(Task, i64), SwarmError> {
        loop {
            if let Some((task, meaning)) = self.look(progress).await? {
                self.tell(progress, &task).await;
                if let Some(code) = self.ended(progress, &task, meaning)? {
                    return Ok((task, code));
                }
                self.check_node(progress, &task).await?;
            }
            let pause = tokio::time::sleep(POLL);
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    (stream, bytes) = progress.log.next() => {
                        let index = progress.index;
                        self.observer.event(SwarmEvent::Output { index, stream, bytes }).await;
                    }
                }
            }
        }
    }

    /// The task, once the swarm has made it, with secrets masked, and what has become of it.
    async fn look(&self, progress: &mut Progress) -> Result<Option<(Task, Meaning)>, SwarmError> {
        let filters = HashMap::from([("service", vec![progress.service.as_str()])]);
        let options = ListTasksOptionsBuilder::default().filters(&filters).build();
        let tasks = self.engine.client().list_tasks(Some(options)).await;
        match tasks.map_err(|error| self.engine.error("look at a task of the swarm", error)) {
            // The first one is ours, should a manager ever have made another one.
            Ok(tasks) => {
                let task = tasks.into_iter().min_by_key(|task| task.created_at);
                Ok(task.map(|task| understood(task, &self.redactor)))
            }
            Err(error) if error.kind() == EngineErrorKind::NotFound => {
                Err(self.lost(progress, "somebody else removed its service"))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn tell(&self, progress: &mut Progress, task: &Task) {
        let state = state(task);
        let status = task.status.clone().unwrap_or_default();
        let news = Some((state, status.err.clone()));
        if progress.told == news {
            return;
        }
        progress.told = news;
        if let (None, Some(id)) = (&progress.node, &task.node_id) {
            progress.node = Some(self.node_name(id).await);
        }
        if state == TaskState::Running {
            progress.log.follow();
        }
        self.observer
            .event(SwarmEvent::Task {
                index: progress.index,
                state,
                node: progress.node.clone(),
                message: status.err.or(status.message).unwrap_or_default(),
            })
            .await;
    }

    async fn node_name(&self, id: &str) -> String {
        let found = self.engine.client().inspect_node(id).await.ok();
        found
            .and_then(|node| node.description?.hostname)
            // The id names it as well.
            .unwrap_or_else(|| id.to_owned())
    }

    /// The exit code, once the command has ended; an error if it never began or never will.
    fn ended(
        &self,
        progress: &mut Progress,
        task: &Task,
        meaning: Meaning,
    ) -> Result<Option<i64>, SwarmError> {
        let said = said(task);
        let node = || progress.node.clone().unwrap_or_default();
        match meaning {
            Meaning::Ended(code) => Ok(Some(code)),
            Meaning::NoImage => Err(SwarmError::MissingImage {
                image: self.image.familiar(),
                node: node(),
                said: said.to_owned(),
                registry: self.unpinned.clone(),
            }),
            Meaning::NotStarted => Err(SwarmError::NotStarted {
                job: self.job.name.clone(),
                task: progress.index,
                node: node(),
                said: said.to_owned(),
            }),
            Meaning::Unknown => Err(self.lost(progress, said)),
            Meaning::Stopped => {
                let message = task.status.as_ref().and_then(|it| it.message.as_deref());
                let what = message.filter(|_| said.is_empty()).unwrap_or(said);
                let what = format!("the swarm stopped it on the node {} ({what})", node());
                Err(self.lost(progress, &what))
            }
            Meaning::Unsuited => {
                let since = *progress.unsuited.get_or_insert_with(Instant::now);
                let waited = since.elapsed();
                if waited < self.job.placement_limit {
                    return Ok(None);
                }
                Err(SwarmError::NoSuitableNode {
                    job: self.job.name.clone(),
                    task: progress.index,
                    said: said.to_owned(),
                    waited,
                })
            }
            Meaning::Going => {
                progress.unsuited = None;
                Ok(None)
            }
        }
    }

    /// A task whose node has gone down stays as it was for hours; only the swarm's wish that it
    /// should stop tells.
    async fn check_node(&self, progress: &mut Progress, task: &Task) -> Result<(), SwarmError> {
        let (Some(State::SHUTDOWN), Some(id)) = (task.desired_state, &task.node_id) else {
            return Ok(());
        };
        let found = self.engine.client().inspect_node(id).await;
        let found = found.map_err(|error| self.engine.error("look at a node", error))?;
        let is_down = found.status.and_then(|status| status.state) == Some(NodeState::DOWN);
        if is_down {
            let node = progress.node.as_deref().unwrap_or(id);
            return Err(self.lost(progress, &format!("its node {node} is down")));
        }
        Ok(())
    }

    fn lost(&self, progress: &Progress, what: &str) -> SwarmError {
        SwarmError::Lost {
            job: self.job.name.clone(),
            task: progress.index,
            what: what.to_owned(),
        }
    }

    /// The swarm has exit codes only; the container itself can be asked if it is on our engine.
    async fn exit(&self, task: &Task, code: i64) -> ExitStatus {
        let status = task.status.as_ref();
        let container = status.and_then(|status| status.container_status.clone());
        let container = container.unwrap_or_default();
        let limited = self.job.limits.memory.is_some();
        let is_near = task.node_id.as_ref() == Some(&self.own_node);
        if let (KILLED, true, true, Some(id)) = (code, limited, is_near, container.container_id) {
            let found = self.engine.client().inspect_container(&id, None).await.ok();
            if let Some(state) = found.and_then(|container| container.state)
                && ran_out_of_memory(self.engine, &id, &state, limited).await
            {
                return ExitStatus::OutOfMemory;
            }
        }
        ExitStatus::Exited(i32::try_from(code).unwrap_or(i32::MAX))
    }

    async fn rest(&self, index: u32, log: TaskLog) {
        let mut rest = log.rest();
        loop {
            match rest.next().await {
                Ok(Some((stream, bytes))) => {
                    self.observer
                        .event(SwarmEvent::Output {
                            index,
                            stream,
                            bytes,
                        })
                        .await;
                }
                Ok(None) => return,
                Err(error) => return self.warn(&error).await,
            }
        }
    }

    async fn warn(&self, error: &EngineError) {
        let message = pipeline_core::error_chain(error);
        self.observer.event(SwarmEvent::Warning { message }).await;
    }
}

/// What has become of a task's command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// It has not ended yet.
    Going,
    /// No node may run it now.
    Unsuited,
    /// It ended with this exit code.
    Ended(i64),
    /// A node has no way to the image.
    NoImage,
    /// A node could not start it.
    NotStarted,
    /// It ended, and nobody knows how.
    Unknown,
    /// The swarm ended it.
    Stopped,
}

/// What a task means is read before its words are masked, because a secret may be one of them.
fn understood(mut task: Task, redactor: &Redactor) -> (Task, Meaning) {
    let meaning = meaning(&task);
    if let Some(status) = &mut task.status {
        for said in [&mut status.err, &mut status.message].into_iter().flatten() {
            *said = redactor.redact(said);
        }
    }
    (task, meaning)
}

fn meaning(task: &Task) -> Meaning {
    let said = said(task);
    match state(task) {
        TaskState::Complete => Meaning::Ended(exit_code(task).unwrap_or_default()),
        TaskState::Failed if said.starts_with(NOT_STARTED) => Meaning::NotStarted,
        // Without a code nobody knows what became of it, whatever the swarm calls it.
        TaskState::Failed => match exit_code(task) {
            Some(code) if code != 0 => Meaning::Ended(code),
            _ => Meaning::Unknown,
        },
        TaskState::Rejected if says_no_image(said) => Meaning::NoImage,
        TaskState::Rejected => Meaning::NotStarted,
        TaskState::Gone => Meaning::Stopped,
        TaskState::Pending if !said.is_empty() => Meaning::Unsuited,
        TaskState::Pending | TaskState::Preparing | TaskState::Running => Meaning::Going,
    }
}

/// What is wrong with a task in the swarm's words; empty if nothing is.
fn said(task: &Task) -> &str {
    let status = task.status.as_ref();
    status
        .and_then(|status| status.err.as_deref())
        .unwrap_or_default()
}

/// The words of engines from 20.10 on.
fn says_no_image(said: &str) -> bool {
    let low = said.to_ascii_lowercase();
    low.contains("no such image") || low.contains("manifest unknown") || low.contains("pull access")
}

/// The code that a task's container ended with, where the swarm knows one.
fn exit_code(task: &Task) -> Option<i64> {
    let container = task.status.as_ref()?.container_status.as_ref()?;
    container.exit_code
}

fn state(task: &Task) -> TaskState {
    let status = task.status.as_ref();
    match status.and_then(|status| status.state) {
        None | Some(State::NEW | State::ALLOCATED | State::PENDING) => TaskState::Pending,
        Some(State::ASSIGNED | State::ACCEPTED | State::PREPARING | State::READY) => {
            TaskState::Preparing
        }
        Some(State::STARTING) => TaskState::Preparing,
        Some(State::RUNNING) => TaskState::Running,
        Some(State::COMPLETE) => TaskState::Complete,
        Some(State::FAILED) => TaskState::Failed,
        Some(State::REJECTED) => TaskState::Rejected,
        Some(State::SHUTDOWN | State::REMOVE | State::ORPHANED) => TaskState::Gone,
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::{ContainerStatus, TaskStatus};

    use super::*;

    fn task(state: State, code: Option<i64>, said: &str) -> Task {
        Task {
            status: Some(TaskStatus {
                state: Some(state),
                err: (!said.is_empty()).then(|| said.to_owned()),
                container_status: Some(ContainerStatus {
                    exit_code: code,
                    ..ContainerStatus::default()
                }),
                ..TaskStatus::default()
            }),
            ..Task::default()
        }
    }

    #[test]
    fn only_a_command_that_ran_has_an_exit_code() {
        let means = |state, code, said: &str| meaning(&task(state, code, said));
        // A success needs no code to be one.
        for zero in [None, Some(0)] {
            assert_eq!(means(State::COMPLETE, zero, ""), Meaning::Ended(0));
        }
        let failed = |code, said: &str| means(State::FAILED, code, said);
        for code in [1, 7, 137, 255] {
            let said = format!("task: non-zero exit ({code})");
            assert_eq!(failed(Some(code), &said), Meaning::Ended(code));
        }
        // A failure is never a success, and never one of a command that did not run.
        for code in [None, Some(0)] {
            assert_eq!(failed(code, "the node said nothing"), Meaning::Unknown);
        }
        let missing = "starting container failed: exec: \"x\": not found";
        for code in [None, Some(0), Some(127), Some(128)] {
            assert_eq!(failed(code, missing), Meaning::NotStarted);
        }
    }

    #[test]
    fn what_never_ran_or_was_ended_has_none() {
        let means = |state, said: &str| meaning(&task(state, Some(1), said));
        assert_eq!(
            means(State::REJECTED, "No such image: x:1"),
            Meaning::NoImage
        );
        assert_eq!(
            means(State::REJECTED, "invalid mount config for type \"bind\""),
            Meaning::NotStarted
        );
        for state in [State::SHUTDOWN, State::REMOVE, State::ORPHANED] {
            assert_eq!(means(state, ""), Meaning::Stopped, "{state:?}");
        }
        assert_eq!(means(State::PENDING, "no suitable node"), Meaning::Unsuited);
        for state in [State::NEW, State::PENDING, State::STARTING, State::RUNNING] {
            assert_eq!(means(state, ""), Meaning::Going, "{state:?}");
        }
        assert_eq!(meaning(&Task::default()), Meaning::Going);
    }

    #[test]
    fn a_secret_that_is_a_word_of_the_node_changes_no_meaning() {
        let secret = pipeline_core::Secret::new("image");
        let redactor = Redactor::new([&secret]);
        let rejected = task(State::REJECTED, None, "No such image: x:1");
        let (masked, meaning) = understood(rejected, &redactor);
        assert_eq!(meaning, Meaning::NoImage);
        assert!(!said(&masked).contains("image"), "{masked:?}");
    }

    #[test]
    fn nodes_say_what_is_missing_in_several_ways() {
        assert!(says_no_image("No such image: registry.example/x:1"));
        assert!(!says_no_image("invalid mount config for type \"bind\""));
    }
}
