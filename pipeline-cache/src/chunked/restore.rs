//! Restores a chunked entry: looks at what is there, opens what is needed, unpacks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::manifest::{Manifest, raw_limit, read_manifest};
use super::restore_plan::Plan;
use super::segment::damaged;
use super::segments::{self, OpenSegment};
use super::unpacking::Placed;
use crate::archive::existing::{Existing, ExistingFiles};
use crate::archive::staging::sweep_beside;
use crate::archive::stat_cache::{StatCache, file_clock};
use crate::archive::{ArchiveError, DeclaredPaths, UnpackOptions, UnpackSummary};
use crate::cache::{Cache, CacheError};
use crate::store::{
    EntryMetadata, GetOptions, IfUnsure, Payload, ReadPlan, RecordUse, StoreError, StoredEntry,
    run_blocking,
};

/// How long a restore waits for an entry that lacks a segment: its saver may be about to take it
/// back.
const SAVERS_TURN: Duration = Duration::from_secs(2);

/// Restores an entry; `None` when it was removed, replaced or taken back meanwhile, and its chunks
/// with it.
pub(crate) async fn restore(
    cache: &Cache,
    entry: StoredEntry,
    options: &UnpackOptions,
) -> Result<Option<UnpackSummary>, CacheError> {
    let metadata = entry.metadata.clone();
    let Failed { error, held } = match restore_whole(cache, entry, options).await {
        Ok(done) => return Ok(done),
        Err(failed) => failed,
    };
    if let CacheError::Archive(why) = &error {
        let is_about_chunks = why.is_entrys_fault() || matches!(why, ArchiveError::Payload(_));
        if is_about_chunks && has_gone(cache, &metadata).await {
            return Ok(None);
        }
        if why.is_for_nobody() {
            segments::retire(&**cache.store(), held).await;
        }
    }
    Err(error)
}

/// Why a restore failed, and the segments it read from.
struct Failed {
    error: CacheError,
    held: Vec<(EntryMetadata, Payload)>,
}

impl<E: Into<CacheError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self {
            error: error.into(),
            held: Vec::new(),
        }
    }
}

/// Whether a store has no entry or another one under the key. One that is damaged or quarantined is
/// still there. A store that cannot tell has it: the error that led here says more.
pub(super) async fn has_gone(cache: &Cache, metadata: &EntryMetadata) -> bool {
    let options = GetOptions::default()
        .with_record_use(RecordUse::No)
        .with_read_plan(ReadPlan::Parts)
        .with_if_unsure(IfUnsure::Fail);
    let now = cache.store().get_opts(&metadata.key, options).await;
    now.is_ok_and(|now| now.is_none_or(|now| !now.metadata.is_same(metadata)))
}

async fn restore_whole(
    cache: &Cache,
    entry: StoredEntry,
    options: &UnpackOptions,
) -> Result<Option<UnpackSummary>, Failed> {
    let started = Instant::now();
    // An eviction leaves the entry, and so its chunks, while it is leased.
    let _leased = entry.clone();
    let (look, stat_cache) = (options.clone(), cache.stat_cache().cloned());
    let clock = file_clock();
    let looked: Looked = run_blocking(move |_| {
        look_at(&entry, &look, stat_cache.as_ref()).map_err(CacheError::Archive)
    })
    .await?;
    let (mut plan, mut existing) = match looked {
        Looked::Whole { entries, kept } => {
            return Ok(Some(UnpackSummary {
                entries,
                kept,
                unpack_time: started.elapsed(),
                ..UnpackSummary::default()
            }));
        }
        Looked::Plan(plan, existing) => (plan, existing),
    };
    loop {
        let Some(open) = open_settled(cache, &plan).await? else {
            return Ok(None);
        };
        let (store, limits) = (&**cache.store(), &options.limits);
        if let Some(limit) = plan.manifest.beyond_ratio(store, &open, limits).await? {
            let what = "bytes";
            return Err(ArchiveError::TooLarge { what, limit }.into());
        }
        let held: Vec<(EntryMetadata, Payload)> = open
            .iter()
            .flatten()
            .map(|segment| (segment.metadata.clone(), segment.payload.clone()))
            .collect();
        let (unpack, there, how) = (Arc::clone(&plan), existing.clone(), options.clone());
        let done: Result<Placed, CacheError> = run_blocking(move |abandoned| {
            let cancelled = || abandoned.is_set();
            unpack
                .unpack(&open, there.as_deref(), &how, &cancelled)
                .map_err(|error| match error {
                    ArchiveError::Cancelled => CacheError::Store(StoreError::Cancelled),
                    other => CacheError::Archive(other),
                })
        })
        .await;
        match done {
            Ok(mut placed) => {
                // It is listed anew, and two large trees take twice the memory.
                drop(existing);
                let (summary, stat_cache) = (&mut placed.summary, cache.stat_cache().cloned());
                summary.unpack_time = started.elapsed().saturating_sub(summary.place_time);
                if let Some(stat_cache) = stat_cache {
                    let how = options.clone();
                    let recorded: Result<_, CacheError> = run_blocking(move |_| {
                        let recording = Instant::now();
                        plan.record(&placed, &how, &stat_cache, clock);
                        placed.summary.place_time += recording.elapsed();
                        Ok(Some(placed.summary))
                    })
                    .await;
                    return Ok(recorded?);
                }
                return Ok(Some(placed.summary));
            }
            // Somebody writes into the old tree, or it cannot be linked to: do without it.
            Err(CacheError::Archive(ArchiveError::Changed { .. })) if existing.is_some() => {
                existing = None;
                plan = Arc::new(plan.without_existing());
            }
            Err(error) => return Err(Failed { error, held }),
        }
    }
}

