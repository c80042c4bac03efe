//! The context on its way to an engine, made while it is sent.

use std::io::{self, Write};

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Bytes per piece.
const PIECE: usize = 64 * 1024;
/// Pieces under way at most: what is made waits for what is sent.
const PIECES: usize = 8;

/// Runs `make` on a thread of its own; what it writes is the stream.
///
/// If `make` fails, the stream ends with an error, so that the receiver does not take a torn tar
/// for a whole one. Dropping the stream makes the next write fail.
pub(super) fn stream<E, F>(
    make: F,
) -> (
    impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    JoinHandle<Result<u64, E>>,
)
where
    E: Send + 'static,
    F: FnOnce(&mut Pieces) -> Result<(), E> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(PIECES);
    let task = tokio::task::spawn_blocking(move || {
        let mut pieces = Pieces {
            buffer: BytesMut::with_capacity(PIECE),
            sender,
            sent: 0,
        };
        let result = make(&mut pieces);
        match result {
            Ok(()) => {
                // Who no longer listens has the reason.
                drop(pieces.flush());
                Ok(pieces.sent)
            }
            Err(error) => {
                drop(pieces.sender.blocking_send(Err(io::Error::other(
                    "what is being sent could not be read",
                ))));
                Err(error)
            }
        }
    });
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|piece| (piece, receiver))
    });
    (stream, task)
}

/// The near end of the stream.
#[derive(Debug)]
pub(super) struct Pieces {
    buffer: BytesMut,
    sender: mpsc::Sender<io::Result<Bytes>>,
    sent: u64,
}

impl Pieces {
    /// Bytes that were handed over so far.
    pub(super) const fn sent(&self) -> u64 {
        self.sent
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let space = PIECE - self.buffer.len();
        let part = bytes.get(..space.min(bytes.len())).unwrap_or(bytes);
        self.buffer.extend_from_slice(part);
        if self.buffer.len() == PIECE {
            self.flush()?;
        }
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.buffer, BytesMut::with_capacity(PIECE)).freeze();
        let length = piece.len() as u64;
        self.sender
            .blocking_send(Ok(piece))
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        self.sent += length;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    #[tokio::test]
    async fn everything_arrives_in_order() {
        let content: Vec<u8> = (0..1_000_000_u32).map(|number| number as u8).collect();
        let expected = content.clone();
        let (stream, task) = stream(move |pieces| pieces.write_all(&content));
        let mut arrived = Vec::new();
        let mut stream = std::pin::pin!(stream);
        while let Some(piece) = stream.next().await {
            let piece = piece.unwrap();
            assert!(piece.len() <= PIECE);
            arrived.extend_from_slice(&piece);
        }
        assert_eq!(arrived, expected);
        assert_eq!(task.await.unwrap().unwrap(), 1_000_000);
    }

    #[tokio::test]
    async fn a_failure_is_no_end() {
        let (stream, task) = stream(|pieces| {
            pieces.write_all(b"begun").unwrap();
            Err::<(), _>("vanished")
        });
        let pieces: Vec<_> = stream.collect().await;
        assert!(pieces.last().unwrap().is_err());
        assert_eq!(task.await.unwrap(), Err("vanished"));
    }

    #[tokio::test]
    async fn who_no_longer_listens_ends_it() {
        let (stream, task) = stream(|pieces| {
            loop {
                pieces.write_all(&[0; 4096])?;
            }
        });
        drop(stream);
        let ended: Result<u64, io::Error> = task.await.unwrap();
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
