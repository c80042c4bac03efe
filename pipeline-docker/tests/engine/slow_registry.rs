//! The real registry behind a door that can be held shut in the middle of an upload.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Bytes that go through before the door is shut: requests, and the beginning of a layer.
const OPEN: usize = 500_000;

pub(crate) struct SlowRegistry {
    child: Child,
    _folder: TempDir,
    pub(crate) address: String,
    stuck: watch::Receiver<bool>,
    flow: watch::Sender<bool>,
}

impl SlowRegistry {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "version: 0.1\nstorage:\n  filesystem: {{rootdirectory: {}}}\nhttp:\n  addr: 127.0.0.1:0\n",
            folder.path().join("data").display()
        );
        let file = folder.path().join("config.yml");
        std::fs::write(&file, config).unwrap();
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("docker-registry must be installed: {error}"));
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let port: String = loop {
            let line = lines.next().unwrap().unwrap();
            if let Some((_, rest)) = line.split_once("listening on 127.0.0.1:") {
                break rest.chars().take_while(char::is_ascii_digit).collect();
            }
        };
        // Or the registry blocks once the pipe is full.
        std::thread::spawn(move || lines.for_each(drop));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (tell_stuck, stuck) = watch::channel(false);
        let (flow, flowing) = watch::channel(false);
        let tell_stuck = Arc::new(tell_stuck);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(format!("127.0.0.1:{port}")).await;
                let Ok(server) = server else { return };
                let (tell, flowing) = (Arc::clone(&tell_stuck), flowing.clone());
                tokio::spawn(pass(client, server, tell, flowing));
            }
        });
        Self {
            child,
            _folder: folder,
            address,
            stuck,
            flow,
        }
    }

    /// Waits until the door is shut on somebody.
    pub(crate) async fn stuck(&self) {
        self.stuck.clone().wait_for(|stuck| *stuck).await.unwrap();
    }

    /// Opens the door for good.
    pub(crate) fn flow(&self) {
        self.flow.send(true).unwrap();
    }
}

async fn pass(
    client: TcpStream,
    server: TcpStream,
    stuck: Arc<watch::Sender<bool>>,
    mut flowing: watch::Receiver<bool>,
) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let back = tokio::spawn(async move {
        drop(tokio::io::copy(&mut from_server, &mut to_client).await);
    });
    let mut buffer = vec![0; 16 * 1024];
    let mut passed = 0;
    while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
        if passed > OPEN && !*flowing.borrow() {
            stuck.send_replace(true);
            if flowing.wait_for(|flowing| *flowing).await.is_err() {
                return;
            }
        }
        passed += count;
        if to_server.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
    drop(to_server.shutdown().await);
    drop(back.await);
}

impl Drop for SlowRegistry {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
