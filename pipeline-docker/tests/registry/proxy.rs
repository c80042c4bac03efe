//! A proxy in front of a real registry that misbehaves on demand.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::wire::{Head, answer};

/// What happens instead of, or to, one exchange.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The proxy answers itself, with this status, headers and body.
    Answer(u16, Vec<(String, String)>, String),
    /// The connection is cut after so many bytes of the request's body went through.
    CutRequest(usize),
    /// The connection is cut after so many bytes of the answer's body went through.
    CutAnswer(usize),
    /// Nothing comes back and nothing is read, until the client gives up.
    Stall,
    /// After so many bytes of the answer's body the rest comes a byte at a time, for hours. Not
    /// nothing: an engine that gave up learns of it when more comes.
    SlowAnswer(usize),
    /// The answer's `Location` is made relative.
    RelativeLocation,
    /// The registry does not see the wish to mount.
    NoMount,
    /// One bit of the answer's body is wrong.
    FlipBit,
    /// A header of the answer is another.
    Header(&'static str, String),
    /// A header of the answer is missing.
    WithoutHeader(&'static str),
}

struct Rule {
    method: &'static str,
    path: String,
    left: usize,
    fault: Fault,
}

#[derive(Default)]
struct Shared {
    rules: VecDeque<Rule>,
    log: Vec<String>,
    /// Requests that carried our credentials.
    authorized: usize,
    /// Answers that have become slow.
    slow: usize,
    /// Clients that then hung up.
    hung_up: usize,
    /// Every how many requests the proxy is busy.
    busy_every: Option<usize>,
    requests: usize,
}

/// A running proxy; stopped when dropped.
pub(crate) struct Proxy {
    pub(crate) address: String,
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
            let mut connections = tokio::task::JoinSet::new();
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

    /// The next `times` requests of this method whose target holds `path` meet the fault.
    pub(crate) fn fault(&self, method: &'static str, path: &str, times: usize, fault: Fault) {
        let rule = Rule {
            method,
            path: path.to_owned(),
            left: times,
            fault,
        };
        self.shared.lock().unwrap().rules.push_back(rule);
    }

    /// Method and path of all requests so far; forgets them.
    pub(crate) fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.lock().unwrap().log)
    }

    /// Every so many requests are answered with 503.
    pub(crate) fn busy_every(&self, requests: usize) {
        self.shared.lock().unwrap().busy_every = Some(requests);
    }

    /// Waits until so many answers have become slow.
    pub(crate) async fn slow(&self, answers: usize) {
        self.until(|shared| shared.slow >= answers).await;
    }

    /// Waits until so many clients have hung up on slow answers.
    pub(crate) async fn hung_up(&self, clients: usize) {
        self.until(|shared| shared.hung_up >= clients).await;
    }

    async fn until(&self, so: impl Fn(&Shared) -> bool) {
        let limit = std::time::Instant::now() + std::time::Duration::from_secs(120);
        while !so(&self.shared.lock().unwrap()) {
            assert!(std::time::Instant::now() < limit, "it does not happen");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// How many requests carried credentials.
    pub(crate) fn authorized(&self) -> usize {
        self.shared.lock().unwrap().authorized
    }

    /// Cuts all connections and takes no new ones.
    pub(crate) fn close(&self) {
        self.task.abort();
    }

    /// The faults that nothing has met.
    pub(crate) fn unmet(&self) -> usize {
        self.shared
            .lock()
            .unwrap()
            .rules
            .iter()
            .map(|rule| rule.left)
            .sum()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn take_fault(shared: &Mutex<Shared>, head: &Head) -> Option<Fault> {
    let mut shared = shared.lock().unwrap();
    let path = head
        .target()
        .split('?')
        .next()
        .unwrap_or_default()
        .to_owned();
    shared.log.push(format!("{} {path}", head.method()));
    shared.authorized += usize::from(head.get("authorization").is_some());
    shared.requests += 1;
    if let Some(every) = shared.busy_every
        && shared.requests.is_multiple_of(every)
    {
        return Some(Fault::Answer(503, Vec::new(), String::new()));
    }
    let rule = shared.rules.iter_mut().find(|rule| {
        rule.left > 0 && rule.method == head.method() && head.target().contains(&rule.path)
    })?;
    rule.left -= 1;
    Some(rule.fault.clone())
}

/// One request and its answer; anything that breaks ends the connection, as it should.
async fn serve(stream: TcpStream, upstream: String, shared: Arc<Mutex<Shared>>) -> Option<()> {
    let (read, mut client) = stream.into_split();
    let mut requests = BufReader::new(read);
    let mut request = Head::read(&mut requests).await?;
    let fault = take_fault(&shared, &request);
    match &fault {
        Some(Fault::Answer(status, headers, body)) => {
            let headers: Vec<(&str, &str)> = headers
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            let mut rest = vec![0; request.length()];
            requests.read_exact(&mut rest).await.ok()?;
            client
                .write_all(&answer(*status, &headers, body))
                .await
                .ok()?;
            client.shutdown().await.ok()?;
            return Some(());
        }
        Some(Fault::Stall) => {
            std::future::pending::<()>().await;
        }
        Some(Fault::NoMount) => {
            let path = request
                .target()
                .split('?')
                .next()
                .unwrap_or_default()
                .to_owned();
            request.start = format!("{} {path} HTTP/1.1", request.method());
        }
        _ => {}
    }
    let (read, mut server) = TcpStream::connect(&upstream).await.ok()?.into_split();
    let mut answers = BufReader::new(read);
    let length = request.length();
    request.set("connection", "close");
    server.write_all(&request.bytes()).await.ok()?;
    let send = match &fault {
        Some(Fault::CutRequest(bytes)) => (*bytes).min(length),
        _ => length,
    };
    let method = request.method().to_owned();
    let copied = tokio::io::copy(&mut (&mut requests).take(send as u64), &mut server)
        .await
        .ok()?;
    if matches!(fault, Some(Fault::CutRequest(_))) || copied < send as u64 {
        return None;
    }
    let mut head = Head::read(&mut answers).await?;
    head.set("connection", "close");
    match &fault {
        Some(Fault::RelativeLocation) => {
            let location = head.get("location").unwrap().to_owned();
            let path = location.splitn(4, '/').nth(3).unwrap();
            head.set("location", format!("/{path}"));
        }
        Some(Fault::Header(name, value)) => head.set(name, value.clone()),
        Some(Fault::WithoutHeader(name)) => head.headers.retain(|(key, _)| key != name),
        _ => {}
    }
    client.write_all(&head.bytes()).await.ok()?;
    if method != "HEAD" {
        let mut rest = Vec::new();
        match &fault {
            Some(Fault::CutAnswer(bytes)) => {
                let mut part = answers.take(*bytes as u64);
                tokio::io::copy(&mut part, &mut client).await.ok()?;
                return None;
            }
            Some(Fault::SlowAnswer(bytes)) => {
                let mut part = (&mut answers).take(*bytes as u64);
                tokio::io::copy(&mut part, &mut client).await.ok()?;
                shared.lock().unwrap().slow += 1;
                let mut byte = [0];
                loop {
                    answers.read_exact(&mut byte).await.ok()?;
                    if client.write_all(&byte).await.is_err() {
                        break;
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
                shared.lock().unwrap().hung_up += 1;
                return None;
            }
            Some(Fault::FlipBit) => {
                answers.read_to_end(&mut rest).await.ok()?;
                let middle = rest.len() / 2;
                *rest.get_mut(middle)? ^= 1;
                client.write_all(&rest).await.ok()?;
            }
            _ => {
                tokio::io::copy(&mut answers, &mut client).await.ok()?;
            }
        }
    }
    client.shutdown().await.ok()
}
