//! [`ContainerProcess`]: a command in a job's container.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bollard::container::LogOutput;
use bollard::errors::Error as BollardError;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use futures_util::{Stream as Pieces, StreamExt};
use pipeline_core::executor::Stdin;
use pipeline_core::{CommandSpec, ExecutorError, ExitStatus, OutputChunk, Process, Stream};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinHandle;

use super::error::ContainerError;
use super::record::{Ended, Record, RecordScanner, WRAPPER, unguessable};
use super::shared::Shared;

/// How long output is still read after the command itself has ended, when something that it left
/// behind holds the stream open.
const LEAK_TIMEOUT: Duration = Duration::from_millis(200);
/// How long a killed command may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// Output that is met while waiting for the end is kept up to this many bytes.
const KEPT: usize = 1024 * 1024;
/// What Linux takes as one argument or variable, with its end. The engine tells of a longer one in
/// no way that could be relied on.
const LONGEST_WORD: usize = 128 * 1024;
/// What it takes in all: a quarter of a stack of usual size, with a pointer for each.
const LARGEST_CALL: usize = 2 * 1024 * 1024 - 4096;
/// What the engine hands over at once.
const CAPACITY: usize = 64 * 1024;

type Output = Pin<Box<dyn Pieces<Item = Result<LogOutput, BollardError>> + Send>>;

/// A running command.
pub(super) struct ContainerProcess {
    shared: Arc<Shared>,
    spec: CommandSpec,
    exec: String,
    output: Option<Output>,
    scanner: RecordScanner,
    ready: VecDeque<OutputChunk>,
    /// Bytes in `ready`.
    kept: usize,
    /// Reports that were not acted on yet.
    records: VecDeque<Record>,
    /// What the engine said outside of any stream.
    said: String,
    group: Option<i32>,
    ended: Option<Ended>,
    lost: Option<BollardError>,
    /// Whether the command was counted out.
    left: bool,
    killed: bool,
    feeder: Option<JoinHandle<()>>,
}

