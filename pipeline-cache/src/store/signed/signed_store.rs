use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;

use async_trait::async_trait;
use sha2::{Digest as _, Sha256};

use super::signature::{sign, verify};
use super::{PublicKey, SignatureError, SigningKey};
use crate::key::CacheKey;
use crate::store::{
    CacheStore, DeleteOutcome, EntryFacts, EntryMetadata, GetOptions, IfExists, NewEntry,
    ProduceError, ProducePayload, PutOptions, PutOutcome, Sha256Digest, StoreError, StoredEntry,
};

/// A store whose entries are used only when somebody who is trusted signed them, for a bucket or
/// a folder that others can write as well.
///
/// The signature covers the key, the digest, the producer and all else that the description says,
/// except where the bytes are. It is checked before anything is unpacked; whoever unpacks compares
/// the digest with the bytes. An entry that fails is [`StoreError::Untrusted`], which restoring
/// reports and treats as a miss; the next save replaces it.
///
/// To change keys, trust the new one everywhere, then sign with it, then stop trusting the old
/// one.
///
/// What it does not do: it cannot tell that an entry was removed, or that an older one that was
/// signed came back under its key.
#[derive(Clone, Debug)]
pub struct SignedStore {
    inner: Arc<dyn CacheStore>,
    trusted: Vec<PublicKey>,
    signer: Option<SigningKey>,
}

impl SignedStore {
    /// Trusts entries of a store that one of these keys signed. Without
    /// [`with_signing_key`](Self::with_signing_key) nothing can be stored.
    #[must_use]
    pub fn new(
        inner: impl CacheStore + 'static,
        trusted: impl IntoIterator<Item = PublicKey>,
    ) -> Self {
        Self {
            inner: Arc::new(inner),
            trusted: trusted.into_iter().collect(),
            signer: None,
        }
    }

    /// Signs what is stored with this key, and trusts it.
    #[must_use]
    pub fn with_signing_key(mut self, key: SigningKey) -> Self {
        let public = key.public_key();
        if !self.trusted.contains(&public) {
            self.trusted.push(public);
        }
        self.signer = Some(key);
        self
    }

    fn check(&self, entry: &EntryMetadata) -> Result<(), StoreError> {
        verify(&self.trusted, entry).map_err(|error| untrusted(&entry.key, error))
    }
}

fn untrusted(key: &CacheKey, error: SignatureError) -> StoreError {
    StoreError::Untrusted {
        key: key.clone(),
        source: Box::new(error),
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl CacheStore for SignedStore {
    async fn get_opts(
        &self,
        key: &CacheKey,
        options: GetOptions,
    ) -> Result<Option<StoredEntry>, StoreError> {
        let Some(entry) = self.inner.get_opts(key, options).await? else {
            return Ok(None);
        };
        // The store below may be anybody's: it must not pass off another key's entry.
        if entry.metadata.key != *key {
            let public_key = format!("the signer of {}", entry.metadata.key);
            return Err(untrusted(key, SignatureError::Wrong { public_key }));
        }
        self.check(&entry.metadata)?;
        Ok(Some(entry))
    }

    async fn put_opts(
        &self,
        entry: NewEntry,
        payload: Box<dyn ProducePayload>,
        mut options: PutOptions,
    ) -> Result<PutOutcome, StoreError> {
        let key = entry.key.key().clone();
        if options.if_exists == IfExists::Keep
            && let Some(existing) = self.inner.head(&key).await?
        {
            if self.check(&existing).is_ok() {
                return Ok(PutOutcome::Exists(existing));
            }
            // Or anybody could block a key for ever.
            options.if_exists = IfExists::Replace;
        }
        let Some(signer) = self.signer.clone() else {
            return Err(StoreError::ReadOnly { key });
        };
        let payload = Box::new(Signing {
            payload,
            signer,
            entry: entry.clone(),
        });
        match self.inner.put_opts(entry, payload, options).await? {
            PutOutcome::Exists(existing) => {
                self.check(&existing)?;
                Ok(PutOutcome::Exists(existing))
            }
            stored => Ok(stored),
        }
    }

    async fn head(&self, key: &CacheKey) -> Result<Option<EntryMetadata>, StoreError> {
        let found = self.inner.head(key).await?;
        Ok(found.filter(|entry| self.check(entry).is_ok()))
    }

    /// Untrusted entries are listed too, so that a restore can say why it does not use them.
    async fn list(&self, prefix: &str) -> Result<Vec<EntryMetadata>, StoreError> {
        self.inner.list(prefix).await
    }

    async fn list_everything(&self) -> Result<Vec<EntryMetadata>, StoreError> {
        self.inner.list_everything().await
    }

    async fn delete(&self, key: &CacheKey) -> Result<DeleteOutcome, StoreError> {
        self.inner.delete(key).await
    }

    async fn delete_entry(&self, entry: &EntryMetadata) -> Result<DeleteOutcome, StoreError> {
        self.inner.delete_entry(entry).await
    }

    async fn quarantine(&self, entry: &EntryMetadata, reason: &str) -> Result<(), StoreError> {
        self.inner.quarantine(entry, reason).await
    }
}

/// `signed(STORE)`.
impl fmt::Display for SignedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "signed({})", self.inner)
    }
}

/// A payload that is signed when all of it was made.
#[derive(Debug)]
struct Signing {
    payload: Box<dyn ProducePayload>,
    signer: SigningKey,
    entry: NewEntry,
}

impl ProducePayload for Signing {
    fn produce(self: Box<Self>, out: &mut dyn Write) -> Result<EntryFacts, ProduceError> {
        let mut out = Hashing {
            out,
            hasher: Sha256::new(),
            length: 0,
        };
        let mut facts = self.payload.produce(&mut out)?;
        let digest = Sha256Digest::from_bytes(out.hasher.finalize().into());
        let signature = sign(&self.signer, &self.entry, &facts, out.length, digest)?;
        facts.signature = Some(signature);
        Ok(facts)
    }
}

struct Hashing<'a> {
    out: &'a mut dyn Write,
    hasher: Sha256,
    length: u64,
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
