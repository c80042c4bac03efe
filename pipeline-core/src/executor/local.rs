use std::{
    collections::BTreeMap,
    fmt, io,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    sync::mpsc,
    task::JoinHandle,
};

use super::{
    CommandSpec, EnvValue, Environment, EnvironmentFacts, EnvironmentRequest, Executor,
    ExecutorError, ExitStatus, OutputChunk, Process, SCOPE_VARIABLE, Scope, Stdin, Stream,
    Survivors,
};
use crate::secret::Secret;

/// Output that a process has written and nobody has read: at most this many
/// chunks of at most `CHUNK` bytes, then the process blocks on its pipe.
const CHUNKS_IN_FLIGHT: usize = 32;
const CHUNK: usize = 16 * 1024;
/// How long a pipe that a left-behind grandchild holds open is still read
/// after the command itself has ended.
const LEAK_TIMEOUT: Duration = Duration::from_millis(200);
const SWEEP_LIMIT: Duration = Duration::from_secs(2);

/// Runs commands as processes of this machine, each in a process group of its
/// own, with exactly the variables that were declared.
///
/// Nothing of the program's own environment is passed on; give what commands
/// need, usually `PATH` and `HOME`, with [`with_env`](Self::with_env).
///
/// Descriptors that the program itself inherited (a lock file of `flock`, a pipe of a shell) are not
/// passed on either: each job begins by marking every descriptor above standard error as closed on
/// exec, in the whole program. The program goes on using them.
#[derive(Clone, Debug, Default)]
pub struct LocalExecutor {
    env: BTreeMap<String, EnvValue>,
}

impl LocalExecutor {
    /// An executor whose commands start with an empty environment.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds variables for every command.
    #[must_use]
    pub fn with_env<N, V>(mut self, variables: impl IntoIterator<Item = (N, V)>) -> Self
    where
        N: Into<String>,
        V: Into<EnvValue>,
    {
        self.env.extend(
            variables
                .into_iter()
                .map(|(name, value)| (name.into(), value.into())),
        );
        self
    }
}

impl fmt::Display for LocalExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("local")
    }
}

#[async_trait]
impl Executor for LocalExecutor {
    async fn provision(
        &self,
        request: &EnvironmentRequest,
    ) -> Result<Box<dyn Environment>, ExecutorError> {
        // What Rust opens is marked already; what was inherited, or opened by a C library, may not be.
        close_fds::set_fds_cloexec_threadsafe(3, &[]);
        let root = tokio::fs::canonicalize(&request.folder)
            .await
            .map_err(|source| {
                ExecutorError::environment(
                    format!(
                        "could not enter the job folder {}",
                        request.folder.display()
                    ),
                    source,
                )
            })?;
        let mut env = self.env.clone();
        env.extend(request.env.clone());
        let system = rustix::system::uname();
        let facts = EnvironmentFacts::new(
            concat!("local executor ", env!("CARGO_PKG_VERSION")),
            format!(
                "{} {} {}",
                system.sysname().to_string_lossy(),
                system.release().to_string_lossy(),
                system.machine().to_string_lossy()
            ),
            format!("process group, then a sweep of processes that carry {SCOPE_VARIABLE}"),
        );
        Ok(Box::new(LocalEnvironment {
            root,
            env,
            facts,
            scope: request.scope.clone(),
            commands: AtomicU64::new(0),
        }))
    }

    fn secrets(&self) -> Vec<Secret> {
        self.env
            .values()
            .filter_map(EnvValue::secret)
            .cloned()
            .collect()
    }
}

#[derive(Debug)]
struct LocalEnvironment {
    root: PathBuf,
    env: BTreeMap<String, EnvValue>,
    facts: EnvironmentFacts,
    scope: Scope,
    commands: AtomicU64,
}

impl fmt::Display for LocalEnvironment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "local({})", self.root.display())
    }
}

#[async_trait]
impl Environment for LocalEnvironment {
    fn root(&self) -> &Path {
        &self.root
    }

    fn host_root(&self) -> Option<&Path> {
        Some(&self.root)
    }

    fn facts(&self) -> &EnvironmentFacts {
        &self.facts
    }

