//! Chunked entries on their way to the far store.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::report::Tier;
use super::tiered_store::TieredStore;
use crate::chunked::{NeededPart, parts_of};
use crate::key::CacheKey;
use crate::store::{
    CacheStore, GetOptions, IfExists, PutOutcome, RecordUse, StoreError, StoredEntry,
};

/// How often an entry is sent again because a collector took a part of it meanwhile.
const TRIES: usize = 4;

/// Questions to the far store at once.
const PARALLEL: usize = 16;

/// What the far store has of a part.
#[derive(Clone, Copy, PartialEq, Eq)]
enum There {
    Stays,
    Condemned,
    Missing,
}

impl TieredStore {
    /// Brings an entry and whatever it needs. Parts come first, and when the entry can be seen
    /// they are looked for once more, as a save to the far store itself does.
    pub(super) async fn send_with_parts(
        &self,
        entry: StoredEntry,
        if_exists: IfExists,
    ) -> Result<PutOutcome, StoreError> {
        let key = entry.metadata.key.clone();
        if if_exists == IfExists::Keep
            && let Some(theirs) = self.far.head(&key).await?
            && !theirs.is_same(&entry.metadata)
        {
            return Ok(PutOutcome::Exists(theirs));
        }
        let parts = parts_of(&entry).await?;
        let reason = "a collector is removing chunks of it; saving again brings it";
        let error = match self.send_until_whole(&entry, &parts, if_exists).await {
            Ok(Some(outcome)) => return Ok(outcome),
            Ok(None) => StoreError::Unavailable {
                key: key.to_string(),
                source: reason.into(),
            },
            Err(error) => error,
        };
        // Nobody may find there what has not all of its parts. The description is the far store's
        // own: the payload has another name there.
        if let Some(theirs) = self.far.head(&key).await?
            && theirs.is_same(&entry.metadata)
        {
            self.far.quarantine(&theirs, reason).await?;
        }
        Err(error)
    }

    /// `None` when parts went away again and again.
    async fn send_until_whole(
        &self,
        entry: &StoredEntry,
        parts: &[NeededPart],
        if_exists: IfExists,
    ) -> Result<Option<PutOutcome>, StoreError> {
        let mut there = self.look_for(parts).await?;
        let mut outcome = None;
        for _ in 0..TRIES {
            self.bring_missing(entry, parts, &there).await?;
            let put = self.copy_far(entry.clone(), if_exists).await?;
            // Whatever a second round finds there is what the first one put.
            let put = outcome.get_or_insert(put);
            there = self.look_for(parts).await?;
            if there.iter().all(|there| *there == There::Stays) {
                return Ok(Some(put.clone()));
            }
        }
        Ok(None)
    }

    async fn look_for(&self, parts: &[NeededPart]) -> Result<Vec<There>, StoreError> {
        let mut there = vec![There::Missing; parts.len()];
        let mut asked = JoinSet::new();
        for (at, part) in parts.iter().cloned().enumerate() {
            if asked.len() >= PARALLEL {
                note(&mut there, asked.join_next().await)?;
            }
            let far = Arc::clone(&self.far);
            asked.spawn(async move { Ok((at, look(&*far, &part).await?)) });
        }
        while let Some(answer) = asked.join_next().await {
            note(&mut there, Some(answer))?;
        }
        Ok(there)
    }

    async fn bring_missing(
        &self,
        entry: &StoredEntry,
        parts: &[NeededPart],
        there: &[There],
    ) -> Result<(), StoreError> {
        let missing = parts.iter().zip(there);
        for (part, _) in missing.filter(|(_, there)| **there == There::Missing) {
            let look = GetOptions::default().with_record_use(RecordUse::No);
            let Some(own) = self.near.get_opts(&part.key, look).await? else {
                return Err(self.give_up(entry, &part.key).await);
            };
            if let PutOutcome::Stored(stored) = self.copy_far(own, IfExists::Keep).await? {
                self.note_stored(stored.key);
            }
        }
        Ok(())
    }

    /// An entry whose chunks are nowhere can never be restored: the next save makes it anew.
    async fn give_up(&self, entry: &StoredEntry, part: &CacheKey) -> StoreError {
        let key = &entry.metadata.key;
        let reason = format!("{part} is in neither store");
        if let Err(error) = self.near.quarantine(&entry.metadata, &reason).await {
            self.problem(Tier::Near, "quarantine", key.as_str(), error);
        }
        StoreError::Produce {
            key: key.clone(),
            source: reason.into(),
        }
    }
}

async fn look(far: &dyn CacheStore, part: &NeededPart) -> Result<There, StoreError> {
    // The order matters: a collector that has removed the part has withdrawn its note as well.
    let is_condemned = far.head(&part.note).await?.is_some();
    Ok(match far.head(&part.key).await? {
        None => There::Missing,
        Some(_) if is_condemned => There::Condemned,
        Some(_) => There::Stays,
    })
}

type Answer = Result<Result<(usize, There), StoreError>, tokio::task::JoinError>;

fn note(there: &mut [There], answer: Option<Answer>) -> Result<(), StoreError> {
    if let Some(answer) = answer {
        let (at, found) = answer.map_err(|_| StoreError::Cancelled)??;
        there[at] = found;
    }
    Ok(())
}
