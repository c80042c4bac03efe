use std::collections::{HashMap, HashSet};
use std::time::SystemTime;

use super::collect::{CollectOptions, CollectReport, Manifests};
use super::segments;
use crate::cache::{Cache, CacheError};
use crate::store::{
    DeleteOutcome, EntryMetadata, EvictionPlan, EvictionPolicy, EvictionReason, plan_with_parts,
};

/// What an eviction did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EvictionReport {
    /// Entries that went, in this order.
    pub evicted: Vec<(EntryMetadata, EvictionReason)>,
    /// Entries that stayed because someone is reading them.
    pub leased: Vec<EntryMetadata>,
    /// What became of chunks.
    pub chunks: CollectReport,
}

impl Cache {
    /// Decides what goes. The room is counted as it will be when the chunks that nobody needs any
    /// more are collected: a segment once, and only while an entry that stays needs it. Nothing is
    /// touched.
    ///
    /// # Errors
    /// The store failed.
    ///
    /// # Cancellation
    /// Dropping the future leaves nothing behind.
    pub async fn plan_eviction(
        &self,
        policy: &EvictionPolicy,
        now: SystemTime,
    ) -> Result<EvictionPlan, CacheError> {
        let entries = self.store().list("").await?;
        let mut manifests = Manifests::default();
        let mut parts = HashMap::new();
        for entry in &entries {
            let needed = manifests.of(self, entry).await?;
            // Once each, whatever a manifest says.
            let needed: HashSet<_> = needed.iter().collect();
            let keys: Result<Vec<_>, _> = needed.into_iter().map(segments::segment_key).collect();
            parts.insert(entry.key.clone(), keys?);
        }
        Ok(plan_with_parts(entries, &parts, policy, now))
    }

    /// Removes what was planned, and nothing that was saved under these keys since, then collects
    /// chunks: those that only evicted entries needed, however new, and others as
    /// [`Cache::collect_chunks`] does.
    ///
    /// # Errors
    /// The store failed. Everything that the entries left need is still there.
    ///
    /// # Cancellation
    /// Dropping the future leaves some of it undone; the next collection removes the chunks.
    pub async fn evict(
        &self,
        plan: &EvictionPlan,
        options: CollectOptions,
    ) -> Result<EvictionReport, CacheError> {
        let mut manifests = Manifests::default();
        let mut report = EvictionReport::default();
        let mut freed = HashSet::new();
        for (entry, reason) in &plan.remove {
            let needed = manifests.of(self, entry).await?;
            match self.store().delete_entry(entry).await? {
                DeleteOutcome::Deleted => {
                    report.evicted.push((entry.clone(), *reason));
                    freed.extend(needed);
                }
                DeleteOutcome::Leased => report.leased.push(entry.clone()),
                DeleteOutcome::Absent => {}
            }
        }
        report.chunks = self.collect(options, manifests, &freed).await?;
        Ok(report)
    }
}
