use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use super::manifest::{Manifest, read_manifest};
use super::segments::{self, SegmentId};
use crate::cache::{Cache, CacheError};
use crate::store::{
    Codec, DeleteOutcome, EntryFacts, EntryMetadata, GetOptions, IfUnsure, NewEntry, PutOptions,
    PutOutcome, RecordUse, SHARED_PARTS, Sha256Digest, produce_with, run_blocking,
};

/// How [`Cache::collect_chunks`] collects.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CollectOptions {
    /// Segments younger than this stay, so that savers at work seldom have to start again. Only
    /// that depends on it: nothing is lost with zero. Default: an hour.
    pub min_age: Duration,
}

impl Default for CollectOptions {
    fn default() -> Self {
        Self {
            min_age: Duration::from_secs(60 * 60),
        }
    }
}

impl CollectOptions {
    /// Sets how old a segment must be.
    #[must_use]
    pub fn with_min_age(mut self, age: Duration) -> Self {
        self.min_age = age;
        self
    }
}

/// What a collection did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CollectReport {
    /// Segments that were removed.
    pub removed: u64,
    /// Their bytes.
    pub removed_bytes: u64,
    /// Segments that stay.
    pub kept: u64,
    /// Their bytes.
    pub kept_bytes: u64,
}

/// A note of a collector that has not withdrawn it for this long is one of a dead collector.
const DEAD: Duration = Duration::from_secs(24 * 60 * 60);

impl Cache {
    /// Removes chunks of chunked entries that no entry needs any more: whole segments, each what
    /// one save found new. To be called after entries were evicted. Others may save, restore and
    /// collect meanwhile; a save that loses a segment to it starts again by itself.
    ///
    /// Entries that are damaged or not trusted keep no chunks: where entries are signed, collect
    /// with every key that anybody trusts.
    ///
    /// # Errors
    /// The store failed, or part of it did not answer. Everything that entries need is still
    /// there.
    ///
    /// # Cancellation
    /// Dropping the future may leave segments condemned: they are not shared any more, and the
    /// next collection, a day later at the latest, removes them.
    pub async fn collect_chunks(
        &self,
        options: CollectOptions,
    ) -> Result<CollectReport, CacheError> {
        self.collect(options, Manifests::default(), &HashSet::new())
            .await
    }

    /// The same. Segments that entries needed until now go at once, however new they are.
    pub(super) async fn collect(
        &self,
        options: CollectOptions,
        mut manifests: Manifests,
        freed: &HashSet<SegmentId>,
    ) -> Result<CollectReport, CacheError> {
        let now = SystemTime::now();
        let is_older = |entry: &EntryMetadata, age: Duration| {
            // A clock that stands before the entry's time: it counts as new.
            now.duration_since(entry.created)
                .is_ok_and(|old| old >= age)
        };
        let entries = match self.store().list_everything().await {
            Ok(entries) => entries,
            // What cannot be read matters only where there is something to collect.
            Err(error) if self.store().list(SHARED_PARTS).await?.is_empty() => {
                drop(error);
                return Ok(CollectReport::default());
            }
            Err(error) => return Err(error.into()),
        };
        let needed = manifests.needed(self, &entries).await?;
        let mut report = CollectReport::default();
        let (mut segments, mut doomed) = (HashSet::new(), Vec::new());
        for entry in &entries {
            let Some(id) = segments::segment_of(entry) else {
                continue;
            };
            segments.insert(id);
            report.kept += 1;
            report.kept_bytes += entry.packed_size;
            if !needed.contains(&id) && (freed.contains(&id) || is_older(entry, options.min_age)) {
                doomed.push((id, entry));
            }
        }
        let mut condemned = Vec::new();
        let result = async {
            for (id, entry) in doomed {
                if self.condemn(&id, now, &is_older).await? {
                    condemned.push((id, entry));
                }
            }
            self.remove_condemned(&mut condemned, &mut manifests, &mut report)
                .await
        };
        if let Err(error) = result.await {
            // Nothing stays condemned that another collector could remove.
            for (id, _) in condemned {
                if let Ok(note) = segments::condemned_key(&id) {
                    let _ = self.store().delete(&note).await;
                }
            }
            return Err(error);
        }
        // Notes of dead collectors about segments that are gone or needed.
        for note in &entries {
            if let Some(id) = segments::condemned_of(note)
                && is_older(note, DEAD)
                && (!segments.contains(&id) || needed.contains(&id))
            {
                self.store().delete(&note.key).await?;
            }
        }
        Ok(report)
    }

