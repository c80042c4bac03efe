use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::{MultipartUpload, PutPayload};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::bucket_store::{BucketStore, entry_object};
use super::objects::Objects;
use crate::key::CacheKey;
use crate::store::blocking::{AbandonableWriter, Abandoned};
use crate::store::filesystem::layout::payload_name;
use crate::store::{Codec, EntryFacts, ProducePayload, Sha256Digest, StoreError, run_blocking};

/// A payload that is in the bucket and that no description names yet.
pub(super) struct Uploaded {
    pub(super) name: String,
    pub(super) facts: EntryFacts,
    pub(super) length: u64,
    pub(super) digest: Sha256Digest,
}

enum Part {
    More(Bytes),
    Last(Bytes, EntryFacts),
}

struct Produced {
    facts: EntryFacts,
    length: u64,
    digest: Sha256Digest,
}

impl BucketStore {
    /// Produces a payload straight into the bucket. Memory holds the parts on their way, one that
    /// waits and one that is being filled.
    pub(super) async fn send(
        &self,
        key: &CacheKey,
        payload: Box<dyn ProducePayload>,
    ) -> Result<Uploaded, StoreError> {
        let (parts, received) = mpsc::channel(1);
        let (produced_key, part_bytes) = (key.clone(), self.options.part_bytes);
        let producing = run_blocking(move |abandoned| {
            produce(&produced_key, payload, part_bytes, parts, abandoned)
        });
        let sending = self.send_parts(key, received);
        let (produced, sent) = tokio::join!(producing, sending);
        match (produced, sent) {
            (Ok(produced), Ok(Some(name))) => Ok(Uploaded {
                name,
                facts: produced.facts,
                length: produced.length,
                digest: produced.digest,
            }),
            // The store's own trouble comes first: a producer can only say that writing failed.
            (_, Err(error)) | (Err(error), Ok(_)) => Err(error),
            (Ok(_), Ok(None)) => Err(StoreError::Cancelled),
        }
    }

    /// The name of the finished object; `None` when the producer gave up, and then there is none.
    async fn send_parts(
        &self,
        key: &CacheKey,
        mut parts: mpsc::Receiver<Part>,
    ) -> Result<Option<String>, StoreError> {
        let first = match parts.recv().await {
            None => return Ok(None),
            Some(Part::Last(bytes, facts)) => {
                let name = payload_name(key, facts.codec);
                self.objects.write(&entry_object(&name), bytes).await?;
                return Ok(Some(name));
            }
            Some(Part::More(bytes)) => bytes,
        };
        let name = payload_name(key, look_at(&first));
        let mut upload = Upload::start(Arc::clone(&self.objects), entry_object(&name)).await?;
        upload.part(first, self.options.parallel).await?;
        loop {
            match parts.recv().await {
                Some(Part::More(bytes)) => upload.part(bytes, self.options.parallel).await?,
                Some(Part::Last(bytes, _)) => {
                    if !bytes.is_empty() {
                        upload.part(bytes, self.options.parallel).await?;
                    }
                    upload.finish().await?;
                    return Ok(Some(name));
                }
                None => {
                    upload.abort().await;
                    return Ok(None);
                }
            }
        }
    }
}

/// What an archive looks like; its name is chosen before the producer says what it is.
fn look_at(first: &[u8]) -> Codec {
    match first {
        [0x1f, 0x8b, ..] => Codec::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Codec::Zstd,
        _ => Codec::None,
    }
}

fn produce(
    key: &CacheKey,
    payload: Box<dyn ProducePayload>,
    part_bytes: usize,
    parts: mpsc::Sender<Part>,
    abandoned: &Abandoned,
) -> Result<Produced, StoreError> {
    let writer = PartWriter {
        parts,
        part: Vec::new(),
        part_bytes,
        hasher: Sha256::new(),
        length: 0,
    };
    let mut out = AbandonableWriter::new(writer, abandoned);
    let produced = payload.produce(&mut out);
    let writer = out.into_inner();
    if abandoned.is_set() {
        return Err(StoreError::Cancelled);
    }
    let facts = produced.map_err(|source| StoreError::Produce {
        key: key.clone(),
        source,
    })?;
    let last = Part::Last(writer.part.into(), facts.clone());
    if writer.parts.blocking_send(last).is_err() {
        return Err(StoreError::Cancelled);
    }
    Ok(Produced {
        facts,
        length: writer.length,
        digest: Sha256Digest::from_bytes(writer.hasher.finalize().into()),
    })
}

/// Cuts what is written into parts, and hashes it.
struct PartWriter {
    parts: mpsc::Sender<Part>,
    part: Vec<u8>,
    part_bytes: usize,
    hasher: Sha256,
    length: u64,
}

impl Write for PartWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.part_bytes - self.part.len();
        let taken = bytes.len().min(room);
        self.part.extend_from_slice(&bytes[..taken]);
        self.hasher.update(&bytes[..taken]);
        self.length += taken as u64;
        if self.part.len() == self.part_bytes {
            let part = std::mem::replace(&mut self.part, Vec::with_capacity(self.part_bytes));
            self.parts
                .blocking_send(Part::More(part.into()))
                .map_err(|_| io::Error::other("the upload failed"))?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An upload in parts, which is aborted unless it is finished.
struct Upload {
    objects: Arc<Objects>,
    name: String,
    inner: Option<Box<dyn MultipartUpload>>,
    on_their_way: JoinSet<Result<(), object_store::Error>>,
}

/// How long an upload that failed may take to be taken back.
const ABORT_TIME: Duration = Duration::from_secs(10);

impl Upload {
    async fn start(objects: Arc<Objects>, name: String) -> Result<Self, StoreError> {
        let inner = objects.upload(&name).await?;
        Ok(Self {
            objects,
            name,
            inner: Some(inner),
            on_their_way: JoinSet::new(),
        })
    }

    async fn part(&mut self, bytes: Bytes, parallel: usize) -> Result<(), StoreError> {
        while self.on_their_way.len() >= parallel {
            self.one_arrived().await?;
        }
        if let Some(inner) = &mut self.inner {
            self.on_their_way
                .spawn(inner.put_part(PutPayload::from_bytes(bytes)));
        }
        Ok(())
    }

    async fn one_arrived(&mut self) -> Result<(), StoreError> {
        let result = match self.on_their_way.join_next().await {
            None | Some(Ok(Ok(()))) => return Ok(()),
            Some(Ok(Err(error))) => self.objects.upload_failed(&self.name, &error),
            Some(Err(error)) => super::objects::unavailable(&self.name, &error.to_string()),
        };
        self.abort().await;
        Err(result)
    }

    async fn finish(mut self) -> Result<(), StoreError> {
        while !self.on_their_way.is_empty() {
            self.one_arrived().await?;
        }
        let Some(inner) = &mut self.inner else {
            return Ok(());
        };
        match inner.complete().await {
            Ok(_) => {
                self.inner = None;
                Ok(())
            }
            Err(error) => {
                let error = self.objects.upload_failed(&self.name, &error);
                self.abort().await;
                Err(error)
            }
        }
    }

    async fn abort(&mut self) {
        self.on_their_way.shutdown().await;
        if let Some(mut inner) = self.inner.take() {
            let _ = tokio::time::timeout(ABORT_TIME, inner.abort()).await;
        }
    }
}

/// Whoever drops an upload cannot wait; a task of the runtime takes it back.
impl Drop for Upload {
    fn drop(&mut self) {
        self.on_their_way.abort_all();
        if let Some(mut inner) = self.inner.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(async move {
                let _ = tokio::time::timeout(ABORT_TIME, inner.abort()).await;
            });
        }
    }
}
