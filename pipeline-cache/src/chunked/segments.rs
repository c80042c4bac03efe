//! Segments as entries of a store.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io::{self, BufReader};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::JoinSet;

use super::manifest::{Manifest, read_manifest};
use super::segment::SegmentIndex;
use crate::cache::CacheError;
use crate::files::copy_with_digest;
use crate::key::CacheKey;
use crate::store::{
    AbandonableWriter, CacheStore, EntryMetadata, GetOptions, IfUnsure, Payload, ReadPlan,
    RecordUse, SHARED_NOTES, SHARED_PARTS, StoreError, StoredEntry, run_blocking,
};

pub(super) type SegmentId = [u8; 16];

const SEGMENT: &str = "segment/";
fn hex(id: &SegmentId) -> String {
    use std::fmt::Write as _;
    id.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<SegmentId> {
    let mut id = [0; 16];
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).ok()?;
    }
    Some(id)
}

fn key(kind: String, id: &SegmentId) -> Result<CacheKey, CacheError> {
    CacheKey::new(kind + &hex(id)).map_err(|_| CacheError::NoKey)
}

/// Key of a segment.
pub(super) fn segment_key(id: &SegmentId) -> Result<CacheKey, CacheError> {
    key(format!("{SHARED_PARTS}{SEGMENT}"), id)
}

/// Key of the note that a collector is about to remove a segment.
pub(super) fn condemned_key(id: &SegmentId) -> Result<CacheKey, CacheError> {
    key(SHARED_NOTES.to_owned(), id)
}

/// Which segment an entry is.
pub(super) fn segment_of(entry: &EntryMetadata) -> Option<SegmentId> {
    let rest = entry.key.as_str().strip_prefix(SHARED_PARTS)?;
    unhex(rest.strip_prefix(SEGMENT)?)
}

/// Which segment an entry condemns.
pub(super) fn condemned_of(entry: &EntryMetadata) -> Option<SegmentId> {
    unhex(entry.key.as_str().strip_prefix(SHARED_NOTES)?)
}

/// An id that nobody else uses.
pub(super) fn new_id() -> SegmentId {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let mut id = [0; 16];
    for half in id.chunks_exact_mut(8) {
        // Keyed by the system's randomness, anew each time.
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u64(COUNTER.fetch_add(1, Ordering::Relaxed));
        hasher.write_u32(std::process::id());
        half.copy_from_slice(&hasher.finish().to_le_bytes());
    }
    id
}

/// Whether a segment is there to stay. The order matters: a collector that has removed it has
/// withdrawn its note as well.
async fn is_alive(store: &dyn CacheStore, id: &SegmentId) -> Result<bool, CacheError> {
    Ok(store.head(&condemned_key(id)?).await?.is_none()
        && store.head(&segment_key(id)?).await?.is_some())
}

/// What a store must hold so that an entry can be restored.
#[derive(Debug, Clone)]
pub(crate) struct NeededPart {
    /// Key of the segment.
    pub(crate) key: CacheKey,
    /// Key of the note that a collector is about to remove it.
    pub(crate) note: CacheKey,
}

/// What a chunked entry needs, each once.
pub(crate) async fn parts_of(entry: &StoredEntry) -> Result<Vec<NeededPart>, StoreError> {
    let (entry, key) = (entry.clone(), entry.metadata.key.clone());
    let parts = run_blocking::<_, CacheError, _>(move |_| {
        let segments = Manifest::decode_segments(&read_manifest(&entry)?)?;
        let ids: HashSet<SegmentId> = segments.into_iter().map(|segment| segment.id).collect();
        ids.iter()
            .map(|id| {
                Ok(NeededPart {
                    key: segment_key(id)?,
                    note: condemned_key(id)?,
                })
            })
            .collect()
    });
    parts.await.map_err(|error| match error {
        CacheError::Store(error) => error,
        error => StoreError::Produce {
            key,
            source: Box::new(error),
        },
    })
}

/// A segment that is open, and leased while it is.
pub(super) struct OpenSegment {
    pub(super) metadata: EntryMetadata,
    pub(super) id: SegmentId,
    pub(super) payload: Payload,
    pub(super) index: SegmentIndex,
}

/// Takes a damaged segment out of use, so that the next save does not refer to it again.
pub(super) async fn retire(store: &dyn CacheStore, segments: Vec<(EntryMetadata, Payload)>) {
    let checked = run_blocking::<_, CacheError, _>(move |abandoned| {
        // A store far away is asked once for each piece.
        const PIECE: usize = 8 << 20;
        let is_damaged = |(metadata, payload): &(EntryMetadata, Payload)| {
            let mut reader = BufReader::with_capacity(PIECE, payload.reader());
            let mut until_abandoned = AbandonableWriter::new(io::sink(), abandoned);
            copy_with_digest(&mut reader, &mut until_abandoned)
                .is_ok_and(|(_, digest)| digest != metadata.digest)
        };
        Ok(segments
            .into_iter()
            .filter(is_damaged)
            .map(|(metadata, _)| metadata)
            .collect::<Vec<_>>())
    })
    .await;
    for metadata in checked.unwrap_or_default() {
        // A store that cannot be written is no reason to lose the error that led here.
        let _ = store.quarantine(&metadata, "a chunk is damaged").await;
    }
}

