//! Follows the requests on one connection, to know where one ends and the next begins.

/// A head that is longer is not looked at.
const HEAD_LIMIT: usize = 64 * 1024;
const HEADERS: usize = 128;

/// Passes a client's bytes on, and asks for the end of a keep-alive connection when its
/// release is leaving: the first request that begins then gets `Connection: close`, so that
/// client and application agree that it is the last one (RFC 9112, section 9.6), and the
/// client's next request comes on a new connection.
///
/// Nothing is held back or changed otherwise. What is not plain HTTP/1 is passed as it is.
#[derive(Debug, Default)]
pub(super) struct RequestWatch {
    state: State,
    /// A whole request was seen, so this is HTTP.
    recognised: bool,
}

#[derive(Debug)]
enum State {
    Head {
        seen: Vec<u8>,
        held: bool,
    },
    Body {
        left: u64,
    },
    ChunkSize {
        line: Vec<u8>,
    },
    ChunkData {
        left: u64,
    },
    Trailer {
        line: usize,
    },
    /// Not followed any more.
    Opaque,
}

impl Default for State {
    fn default() -> Self {
        Self::Head {
            seen: Vec::new(),
            held: false,
        }
    }
}

/// What a request's head says.
enum Framing {
    State(State),
    Ambiguous,
}

impl RequestWatch {
    /// Appends to `out` what of `bytes` goes on to the application now.
    pub(super) fn pass(&mut self, mut bytes: &[u8], leaving: bool, out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            bytes = match &mut self.state {
                State::Opaque => {
                    out.extend_from_slice(bytes);
                    return;
                }
                State::Head { .. } => self.head(bytes, leaving, out),
                State::Body { left } | State::ChunkData { left } => {
                    let count = usize::try_from(*left)
                        .unwrap_or(usize::MAX)
                        .min(bytes.len());
                    out.extend_from_slice(&bytes[..count]);
                    *left -= count as u64;
                    if *left == 0 {
                        self.state = match self.state {
                            State::ChunkData { .. } => State::ChunkSize { line: Vec::new() },
                            _ => State::default(),
                        };
                    }
                    &bytes[count..]
                }
                State::ChunkSize { .. } | State::Trailer { .. } => {
                    out.push(bytes[0]);
                    self.chunk_line(bytes[0]);
                    &bytes[1..]
                }
            };
        }
    }

    /// What is still held when the client has nothing more to say.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        if let State::Head { seen, held: true } = &self.state {
            out.extend_from_slice(seen);
        }
        self.state = State::Opaque;
    }

    fn head<'a>(&mut self, bytes: &'a [u8], leaving: bool, out: &mut Vec<u8>) -> &'a [u8] {
        let State::Head { seen, held } = &mut self.state else {
            return bytes;
        };
        // Only a whole head can be changed, so it is held from its first byte or not at all.
        if seen.is_empty() && leaving && self.recognised {
            *held = true;
        }
        let before = seen.len();
        seen.extend_from_slice(bytes);
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        let (end, framing) = match request.parse(seen) {
            Ok(httparse::Status::Partial) if seen.len() <= HEAD_LIMIT => {
                if !*held {
                    out.extend_from_slice(bytes);
                }
                return &[];
            }
            Ok(httparse::Status::Complete(end)) => (end, framing(&request)),
            Ok(httparse::Status::Partial) | Err(_) => (seen.len(), Framing::Ambiguous),
        };
        // Bytes of this head that came with earlier reads are passed already, unless held.
        let rest = &bytes[end - before..];
        let next = match framing {
            Framing::Ambiguous => {
                out.extend_from_slice(if *held {
                    &seen[..end]
                } else {
                    &seen[before..end]
                });
                State::Opaque
            }
            Framing::State(next) => {
                if *held {
                    with_close(&seen[..end], out);
                } else {
                    out.extend_from_slice(&seen[before..end]);
                }
                next
            }
        };
        self.recognised |= !matches!(next, State::Opaque);
        self.state = next;
        rest
    }

    fn chunk_line(&mut self, byte: u8) {
        match &mut self.state {
            State::ChunkSize { line } if byte == b'\n' => {
                let size = line
                    .split(|b| matches!(b, b';' | b'\r' | b' ' | b'\t'))
                    .next();
                let size = std::str::from_utf8(size.unwrap_or_default())
                    .ok()
                    .and_then(|size| u64::from_str_radix(size, 16).ok());
                self.state = match size {
                    Some(0) => State::Trailer { line: 0 },
                    // The data is followed by a line end.
                    Some(size) if size < u64::MAX - 2 => State::ChunkData { left: size + 2 },
                    _ => State::Opaque,
                };
            }
            State::ChunkSize { line } if line.len() < 1024 => line.push(byte),
            State::ChunkSize { .. } => self.state = State::Opaque,
            State::Trailer { line: 0 } if byte == b'\n' => self.state = State::default(),
            State::Trailer { line } if byte == b'\n' => *line = 0,
            State::Trailer { line } if byte != b'\r' => *line += 1,
            _ => {}
        }
    }
}

