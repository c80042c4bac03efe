//! Saves a tree: what is known is referred to, what is new goes into one segment.

use std::collections::{HashMap, HashSet};

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use super::chunker::ChunkId;
use super::manifest::{ChunkRef, FileChunks, Manifest, ManifestRoot, SegmentRef, encode_extra};
use super::read::{Place, Read};
use super::restore::has_gone;
use super::segments::{self, OpenSegment, SegmentId};
use crate::archive::existing::Known;
use crate::archive::listing::{ListedKind, Listing};
use crate::archive::pack::refuse_set_id;
use crate::archive::plan::{NodeRef, Plan};
use crate::archive::set_id::SetIdBits;
use crate::archive::stat_cache::{StatCache, TreeRecord, file_clock, has_local_clock};
use crate::archive::walk::{NodeKind, Tree};
use crate::archive::{ArchiveError, DeclaredPaths, Limits, PackOptions, PackSummary};
use crate::cache::{Cache, CacheError, SaveOptions, SaveReport, Saved, Validator};
use crate::key::RenderedKey;
use crate::store::{
    Codec, EntryFacts, NewEntry, Payload, PutOptions, PutOutcome, Sha256Digest, StoreError,
    produce_with, run_blocking,
};

/// How often a save is tried when a collector takes a segment away meanwhile. The last try shares
/// nothing, so that it can lose only what is newer than any collector should take.
const TRIES: usize = 4;

pub(crate) async fn save(
    cache: &Cache,
    key: RenderedKey,
    paths: DeclaredPaths,
    options: SaveOptions,
) -> Result<Saved, CacheError> {
    let started = Instant::now();
    let mut gone: Vec<SegmentId> = Vec::new();
    for attempt in 1..=TRIES {
        let lost = std::mem::take(&mut gone);
        // A collector goes by the time of the segment: each try has its own.
        let created = options.created.unwrap_or_else(SystemTime::now);
        let entry = NewEntry::new(key.clone(), created)
            .with_paths(paths.as_slice().iter().map(|path| path.as_str()))
            .with_producer(options.producer.clone());
        let (made, written) = make(
            cache,
            &paths,
            &options.pack,
            &entry,
            (attempt < TRIES).then_some(lost),
        )
        .await?;
        let used = made.manifest.ids();
        let made = Arc::new(made);
        let outcome = publish(cache, entry, &made, &options).await?;
        let metadata = match outcome {
            PutOutcome::Exists(existing) => return Ok(Saved::Exists(existing)),
            PutOutcome::Stored(metadata) => metadata,
        };
        // Only now, with the manifest to be seen: see the module's page.
        gone = match segments::dead_among(cache.store(), used).await {
            Ok(dead) => dead,
            Err(error) => {
                // Nobody knows whether it can be restored.
                let reason = "its segments could not be looked for when it was saved";
                let _ = cache.store().quarantine(&metadata, reason).await;
                return Err(error);
            }
        };
        // An eviction that came at once took the chunks with the entry: it was stored.
        if !gone.is_empty() && !has_gone(cache, &metadata).await {
            let reason = "a segment was collected while it was saved";
            cache.store().quarantine(&metadata, reason).await?;
            continue;
        }
        if gone.is_empty()
            && let Some(stat_cache) = cache.stat_cache().cloned()
        {
            let (made, entry) = (Arc::clone(&made), metadata.digest);
            run_blocking::<_, CacheError, _>(move |_| {
                made.record(&stat_cache, entry);
                Ok(())
            })
            .await?;
        }
        let stored_bytes = metadata.packed_size + written;
        return Ok(Saved::Stored(SaveReport {
            metadata,
            content_bytes: made.content,
            stored_bytes,
            skipped: made.tree.skipped.clone(),
            time: started.elapsed(),
        }));
    }
    Err(CacheError::Collected)
}

/// Puts the manifest.
async fn publish(
    cache: &Cache,
    entry: NewEntry,
    made: &Arc<Made>,
    options: &SaveOptions,
) -> Result<PutOutcome, CacheError> {
    let (made, validator) = (Arc::clone(made), options.validator.clone());
    let level = options.pack.level.unwrap_or(3);
    let payload = produce_with(move |out| {
        let facts = EntryFacts::opaque(Codec::Chunked).with_sizes(made.raw_size, made.entries);
        if let Some(Validator(check)) = validator {
            let summary = PackSummary {
                facts: facts.clone(),
                content_bytes: made.content,
                skipped: made.tree.skipped.clone(),
            };
            check(&summary).map_err(ArchiveError::Validator)?;
        }
        out.write_all(&made.manifest.encode(level)?)
            .map_err(ArchiveError::Write)?;
        Ok(facts)
    });
    let put = PutOptions::default().with_if_exists(options.if_exists);
    cache
        .store()
        .put_opts(entry, payload, put)
        .await
        .map_err(CacheError::from_put)
}