impl fmt::Debug for ContainerProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContainerProcess")
            .field("container", &self.shared.id)
            .field("program", &self.spec.program)
            .field("group", &self.group)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl ContainerProcess {
    /// Starts a command and waits until it runs.
    pub(super) async fn start(
        shared: Arc<Shared>,
        spec: &CommandSpec,
    ) -> Result<Self, ExecutorError> {
        let word = unguessable();
        let directory = shared.root.join(&spec.cwd);
        let mut command = vec!["/bin/sh".to_owned(), "-c".to_owned(), WRAPPER.to_owned()];
        command.extend(["pipeline".to_owned(), word.clone(), shared.holder.clone()]);
        let words = std::iter::once(directory.as_os_str())
            .chain(std::iter::once(spec.program.as_os_str()))
            .chain(spec.args.iter().map(std::ffi::OsString::as_os_str));
        for text in words {
            // The engine takes texts only.
            let text = text.to_str().ok_or_else(|| ContainerError::NotText {
                word: text.to_string_lossy().into_owned(),
            })?;
            command.push(text.to_owned());
        }
        let mut variables = shared.env.clone();
        variables.extend(spec.env.clone());
        let options = CreateExecOptions {
            attach_stdin: Some(matches!(spec.stdin, Stdin::Bytes(_))),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(command),
            env: Some(
                variables
                    .iter()
                    .map(|(name, value)| format!("{name}={}", value.expose()))
                    .collect(),
            ),
            user: shared.user.clone(),
            ..CreateExecOptions::default()
        };
        if is_too_large(&options) {
            return Err(ExecutorError::TooLarge(
                spec.program.to_string_lossy().into_owned(),
            ));
        }
        let gate = Arc::clone(&shared);
        let _begun = gate.enter().await;
        let mut process = Self {
            shared,
            spec: spec.clone(),
            exec: String::new(),
            output: None,
            scanner: RecordScanner::new(&word),
            ready: VecDeque::new(),
            kept: 0,
            records: VecDeque::new(),
            said: String::new(),
            group: None,
            ended: None,
            lost: None,
            left: false,
            killed: false,
            feeder: None,
        };
        if let Err(error) = process.attach(options).await {
            return Err(process.gone(error).await);
        }
        process.first_report(directory).await?;
        Ok(process)
    }

    async fn attach(&mut self, options: CreateExecOptions<String>) -> Result<(), BollardError> {
        let client = self.shared.engine().client();
        self.exec = client.create_exec(&self.shared.id, options).await?.id;
        let start = StartExecOptions {
            output_capacity: Some(CAPACITY),
            ..StartExecOptions::default()
        };
        if let StartExecResults::Attached { output, mut input } =
            client.start_exec(&self.exec, Some(start)).await?
        {
            self.output = Some(output);
            if let Stdin::Bytes(bytes) = self.spec.stdin.clone() {
                self.feeder = Some(tokio::spawn(async move {
                    // A command may end without reading everything.
                    if input.write_all(&bytes).await.is_ok() {
                        input.shutdown().await.ok();
                    }
                }));
            }
        }
        Ok(())
    }

    /// Before anything else the wrapper says whether the command could be begun.
    async fn first_report(&mut self, directory: std::path::PathBuf) -> Result<(), ExecutorError> {
        let program = self.spec.program.to_string_lossy().into_owned();
        loop {
            match self.records.pop_front() {
                Some(Record::Started { group }) => {
                    self.group = Some(group);
                    return Ok(());
                }
                Some(Record::NoFolder) => {
                    self.counted_out(false).await;
                    return Err(ExecutorError::NoWorkingDirectory(directory));
                }
                Some(Record::Missing { searched }) => {
                    self.counted_out(false).await;
                    return Err(ExecutorError::ProgramNotFound {
                        program,
                        searched: format!("the image {}, PATH={searched}", self.shared.image),
                    });
                }
                Some(Record::Denied) => {
                    self.counted_out(false).await;
                    return Err(ExecutorError::NotExecutable {
                        program,
                        directory,
                        source: std::io::ErrorKind::PermissionDenied.into(),
                    });
                }
                Some(Record::Ended(_)) | None => {}
            }
            if !self.read().await {
                if self.said.contains("argument list too long") {
                    self.counted_out(false).await;
                    return Err(ExecutorError::TooLarge(program));
                }
                // Starting excludes sweeping, and what did not begin left nothing behind.
                self.counted_out(false).await;
                return Err(self.post_mortem().await.err().unwrap_or_else(|| {
                    ContainerError::NotBegun {
                        program,
                        said: self.said.trim().to_owned(),
                    }
                    .into()
                }));
            }
        }
    }

    /// Takes the next piece from the engine; `false` when there is none. Dropping the future loses
    /// nothing.
    async fn read(&mut self) -> bool {
        let Some(output) = &mut self.output else {
            return false;
        };
        let (stream, bytes) = match output.next().await {
            None => {
                self.output = None;
                let rest = self.scanner.finish();
                self.keep(Stream::Stderr, rest);
                return false;
            }
            Some(Err(error)) => {
                self.output = None;
                self.lost = Some(error);
                return false;
            }
            Some(Ok(LogOutput::StdOut { message } | LogOutput::StdIn { message })) => {
                (Stream::Stdout, message)
            }
            Some(Ok(LogOutput::StdErr { message })) => (Stream::Stderr, message),
            Some(Ok(LogOutput::Console { message })) => {
                self.said.push_str(&String::from_utf8_lossy(&message));
                return true;
            }
        };
        if stream == Stream::Stdout {
            self.keep(stream, bytes.to_vec());
            return true;
        }
        let scanned = self.scanner.push(&bytes);
        self.keep(stream, scanned.output);
        for record in scanned.records {
            match record {
                // It may come in one piece with the report of the start.
                Record::Ended(ended) => self.ended = Some(ended),
                record => self.records.push_back(record),
            }
        }
        true
    }

    fn keep(&mut self, stream: Stream, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            self.kept += bytes.len();
            self.ready.push_back(OutputChunk { stream, bytes });
        }
    }

    /// Counts the command out, once; `left` when it may have left something behind.
    async fn counted_out(&mut self, left: bool) {
        if !std::mem::replace(&mut self.left, true) {
            self.shared.leave(left).await;
        }
    }

    /// Why the engine did not begin the command.
    async fn gone(&mut self, error: BollardError) -> ExecutorError {
        let said = error.to_string().to_ascii_lowercase();
        self.counted_out(false).await;
        if said.contains("argument list too long") {
            return ExecutorError::TooLarge(self.spec.program.to_string_lossy().into_owned());
        }
        let action = format!("start `{}`", self.spec.program.to_string_lossy());
        let error = self.shared.engine().error(&action, error);
        self.shared
            .why_gone(&self.spec.program, Some(error))
            .await
            .into()
    }

    /// The command has no end that the wrapper reported: it was killed together with it, or the
    /// container or the engine is gone.
    async fn post_mortem(&mut self) -> Result<ExitStatus, ExecutorError> {
        self.counted_out(true).await;
        let engine = self.shared.engine().clone();
        let action = format!("learn how `{}` ended", self.spec.program.to_string_lossy());
        let lost = self.lost.take().map(|error| engine.error(&action, error));
        let container = engine
            .client()
            .inspect_container(&self.shared.id, None)
            .await;
        let state = match container {
            Ok(container) => container.state.unwrap_or_default(),
            Err(error) => {
                let error = engine.error(&action, error);
                return Err(self
                    .shared
                    .why_gone(&self.spec.program, Some(error))
                    .await
                    .into());
            }
        };
        if state.running != Some(true) {
            return Err(self.shared.why_gone(&self.spec.program, lost).await.into());
        }
        let exec = engine.client().inspect_exec(&self.exec).await;
        match exec.map(|found| found.exit_code) {
            // The shell that ran the command was hit as well.
            Ok(Some(code)) if code > 128 => Ok(ExitStatus::Signaled {
                signal: i32::try_from(code - 128).unwrap_or_default(),
                core_dumped: false,
            }),
            Ok(None) if self.killed => Ok(ExitStatus::Signaled {
                signal: 9,
                core_dumped: false,
            }),
            Ok(_) => Err(ContainerError::NotBegun {
                program: self.spec.program.to_string_lossy().into_owned(),
                said: self.said.trim().to_owned(),
            }
            .into()),
            Err(error) => Err(self
                .shared
                .why_gone(&self.spec.program, Some(engine.error(&action, error)))
                .await
                .into()),
        }
    }

    /// What the figures say about the end that the wrapper reported.
    async fn judged(&mut self, ended: &Ended) -> ExitStatus {
        let short = self.shared.new_out_of_memory(ended.out_of_memory);
        if short == 0 {
            return ended.status;
        }
        match ended.status {
            ExitStatus::Signaled { signal: 9, .. } | ExitStatus::Exited(137) => {
                ExitStatus::OutOfMemory
            }
            status => {
                let limit = self.shared.memory.map_or_else(
                    || "the machine's".to_owned(),
                    |bytes| format!("the limit is {} MiB", bytes >> 20),
                );
                self.shared
                    .events
                    .warn(format!(
                        "{short} process(es) were ended for want of memory while `{}` ran ({limit})",
                        self.spec.program.to_string_lossy()
                    ))
                    .await;
                status
            }
        }
    }

    /// A failed service ends the job's commands: there is nothing to be learnt from them.
    fn service_failure(&self) -> Option<ExecutorError> {
        let broken = self.shared.broken.borrow();
        broken
            .as_ref()
            .map(|error| ContainerError::Service(Arc::clone(error)).into())
    }

    async fn kill(&mut self) {
        self.killed = true;
        if let (Some(group), None) = (self.group, &self.ended) {
            self.shared.signal(group, &["KILL"]).await;
        }
    }

    /// Reads until the command has ended or the stream has.
    async fn drain(&mut self) {
        while self.ended.is_none() && self.read().await {
            while self.kept > KEPT
                && let Some(chunk) = self.ready.pop_front()
            {
                self.kept -= chunk.bytes.len();
            }
        }
    }
}

