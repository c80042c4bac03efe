//! The load client must notice every way in which a request can fail.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::load::{Connections, Load, LoadOptions};

const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

/// A server that hands each connection to a function, until the test ends.
struct Server {
    address: std::net::SocketAddr,
    connections: Arc<AtomicU64>,
}

impl Server {
    fn start(serve: impl Fn(u64, TcpStream) + Clone + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&connections);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let number = count.fetch_add(1, Ordering::SeqCst);
                let serve = serve.clone();
                std::thread::spawn(move || serve(number, stream));
            }
        });
        Self {
            address,
            connections,
        }
    }

    /// Answers one request for each connection.
    fn answering(answer: impl Fn(u64) -> &'static str + Clone + Send + 'static) -> Self {
        Self::start(move |number, stream| {
            let mut reader = BufReader::new(stream);
            if request(&mut reader) {
                // The client may be gone; it counts that itself.
                let _ = reader.get_mut().write_all(answer(number).as_bytes());
            }
        })
    }

    fn load(&self, options: &LoadOptions) -> Load {
        Load::start(&format!("http://{}/", self.address), options)
    }
}

/// Reads a request to its empty line; false at the end of the connection.
fn request(reader: &mut BufReader<TcpStream>) -> bool {
    let mut line = String::new();
    while matches!(reader.read_line(&mut line), Ok(read) if read > 0) {
        if line == "\r\n" {
            return true;
        }
        line.clear();
    }
    false
}

fn fast() -> LoadOptions {
    LoadOptions::default().with_rate(500)
}

#[test]
fn every_request_is_counted_once() {
    let server = Server::answering(|_| GOOD);
    let load = server.load(&fast());
    load.wait_for_answers(50);
    assert!(load.so_far().ok >= 50);
    let report = load.stop();
    assert_eq!((report.failed, report.sent), (0, report.ok), "{report}");
    assert_eq!(report.connections, report.sent);
    assert_eq!(server.connections.load(Ordering::SeqCst), report.sent);
}

#[test]
fn bad_answers_are_failures() {
    let cut = "reading the body: the connection was closed";
    for (bad, reason) in [
        (
            "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
            "status 500",
        ),
        (
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            "status 404",
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello", cut),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
            cut,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            cut,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Le",
            "reading headers: the connection was closed",
        ),
        ("SSH-2.0-x\r\n", "the answer is not HTTP"),
        ("", "waiting for the answer: the connection was closed"),
    ] {
        let server = Server::answering(move |number| if number == 7 { bad } else { GOOD });
        let load = server.load(&fast());
        load.wait_for_answers(20);
        let report = load.stop();
        assert_eq!(report.failed, 1, "{bad:?}: {report}");
        assert_eq!(
            report.reasons.keys().collect::<Vec<_>>(),
            [reason],
            "{bad:?}"
        );
        let (first, last) = report.failed_between.unwrap();
        assert_eq!(first, last);
    }
}

#[test]
fn good_answers_come_in_several_forms() {
    for good in [
        "HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.0 200 OK\r\n\r\nto the end",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\n\r\n",
    ] {
        let server = Server::answering(move |_| good);
        let load = server.load(&fast());
        load.wait_for_answers(10);
        let report = load.stop();
        assert_eq!(report.failed, 0, "{good:?}: {report}");
    }
}

#[test]
fn a_closed_port_is_a_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let load = Load::start(&format!("http://{address}/"), &fast());
    load.wait_for_answers(10);
    let report = load.stop();
    assert_eq!((report.ok, report.failed), (0, report.sent));
    let refused = "connecting: connection refused";
    assert_eq!(report.reasons.keys().collect::<Vec<_>>(), [refused]);
}

#[test]
fn silence_is_a_failure_and_delays_nobody() {
    let server = Server::start(|number, stream| {
        let mut reader = BufReader::new(stream);
        request(&mut reader);
        if number % 2 == 0 {
            // Holds the connection until the client gives up.
            request(&mut reader);
        } else {
            let _ = reader.get_mut().write_all(GOOD.as_bytes());
        }
    });
    let load = server.load(&fast().with_timeout(Duration::from_secs(1)));
    load.wait_for_answers(60);
    // Half of the requests hang, and yet the others were answered meanwhile.
    let report = load.stop();
    assert!(report.ok >= 20 && report.failed >= 20, "{report}");
    assert!(
        report.reasons.contains_key("no whole answer in 1s"),
        "{report}"
    );
}

#[test]
fn kept_connections_are_used_again() {
    let server = Server::start(|_, stream| {
        let mut reader = BufReader::new(stream);
        while request(&mut reader) && reader.get_mut().write_all(GOOD.as_bytes()).is_ok() {}
    });
    let load = server.load(&fast().with_connections(Connections::KeepAlive));
    load.wait_for_answers(100);
    let report = load.stop();
    assert_eq!(report.failed, 0, "{report}");
    assert!(report.connections < report.sent, "{report}");
    assert_eq!(
        server.connections.load(Ordering::SeqCst),
        report.connections
    );
}

#[test]
fn a_server_may_close_kept_connections_after_saying_so() {
    const LAST: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello";
    let server = Server::start(|_, stream| {
        let mut reader = BufReader::new(stream);
        for answer in [GOOD, GOOD, LAST] {
            if !request(&mut reader) || reader.get_mut().write_all(answer.as_bytes()).is_err() {
                break;
            }
        }
    });
    let load = server.load(&fast().with_connections(Connections::KeepAlive));
    load.wait_for_answers(100);
    let report = load.stop();
    assert_eq!(report.failed, 0, "{report}");
    assert!(report.connections >= report.sent / 3, "{report}");
}
