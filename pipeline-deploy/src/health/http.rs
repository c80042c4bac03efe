use std::fmt;
use std::io;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Answer, Endpoint, Health, HealthCheck, cure_for_disallowed_host};

const HEAD_LIMIT: usize = 64 * 1024;
const BODY_HEAD: usize = 4 * 1024;
const BODY_PATIENCE: Duration = Duration::from_millis(500);

/// Healthy when `GET` of a path is answered with 2xx or 3xx.
///
/// Plain HTTP/1.1, one connection per probe, redirects are not followed: a redirect is an
/// answer of a running application.
#[derive(Debug, Clone)]
pub struct HttpCheck {
    path: String,
    host: Option<String>,
    limit: Duration,
}

impl HttpCheck {
    /// Asks for `path`, for example `/healthz`; a missing leading slash is added.
    #[must_use]
    pub fn new(path: impl Into<String>) -> Self {
        let path = path.into();
        let path = if path.starts_with('/') {
            path
        } else {
            format!("/{path}")
        };
        Self {
            path,
            host: None,
            limit: Duration::from_secs(5),
        }
    }

    /// Sets the `Host` header. Default: the endpoint's host and port.
    #[must_use]
    pub fn with_host(mut self, host: impl Into<String>) -> Self {
        self.host = Some(host.into());
        self
    }

