//! A way into the container of a failed command.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use pipeline_core::executor::quote;
use pipeline_core::{CancelToken, CommandSpec, EnvValue, InputRef, Step, StepContext, StepError};

use super::ContainerExecutor;
use super::shared::Shared;
use crate::engine::EngineAddress;

/// How a person gets to where a command failed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DebugSession {
    /// The container's id.
    pub container: String,
    /// The command that failed.
    pub command: String,
    /// The line that opens a shell there; see [`shell_line`](Self::shell_line).
    line: String,
}

impl DebugSession {
    pub(super) fn new(shared: &Arc<Shared>, command: &CommandSpec) -> Self {
        let mut words = client(shared.engine().address());
        words.extend(["exec".to_owned(), "-it".to_owned()]);
        let folder: PathBuf = shared.root.join(&command.cwd);
        words.extend(["-w".to_owned(), quoted(&folder.to_string_lossy())]);
        if let Some(user) = &shared.user {
            words.extend(["-u".to_owned(), quoted(user)]);
        }
        let mut variables = shared.env.clone();
        variables.extend(command.env.clone());
        for (name, value) in &variables {
            words.push("-e".to_owned());
            words.push(match value {
                // The client takes the value from the environment that the line is run in.
                EnvValue::Secret(_) => quoted(name),
                value => quoted(&format!("{name}={}", value.expose())),
            });
        }
        words.push(shared.id.get(..12).unwrap_or(&shared.id).to_owned());
        words.push("/bin/sh".to_owned());
        Self {
            container: shared.id.clone(),
            command: command.display_line(),
            line: words.join(" "),
        }
    }

    /// A line for a terminal that opens a shell with the failed command's directory, variables and
    /// user. A secret variable is passed on by name: set it before, if it is needed.
    #[must_use]
    pub fn shell_line(&self) -> &str {
        &self.line
    }
}

/// The words that bring the docker command line to this engine.
fn client(address: &EngineAddress) -> Vec<String> {
    let docker = "docker".to_owned();
    match address {
        EngineAddress::Socket(path) if path.as_os_str() == "/var/run/docker.sock" => vec![docker],
        EngineAddress::Tls { host, certificates } => vec![
            "DOCKER_TLS_VERIFY=1".to_owned(),
            format!(
                "DOCKER_CERT_PATH={}",
                quoted(&certificates.to_string_lossy())
            ),
            docker,
            "-H".to_owned(),
            format!("tcp://{host}"),
        ],
        other => vec![docker, "-H".to_owned(), quoted(&other.to_string())],
    }
}

fn quoted(word: &str) -> String {
    quote(word.as_ref())
}

/// Keeps the container of a failed command until somebody says that it can go.
///
/// Put it behind the steps it is for, with [`When::OnFailure`](pipeline_core::When::OnFailure). It
/// shows the line that opens a shell in the container, and waits until the token is thrown or the
/// run is cancelled. A limit is set as for any step, with
/// [`StepOptions::timeout`](pipeline_core::StepOptions::timeout).
///
/// # Cancellation
/// The step ends at once, and the container is removed with the job.
#[derive(Clone, Debug)]
pub struct HoldFailed {
    executor: ContainerExecutor,
    release: CancelToken,
}

impl HoldFailed {
    /// Holds failed jobs of this executor until `release` is thrown.
    #[must_use]
    pub fn new(executor: ContainerExecutor, release: CancelToken) -> Self {
        Self { executor, release }
    }
}

#[async_trait]
impl Step for HoldFailed {
    type Output = ();

    fn inputs(&self) -> Vec<InputRef> {
        Vec::new()
    }

    async fn run(&self, cx: &StepContext) -> Result<(), StepError> {
        let Some(session) = self.executor.debug_session(cx.job_dir()) else {
            cx.summary("no command failed in a container of this executor");
            return Ok(());
        };
        cx.log(format!(
            "`{}` failed; its container is kept",
            session.command
        ))
        .await;
        cx.highlight("shell", session.shell_line()).await;
        cx.log(session.shell_line()).await;
        tokio::select! {
            () = self.release.cancelled() => Ok(()),
            () = cx.cancel().cancelled() => Err(StepError::Cancelled),
        }
    }
}
