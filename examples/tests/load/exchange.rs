//! One HTTP/1.1 request and its answer, read to the last byte.

use std::io;
use std::sync::Mutex;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// How requests share connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connections {
    /// Every request opens its own and asks for it to be closed.
    New,
    /// A request takes an open one that is free, as browsers do.
    KeepAlive,
}

/// Where requests go.
#[derive(Debug)]
pub(super) struct Target {
    address: String,
    request: String,
    connections: Connections,
    free: Mutex<Vec<BufReader<TcpStream>>>,
}

/// An answer that came whole.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) opened: bool,
}

impl Target {
    /// # Panics
    /// When the address is not `http://HOST:PORT/PATH`.
    pub(super) fn new(url: &str, connections: Connections) -> Self {
        let rest = url.strip_prefix("http://").unwrap();
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let keep = match connections {
            Connections::New => "close",
            Connections::KeepAlive => "keep-alive",
        };
        Self {
            address: if authority.contains(':') {
                authority.to_owned()
            } else {
                format!("{authority}:80")
            },
            request: format!(
                "GET /{path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: load\r\nAccept: */*\r\n\
                 Connection: {keep}\r\n\r\n"
            ),
            connections,
            free: Mutex::new(Vec::new()),
        }
    }

    /// Sends one request. Any failure is an error that says at which point; nothing is tried
    /// twice.
    pub(super) async fn exchange(&self) -> Result<Answer, String> {
        let (mut stream, opened) = match self.take_free() {
            Some(stream) => (stream, false),
            None => {
                let stream = TcpStream::connect(&self.address)
                    .await
                    .map_err(|error| at("connecting", &error))?;
                // A request is one small write; waiting to join it with another gains nothing.
                let _ = stream.set_nodelay(true);
                (BufReader::new(stream), true)
            }
        };
        stream
            .get_mut()
            .write_all(self.request.as_bytes())
            .await
            .map_err(|error| at("sending", &error))?;
        let (status, reusable) = read_answer(&mut stream).await?;
        if reusable && self.connections == Connections::KeepAlive {
            self.free.lock().unwrap().push(stream);
        }
        Ok(Answer { status, opened })
    }

    /// A connection that the server has not closed meanwhile: closing an idle one is its right.
    fn take_free(&self) -> Option<BufReader<TcpStream>> {
        let mut free = self.free.lock().unwrap();
        while let Some(stream) = free.pop() {
            let mut byte = [0];
            let idle = stream.get_ref().try_read(&mut byte);
            if matches!(idle, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
                return Some(stream);
            }
        }
        None
    }
}

fn at(point: &str, error: &io::Error) -> String {
    format!("{point}: {}", error.kind())
}

/// Reads status, headers and body. Gives the status and whether the connection can be used again.
async fn read_answer(stream: &mut BufReader<TcpStream>) -> Result<(u16, bool), String> {
    let first = line(stream, "waiting for the answer").await?;
    let mut words = first.split(' ');
    let version = words.next().unwrap_or_default();
    let status: u16 = match words.next().map(str::parse) {
        Some(Ok(status)) if version.starts_with("HTTP/1.") => status,
        _ => return Err("the answer is not HTTP".to_owned()),
    };
    let mut length = None;
    let mut chunked = false;
    let mut keeps = version == "HTTP/1.1";
    loop {
        let header = line(stream, "reading headers").await?;
        if header.is_empty() {
            break;
        }
        let (name, value) = header.split_once(':').ok_or("a header has no colon")?;
        let value = value.trim().to_ascii_lowercase();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = Some(value.parse().map_err(|_| "a bad length")?),
            "transfer-encoding" => chunked = value.contains("chunked"),
            "connection" if value.contains("close") => keeps = false,
            "connection" if value.contains("keep-alive") => keeps = true,
            _ => {}
        }
    }
    if status == 204 || status == 304 {
        return Ok((status, keeps));
    }
    if chunked {
        loop {
            let size = line(stream, "reading the body").await?;
            let digits = size.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(digits, 16).map_err(|_| "a bad chunk")?;
            skip(stream, size).await?;
            let end = line(stream, "reading the body").await?;
            if !end.is_empty() {
                return Err("a bad chunk".to_owned());
            }
            if size == 0 {
                return Ok((status, keeps));
            }
        }
    }
    match length {
        Some(length) => skip(stream, length).await.map(|()| (status, keeps)),
        None => {
            let read = tokio::io::copy(stream, &mut tokio::io::sink()).await;
            read.map_err(|error| at("reading the body", &error))?;
            Ok((status, false))
        }
    }
}

async fn line(stream: &mut BufReader<TcpStream>, point: &str) -> Result<String, String> {
    let mut line = String::new();
    let read = stream.read_line(&mut line).await;
    read.map_err(|error| at(point, &error))?;
    let whole = line.strip_suffix('\n');
    let whole = whole.ok_or_else(|| format!("{point}: the connection was closed"))?;
    Ok(whole.trim_end_matches('\r').to_owned())
}

async fn skip(stream: &mut BufReader<TcpStream>, length: u64) -> Result<(), String> {
    let mut body = stream.take(length);
    let read = tokio::io::copy(&mut body, &mut tokio::io::sink()).await;
    match read.map_err(|error| at("reading the body", &error))? {
        read if read == length => Ok(()),
        _ => Err("reading the body: the connection was closed".to_owned()),
    }
}
