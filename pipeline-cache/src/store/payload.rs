use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;

use super::EntryMetadata;

/// Random access to a payload's bytes, from several threads at once. Calls may block.
pub trait PayloadBytes: fmt::Debug + Send + Sync {
    /// Length in bytes. Constant.
    fn len(&self) -> u64;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads some bytes from a position, like `pread`: 0 only at the end.
    ///
    /// # Errors
    /// Those of the medium.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize>;
}

/// The bytes of a stored entry. While any clone lives, the entry is leased: eviction leaves it
/// alone.
#[derive(Clone, Debug)]
pub struct Payload(Arc<dyn PayloadBytes>);

impl Payload {
    /// Wraps a source of bytes. The lease, if there is one, belongs into the source.
    #[must_use]
    pub fn new(bytes: impl PayloadBytes + 'static) -> Self {
        Self(Arc::new(bytes))
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads some bytes from a position; 0 only at the end.
    ///
    /// # Errors
    /// Those of the medium.
    pub fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        loop {
            match self.0.read_at(buffer, position) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    /// Fills the buffer from a position.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] when there are fewer bytes, or those of the medium.
    pub fn read_exact_at(&self, mut buffer: &mut [u8], mut position: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            let read = self.read_at(buffer, position)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            buffer = &mut buffer[read..];
            position += read as u64;
        }
        Ok(())
    }

    /// Reads from the start to the end.
    #[must_use]
    pub fn reader(&self) -> PayloadReader {
        PayloadReader {
            payload: self.clone(),
            position: 0,
        }
    }
}

impl PayloadBytes for Vec<u8> {
    fn len(&self) -> u64 {
        self.as_slice().len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let start = usize::try_from(position).map_or(self.as_slice().len(), |position| {
            position.min(self.as_slice().len())
        });
        let count = buffer.len().min(self.as_slice().len() - start);
        buffer[..count].copy_from_slice(&self[start..start + count]);
        Ok(count)
    }
}

impl PayloadBytes for Arc<[u8]> {
    fn len(&self) -> u64 {
        self.as_ref().len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let start = usize::try_from(position).map_or(self.as_ref().len(), |position| {
            position.min(self.as_ref().len())
        });
        let count = buffer.len().min(self.as_ref().len() - start);
        buffer[..count].copy_from_slice(&self[start..start + count]);
        Ok(count)
    }
}

/// A [`Payload`] read in order.
#[derive(Clone, Debug)]
pub struct PayloadReader {
    payload: Payload,
    position: u64,
}

impl Read for PayloadReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.payload.read_at(buffer, self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

/// An entry as a store hands it out.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoredEntry {
    /// Its description.
    pub metadata: EntryMetadata,
    /// Its bytes, leased while held. Not yet checked against the digest.
    pub payload: Payload,
}

impl StoredEntry {
    /// Puts the two together. For stores.
    #[must_use]
    pub fn new(metadata: EntryMetadata, payload: Payload) -> Self {
        Self { metadata, payload }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_in_order_and_by_position() {
        let payload = Payload::new(b"hello world".to_vec());
        let mut text = String::new();
        payload.reader().read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello world");
        let mut word = [0; 5];
        payload.read_exact_at(&mut word, 6).unwrap();
        assert_eq!(&word, b"world");
        assert!(payload.read_exact_at(&mut word, 7).is_err());
        assert_eq!(payload.read_at(&mut word, u64::MAX).unwrap(), 0);
    }
}
