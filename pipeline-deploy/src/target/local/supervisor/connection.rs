use std::io;
use std::path::Path;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::actor::Message;
use super::process::Process;
use crate::target::local::client::short_path;
use crate::target::local::folders::{Folders, absent};
use crate::target::local::protocol::{Envelope, ProcessEnd, Reply, Request, VERSION};

/// Listens for deploying programs; each connection is a task that talks to the actor.
pub(super) fn listen(folders: &Folders, actor: mpsc::Sender<Message>) -> io::Result<()> {
    let run = folders.run();
    absent(std::fs::remove_file(run.join(Folders::SOCKET)))?;
    let listener = bind(&run)?;
    let folders = folders.clone();
    tokio::spawn(async move {
        let mut number = 0;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    number += 1;
                    let connection = Connection {
                        number,
                        folders: folders.clone(),
                        actor: actor.clone(),
                    };
                    // Told before the task runs: nothing is idle that has a connection.
                    if actor.send(Message::Opened).await.is_err() {
                        return;
                    }
                    tokio::spawn(connection.serve(stream));
                }
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            }
        }
    });
    Ok(())
}

fn bind(run: &Path) -> io::Result<UnixListener> {
    let Some(socket) = short_path(run, Folders::SOCKET)? else {
        return Err(io::ErrorKind::NotFound.into());
    };
    UnixListener::bind(socket.path())
}

struct Connection {
    number: u64,
    folders: Folders,
    actor: mpsc::Sender<Message>,
}

impl Connection {
    async fn serve(self, stream: UnixStream) {
        let (reader, mut writer) = stream.into_split();
        let (line_sent, mut lines) = mpsc::channel::<String>(1);
        // A task of its own, so that a peer that hangs up is noticed while it waits.
        let reading = tokio::spawn(async move {
            let mut reader = BufReader::new(reader).lines();
            while let Ok(Some(line)) = reader.next_line().await {
                if line_sent.send(line).await.is_err() {
                    break;
                }
            }
        });
        while let Some(line) = lines.recv().await {
            let stopping = matches!(
                serde_json::from_str::<Envelope>(&line),
                Ok(Envelope {
                    request: Request::Stop,
                    ..
                })
            );
            let reply = tokio::select! {
                reply = self.answer(&line) => reply,
                // Only the closed end answers here: the peer asks one thing at a time.
                None = lines.recv(), if !stopping => break,
            };
            if write(&mut writer, &reply).await.is_err() {
                break;
            }
            if stopping {
                // Held open until the process ends, which tells the peer that it has.
                let _ = self.actor.send(Message::StopAnswered).await;
                std::future::pending::<()>().await;
            }
        }
        reading.abort();
        let _ = self.actor.send(Message::Closed(self.number)).await;
    }

    async fn answer(&self, line: &str) -> Reply {
        let request = match serde_json::from_str::<Envelope>(line) {
            Ok(Envelope {
                v: VERSION,
                request,
            }) => request,
            Ok(Envelope { v, .. }) => {
                return refused(format!(
                    "it speaks version {VERSION}, not {v}; stop it with the program that \
                     started it, then deploy again"
                ));
            }
            Err(error) => {
                return refused(format!(
                    "it does not understand the request ({error}); stop it with the program \
                     that started it, then deploy again"
                ));
            }
        };
        if let Request::Run { spec, limit } = request {
            // Dropped, and so ended, when the peer hangs up.
            let process = match Process::spawn(&self.folders, &spec, None) {
                Ok(process) => process,
                Err(error) => return refused(not_started(&spec.program, &error)),
            };
            return Reply::Ended(match timeout(limit, process.ended()).await {
                Ok(end) => end,
                Err(_) => {
                    process.stop();
                    ProcessEnd {
                        over_limit: true,
                        ..process.ended().await
                    }
                }
            });
        }
        let (reply, answer) = oneshot::channel();
        let message = Message::Asked {
            connection: self.number,
            request: Box::new(request),
            reply,
        };
        if self.actor.send(message).await.is_err() {
            return refused("it is ending");
        }
        answer.await.unwrap_or_else(|_| refused("it is ending"))
    }
}

pub(super) fn not_started(program: &str, error: &io::Error) -> String {
    format!("`{program}` cannot be started: {error}")
}

pub(super) fn refused(reason: impl Into<String>) -> Reply {
    Reply::Refused {
        reason: reason.into(),
    }
}

async fn write(writer: &mut OwnedWriteHalf, reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    writer.write_all(&line).await
}
