//! As much of HTTP/1.1 as the test servers need.

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

/// A message's start line and headers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Head {
    pub(crate) start: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Head {
    /// Reads a head; `None` at the end of the connection.
    pub(crate) async fn read<R: AsyncRead + Unpin>(reader: &mut BufReader<R>) -> Option<Self> {
        let mut head = Self::default();
        loop {
            let mut line = Vec::new();
            reader.read_until(b'\n', &mut line).await.ok()?;
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if line.is_empty() {
                return (!head.start.is_empty()).then_some(head);
            }
            if head.start.is_empty() {
                head.start = line;
            } else {
                let (name, value) = line.split_once(':')?;
                head.headers
                    .push((name.trim().to_lowercase(), value.trim().to_owned()));
            }
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) {
        self.headers.retain(|(key, _)| key != name);
        self.headers.push((name.to_owned(), value.into()));
    }

    pub(crate) fn length(&self) -> usize {
        self.get("content-length")
            .and_then(|text| text.parse().ok())
            .unwrap_or(0)
    }

    pub(crate) fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or_default()
    }

    pub(crate) fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{}\r\n", self.start);
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        text += "\r\n";
        text.into_bytes()
    }
}

/// Reads the body that `head` announces.
pub(crate) async fn body<R: AsyncRead + Unpin>(reader: &mut BufReader<R>, head: &Head) -> Vec<u8> {
    let mut bytes = vec![0; head.length()];
    reader.read_exact(&mut bytes).await.unwrap();
    bytes
}

/// A whole answer that ends the connection.
pub(crate) fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut head = Head {
        start: format!("HTTP/1.1 {status} Test"),
        headers: Vec::new(),
    };
    for (name, value) in headers {
        head.set(name, *value);
    }
    head.set("content-length", body.len().to_string());
    head.set("connection", "close");
    let mut bytes = head.bytes();
    bytes.extend_from_slice(body.as_bytes());
    bytes
}
