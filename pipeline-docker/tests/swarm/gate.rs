//! [`Gate`]: a way to an engine on which one kind of request is held back.

use std::path::PathBuf;
use std::sync::Arc;

use pipeline_docker::engine::{Engine, EngineAddress};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

/// How far the request that is held back has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Held {
    NotYet,
    Here,
    LetThrough,
    Answered,
    GivenUp,
}

pub(crate) struct Gate {
    folder: TempDir,
    held: Arc<watch::Sender<Held>>,
}

impl Gate {
    /// Holds back what is posted to `path`; `host` is the engine's socket.
    pub(crate) fn before(host: &str, path: &'static str) -> Self {
        let gate = Self {
            folder: tempfile::tempdir().unwrap(),
            held: Arc::new(watch::Sender::new(Held::NotYet)),
        };
        let listener = UnixListener::bind(gate.socket()).unwrap();
        let engine = PathBuf::from(host.replace("unix://", ""));
        let held = Arc::clone(&gate.held);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = UnixStream::connect(&engine).await.unwrap();
                tokio::spawn(pass(client, server, path, Arc::clone(&held)));
            }
        });
        gate
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("gate.sock")
    }

    pub(crate) async fn engine(&self) -> Engine {
        let address = EngineAddress::Socket(self.socket());
        Engine::connect(&address).await.unwrap()
    }

    /// Waits until a request is held back.
    pub(crate) async fn holds(&self) {
        self.reached(Held::Here).await;
    }

    /// Lets it through and waits for the engine's answer; whoever asked must still be there.
    pub(crate) async fn let_through(&self) {
        self.held.send_if_modified(|held| {
            let waits = *held == Held::Here;
            if waits {
                *held = Held::LetThrough;
            }
            waits
        });
        assert_eq!(self.reached(Held::Answered).await, Held::Answered);
    }

    async fn reached(&self, wanted: Held) -> Held {
        let mut held = self.held.subscribe();
        *held.wait_for(|held| *held >= wanted).await.unwrap()
    }
}

async fn pass(
    mut client: UnixStream,
    mut server: UnixStream,
    path: &str,
    held: Arc<watch::Sender<Held>>,
) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !is_whole(&request) {
        if client.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let line = String::from_utf8_lossy(&request);
    let line = line.lines().next().unwrap_or_default();
    if line.starts_with("POST") && line.contains(path) {
        held.send_replace(Held::Here);
        let mut watched = held.subscribe();
        let mut more = [0];
        tokio::select! {
            biased;
            _ = client.read(&mut more) => {
                held.send_replace(Held::GivenUp);
                return Ok(());
            }
            _ = watched.wait_for(|held| *held == Held::LetThrough) => {}
        }
        server.write_all(&request).await?;
        let mut answer = Vec::new();
        server.read_buf(&mut answer).await?;
        held.send_replace(Held::Answered);
        client.write_all(&answer).await?;
    } else {
        server.write_all(&request).await?;
    }
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}

/// Whether head and body are there.
fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    match length {
        Some(length) => body.len() >= length.trim().parse().unwrap(),
        None => !head.contains("transfer-encoding: chunked") || body.ends_with("0\r\n\r\n"),
    }
}
