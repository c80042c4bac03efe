use std::io;

use sha2::{Digest as _, Sha256};

use super::{
    EntryFacts, NewEntry, ProduceError, ProducePayload, Sha256Digest, StoreError, StoredEntry,
    produce_with,
};

const BLOCK: usize = 256 * 1024;

/// An entry of one store as something to put into another. Bytes that are not the ones described
/// make an error instead of an entry: damage does not spread.
pub(crate) fn copy_of(entry: StoredEntry) -> (NewEntry, Box<dyn ProducePayload>) {
    let new = entry.metadata.to_new_entry();
    let payload = produce_with(move |out| copy(&entry, out));
    (new, payload)
}

fn copy(entry: &StoredEntry, out: &mut dyn io::Write) -> Result<EntryFacts, ProduceError> {
    let actual = read_all(entry, |bytes| out.write_all(bytes))?;
    let metadata = &entry.metadata;
    if actual == metadata.digest {
        Ok(metadata.facts())
    } else {
        Err(Box::new(StoreError::DamagedPayload {
            key: metadata.key.clone(),
            expected: metadata.digest,
            actual,
        }))
    }
}

/// The digest of a payload's bytes. Blocking.
pub(crate) fn digest_of_payload(entry: &StoredEntry) -> io::Result<Sha256Digest> {
    read_all(entry, |_| Ok(()))
}

fn read_all(
    entry: &StoredEntry,
    mut each: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<Sha256Digest> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BLOCK];
    let mut position = 0;
    loop {
        let read = entry.payload.read_at(&mut buffer, position)?;
        if read == 0 {
            return Ok(Sha256Digest::from_bytes(hasher.finalize().into()));
        }
        hasher.update(&buffer[..read]);
        each(&buffer[..read])?;
        position += read as u64;
    }
}
