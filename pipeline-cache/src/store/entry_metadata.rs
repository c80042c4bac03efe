use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::Sha256Digest;
use crate::key::{CacheKey, KeyInput, RenderedKey};

/// Version of the description format that this library writes.
pub const METADATA_FORMAT: u32 = 1;

/// How a payload is compressed. Without a codec's feature such payloads can be stored and moved,
/// but not packed or unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Codec {
    /// Plain tar.
    None,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
    /// No archive but a list of chunks that entries of a store share: see feature `chunked`.
    Chunked,
}

/// How keys of shared parts start.
pub(crate) const SHARED_PARTS: &str = "pipeline-cache/chunks/";

/// How keys of notes about shared parts start: what a collector tells everybody.
pub(crate) const SHARED_NOTES: &str = "pipeline-cache/chunks/condemned/";

impl Codec {
    /// File name extension of such an archive: `tar`, `tar.gz`, `tar.zst` or `chunks`.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Self::None => "tar",
            Self::Gzip => "tar.gz",
            Self::Zstd => "tar.zst",
            Self::Chunked => "chunks",
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Chunked => "chunked",
        })
    }
}

/// Who made an entry. Every field is optional and only informs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Producer {
    /// Pipeline name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<String>,
    /// Job name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Build number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build_number: Option<u64>,
    /// Branch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// Commit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
}

impl Producer {
    /// Sets the pipeline.
    #[must_use]
    pub fn with_pipeline(mut self, pipeline: impl Into<String>) -> Self {
        self.pipeline = Some(pipeline.into());
        self
    }

    /// Sets the job.
    #[must_use]
    pub fn with_job(mut self, job: impl Into<String>) -> Self {
        self.job = Some(job.into());
        self
    }

    /// Sets the build number.
    #[must_use]
    pub fn with_build_number(mut self, number: u64) -> Self {
        self.build_number = Some(number);
        self
    }

    /// Sets the branch.
    #[must_use]
    pub fn with_branch(mut self, branch: impl Into<String>) -> Self {
        self.branch = Some(branch.into());
        self
    }

    /// Sets the commit.
    #[must_use]
    pub fn with_revision(mut self, revision: impl Into<String>) -> Self {
        self.revision = Some(revision.into());
        self
    }
}

/// What is known of an entry before its payload exists.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NewEntry {
    /// The key, with the template and inputs it came from.
    pub key: RenderedKey,
    /// Declared paths: relative to the working folder, or absolute. `.` stands for whatever the
    /// archive holds.
    pub paths: Vec<String>,
    /// Who makes it.
    pub producer: Producer,
    /// When (UTC). Lookups by prefix take the newest.
    pub created: SystemTime,
}

impl NewEntry {
    /// An entry for a key, made at a time.
    #[must_use]
    pub fn new(key: impl Into<RenderedKey>, created: SystemTime) -> Self {
        Self {
            key: key.into(),
            paths: Vec::new(),
            producer: Producer::default(),
            created,
        }
    }

    /// Sets the declared paths.
    #[must_use]
    pub fn with_paths(mut self, paths: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.paths = paths.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the producer.
    #[must_use]
    pub fn with_producer(mut self, producer: Producer) -> Self {
        self.producer = producer;
        self
    }

    /// The description, once the payload is known. For stores.
    #[must_use]
    pub fn complete(
        self,
        facts: &EntryFacts,
        payload_name: String,
        packed_size: u64,
        digest: Sha256Digest,
    ) -> EntryMetadata {
        EntryMetadata {
            format: METADATA_FORMAT,
            key: self.key.key().clone(),
            template: self.key.template().to_owned(),
            inputs: self.key.inputs().to_vec(),
            paths: self.paths,
            codec: facts.codec,
            raw_size: facts.raw_size,
            packed_size,
            file_count: facts.file_count,
            payload: payload_name,
            digest,
            index_digest: facts.index_digest,
            producer: self.producer,
            created: self.created,
            signature: facts.signature.clone(),
            last_used: None,
        }
    }
}

/// What the producer of a payload says about it when it is done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EntryFacts {
    /// Compression.
    pub codec: Codec,
    /// Bytes of tar before compression; 0 when not known (a foreign archive).
    pub raw_size: u64,
    /// Archive entries; 0 when not known.
    pub file_count: u64,
    /// SHA-256 of the trailing frame index, where the payload has one.
    pub index_digest: Option<Sha256Digest>,
    /// Who vouches for the entry.
    pub signature: Option<EntrySignature>,
}

/// A signature over an entry; what it means is up to `SignedStore` (feature `signed`). Every store
/// keeps it as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EntrySignature {
    /// The signer's Ed25519 public key, in base64.
    pub public_key: String,
    /// The Ed25519 signature, in base64.
    pub signature: String,
}