/// A manifest and the tree it was made of.
struct Made {
    tree: Tree,
    manifest: Manifest,
    started: (i64, u32),
    content: u64,
    raw_size: u64,
    entries: u64,
    /// Segments that were looked into, leased until the manifest is known to be sound.
    _leases: Vec<Payload>,
}

impl Made {
    fn record(&self, stat_cache: &StatCache, entry: Sha256Digest) {
        use std::os::fd::AsFd as _;

        for (index, (root, made)) in self.tree.roots.iter().zip(&self.manifest.roots).enumerate() {
            if root
                .handle
                .as_ref()
                .is_some_and(|handle| !has_local_clock(handle.as_fd()))
            {
                continue;
            }
            let never = (i64::MAX, 0);
            let listing = made.listing.clone();
            let record = TreeRecord::of(&self.tree, index, entry, listing, self.started, never);
            if let Some(mut record) = record {
                record.extra = encode_extra(&self.manifest.segments, made);
                stat_cache.store(&root.on_disk, &record);
            }
        }
    }
}

/// What is to be saved, and what of it need not be read.
struct Listed {
    started: (i64, u32),
    tree: Tree,
    plan: Plan,
    listings: Vec<Listing>,
    /// What is recorded of each declared path.
    recorded: Vec<Option<Recorded>>,
    /// By place in [`Plan::order`]: where the record has it, for files nobody touched.
    known: Vec<Option<u32>>,
}

/// What a record says of the files of a declared path.
struct Recorded {
    listing: Listing,
    segments: Vec<SegmentRef>,
    files: FileChunks,
}

/// Segments that a save may refer to.
struct Shared {
    table: Vec<SegmentRef>,
    places: HashMap<ChunkId, Place>,
    /// Leased while they are held.
    payloads: Vec<Payload>,
}

/// Makes a manifest and puts a segment of what is new. Without a list of segments that are `gone`
/// it shares nothing.
async fn make(
    cache: &Cache,
    paths: &DeclaredPaths,
    pack: &PackOptions,
    entry: &NewEntry,
    gone: Option<Vec<SegmentId>>,
) -> Result<(Made, u64), CacheError> {
    let (paths, options) = (paths.clone(), pack.clone());
    let stat_cache = cache.stat_cache().cloned();
    let mut listed =
        run_blocking::<_, CacheError, _>(move |_| Ok(list(&paths, &options, stat_cache.as_ref())?))
            .await?;
    let shares = gone.is_some();
    let mut dead: HashSet<SegmentId> = gone.into_iter().flatten().collect();
    let mut used: HashSet<SegmentId> = listed.used_segments().iter().map(|s| s.id).collect();
    if shares {
        used.retain(|id| !dead.contains(id));
        dead.extend(segments::dead_among(cache.store(), used).await?);
    } else {
        dead.extend(used);
    }
    listed.forget(&dead);
    let to_read = listed.to_read();
    let reads_content = to_read
        .iter()
        .any(|&entry| listed.plan.stored_size(&listed.tree, entry) > 0);
    let mut shared = if reads_content && shares {
        share(cache, &dead).await?
    } else {
        Shared {
            table: Vec::new(),
            places: HashMap::new(),
            payloads: Vec::new(),
        }
    };
    let id = segments::new_id();
    let listed = Arc::new(listed);
    let (found, written) = if to_read.is_empty() {
        (Read::default(), 0)
    } else {
        write_segment(cache, &listed, to_read, pack, entry, id, &mut shared).await?
    };
    let (mut table, leases) = (shared.table, shared.payloads);
    table.push(SegmentRef {
        id,
        index: found.index,
    });
    let Some(listed) = Arc::into_inner(listed) else {
        return Err(CacheError::Store(StoreError::Cancelled));
    };
    let made = run_blocking::<_, CacheError, _>(move |_| Ok(listed.manifest(table, found, leases)));
    let made = made.await?;
    let (store, limits) = (&**cache.store(), Limits::default());
    if let Some(limit) = made.manifest.beyond_ratio(store, &[], &limits).await?
        // One that was collected counts nothing, and is found out about later.
        && segments::dead_among(cache.store(), made.manifest.ids()).await?.is_empty()
    {
        let what = "bytes that repeat what the chunks hold (codec zstd has no such limit)";
        return Err(ArchiveError::TreeTooLarge { what, limit }.into());
    }
    Ok((made, written))
}