enum Looked {
    Whole { entries: u64, kept: u64 },
    Plan(Arc<Plan>, Option<Arc<Existing>>),
}

fn look_at(
    entry: &StoredEntry,
    options: &UnpackOptions,
    stat_cache: Option<&StatCache>,
) -> Result<Looked, ArchiveError> {
    let metadata = entry.metadata.clone();
    let paths = DeclaredPaths::new(&metadata.paths)?;
    let existing = match options.existing {
        ExistingFiles::Reuse => Some(Existing::look(
            &paths,
            options.into.as_deref(),
            &options.working_folder,
            options.workers,
            stat_cache,
        )),
        ExistingFiles::Replace => None,
    }
    .filter(|existing| !existing.is_empty());
    if let Some((entries, kept)) = existing
        .as_ref()
        .and_then(|existing| existing.is_whole(metadata.digest))
    {
        sweep_beside(&paths, options.into.as_deref(), &options.working_folder);
        return Ok(Looked::Whole { entries, kept });
    }
    let bytes = read_manifest(entry)?;
    let manifest = Manifest::decode(&bytes, raw_limit(bytes.len() as u64))?;
    let plan = Plan::new(
        manifest,
        metadata,
        paths,
        &options.limits,
        existing.as_ref(),
    )?;
    Ok(Looked::Plan(Arc::new(plan), existing.map(Arc::new)))
}

/// The segments of a manifest, by their place in it; `None` for those that are not needed.
type Opened = Vec<Option<OpenSegment>>;

/// Opens the segments that are needed. When one is gone, its saver may have lost it to a collector
/// and not yet taken the manifest back; `None` when it has, or when the entry is gone too.
async fn open_settled(cache: &Cache, plan: &Arc<Plan>) -> Result<Option<Opened>, CacheError> {
    let until = Instant::now() + SAVERS_TURN;
    let mut pause = Duration::from_millis(50);
    loop {
        if let Some(open) = open_segments(cache, plan).await? {
            return Ok(Some(open));
        }
        let now = cache.store().head(&plan.metadata.key).await?;
        if now.is_none_or(|now| !now.is_same(&plan.metadata)) {
            return Ok(None);
        }
        if Instant::now() >= until {
            return Err(damaged("a segment of its chunks is gone").into());
        }
        // Not with the runtime's timer, which it need not have.
        run_blocking::<_, CacheError, _>(move |_| {
            std::thread::sleep(pause);
            Ok(())
        })
        .await?;
        pause *= 2;
    }
}

/// Opens the segments that are needed; `None` when one is gone. Those that are written from for
/// the most part are fetched whole.
async fn open_segments(cache: &Cache, plan: &Arc<Plan>) -> Result<Option<Opened>, CacheError> {
    let needed = plan.needed_segments();
    let opening = plan
        .manifest
        .segments
        .iter()
        .zip(needed)
        .map(|(segment, needed)| {
            let (store, segment) = (Arc::clone(cache.store()), *segment);
            async move {
                if !needed {
                    return Ok(Some(None));
                }
                let found = segments::open(&*store, segment.id, RecordUse::Yes).await?;
                let Some(found) = found else {
                    return Ok(None);
                };
                if found.index.digest != segment.index {
                    return Err(damaged("a segment of its chunks is not the one stored").into());
                }
                Ok(Some(Some(found)))
            }
        });
    let found = segments::at_once(opening.collect::<Vec<_>>()).await?;
    let Some(mut open) = found.into_iter().collect::<Option<Opened>>() else {
        return Ok(None);
    };
    let needed = plan.written_bytes(&open);
    for (segment, needed) in open.iter_mut().zip(needed) {
        if let Some(segment) = segment
            && needed >= segment.payload.len() / 2
        {
            segment.fetch(&**cache.store()).await?;
        }
    }
    Ok(Some(open))
}
