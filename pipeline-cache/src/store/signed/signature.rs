use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::Signer as _;
use serde::Serialize;
use thiserror::Error;

use super::{PublicKey, SigningKey};
use crate::key::{CacheKey, KeyInput};
use crate::store::entry_metadata::rfc3339;
use crate::store::{
    Codec, EntryFacts, EntryMetadata, EntrySignature, NewEntry, Producer, Sha256Digest,
};

/// Why an entry is not trusted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// Nobody signed it.
    #[error("the entry is not signed")]
    Missing,
    /// The signature cannot be read.
    #[error("the entry's signature is malformed")]
    Malformed,
    /// Somebody signed it who is not trusted here.
    #[error("the entry is signed by {public_key}, which is not trusted here")]
    UnknownSigner {
        /// Who signed it.
        public_key: String,
    },
    /// The entry is not the one that was signed.
    #[error("the entry was changed after {public_key} signed it")]
    Wrong {
        /// Who signed it.
        public_key: String,
    },
}

/// What is signed: everything that a description says, except where the bytes are. So neither a
/// payload nor a signature can be moved to another key, and an entry can be copied to another
/// store.
#[derive(Serialize)]
struct Statement<'a> {
    key: &'a CacheKey,
    template: &'a str,
    inputs: &'a [KeyInput],
    paths: &'a [String],
    codec: Codec,
    raw_size: u64,
    packed_size: u64,
    file_count: u64,
    digest: Sha256Digest,
    index_digest: Option<Sha256Digest>,
    producer: &'a Producer,
    #[serde(serialize_with = "rfc3339::serialize")]
    created: SystemTime,
}

impl Statement<'_> {
    fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut bytes = b"pipeline-cache signature 1\n".to_vec();
        serde_json::to_writer(&mut bytes, self)?;
        Ok(bytes)
    }
}

/// Signs an entry whose payload was just made.
pub(super) fn sign(
    signer: &SigningKey,
    entry: &NewEntry,
    facts: &EntryFacts,
    packed_size: u64,
    digest: Sha256Digest,
) -> Result<EntrySignature, serde_json::Error> {
    let statement = Statement {
        key: entry.key.key(),
        template: entry.key.template(),
        inputs: entry.key.inputs(),
        paths: &entry.paths,
        codec: facts.codec,
        raw_size: facts.raw_size,
        packed_size,
        file_count: facts.file_count,
        digest,
        index_digest: facts.index_digest,
        producer: &entry.producer,
        created: entry.created,
    };
    let signature = signer.0.sign(&statement.to_bytes()?);
    Ok(EntrySignature {
        public_key: signer.public_key().to_string(),
        signature: STANDARD.encode(signature.to_bytes()),
    })
}

/// Checks that one of these keys signed this very description.
pub(super) fn verify(trusted: &[PublicKey], entry: &EntryMetadata) -> Result<(), SignatureError> {
    let signature = entry.signature.as_ref().ok_or(SignatureError::Missing)?;
    let public_key = signature.public_key.clone();
    let signer: PublicKey = public_key.parse().map_err(|_| SignatureError::Malformed)?;
    if !trusted.contains(&signer) {
        return Err(SignatureError::UnknownSigner { public_key });
    }
    let bytes = STANDARD
        .decode(&signature.signature)
        .map_err(|_| SignatureError::Malformed)?;
    let signature =
        ed25519_dalek::Signature::from_slice(&bytes).map_err(|_| SignatureError::Malformed)?;
    let statement = Statement {
        key: &entry.key,
        template: &entry.template,
        inputs: &entry.inputs,
        paths: &entry.paths,
        codec: entry.codec,
        raw_size: entry.raw_size,
        packed_size: entry.packed_size,
        file_count: entry.file_count,
        digest: entry.digest,
        index_digest: entry.index_digest,
        producer: &entry.producer,
        created: entry.created,
    };
    let wrong = SignatureError::Wrong { public_key };
    let Ok(statement) = statement.to_bytes() else {
        return Err(wrong);
    };
    signer
        .0
        .verify_strict(&statement, &signature)
        .map_err(|_| wrong)
}