/// Opens what is stored already.
async fn share(cache: &Cache, dead: &HashSet<SegmentId>) -> Result<Shared, CacheError> {
    let dead: Vec<SegmentId> = dead.iter().copied().collect();
    let open = segments::open_all(cache.store(), &dead).await?;
    let mut places = HashMap::with_capacity(open.iter().map(|s| s.index.ids.len()).sum());
    let mut table = Vec::with_capacity(open.len() + 1);
    let mut payloads = Vec::with_capacity(open.len());
    // Oldest last, so that the oldest segment of a chunk is the one referred to.
    for OpenSegment {
        index, payload, id, ..
    } in open
    {
        let segment = table.len() as u32;
        table.push(SegmentRef {
            id,
            index: index.digest,
        });
        places.extend(
            (0..)
                .zip(&index.ids)
                .map(|(chunk, id)| (*id, Place::Stored(ChunkRef { segment, chunk }))),
        );
        payloads.push(payload);
    }
    Ok(Shared {
        table,
        places,
        payloads,
    })
}

/// Reads files and puts a segment of what is new; none when nothing is.
async fn write_segment(
    cache: &Cache,
    listed: &Arc<Listed>,
    to_read: Vec<usize>,
    pack: &PackOptions,
    entry: &NewEntry,
    id: SegmentId,
    shared: &mut Shared,
) -> Result<(Read, u64), CacheError> {
    let read: Arc<Mutex<Option<Read>>> = Arc::default();
    let (report, listed, options) = (Arc::clone(&read), Arc::clone(listed), pack.clone());
    let new = shared.table.len() as u32;
    let places = std::mem::take(&mut shared.places);
    let payload = produce_with(move |out| {
        let Listed { tree, plan, .. } = &*listed;
        let found = super::read::read(tree, plan, &to_read, &options, places, new, out)?;
        let facts = EntryFacts::opaque(Codec::Chunked).with_sizes(found.raw, found.chunks);
        let is_empty = found.chunks == 0;
        *report.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        if is_empty {
            return Err(Box::new(NothingNew));
        }
        Ok(facts)
    });
    let part = NewEntry::new(segments::segment_key(&id)?, entry.created)
        .with_producer(entry.producer.clone());
    let put = PutOptions::default();
    let written = match cache.store().put_opts(part, payload, put).await {
        Ok(PutOutcome::Stored(metadata)) => metadata.packed_size,
        Ok(PutOutcome::Exists(_)) => return Err(CacheError::Collected),
        Err(StoreError::Produce { source, .. }) if source.is::<NothingNew>() => 0,
        Err(error) => return Err(CacheError::from_put(error)),
    };
    let found = read.lock().unwrap_or_else(PoisonError::into_inner).take();
    Ok((found.unwrap_or_default(), written))
}

/// Ends a segment that would hold nothing.
#[derive(Debug, thiserror::Error)]
#[error("there is no new chunk")]
struct NothingNew;

fn list(
    paths: &DeclaredPaths,
    options: &PackOptions,
    stat_cache: Option<&StatCache>,
) -> Result<Listed, ArchiveError> {
    let started = file_clock();
    let tree = Tree::list(
        paths,
        &options.working_folder,
        options.workers,
        options.unreadable,
    )?;
    let plan = Plan::new(&tree, Codec::Chunked)?;
    // A manifest has no room for them.
    let set_id = match options.set_id {
        SetIdBits::Clear => SetIdBits::Clear,
        _ => SetIdBits::Refuse,
    };
    refuse_set_id(&tree, &plan, set_id)?;
    let mut listings = Vec::new();
    let mut recorded = Vec::new();
    let mut known: Vec<Option<u32>> = Vec::with_capacity(plan.order.len());
    for root in 0..tree.roots.len() {
        let listing = Listing::of(&tree, root).ok_or(ArchiveError::TooLarge {
            what: "levels or entries in one tree",
            limit: 500,
        })?;
        let first = known.len();
        known.resize(first + listing.len(), None);
        recorded.push(
            stat_cache
                .and_then(|cache| cache.load(&tree.roots[root].on_disk))
                .and_then(|record| {
                    let places = &plan.order[first..];
                    recall(record, &tree, root, &listing, places, &mut known[first..])
                }),
        );
        listings.push(listing);
    }
    Ok(Listed {
        started,
        tree,
        plan,
        listings,
        recorded,
        known,
    })
}

/// Notes which files are as they were recorded, and where.
fn recall(
    record: TreeRecord,
    tree: &Tree,
    root: usize,
    listing: &Listing,
    places: &[NodeRef],
    known: &mut [Option<u32>],
) -> Option<Recorded> {
    let (segments, files) = super::manifest::decode_extra(&record.extra, &record.listing)?;
    let found = Known::new(record, tree, root, None);
    for (at, slot) in known.iter_mut().enumerate() {
        let is_file = |&at: &usize| found.record.listing.kind(at) == ListedKind::File;
        if listing.kind(at) == ListedKind::File {
            let before = found.recorded_at(places[at]).filter(is_file);
            *slot = before.map(|before| before as u32);
        }
    }
    Some(Recorded {
        listing: found.record.listing,
        segments,
        files,
    })
}