/// Opens a segment and reads its index, without fetching the rest; `None` when it is gone.
pub(super) async fn open(
    store: &dyn CacheStore,
    id: SegmentId,
    record_use: RecordUse,
) -> Result<Option<OpenSegment>, CacheError> {
    let options = GetOptions::default()
        .with_record_use(record_use)
        .with_read_plan(ReadPlan::Parts)
        // A segment that is gone makes an entry damaged; a network that fails does not.
        .with_if_unsure(IfUnsure::Fail);
    let stored = store.get_opts(&segment_key(&id)?, options).await?;
    let Some(StoredEntry { metadata, payload }) = stored else {
        return Ok(None);
    };
    let held = (metadata.clone(), payload.clone());
    let opened = run_blocking::<_, CacheError, _>(move |_| {
        let index = SegmentIndex::read(&payload)?;
        Ok(Some(OpenSegment {
            metadata,
            id,
            payload,
            index,
        }))
    })
    .await;
    if let Err(CacheError::Archive(error)) = &opened
        && error.is_for_nobody()
    {
        retire(store, vec![held]).await;
    }
    opened
}

impl OpenSegment {
    /// Fetches all of it, which a tiered store then keeps near.
    pub(super) async fn fetch(&mut self, store: &dyn CacheStore) -> Result<(), CacheError> {
        let options = GetOptions::default()
            .with_record_use(RecordUse::No)
            .with_if_unsure(IfUnsure::Fail);
        if let Some(whole) = store.get_opts(&segment_key(&self.id)?, options).await?
            && whole.metadata.is_same(&self.metadata)
        {
            self.payload = whole.payload;
        }
        Ok(())
    }
}

/// How many segments a save looks into for chunks it could share: the newest ones.
const MOST: usize = 512;

/// How many segments are opened at once.
const PARALLEL: usize = 16;

/// All segments that a save may refer to, newest first. Damaged ones are passed over.
pub(super) async fn open_all(
    store: &Arc<dyn CacheStore>,
    except: &[SegmentId],
) -> Result<Vec<OpenSegment>, CacheError> {
    let mut parts = store.list(SHARED_PARTS).await?;
    let condemned: HashSet<SegmentId> = parts.iter().filter_map(condemned_of).collect();
    parts.sort_by_key(|entry| std::cmp::Reverse(entry.created));
    let usable = parts.iter().filter_map(segment_of).take(MOST);
    let usable = usable.filter(|id| !condemned.contains(id) && !except.contains(id));
    let opening = usable.map(|id| {
        let store = Arc::clone(store);
        async move { open_usable(&*store, id).await }
    });
    let found = at_once(opening).await?;
    Ok(found.into_iter().flatten().collect())
}

async fn open_usable(
    store: &dyn CacheStore,
    id: SegmentId,
) -> Result<Option<OpenSegment>, CacheError> {
    if store.head(&segment_key(&id)?).await?.is_none() {
        // Known to be damaged.
        return Ok(None);
    }
    match open(store, id, RecordUse::No).await {
        Err(CacheError::Archive(error)) if error.is_entrys_fault() => Ok(None),
        // A save can do without: it stores the chunks once more.
        Err(CacheError::Archive(crate::archive::ArchiveError::Payload(_))) => Ok(None),
        Err(CacheError::Store(error))
            if error.kind() == crate::store::StoreErrorKind::Unavailable =>
        {
            Ok(None)
        }
        other => other,
    }
}

/// Which of some segments are not there to stay.
pub(super) async fn dead_among(
    store: &Arc<dyn CacheStore>,
    segments: impl IntoIterator<Item = SegmentId>,
) -> Result<Vec<SegmentId>, CacheError> {
    let asking = segments.into_iter().map(|id| {
        let store = Arc::clone(store);
        async move { Ok((id, is_alive(&*store, &id).await?)) }
    });
    let found = at_once(asking).await?;
    let dead = found.into_iter().filter(|(_, alive)| !alive);
    Ok(dead.map(|(id, _)| id).collect())
}

/// Does several things at once, and answers in their order.
pub(super) async fn at_once<T: Send + 'static>(
    work: impl IntoIterator<Item = impl Future<Output = Result<T, CacheError>> + Send + 'static>,
) -> Result<Vec<T>, CacheError> {
    let (mut running, mut done) = (JoinSet::new(), Vec::new());
    for (number, work) in work.into_iter().enumerate() {
        if running.len() >= PARALLEL {
            done.extend(running.join_next().await);
        }
        running.spawn(async move { Ok::<_, CacheError>((number, work.await?)) });
    }
    while let Some(one) = running.join_next().await {
        done.push(one);
    }
    let mut found = Vec::with_capacity(done.len());
    for one in done {
        found.push(one.map_err(|_| StoreError::Cancelled)??);
    }
    found.sort_unstable_by_key(|(number, _)| *number);
    Ok(found.into_iter().map(|(_, one)| one).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_one_text() {
        let id = new_id();
        assert_ne!(id, new_id());
        assert_eq!(unhex(&hex(&id)), Some(id));
        for bad in ["", "zz", &"g".repeat(32), &"é".repeat(16)] {
            assert_eq!(unhex(bad), None, "{bad}");
        }
    }
}