/// Whether Linux would refuse to run it.
fn is_too_large(options: &CreateExecOptions<String>) -> bool {
    let mut total = 0;
    for word in options.cmd.iter().chain(&options.env).flatten() {
        if word.len() >= LONGEST_WORD {
            return true;
        }
        total += word.len() + 9;
    }
    total > LARGEST_CALL
}

#[async_trait]
impl Process for ContainerProcess {
    async fn output(&mut self) -> Option<OutputChunk> {
        let mut broken = self.shared.broken.clone();
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                self.kept -= chunk.bytes.len();
                return Some(chunk);
            }
            if self.output.is_none() || broken.borrow().is_some() {
                return None;
            }
            if self.ended.is_some() {
                if tokio::time::timeout(LEAK_TIMEOUT, self.read())
                    .await
                    .is_err()
                {
                    // Something that was left behind holds the stream: end it, read the rest.
                    if self.left {
                        self.output = None;
                    } else {
                        self.counted_out(true).await;
                    }
                }
                continue;
            }
            tokio::select! {
                biased;
                _ = self.read() => {}
                changed = broken.changed() => if changed.is_err() {
                    // Nobody watches services any more; the stream tells the rest.
                    self.read().await;
                }
            }
        }
    }

    async fn wait(&mut self) -> Result<ExitStatus, ExecutorError> {
        if self.ended.is_none() && self.service_failure().is_none() {
            let mut broken = self.shared.broken.clone();
            tokio::select! {
                biased;
                () = self.drain() => {}
                Ok(()) = broken.changed() => {}
            }
        }
        if self.ended.is_none()
            && let Some(failure) = self.service_failure()
        {
            self.kill().await;
            self.counted_out(true).await;
            return Err(failure);
        }
        let status = match self.ended.clone() {
            Some(ended) => {
                self.counted_out(!ended.left.is_empty()).await;
                self.judged(&ended).await
            }
            None => self.post_mortem().await?,
        };
        if !status.success() {
            self.shared.note_failed(&self.spec);
        }
        Ok(status)
    }

    async fn terminate(&mut self, grace: Duration) -> Result<ExitStatus, ExecutorError> {
        if let (Some(group), None) = (self.group, &self.ended) {
            // A stopped process cannot act on the polite signal.
            self.shared.signal(group, &["TERM", "CONT"]).await;
            // Keep draining: a process blocked on its pipe never ends.
            if tokio::time::timeout(grace, self.drain()).await.is_err() {
                self.kill().await;
                if tokio::time::timeout(KILL_LIMIT, self.drain())
                    .await
                    .is_err()
                {
                    // It left its group, or cannot be ended from inside.
                    self.counted_out(true).await;
                    tokio::time::timeout(KILL_LIMIT, self.drain()).await.ok();
                    self.output = None;
                }
            }
        }
        self.wait().await
    }
}

impl Drop for ContainerProcess {
    fn drop(&mut self) {
        if let Some(feeder) = &self.feeder {
            feeder.abort();
        }
        if self.left {
            return;
        }
        self.left = true;
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let (shared, group) = (Arc::clone(&self.shared), self.group);
        let ended = self.ended.is_some();
        runtime.spawn(async move {
            if let (Some(group), false) = (group, ended) {
                shared.signal(group, &["KILL"]).await;
            }
            shared.leave(true).await;
        });
    }
}
