use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, sleep, timeout};

use super::SupervisorCommand;
use super::folders::{Folders, tail};
use super::protocol::{Envelope, Reply, Request, Status, VERSION};
use crate::target::DeployError;

/// How long a supervisor may take to answer after it was started; it may have to end
/// processes of a predecessor first.
const LAUNCH_LIMIT: Duration = Duration::from_secs(20);
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// A connection to a target's supervisor.
#[derive(Debug)]
pub(super) struct Client {
    target: String,
    lines: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
    /// Answers that nobody waited for, because a call was dropped.
    unread: usize,
    /// Set while a request is being written: one that was cut cannot be mended.
    writing: bool,
}

impl Client {
    /// Connects; `None` when no supervisor runs.
    pub(super) async fn connect(folders: &Folders) -> Result<Option<Self>, DeployError> {
        let target = format!("the supervisor of {}", folders.root().display());
        let unreachable = |error: io::Error| DeployError::Unreachable {
            target: target.clone(),
            doing: "connect",
            reason: "its control socket does not work".to_owned(),
            source: Some(error.into()),
        };
        let Some(socket) = short_path(&folders.run(), Folders::SOCKET).map_err(unreachable)? else {
            return Ok(None);
        };
        match UnixStream::connect(socket.path()).await {
            Ok(stream) => {
                let (reader, writer) = stream.into_split();
                Ok(Some(Self {
                    target,
                    lines: BufReader::new(reader).lines(),
                    writer,
                    unread: 0,
                    writing: false,
                }))
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(unreachable(error)),
        }
    }

    /// Connects, after starting a supervisor when none runs.
    pub(super) async fn connect_or_launch(
        folders: &Folders,
        command: &SupervisorCommand,
    ) -> Result<Self, DeployError> {
        let deadline = Instant::now() + LAUNCH_LIMIT;
        let mut launched = None;
        loop {
            if let Some(mut client) = Self::connect(folders).await?
                // One that is just ending accepts no requests any more: try again.
                && client.status().await.is_ok()
            {
                return Ok(client);
            }
            let failed = |reason: String, source: Option<io::Error>| DeployError::Unreachable {
                target: format!("the supervisor of {}", folders.root().display()),
                doing: "start",
                reason,
                source: source.map(Into::into),
            };
            let child = match &mut launched {
                None => {
                    let child = command.launch(folders);
                    let child = child.map_err(|error| {
                        failed(format!("{command:?} cannot be started"), Some(error))
                    })?;
                    launched.insert(child)
                }
                Some(child) => child,
            };
            let log = || tail(&folders.supervisor_log(), 5).join(" | ");
            match child.try_wait() {
                // It found another one, which may be about to end. Not again at once: a
                // program that does not know its role ends well, too.
                Ok(Some(status)) if status.success() => {
                    launched = None;
                    sleep(Duration::from_millis(250)).await;
                }
                Ok(Some(status)) => {
                    return Err(failed(format!("it ended with {status}: {}", log()), None));
                }
                Ok(None) => {}
                Err(error) => return Err(failed("it was lost".to_owned(), Some(error))),
            }
            if Instant::now() > deadline {
                let reason = format!(
                    "no answer within {LAUNCH_LIMIT:?}; does {command:?} await `supervise`? {}",
                    log()
                );
                return Err(failed(reason, None));
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Asks and waits for the answer; a refusal is an error. May be dropped.
    pub(super) async fn call(
        &mut self,
        doing: &'static str,
        request: Request,
    ) -> Result<Reply, DeployError> {
        let limit = match &request {
            Request::Run { spec, limit } => *limit + spec.stop_grace + ANSWER_LIMIT,
            Request::Stop | Request::Discard => Duration::from_secs(600),
            _ => ANSWER_LIMIT,
        };
        let answer = timeout(limit, self.exchange(request)).await;
        let lost = |reason: String, source: Option<io::Error>| DeployError::Unreachable {
            target: self.target.clone(),
            doing,
            reason,
            source: source.map(Into::into),
        };
        match answer {
            Ok(Ok(Reply::Refused { reason })) => Err(DeployError::Refused {
                target: self.target.clone(),
                doing,
                reason,
            }),
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) => Err(lost("the connection was lost".to_owned(), Some(error))),
            Err(_) => Err(lost(format!("no answer within {limit:?}"), None)),
        }
    }

    async fn exchange(&mut self, request: Request) -> io::Result<Reply> {
        let mut line = serde_json::to_vec(&Envelope {
            v: VERSION,
            request,
        })?;
        line.push(b'\n');
        if self.writing {
            return Err(io::Error::other("an earlier request was cut"));
        }
        while self.unread > 0 {
            self.next_line().await?;
        }
        self.writing = true;
        self.writer.write_all(&line).await?;
        self.writing = false;
        self.unread += 1;
        Ok(serde_json::from_str(&self.next_line().await?)?)
    }

    async fn next_line(&mut self) -> io::Result<String> {
        let line = self.lines.next_line().await?;
        self.unread -= 1;
        line.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Asks for something that has no answer but that it was done.
    pub(super) async fn order(
        &mut self,
        doing: &'static str,
        request: Request,
    ) -> Result<(), DeployError> {
        match self.call(doing, request).await? {
            Reply::Done => Ok(()),
            other => Err(self.confused(doing, &other)),
        }
    }

    pub(super) async fn status(&mut self) -> Result<Status, DeployError> {
        match self.call("tell its status", Request::Status).await? {
            Reply::Status(status) => Ok(*status),
            other => Err(self.confused("tell its status", &other)),
        }
    }

    /// Waits until the supervisor hangs up.
    pub(super) async fn closed(&mut self) {
        while let Ok(Some(_)) = self.lines.next_line().await {}
    }

    /// The supervisor answered something that does not fit the question.
    pub(super) fn confused(&self, doing: &'static str, reply: &Reply) -> DeployError {
        DeployError::Unreachable {
            target: self.target.clone(),
            doing,
            reason: format!("unexpected answer {reply:?}; stop it and deploy again"),
            source: None,
        }
    }
}

/// A path to a socket that is short enough for the 108 bytes that the system has for it,
/// however deep its folder lies. Valid as long as the value lives.
#[derive(Debug)]
pub(super) struct ShortPath {
    path: PathBuf,
    _folder: File,
}

impl ShortPath {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// `None` when the folder does not exist.
pub(super) fn short_path(folder: &Path, name: &str) -> io::Result<Option<ShortPath>> {
    use std::os::fd::AsRawFd;
    let opened = match File::open(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let path = if cfg!(target_os = "linux") {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", opened.as_raw_fd()))
    } else {
        folder.join(name)
    };
    Ok(Some(ShortPath {
        path,
        _folder: opened,
    }))
}