/// How the body of a request is delimited (RFC 9112, section 6.3).
fn framing(request: &httparse::Request<'_, '_>) -> Framing {
    let values = |name: &'static str| {
        let named = request
            .headers
            .iter()
            .filter(move |h| h.name.eq_ignore_ascii_case(name));
        named.map(|header| String::from_utf8_lossy(header.value).to_ascii_lowercase())
    };
    let lengths: Vec<_> = values("content-length").collect();
    let codings: Vec<_> = values("transfer-encoding").collect();
    let upgrades = values("connection").any(|value| value.contains("upgrade"));
    let tunnel = request.method == Some("CONNECT");
    // After a refused expectation the body may or may not follow.
    if upgrades || tunnel || values("expect").next().is_some() {
        return Framing::Ambiguous;
    }
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Framing::State(State::default()),
        ([length], []) => match length.trim().parse() {
            Ok(0) => Framing::State(State::default()),
            Ok(left) => Framing::State(State::Body { left }),
            Err(_) => Framing::Ambiguous,
        },
        ([], [coding]) if coding.trim() == "chunked" => {
            Framing::State(State::ChunkSize { line: Vec::new() })
        }
        _ => Framing::Ambiguous,
    }
}

/// Appends a whole head with `Connection: close` instead of what it says about that.
fn with_close(head: &[u8], out: &mut Vec<u8>) {
    for line in head.split_inclusive(|byte| *byte == b'\n') {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        let is_end = line == b"\r\n" || line == b"\n";
        let about_connection =
            name.eq_ignore_ascii_case(b"connection") || name.eq_ignore_ascii_case(b"keep-alive");
        if is_end {
            out.extend_from_slice(b"Connection: close\r\n");
        }
        if is_end || !about_connection {
            out.extend_from_slice(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const GET: &str = "GET /a HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n";
    const LAST: &str = "GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    const POST: &str = "POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nGET /";
    const CHUNKED: &str = "POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\
                           c;x=1\r\nGET / HTTP/1\r\n0\r\nTrailer: a\r\n\r\n";

    /// Passes `before`, then `after` while leaving, in pieces of `size` bytes.
    fn pass(before: &str, after: &str, size: usize) -> String {
        let mut watch = RequestWatch::default();
        let mut out = Vec::new();
        for (text, leaving) in [(before, false), (after, true)] {
            for piece in text.as_bytes().chunks(size) {
                watch.pass(piece, leaving, &mut out);
            }
        }
        watch.finish(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn nothing_changes_while_the_release_stays() {
        let text = [GET, POST, CHUNKED, GET].concat();
        for size in 1..=text.len() {
            assert_eq!(pass(&text, "", size), text, "pieces of {size}");
        }
    }

    #[test]
    fn the_first_request_after_the_switch_is_the_last_one() {
        for before in [
            GET.to_owned(),
            [GET, POST].concat(),
            [POST, CHUNKED].concat(),
        ] {
            for size in 1..=before.len() {
                assert_eq!(
                    pass(&before, GET, size),
                    before.clone() + LAST,
                    "{before:?}"
                );
            }
        }
    }

    #[test]
    fn a_request_that_had_begun_is_not_changed_but_the_next_one_is() {
        for (begun, rest) in [GET, POST, CHUNKED]
            .iter()
            .flat_map(|text| (1..text.len()).map(|at| text.split_at(at)))
        {
            let before = GET.to_owned() + begun;
            let after = rest.to_owned() + GET;
            let expected = [&before, rest, LAST].concat();
            assert_eq!(
                pass(&before, &after, 7),
                expected,
                "{begun:?} then {rest:?}"
            );
        }
    }

    #[test]
    fn what_is_not_plain_http_is_left_alone() {
        let upgrade = "GET /ws HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        let both = "POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let expect = "POST / HTTP/1.1\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n";
        for text in [
            "*1\r\n$4\r\nPING\r\n",
            "\0\u{1}binary",
            upgrade,
            both,
            expect,
        ] {
            for size in 1..=text.len() {
                assert_eq!(pass(text, GET, size), text.to_owned() + GET);
                assert_eq!(pass(GET, text, size), GET.to_owned() + text);
            }
        }
    }

    #[test]
    fn an_unrecognised_connection_is_never_held() {
        let mut watch = RequestWatch::default();
        let mut out = Vec::new();
        watch.pass(b"GET / HT", true, &mut out);
        assert_eq!(out, b"GET / HT");
    }

    #[test]
    fn an_endless_head_is_passed_on() {
        let long = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(2 * HEAD_LIMIT));
        assert_eq!(pass(GET, &long, 1000), GET.to_owned() + &long);
    }

    /// Requests, pieces of requests, and anything else; none says `Connection`.
    fn traffic() -> impl Strategy<Value = Vec<u8>> {
        const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n";
        let piece = prop_oneof![
            4 => Just(GET.to_vec()),
            4 => Just(POST.as_bytes().to_vec()),
            4 => Just(CHUNKED.as_bytes().to_vec()),
            1 => (0..CHUNKED.len()).prop_map(|at| CHUNKED.as_bytes()[at..].to_vec()),
            1 => vec(any::<u8>(), 0..40),
        ];
        vec(piece, 0..8).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        /// Whatever passes, in whatever pieces: the only thing that is ever done is to add
        /// the one header.
        #[test]
        fn nothing_but_the_header_is_added(
            bytes in traffic(),
            cuts in vec(1..50_usize, 1..20),
            stays in 0..20_usize,
        ) {
            let mut watch = RequestWatch::default();
            let mut out = Vec::new();
            let mut rest = bytes.as_slice();
            for (number, cut) in cuts.iter().cycle().enumerate() {
                if rest.is_empty() {
                    break;
                }
                let (piece, later) = rest.split_at((*cut).min(rest.len()));
                watch.pass(piece, number >= stays, &mut out);
                rest = later;
            }
            watch.finish(&mut out);
            let header = b"Connection: close\r\n";
            let mut without = Vec::new();
            let mut at = 0;
            while at < out.len() {
                if out[at..].starts_with(header) {
                    at += header.len();
                } else {
                    without.push(out[at]);
                    at += 1;
                }
            }
            prop_assert_eq!(without, bytes);
        }
    }
}
