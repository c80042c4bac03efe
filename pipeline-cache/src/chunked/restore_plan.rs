//! What a restore keeps, compares and writes.

use std::collections::HashSet;

use super::manifest::{ChunkRef, Manifest, SegmentRef, decode_extra};
use super::segment::damaged;
use super::segments::{OpenSegment, segment_key};
use crate::archive::existing::{Candidate, Existing};
use crate::archive::listing::ListedKind;
use crate::archive::{ArchiveError, DeclaredPaths, Limits};
use crate::cache::CacheError;
use crate::store::{CacheStore, EntryMetadata};

/// What becomes of a file.
#[derive(Clone, Copy)]
pub(super) enum Fate {
    /// Kept, known to be the same.
    Keep(Candidate),
    /// Kept if its content turns out to be the same.
    Compare(Candidate),
    Write,
}

pub(super) struct Plan {
    pub(super) metadata: EntryMetadata,
    pub(super) paths: DeclaredPaths,
    pub(super) manifest: Manifest,
    /// By root and place in the listing; only what stands at files means something.
    pub(super) fates: Vec<Vec<Fate>>,
}

impl Plan {
    /// Checks a manifest and decides about every file of it.
    pub(super) fn new(
        manifest: Manifest,
        metadata: EntryMetadata,
        paths: DeclaredPaths,
        limits: &Limits,
        existing: Option<&Existing>,
    ) -> Result<Self, ArchiveError> {
        if manifest.roots.len() != paths.as_slice().len() {
            return Err(damaged("the manifest has other declared paths"));
        }
        check_limits(&manifest, &metadata, limits)?;
        Ok(Self {
            fates: fates(&manifest, existing),
            metadata,
            paths,
            manifest,
        })
    }

    /// The same with nothing there.
    pub(super) fn without_existing(&self) -> Self {
        Self {
            metadata: self.metadata.clone(),
            paths: self.paths.clone(),
            fates: self
                .fates
                .iter()
                .map(|f| vec![Fate::Write; f.len()])
                .collect(),
            manifest: self.manifest.clone(),
        }
    }

    /// By segment of the manifest: whether something is written from it or compared with it.
    pub(super) fn needed_segments(&self) -> Vec<bool> {
        let mut needed = vec![false; self.manifest.segments.len()];
        for chunk in self.chunks_unless(|fate| matches!(fate, Fate::Keep(_))) {
            needed[chunk.segment as usize] = true;
        }
        needed
    }

    /// By segment of the manifest: bytes of the blocks that are certainly written from it.
    pub(super) fn written_bytes(&self, open: &[Option<OpenSegment>]) -> Vec<u64> {
        let mut blocks = HashSet::new();
        let mut needed = vec![0; open.len()];
        for chunk in self.chunks_unless(|fate| !matches!(fate, Fate::Write)) {
            let at = chunk.segment as usize;
            let known = |segment: &&OpenSegment| (chunk.chunk as usize) < segment.index.ids.len();
            if let Some(segment) = open[at].as_ref().filter(known) {
                let block = segment.index.block_of(chunk.chunk);
                if blocks.insert((at, block)) {
                    needed[at] += segment.index.packed_length(block);
                }
            }
        }
        needed
    }

    /// Chunks of all files but those with some fate.
    fn chunks_unless(&self, but: fn(&Fate) -> bool) -> impl Iterator<Item = &ChunkRef> {
        let roots = self.manifest.roots.iter().zip(&self.fates);
        roots.flat_map(move |(root, fates)| {
            let fates = fates.iter().enumerate();
            let those = fates.filter(move |(_, fate)| !but(fate));
            those.flat_map(|(at, _)| root.files.of(at))
        })
    }

    /// Whether the chunks of every file that needs them are there and make up its length.
    pub(super) fn check_chunks(&self, open: &[Option<OpenSegment>]) -> Result<(), ArchiveError> {
        for (root, fates) in self.manifest.roots.iter().zip(&self.fates) {
            for (at, fate) in fates.iter().enumerate() {
                if matches!(fate, Fate::Keep(_)) || root.listing.kind(at) != ListedKind::File {
                    continue;
                }
                let mut length = 0_u64;
                for chunk in root.files.of(at) {
                    let segment = open[chunk.segment as usize]
                        .as_ref()
                        .filter(|segment| (chunk.chunk as usize) < segment.index.ids.len())
                        .ok_or_else(|| damaged("the manifest names a chunk that cannot be"))?;
                    length += u64::from(segment.index.length(chunk.chunk));
                }
                if length != root.listing.stored(at) {
                    return Err(damaged("the chunks of a file do not make up its length"));
                }
            }
        }
        Ok(())
    }
}

