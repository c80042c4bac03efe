//! Reads on a thread of its own, so that decoding and what is done with it overlap.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

/// Bytes in one buffer, and how many buffers there are besides those being filled and used.
const BUFFER: usize = 256 << 10;
const BUFFERS: usize = 4;

/// The reading side: what another thread has read, in order.
pub(crate) struct ReadAhead {
    full: Receiver<io::Result<Vec<u8>>>,
    empty: Sender<Vec<u8>>,
    current: Vec<u8>,
    used: usize,
}

/// The side that reads. It stops when nobody wants more.
pub(crate) struct Reading {
    full: SyncSender<io::Result<Vec<u8>>>,
    empty: Receiver<Vec<u8>>,
}

pub(crate) fn read_ahead() -> (Reading, ReadAhead) {
    let (full_in, full_out) = sync_channel(BUFFERS);
    let (empty_in, empty_out) = channel();
    (
        Reading {
            full: full_in,
            empty: empty_out,
        },
        ReadAhead {
            full: full_out,
            empty: empty_in,
            current: Vec::new(),
            used: 0,
        },
    )
}

impl Reading {
    /// Reads to the end, to the first error, or until the other side is dropped.
    pub(crate) fn run(self, mut source: impl Read) {
        loop {
            let mut buffer = self.empty.try_recv().unwrap_or_default();
            buffer.resize(BUFFER, 0);
            let mut filled = 0;
            // Decoders give out little at a time.
            let ended = loop {
                match source.read(&mut buffer[filled..]) {
                    Ok(0) => break Some(Ok(())),
                    Ok(read) => filled += read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => break Some(Err(error)),
                }
                if filled == BUFFER {
                    break None;
                }
            };
            buffer.truncate(filled);
            if self.full.send(Ok(buffer)).is_err() {
                return;
            }
            match ended {
                None => {}
                Some(Ok(())) => return,
                Some(Err(error)) => {
                    let _ = self.full.send(Err(error));
                    return;
                }
            }
        }
    }
}

impl Read for ReadAhead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for ReadAhead {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.used == self.current.len() {
            let Ok(next) = self.full.recv() else {
                // The end was reached before, and stays.
                self.current.clear();
                self.used = 0;
                break;
            };
            let old = std::mem::replace(&mut self.current, next?);
            self.used = 0;
            let _ = self.empty.send(old);
        }
        Ok(&self.current[self.used..])
    }

    fn consume(&mut self, count: usize) {
        self.used += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives out one byte at a time, then an error or the end.
    struct Slow(usize, Option<io::ErrorKind>);

    impl Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return self.1.map_or(Ok(0), |kind| Err(kind.into()));
            }
            self.0 -= 1;
            buffer[0] = self.0 as u8;
            Ok(1)
        }
    }

    fn read(source: Slow) -> (Vec<u8>, io::Result<usize>) {
        let (reading, mut ahead) = read_ahead();
        std::thread::scope(|scope| {
            scope.spawn(|| reading.run(source));
            let mut bytes = Vec::new();
            let result = ahead.read_to_end(&mut bytes);
            (bytes, result)
        })
    }

    #[test]
    fn everything_comes_in_order_and_then_the_end_or_the_error() {
        let length = BUFFER * 6 + 17;
        let (bytes, result) = read(Slow(length, None));
        assert_eq!(result.ok(), Some(length));
        assert!((0..length).rev().map(|n| n as u8).eq(bytes));
        let (bytes, result) = read(Slow(BUFFER, Some(io::ErrorKind::FileTooLarge)));
        assert_eq!(bytes.len(), BUFFER);
        assert_eq!(
            result.map_err(|error| error.kind()),
            Err(io::ErrorKind::FileTooLarge)
        );
    }

    #[test]
    fn nobody_waits_for_a_reader_that_left() {
        let (reading, mut ahead) = read_ahead();
        std::thread::scope(|scope| {
            scope.spawn(|| reading.run(io::repeat(7)));
            let mut some = [0; 10];
            ahead.read_exact(&mut some).ok();
            assert_eq!(some, [7; 10]);
            drop(ahead);
        });
    }
}
