//! A package index on the loopback, which remembers what it was asked for.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

#[derive(Debug)]
pub(crate) struct IndexServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    files: Mutex<HashMap<String, (&'static str, Vec<u8>)>>,
    asked: Mutex<Vec<String>>,
    stop: AtomicBool,
}

impl IndexServer {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            for connection in listener.incoming() {
                if of_thread.stop.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&of_thread);
                if let Ok(connection) = connection {
                    std::thread::spawn(move || answer(&connection, &shared));
                }
            }
        });
        Self {
            address,
            shared,
            thread: Some(thread),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Offers a file under a path.
    pub(crate) fn offer(&self, path: &str, kind: &'static str, bytes: impl Into<Vec<u8>>) {
        let mut files = self.shared.files.lock().unwrap();
        files.insert(path.to_owned(), (kind, bytes.into()));
    }

    /// Paths with this ending that were asked for since the last time.
    pub(crate) fn downloads(&self, ending: &str) -> usize {
        let mut asked = self.shared.asked.lock().unwrap();
        let count = asked.iter().filter(|path| path.ends_with(ending)).count();
        asked.clear();
        count
    }
}

impl Drop for IndexServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Wakes the thread, which then sees that it is over.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(connection: &TcpStream, shared: &Shared) {
    let mut reader = BufReader::new(connection);
    let mut first = String::new();
    if reader.read_line(&mut first).is_err() {
        return;
    }
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
        line.clear();
    }
    let path = first.split(' ').nth(1).unwrap_or("/").to_owned();
    let found = shared.files.lock().unwrap().get(&path).cloned();
    shared.asked.lock().unwrap().push(path);
    let mut out = connection;
    // Without it pip asks again for what it has.
    let date = jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT");
    let _ = match found {
        // As the public indexes do for files that never change.
        Some((kind, bytes)) => write!(
            out,
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nDate: {date}\r\n\
             Cache-Control: max-age=365000000, immutable, public\r\nETag: \"1\"\r\n\
             Connection: close\r\n\r\n",
            bytes.len()
        )
        .and_then(|()| out.write_all(&bytes)),
        None => out
            .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
    };
}