impl EntryFacts {
    /// Facts of a payload whose inside is not known.
    #[must_use]
    pub fn opaque(codec: Codec) -> Self {
        Self {
            codec,
            raw_size: 0,
            file_count: 0,
            index_digest: None,
            signature: None,
        }
    }

    /// Sets the sizes.
    #[must_use]
    pub fn with_sizes(mut self, raw_size: u64, file_count: u64) -> Self {
        self.raw_size = raw_size;
        self.file_count = file_count;
        self
    }

    /// Sets the digest of the frame index.
    #[must_use]
    pub fn with_index_digest(mut self, digest: Option<Sha256Digest>) -> Self {
        self.index_digest = digest;
        self
    }
}

/// The description of a stored entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EntryMetadata {
    /// Format version; see [`METADATA_FORMAT`].
    pub format: u32,
    /// The key in full.
    pub key: CacheKey,
    /// Template the key was rendered from.
    pub template: String,
    /// Values that went into the key.
    pub inputs: Vec<KeyInput>,
    /// Declared paths, as in [`NewEntry::paths`].
    pub paths: Vec<String>,
    /// Compression.
    pub codec: Codec,
    /// Bytes of tar; 0 when not known.
    pub raw_size: u64,
    /// Bytes of the payload.
    pub packed_size: u64,
    /// Archive entries; 0 when not known.
    pub file_count: u64,
    /// Name of the payload inside the store.
    pub payload: String,
    /// SHA-256 of the payload.
    pub digest: Sha256Digest,
    /// SHA-256 of the payload's frame index, which in turn names every frame's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index_digest: Option<Sha256Digest>,
    /// Who made it.
    #[serde(default)]
    pub producer: Producer,
    /// When it was made (UTC).
    #[serde(with = "rfc3339")]
    pub created: SystemTime,
    /// Who vouches for it, where somebody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<EntrySignature>,
    /// When a restore last used it, where the store keeps that. Not part of the document.
    #[serde(skip)]
    pub last_used: Option<SystemTime>,
}

/// Why a description cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// Not the JSON that was written.
    #[error("the description is not readable")]
    Syntax(#[source] serde_json::Error),
    /// The seal does not fit: something was changed after writing.
    #[error("the description was altered (its seal is {expected}, its content gives {actual})")]
    Seal {
        /// Seal in the document.
        expected: Sha256Digest,
        /// Seal of what the document holds.
        actual: Sha256Digest,
    },
    /// Longer than readers take: too many or too long paths and inputs.
    #[error("the description has {bytes} bytes, and at most {MAX_DOCUMENT} are read")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Written by a newer version.
    #[error("the description has format {found}, this version reads up to {METADATA_FORMAT}")]
    Format {
        /// Format found.
        found: u32,
    },
    /// The document describes another key.
    #[error("the description belongs to key {found}")]
    OtherKey {
        /// Key found.
        found: CacheKey,
    },
}

/// Descriptions are small; a huge one is damage, not something to read into memory.
pub(crate) const MAX_DOCUMENT: u64 = 8 << 20;

#[derive(Serialize, Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    entry: &'a RawValue,
    seal: Sha256Digest,
}

impl EntryMetadata {
    /// What to put into another store, so that the same entry comes out.
    pub(crate) fn to_new_entry(&self) -> NewEntry {
        let key =
            RenderedKey::from_parts(self.key.clone(), self.template.clone(), self.inputs.clone());
        NewEntry::new(key, self.created)
            .with_paths(&self.paths)
            .with_producer(self.producer.clone())
    }

    /// What the producer of this entry's payload said.
    pub(crate) fn facts(&self) -> EntryFacts {
        EntryFacts {
            codec: self.codec,
            raw_size: self.raw_size,
            file_count: self.file_count,
            index_digest: self.index_digest,
            signature: self.signature.clone(),
        }
    }

