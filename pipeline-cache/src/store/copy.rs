use std::io;

use super::{
    EntryFacts, NewEntry, ProduceError, ProducePayload, Sha256Digest, StoreError, StoredEntry,
    produce_with,
};
use crate::files::copy_with_digest;

/// An entry of one store as something to put into another. Bytes that are not the ones described
/// make an error instead of an entry: damage does not spread.
pub(crate) fn copy_of(entry: StoredEntry) -> (NewEntry, Box<dyn ProducePayload>) {
    let new = entry.metadata.to_new_entry();
    let payload = produce_with(move |out| copy(&entry, out));
    (new, payload)
}

fn copy(entry: &StoredEntry, out: &mut dyn io::Write) -> Result<EntryFacts, ProduceError> {
    let (_, actual) = copy_with_digest(&mut entry.payload.reader(), out)?;
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
    let (_, digest) = copy_with_digest(&mut entry.payload.reader(), &mut io::sink())?;
    Ok(digest)
}