    /// Removes segments that still nobody needs, and takes back the notes, one after the other.
    async fn remove_condemned(
        &self,
        condemned: &mut Vec<(SegmentId, &EntryMetadata)>,
        manifests: &mut Manifests,
        report: &mut CollectReport,
    ) -> Result<(), CacheError> {
        if condemned.is_empty() {
            return Ok(());
        }
        // Whoever published before being able to see the notes is seen here.
        let entries = self.store().list_everything().await?;
        let needed = manifests.needed(self, &entries).await?;
        while let Some((id, entry)) = condemned.last() {
            if !needed.contains(id)
                && self.store().delete_entry(entry).await? == DeleteOutcome::Deleted
            {
                report.removed += 1;
                report.removed_bytes += entry.packed_size;
                report.kept -= 1;
                report.kept_bytes -= entry.packed_size;
            }
            self.store().delete(&segments::condemned_key(id)?).await?;
            condemned.pop();
        }
        Ok(())
    }

    /// Notes that a segment is about to be removed. `false` when another collector is at it.
    async fn condemn(
        &self,
        id: &SegmentId,
        now: SystemTime,
        is_older: &(dyn Fn(&EntryMetadata, Duration) -> bool + Sync),
    ) -> Result<bool, CacheError> {
        let note = NewEntry::new(segments::condemned_key(id)?, now);
        let payload = produce_with(|_| Ok(EntryFacts::opaque(Codec::Chunked)));
        let outcome = self
            .store()
            .put_opts(note, payload, PutOptions::default())
            .await?;
        Ok(match outcome {
            PutOutcome::Stored(_) => true,
            PutOutcome::Exists(other) => is_older(&other, DEAD),
        })
    }
}

/// Segments of manifests that were read already.
#[derive(Default)]
pub(super) struct Manifests(HashMap<Sha256Digest, Vec<SegmentId>>);

impl Manifests {
    /// Which segments these entries need.
    async fn needed(
        &mut self,
        cache: &Cache,
        entries: &[EntryMetadata],
    ) -> Result<HashSet<SegmentId>, CacheError> {
        let mut needed = HashSet::new();
        for entry in entries {
            needed.extend(self.of(cache, entry).await?);
        }
        Ok(needed)
    }

    /// Which segments an entry needs. One that cannot be restored, because it is damaged or not
    /// trusted, needs none. A store that cannot tell is an error: nothing may go then.
    pub(super) async fn of(
        &mut self,
        cache: &Cache,
        entry: &EntryMetadata,
    ) -> Result<Vec<SegmentId>, CacheError> {
        if entry.codec != Codec::Chunked || entry.is_shared_part() {
            return Ok(Vec::new());
        }
        if let Some(known) = self.0.get(&entry.digest) {
            return Ok(known.clone());
        }
        let options = GetOptions::default()
            .with_record_use(RecordUse::No)
            .with_if_unsure(IfUnsure::Fail);
        let stored = match cache.store().get_opts(&entry.key, options).await {
            Ok(Some(stored)) => stored,
            Ok(None) => return Ok(Vec::new()),
            Err(error) if error.is_entrys_fault() => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        // Another one, if the entry was replaced meanwhile.
        let digest = stored.metadata.digest;
        let segments = run_blocking::<_, CacheError, _>(move |_| {
            Ok(Manifest::decode_segments(&read_manifest(&stored)?)?)
        })
        .await;
        let segments: Vec<SegmentId> = match segments {
            Ok(segments) => segments.into_iter().map(|segment| segment.id).collect(),
            Err(CacheError::Archive(error)) if error.is_entrys_fault() => Vec::new(),
            Err(error) => return Err(error),
        };
        self.0.insert(digest, segments.clone());
        Ok(segments)
    }
}