    /// Sets how long one probe may take. Default: 5 s.
    #[must_use]
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    async fn get(&self, endpoint: &Endpoint) -> io::Result<Answer> {
        let host = self.host.clone().unwrap_or_else(|| endpoint.to_string());
        // A line break would let a path or host smuggle in headers of its own.
        if [&self.path, &host]
            .iter()
            .any(|text| text.bytes().any(|b| b <= b' ' || b == 0x7f))
        {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the path or the Host header holds a space or control character",
            ));
        }
        let mut stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: pipeline-deploy\r\n\
             Accept: */*\r\nConnection: close\r\n\r\n",
            self.path
        );
        stream.write_all(request.as_bytes()).await?;
        read_answer(&mut stream).await
    }
}

/// Reads status and the head of the body; never more than the two limits.
async fn read_answer(stream: &mut TcpStream) -> io::Result<Answer> {
    let mut seen = Vec::new();
    let (status, body_at, chunked, length) = loop {
        let mut headers = [httparse::EMPTY_HEADER; 128];
        let mut response = httparse::Response::new(&mut headers);
        match response.parse(&seen) {
            Ok(httparse::Status::Complete(at)) => {
                let status = response.code.unwrap_or(0);
                // 103 Early Hints and the like come before the answer.
                if (100..200).contains(&status) && status != 101 {
                    seen.drain(..at);
                    continue;
                }
                let value = |name: &str| {
                    let found = response
                        .headers
                        .iter()
                        .find(|h| h.name.eq_ignore_ascii_case(name));
                    found.map(|h| String::from_utf8_lossy(h.value).to_ascii_lowercase())
                };
                let chunked = value("transfer-encoding").is_some_and(|v| v.contains("chunked"));
                let length = value("content-length").and_then(|v| v.trim().parse().ok());
                break (status, at, chunked, length.unwrap_or(usize::MAX));
            }
            Ok(httparse::Status::Partial) if seen.len() > HEAD_LIMIT => {
                return Err(invalid("the header is longer than 64 KiB"));
            }
            Ok(httparse::Status::Partial) => {}
            Err(error) => return Err(invalid(format!("not an HTTP answer: {error}"))),
        }
        if stream.read_buf(&mut seen).await? == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the connection was closed without an answer",
            ));
        }
    };
    let mut body = seen.split_off(body_at);
    let no_body = matches!(status, 204 | 304);
    // Chunk sizes are a few bytes per chunk; the doubled limit leaves room for them.
    let wanted = match (no_body, chunked) {
        (true, _) => 0,
        (false, true) => 2 * BODY_HEAD,
        (false, false) => length.min(BODY_HEAD),
    };
    // A status that arrived counts, even when the body is cut or never ends.
    let _ = timeout(BODY_PATIENCE, async {
        while body.len() < wanted && !(chunked && body.ends_with(b"0\r\n\r\n")) {
            if !matches!(stream.read_buf(&mut body).await, Ok(n) if n > 0) {
                break;
            }
        }
    })
    .await;
    let mut body = if chunked { unchunk(&body) } else { body };
    body.truncate(length.min(BODY_HEAD));
    Ok(Answer::new(
        i32::from(status),
        String::from_utf8_lossy(&body).into_owned(),
    ))
}

/// The data of as many chunks as `body` holds.
fn unchunk(mut body: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    while let Ok(httparse::Status::Complete((at, size))) = httparse::parse_chunk_size(body) {
        let rest = &body[at..];
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if size == 0 || rest.len() <= size {
            data.extend_from_slice(&rest[..size.min(rest.len())]);
            break;
        }
        data.extend_from_slice(&rest[..size]);
        body = rest[size..].strip_prefix(b"\r\n").unwrap_or_default();
    }
    data
}

fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

impl fmt::Display for HttpCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GET {} answers 2xx or 3xx", self.path)?;
        match &self.host {
            Some(host) => write!(f, " (Host: {host})"),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl HealthCheck for HttpCheck {
    async fn probe(&self, endpoint: &Endpoint) -> Health {
        let asked = format!("GET http://{endpoint}{}", self.path);
        match timeout(self.limit, self.get(endpoint)).await {
            Ok(Ok(answer)) => {
                let summary = format!("{asked} answered {}", answer.status);
                let health = if (200..400).contains(&answer.status) {
                    Health::healthy(summary)
                } else {
                    Health::unhealthy(summary)
                };
                let cure = cure_for_disallowed_host(&answer, &[]);
                let health = health.with_answer(answer);
                match cure {
                    Some(cure) => health.with_cure(cure),
                    None => health,
                }
            }
            Ok(Err(error)) => Health::unhealthy(format!("{asked}: {error}")),
            Err(_) => Health::unhealthy(format!("{asked}: no answer within {:?}", self.limit)),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;

    use super::*;

    /// A server that reads one request and answers with the parts, one write each.
    async fn server(parts: &'static [&'static [u8]]) -> (Endpoint, JoinHandle<String>) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let endpoint = Endpoint::loopback(listener.local_addr().unwrap().port());
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                stream.read_buf(&mut request).await.unwrap();
            }
            for part in parts {
                stream.write_all(part).await.unwrap();
                stream.flush().await.unwrap();
                tokio::task::yield_now().await;
            }
            String::from_utf8(request).unwrap()
        });
        (endpoint, task)
    }

    async fn probe(parts: &'static [&'static [u8]]) -> Health {
        let (endpoint, _task) = server(parts).await;
        HttpCheck::new("/").probe(&endpoint).await
    }

    #[tokio::test]
    async fn two_and_three_hundreds_are_healthy_others_are_not() {
        for (status, healthy) in [
            ("200 OK", true),
            ("204 No Content", true),
            ("302 Found", true),
            ("400 Bad Request", false),
            ("404 Not Found", false),
            ("500 Oh", false),
            ("503 Busy", false),
        ] {
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nhi");
            let answer: &'static [u8] = answer.into_bytes().leak();
            let health = probe(vec![answer].leak()).await;
            assert_eq!(health.is_healthy(), healthy, "{health}");
        }
    }

    #[tokio::test]
    async fn the_request_carries_the_path_and_the_wanted_host() {
        let (endpoint, task) = server(&[b"HTTP/1.1 200 OK\r\n\r\n"]).await;
        let check = HttpCheck::new("up?x=1").with_host("www.example.org");
        assert!(check.probe(&endpoint).await.is_healthy());
        let request = task.await.unwrap();
        assert!(request.starts_with("GET /up?x=1 HTTP/1.1\r\n"), "{request}");
        assert!(
            request.contains("\r\nHost: www.example.org\r\n"),
            "{request}"
        );
    }

    #[tokio::test]
    async fn pieces_chunks_and_early_hints_are_put_together() {
        let health = probe(&[
            b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTT",
            b"P/1.1 500 Oh\r\ntransfer-enco",
            b"ding: chunked\r\n\r\n3\r\nabc\r",
            b"\n4\r\ndefg\r\n0\r\n\r\n",
        ])
        .await;
        let answer = health.answer().unwrap();
        assert_eq!((answer.status, answer.body_head.as_str()), (500, "abcdefg"));
    }

    #[tokio::test]
    async fn nonsense_silence_and_early_ends_are_verdicts() {
        let health = probe(&[b"SSH-2.0-OpenSSH\r\n"]).await;
        assert!(health.summary().contains("not an HTTP answer"), "{health}");
        let health = probe(&[b"HTTP/1.1 200"]).await;
        assert!(health.summary().contains("closed without"), "{health}");
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let endpoint = Endpoint::loopback(listener.local_addr().unwrap().port());
        let check = HttpCheck::new("/").with_limit(Duration::from_millis(20));
        let health = check.probe(&endpoint).await;
        assert!(health.summary().contains("no answer within"), "{health}");
    }

    #[tokio::test]
    async fn a_body_that_never_comes_does_not_hide_the_status() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let endpoint = Endpoint::loopback(listener.local_addr().unwrap().port());
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream
                .write_all(b"HTTP/1.1 200 OK\r\n\r\nsome")
                .await
                .unwrap();
            std::future::pending::<()>().await;
        });
        let health = HttpCheck::new("/").probe(&endpoint).await;
        assert!(health.is_healthy(), "{health}");
        assert_eq!(health.answer().unwrap().body_head, "some");
        task.abort();
    }

    #[tokio::test]
    async fn a_long_body_is_cut() {
        let mut long = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        long.resize(100_000, b'x');
        let long: &'static [u8] = long.leak();
        let health = probe(vec![long].leak()).await;
        assert_eq!(health.answer().unwrap().body_head.len(), BODY_HEAD);
    }

    #[tokio::test]
    async fn a_path_cannot_smuggle_headers() {
        let check = HttpCheck::new("/ HTTP/1.1\r\nX: y");
        let health = check.probe(&Endpoint::loopback(1)).await;
        assert!(health.summary().contains("control character"), "{health}");
    }

    #[tokio::test]
    async fn a_refused_host_is_named() {
        let health =
            probe(&[b"HTTP/1.1 400 Bad Request\r\n\r\n<title>DisallowedHost at /</title>"]).await;
        assert!(
            health.cure().unwrap().contains("ALLOWED_HOSTS"),
            "{health:?}"
        );
    }
}