fn check_limits(
    manifest: &Manifest,
    metadata: &EntryMetadata,
    limits: &Limits,
) -> Result<(), ArchiveError> {
    let bytes = manifest.content();
    let (mut entries, mut folders, mut links) = (0_u64, 0_u64, 0_u64);
    let mut longest = 0;
    for root in &manifest.roots {
        entries += root.listing.len() as u64;
        for at in 0..root.listing.len() {
            match root.listing.kind(at) {
                ListedKind::Folder => folders += 1,
                ListedKind::HardLink(_) => links += 1,
                ListedKind::File => longest = longest.max(root.listing.size(at)),
                ListedKind::Symlink => {}
            }
        }
    }
    let most = limits.bytes_for(metadata.raw_size, metadata.packed_size);
    for (what, found, limit) in [
        ("bytes", bytes, most),
        ("entries", entries, limits.max_entries),
        ("folders", folders, limits.max_folders),
        ("hard links", links, limits.max_hard_links),
        ("bytes in one file", longest, limits.max_file_length),
    ] {
        if found > limit {
            return Err(ArchiveError::TooLarge { what, limit });
        }
    }
    Ok(())
}

impl Manifest {
    /// Bytes of all files, holes left out.
    pub(super) fn content(&self) -> u64 {
        let sizes = self.roots.iter().flat_map(|root| {
            let files =
                (0..root.listing.len()).filter(|&at| root.listing.kind(at) == ListedKind::File);
            files.map(|at| root.listing.stored(at))
        });
        sizes.fold(0, u64::saturating_add)
    }

    /// The limit for the content, if it is beyond what the segments may become. What was opened
    /// is measured, not asked for.
    pub(super) async fn beyond_ratio(
        &self,
        store: &dyn CacheStore,
        open: &[Option<OpenSegment>],
        limits: &Limits,
    ) -> Result<Option<u64>, CacheError> {
        let content = self.content();
        if content <= limits.bytes_from(0) {
            return Ok(None);
        }
        let (mut packed, mut seen) = (0_u64, HashSet::new());
        for (at, segment) in self.segments.iter().enumerate() {
            if !seen.insert(segment.id) {
                continue;
            }
            let length = match open.get(at) {
                Some(Some(open)) => open.payload.len(),
                _ => store
                    .head(&segment_key(&segment.id)?)
                    .await?
                    .map_or(0, |found| found.packed_size),
            };
            packed = packed.saturating_add(length);
        }
        let limit = limits.bytes_from(packed);
        Ok((content > limit).then_some(limit))
    }
}

fn fates(manifest: &Manifest, existing: Option<&Existing>) -> Vec<Vec<Fate>> {
    manifest
        .roots
        .iter()
        .enumerate()
        .map(|(index, root)| {
            let listing = &root.listing;
            let mut fates = vec![Fate::Write; listing.len()];
            let Some((existing, found)) = existing.and_then(|e| Some((e, e.root(index)?))) else {
                return fates;
            };
            let places = found.places(listing);
            let recorded = found.known.as_ref().and_then(|known| {
                let (segments, files) = decode_extra(&known.record.extra, &known.record.listing)?;
                Some((known, segments, files))
            });
            for at in 0..listing.len() {
                let (ListedKind::File, Some(place)) = (listing.kind(at), places[at]) else {
                    continue;
                };
                if let Some((known, segments, files)) = &recorded
                    && let Some(before) = known.recorded_at(place)
                    && known.record.listing.is_same_file(before, listing, at)
                    && same_chunks(
                        (segments, files.of(before)),
                        (&manifest.segments, root.files.of(at)),
                    )
                {
                    fates[at] = Fate::Keep(existing.vouched(index, place));
                } else if listing.attributes(at).is_none()
                    && listing.regions(at).is_none()
                    && let Some(candidate) = existing.may_be(
                        index,
                        place,
                        listing.mode(at),
                        listing.mtime(at),
                        listing.size(at),
                    )
                {
                    fates[at] = Fate::Compare(candidate);
                }
            }
            fates
        })
        .collect()
}

type Chunks<'a> = (&'a [SegmentRef], &'a [ChunkRef]);

fn same_chunks((segments, chunks): Chunks<'_>, (other_segments, others): Chunks<'_>) -> bool {
    chunks.len() == others.len()
        && chunks.iter().zip(others).all(|(one, other)| {
            one.chunk == other.chunk
                && segments[one.segment as usize] == other_segments[other.segment as usize]
        })
}