impl Recorded {
    fn chunks(&self, at: usize) -> impl Iterator<Item = (SegmentRef, u32)> {
        let chunks = self.files.of(at).iter();
        chunks.map(|chunk| (self.segments[chunk.segment as usize], chunk.chunk))
    }
}

impl Listed {
    /// What is recorded of a file that nobody touched.
    fn recorded(&self, order: usize) -> Option<(&Recorded, usize)> {
        let at = self.known[order]? as usize;
        let root = self.plan.order[order].root(&self.tree);
        Some((self.recorded[root].as_ref()?, at))
    }

    /// Segments that need not be read again for files nobody touched.
    fn used_segments(&self) -> HashSet<SegmentRef> {
        (0..self.known.len())
            .filter_map(|order| self.recorded(order))
            .flat_map(|(recorded, at)| recorded.chunks(at).map(|(segment, _)| segment))
            .collect()
    }

    /// Files with chunks in segments that are gone must be read.
    fn forget(&mut self, dead: &HashSet<SegmentId>) {
        if dead.is_empty() {
            return;
        }
        for order in 0..self.known.len() {
            let is_dead = self.recorded(order).is_some_and(|(recorded, at)| {
                recorded.chunks(at).any(|(s, _)| dead.contains(&s.id))
            });
            if is_dead {
                self.known[order] = None;
            }
        }
    }

    /// Files whose content must be read.
    fn to_read(&self) -> Vec<usize> {
        (0..self.plan.order.len())
            .filter(|&at| {
                let node = self.plan.order[at].node(&self.tree);
                matches!(node.kind, NodeKind::File(_))
                    && !self.plan.links.contains_key(&at)
                    && self.known[at].is_none()
            })
            .collect()
    }

    fn manifest(
        mut self,
        mut table: Vec<SegmentRef>,
        mut found: Read,
        leases: Vec<Payload>,
    ) -> Made {
        let mut numbers: HashMap<SegmentRef, u32> = table
            .iter()
            .enumerate()
            .map(|(number, segment)| (*segment, number as u32))
            .collect();
        let mut roots = Vec::new();
        let mut order = 0;
        let mut new = found.files.as_slice();
        for mut listing in std::mem::take(&mut self.listings) {
            let mut files = FileChunks::default();
            for at in 0..listing.len() {
                if let Some((recorded, before)) = self.recorded(order) {
                    if let Some(attributes) = recorded.listing.attributes(before) {
                        listing.set_attributes(at, attributes);
                    }
                    if let Some(regions) = recorded.listing.regions(before) {
                        listing.set_regions(at, regions);
                    }
                    files.push(recorded.chunks(before).map(|(segment, chunk)| {
                        let segment = *numbers.entry(segment).or_insert_with(|| {
                            table.push(segment);
                            table.len() as u32 - 1
                        });
                        ChunkRef { segment, chunk }
                    }));
                } else {
                    if let Some(sparse) = self.plan.sparse.get(&order) {
                        listing.set_regions(at, &sparse.regions);
                    }
                    if let Some(attributes) = found.attributes.remove(&order) {
                        listing.set_attributes(at, &attributes);
                    }
                    let end = new.partition_point(|(entry, _)| *entry as usize <= order);
                    let (its, others) = new.split_at(end);
                    files.push(its.iter().map(|(_, chunk)| *chunk));
                    new = others;
                }
                order += 1;
            }
            roots.push(ManifestRoot { listing, files });
        }
        let mut manifest = Manifest {
            segments: table,
            roots,
        };
        manifest.drop_unused();
        Made {
            content: self.plan.content,
            raw_size: self.plan.content + (self.plan.order.len() * 512) as u64,
            entries: self.plan.order.len() as u64,
            tree: self.tree,
            manifest,
            started: self.started,
            _leases: leases,
        }
    }
}

impl Manifest {
    fn ids(&self) -> Vec<SegmentId> {
        self.segments.iter().map(|segment| segment.id).collect()
    }

    /// Leaves only segments that are used.
    fn drop_unused(&mut self) {
        let mut numbers: Vec<Option<u32>> = vec![None; self.segments.len()];
        let mut kept = Vec::new();
        for root in &self.roots {
            for chunk in root.files.all() {
                numbers[chunk.segment as usize].get_or_insert_with(|| {
                    kept.push(self.segments[chunk.segment as usize]);
                    kept.len() as u32 - 1
                });
            }
        }
        for root in &mut self.roots {
            root.files
                .renumber(|segment| numbers[segment as usize].unwrap_or(0));
        }
        self.segments = kept;
    }
}