    async fn spawn(&self, spec: &CommandSpec) -> Result<Box<dyn Process>, ExecutorError> {
        let directory = self.root.join(&spec.cwd);
        if !tokio::fs::metadata(&directory)
            .await
            .is_ok_and(|found| found.is_dir())
        {
            return Err(ExecutorError::NoWorkingDirectory(directory));
        }
        let scope = self
            .scope
            .child(&self.commands.fetch_add(1, Ordering::Relaxed).to_string());
        let mut variables = self.env.clone();
        variables.extend(spec.env.clone());
        let path = variables.get("PATH").map(|value| value.expose().to_owned());
        let program = resolve(&spec.program, &directory, path.as_deref());
        let mut command = Command::new(&program);
        command
            .args(&spec.args)
            .current_dir(&directory)
            .env_clear()
            .envs(variables.iter().map(|(name, value)| (name, value.expose())))
            .env(SCOPE_VARIABLE, scope.as_str())
            .stdin(match spec.stdin {
                Stdin::Null => Stdio::null(),
                Stdin::Bytes(_) => Stdio::piped(),
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(|source| {
            let program = spec.program.to_string_lossy().into_owned();
            match source.kind() {
                io::ErrorKind::NotFound => ExecutorError::ProgramNotFound {
                    program,
                    searched: path
                        .map_or_else(|| "no PATH at all".into(), |path| format!("PATH={path}")),
                },
                io::ErrorKind::ArgumentListTooLong => ExecutorError::TooLarge(program),
                _ => ExecutorError::NotExecutable {
                    program,
                    directory,
                    source,
                },
            }
        })?;
        let (sender, output) = mpsc::channel(CHUNKS_IN_FLIGHT);
        let mut pumps = Vec::new();
        if let Some(pipe) = child.stdout.take() {
            pumps.push(tokio::spawn(pump(pipe, Stream::Stdout, sender.clone())));
        }
        if let Some(pipe) = child.stderr.take() {
            pumps.push(tokio::spawn(pump(pipe, Stream::Stderr, sender)));
        }
        if let (Some(mut pipe), Stdin::Bytes(bytes)) = (child.stdin.take(), spec.stdin.clone()) {
            pumps.push(tokio::spawn(async move {
                // A command may end without reading everything.
                pipe.write_all(&bytes).await.ok();
            }));
        }
        let group = child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        Ok(Box::new(LocalProcess {
            child,
            group,
            output,
            pumps,
            scope,
            status: None,
            closed: false,
        }))
    }

    async fn copy_in(&self, host: &Path, inside: &Path) -> Result<(), ExecutorError> {
        copy(host.to_owned(), self.root.join(inside)).await
    }

    async fn copy_out(&self, inside: &Path, host: &Path) -> Result<(), ExecutorError> {
        copy(self.root.join(inside), host.to_owned()).await
    }

    async fn shutdown(&self) -> Result<Survivors, ExecutorError> {
        Ok(self.scope.kill(SWEEP_LIMIT).await)
    }
}

/// Finds a bare program name in the declared `PATH`: the standard library
/// would look in the parent's.
fn resolve(program: &std::ffi::OsStr, directory: &Path, path: Option<&str>) -> PathBuf {
    let given = Path::new(program);
    if given.components().count() > 1 {
        return if given.is_absolute() {
            given.to_owned()
        } else {
            directory.join(given)
        };
    }
    path.unwrap_or_default()
        .split(':')
        .filter(|folder| !folder.is_empty())
        .map(|folder| directory.join(folder).join(given))
        .find(|candidate| {
            use std::os::unix::fs::PermissionsExt;
            candidate
                .metadata()
                .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        })
        // A path that does not exist gives the plain "not found".
        .unwrap_or_else(|| directory.join(".not-in-path").join(given))
}

async fn pump(mut pipe: impl AsyncRead + Unpin, stream: Stream, sender: mpsc::Sender<OutputChunk>) {
    let mut buffer = vec![0; CHUNK];
    // A read error on a pipe means it is gone, as its end does.
    while let Ok(length @ 1..) = pipe.read(&mut buffer).await {
        let chunk = OutputChunk {
            stream,
            bytes: buffer[..length].to_vec(),
        };
        if sender.send(chunk).await.is_err() {
            break;
        }
    }
}

#[derive(Debug)]
struct LocalProcess {
    child: Child,
    group: Option<Pid>,
    output: mpsc::Receiver<OutputChunk>,
    pumps: Vec<JoinHandle<()>>,
    scope: Scope,
    status: Option<ExitStatus>,
    closed: bool,
}

impl LocalProcess {
    fn signal(&self, signal: Signal) {
        // The number stays ours until the child was waited for.
        if let (Some(group), None) = (self.group, self.status) {
            kill_process_group(group, signal).ok();
        }
    }

    /// After the command itself has ended: what it left behind ends too.
    async fn reap_leftovers(&mut self) {
        self.scope.kill(SWEEP_LIMIT).await;
    }
}

#[async_trait]
impl Process for LocalProcess {
    async fn output(&mut self) -> Option<OutputChunk> {
        if self.closed {
            return None;
        }
        loop {
            if self.status.is_some() {
                match tokio::time::timeout(LEAK_TIMEOUT, self.output.recv()).await {
                    Ok(Some(chunk)) => return Some(chunk),
                    Ok(None) => break,
                    // A grandchild holds the pipe: end it, then read the rest.
                    Err(_) => {
                        self.reap_leftovers().await;
                        if let Ok(Some(chunk)) =
                            tokio::time::timeout(LEAK_TIMEOUT, self.output.recv()).await
                        {
                            return Some(chunk);
                        }
                        break;
                    }
                }
            }
            tokio::select! {
                biased;
                chunk = self.output.recv() => match chunk {
                    Some(chunk) => return Some(chunk),
                    None => break,
                },
                status = self.child.wait() => {
                    self.status = status.ok().map(convert);
                    if self.status.is_none() {
                        break;
                    }
                }
            }
        }
        self.closed = true;
        None
    }

    async fn wait(&mut self) -> Result<ExitStatus, ExecutorError> {
        if let Some(status) = self.status {
            self.reap_leftovers().await;
            return Ok(status);
        }
        let status = self.child.wait().await.map(convert).map_err(|source| {
            ExecutorError::environment("could not learn how the command ended", source)
        })?;
        self.status = Some(status);
        self.reap_leftovers().await;
        Ok(status)
    }

    async fn terminate(&mut self, grace: Duration) -> Result<ExitStatus, ExecutorError> {
        self.signal(Signal::TERM);
        // A stopped process cannot act on the polite signal.
        self.signal(Signal::CONT);
        let ended = tokio::time::timeout(grace, async {
            // Keep draining: a process blocked on its pipe never ends.
            while self.output().await.is_some() {}
            self.child.wait().await
        })
        .await;
        if ended.is_err() {
            self.signal(Signal::KILL);
        }
        self.wait().await
    }
}

impl Drop for LocalProcess {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        for pump in &self.pumps {
            pump.abort();
        }
    }
}

fn convert(status: std::process::ExitStatus) -> ExitStatus {
    match (status.code(), status.signal()) {
        (Some(code), _) => ExitStatus::Exited(code),
        (None, signal) => ExitStatus::Signaled {
            signal: signal.unwrap_or_default(),
            core_dumped: status.core_dumped(),
        },
    }
}

async fn copy(from: PathBuf, to: PathBuf) -> Result<(), ExecutorError> {
    let (source, target) = (from.clone(), to.clone());
    tokio::task::spawn_blocking(move || copy_tree(&source, &target))
        .await
        .unwrap_or_else(|join| Err(io::Error::other(join)))
        .map_err(|source| ExecutorError::Copy { from, to, source })
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    let kind = from.symlink_metadata()?.file_type();
    if kind.is_dir() {
        std::fs::create_dir_all(to)?;
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            copy_tree(&entry.path(), &to.join(entry.file_name()))?;
        }
        std::fs::set_permissions(to, from.metadata()?.permissions())
    } else {
        if let Some(parent) = to.parent() {
            std::fs::create_dir_all(parent)?;
        }
        if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(from)?, to)
        } else {
            std::fs::copy(from, to).map(drop)
        }
    }
}
