//! A proxy in front of the S3 server that misbehaves on demand.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// What happens to an exchange.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// Everything comes this much later.
    Late(Duration),
    /// The proxy answers itself with this status.
    Status(u16),
    /// The connection is cut after so many bytes of the request's body.
    CutRequest(usize),
    /// The server gets the request, and the connection is cut before its answer.
    LoseAnswer,
    /// The connection is cut after so many bytes of the answer's body.
    CutAnswer(usize),
    /// The answer comes byte by byte, each this much after the other.
    Drip(Duration),
    /// Nothing ever comes back.
    Stall,
    /// The last bit of the answer's body is wrong.
    FlipBit,
}

struct Rule {
    method: &'static str,
    part: &'static str,
    left: usize,
    fault: Fault,
}

#[derive(Default)]
struct Shared {
    rules: Vec<Rule>,
    log: Vec<String>,
    answered: u64,
}

/// A running proxy; stopped when dropped.
pub(crate) struct Proxy {
    address: String,
    shared: Arc<Mutex<Shared>>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn start(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Mutex::new(Shared::default()));
        let (state, upstream) = (Arc::clone(&shared), upstream.to_owned());
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream, upstream.clone(), Arc::clone(&state)));
            }
        });
        Self {
            address,
            shared,
            task,
        }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The next so many requests of this method (or any, when empty) whose target holds a text
    /// meet the fault.
    pub(crate) fn fault(
        &self,
        method: &'static str,
        part: &'static str,
        times: usize,
        fault: Fault,
    ) {
        self.shared.lock().unwrap().rules.push(Rule {
            method,
            part,
            left: times,
            fault,
        });
    }

    /// Forgets all faults; says how many requests met none of what was left.
    pub(crate) fn heal(&self) {
        self.shared.lock().unwrap().rules.clear();
    }

    /// Method and target of all requests since the last call.
    pub(crate) fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.lock().unwrap().log)
    }

    /// Bytes of the bodies of all answers since the last call.
    #[cfg_attr(
        not(feature = "chunked"),
        expect(dead_code, reason = "only chunks count them")
    )]
    pub(crate) fn take_answered(&self) -> u64 {
        std::mem::take(&mut self.shared.lock().unwrap().answered)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn meet(shared: &Mutex<Shared>, method: &str, target: &str) -> Option<Fault> {
    let mut shared = shared.lock().unwrap();
    shared.log.push(format!("{method} {target}"));
    let rule = shared.rules.iter_mut().find(|rule| {
        rule.left > 0
            && (rule.method.is_empty() || rule.method == method)
            && target.contains(rule.part)
    })?;
    rule.left -= 1;
    Some(rule.fault)
}

/// Reads a head, with `connection: close` in it; answers it, and the length of the body.
async fn head<R: tokio::io::AsyncRead + Unpin>(
    reader: &mut BufReader<R>,
) -> Option<(String, Option<usize>)> {
    let (mut text, mut length) = (String::new(), None);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let lower = line.to_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().ok();
        }
        if line == "\r\n" {
            return Some((text + "connection: close\r\n\r\n", length));
        }
        if !lower.starts_with("connection:") {
            text += &line;
        }
    }
}

/// One request and its answer; anything that breaks ends the connection, as it should.
async fn serve(stream: TcpStream, upstream: String, shared: Arc<Mutex<Shared>>) -> Option<()> {
    let (read, mut client) = stream.into_split();
    let mut requests = BufReader::new(read);
    let (request, length) = head(&mut requests).await?;
    let length = length.unwrap_or(0);
    let mut words = request.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let fault = meet(&shared, &method, &target);
    match fault {
        Some(Fault::Stall) => std::future::pending::<()>().await,
        Some(Fault::Late(time)) => tokio::time::sleep(time).await,
        Some(Fault::Status(status)) => {
            let mut rest = vec![0; length];
            requests.read_exact(&mut rest).await.ok()?;
            let answer = format!(
                "HTTP/1.1 {status} Fault\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            );
            client.write_all(answer.as_bytes()).await.ok()?;
            return client.shutdown().await.ok();
        }
        _ => {}
    }
    let (read, mut server) = TcpStream::connect(&upstream).await.ok()?.into_split();
    let mut answers = BufReader::new(read);
    server.write_all(request.as_bytes()).await.ok()?;
    let sent = match fault {
        Some(Fault::CutRequest(bytes)) => bytes.min(length),
        _ => length,
    };
    let mut body = (&mut requests).take(sent as u64);
    tokio::io::copy(&mut body, &mut server).await.ok()?;
    if matches!(fault, Some(Fault::CutRequest(_))) {
        return None;
    }
    let (answer, length) = head(&mut answers).await?;
    if matches!(fault, Some(Fault::LoseAnswer)) {
        return None;
    }
    client.write_all(answer.as_bytes()).await.ok()?;
    if method == "HEAD" {
        return client.shutdown().await.ok();
    }
    let mut body = Vec::new();
    match length {
        Some(length) => {
            body.resize(length, 0);
            answers.read_exact(&mut body).await.ok()?;
        }
        None => {
            answers.read_to_end(&mut body).await.ok()?;
        }
    }
    shared.lock().unwrap().answered += body.len() as u64;
    match fault {
        Some(Fault::CutAnswer(bytes)) => {
            let cut = bytes.min(body.len());
            client.write_all(&body[..cut]).await.ok()?;
            return None;
        }
        Some(Fault::Drip(pause)) => {
            for byte in body {
                client.write_all(&[byte]).await.ok()?;
                tokio::time::sleep(pause).await;
            }
        }
        Some(Fault::FlipBit) => {
            *body.last_mut()? ^= 1;
            client.write_all(&body).await.ok()?;
        }
        _ => client.write_all(&body).await.ok()?,
    }
    client.shutdown().await.ok()
}