    /// Whether this is the same entry, in whichever store and under whichever payload name.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.key == other.key && self.digest == other.digest && self.created == other.created
    }

    /// Whether this is no entry of its own but holds chunks of others: such keys start with
    /// `pipeline-cache/chunks/`. Lookups do not see it and eviction leaves it alone.
    #[must_use]
    pub fn is_shared_part(&self) -> bool {
        self.key.as_str().starts_with(SHARED_PARTS)
    }

    /// The description as a JSON document with a seal: a SHA-256 over key, digest and all other
    /// fields, so that a payload cannot be moved to another key and no field can rot unnoticed.
    ///
    /// # Errors
    /// A time outside of the years that RFC 3339 can write, or more than 8 MiB.
    pub fn to_document(&self) -> Result<Vec<u8>, MetadataError> {
        let entry = serde_json::to_string_pretty(self).map_err(MetadataError::Syntax)?;
        let seal = seal(&entry);
        let entry = RawValue::from_string(entry).map_err(MetadataError::Syntax)?;
        let document = Document {
            entry: &entry,
            seal,
        };
        let mut bytes = serde_json::to_vec_pretty(&document).map_err(MetadataError::Syntax)?;
        bytes.push(b'\n');
        if bytes.len() as u64 > MAX_DOCUMENT {
            return Err(MetadataError::TooLong { bytes: bytes.len() });
        }
        Ok(bytes)
    }

    /// Reads a document and checks its seal.
    ///
    /// # Errors
    /// Any difference from what [`to_document`](Self::to_document) wrote, or a newer format.
    pub fn from_document(bytes: &[u8]) -> Result<Self, MetadataError> {
        let document: Document<'_> =
            serde_json::from_slice(bytes).map_err(MetadataError::Syntax)?;
        let actual = seal(document.entry.get());
        if actual != document.seal {
            return Err(MetadataError::Seal {
                expected: document.seal,
                actual,
            });
        }
        let format: Format =
            serde_json::from_str(document.entry.get()).map_err(MetadataError::Syntax)?;
        if format.format > METADATA_FORMAT {
            return Err(MetadataError::Format {
                found: format.format,
            });
        }
        serde_json::from_str(document.entry.get()).map_err(MetadataError::Syntax)
    }
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

fn seal(entry: &str) -> Sha256Digest {
    let mut hasher = Sha256::new();
    hasher.update(b"pipeline-cache entry 1\n");
    hasher.update(entry.as_bytes());
    Sha256Digest::from_bytes(hasher.finalize().into())
}

/// `SystemTime` as RFC 3339 in UTC with nanoseconds.
pub(super) mod rfc3339 {
    use std::time::SystemTime;

    use serde::{Deserialize, Deserializer, Serializer, de, ser};

    pub(in crate::store) fn serialize<S: Serializer>(
        time: &SystemTime,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        let stamp = jiff::Timestamp::try_from(*time).map_err(ser::Error::custom)?;
        to.collect_str(&stamp)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SystemTime, D::Error> {
        let text = String::deserialize(from)?;
        let stamp: jiff::Timestamp = text.parse().map_err(de::Error::custom)?;
        Ok(stamp.into())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn sample() -> EntryMetadata {
        let created = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
        NewEntry::new(CacheKey::new("k-é/..").unwrap(), created)
            .with_paths(["venv", "/home/u/.cache/pip"])
            .with_producer(Producer::default().with_build_number(7))
            .complete(
                &EntryFacts::opaque(Codec::Zstd).with_sizes(10, 2),
                "p.tar.zst".to_owned(),
                5,
                Sha256Digest::of(b"x"),
            )
    }

    #[test]
    fn document_round_trips_with_nanoseconds() {
        let metadata = sample();
        let document = metadata.to_document().unwrap();
        let text = std::str::from_utf8(&document).unwrap();
        assert!(text.contains("2023-11-14T22:13:20.123456789Z"), "{text}");
        assert_eq!(EntryMetadata::from_document(&document).unwrap(), metadata);
    }

    #[test]
    fn times_before_1970_and_after_2262_survive() {
        for created in [
            SystemTime::UNIX_EPOCH - Duration::new(300_000_000, 5),
            SystemTime::UNIX_EPOCH + Duration::from_secs(20_000_000_000),
        ] {
            let mut metadata = sample();
            metadata.created = created;
            let document = metadata.to_document().unwrap();
            assert_eq!(
                EntryMetadata::from_document(&document).unwrap().created,
                created
            );
        }
    }

    #[test]
    fn no_flipped_bit_passes_as_another_description() {
        let metadata = sample();
        let document = metadata.to_document().unwrap();
        for index in 0..document.len() {
            for bit in 0..8 {
                let mut flipped = document.clone();
                flipped[index] ^= 1 << bit;
                // Space outside of the sealed part may change; what is described may not.
                if let Ok(read) = EntryMetadata::from_document(&flipped) {
                    assert_eq!(read, metadata, "bit {bit} of byte {index}");
                }
            }
        }
    }

    #[test]
    fn what_nobody_would_read_is_not_written() {
        let mut metadata = sample();
        metadata.paths = vec!["x".repeat(4000); 2000];
        assert!(metadata.to_document().is_ok());
        metadata.paths = vec!["x".repeat(4000); 3000];
        assert!(matches!(
            metadata.to_document(),
            Err(MetadataError::TooLong { .. })
        ));
    }

    #[test]
    fn a_newer_format_is_named() {
        let mut metadata = sample();
        metadata.format = METADATA_FORMAT + 1;
        let document = metadata.to_document().unwrap();
        assert!(matches!(
            EntryMetadata::from_document(&document),
            Err(MetadataError::Format { found: 2 })
        ));
    }
}
