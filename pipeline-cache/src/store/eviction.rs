use std::time::{Duration, SystemTime};

use super::EntryMetadata;

/// What an eviction removes. Default: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EvictionPolicy {
    /// Remove entries that were neither made nor used for this long. Default: no limit.
    pub max_idle: Option<Duration>,
    /// Remove entries made longer ago than this, used or not. Default: no limit.
    pub max_age: Option<Duration>,
    /// Then remove the least recently used until all payloads together fit. Default: no limit.
    pub max_total_bytes: Option<u64>,
}

impl EvictionPolicy {
    /// Sets the longest time without use.
    #[must_use]
    pub fn with_max_idle(mut self, time: Duration) -> Self {
        self.max_idle = Some(time);
        self
    }

    /// Sets the longest life.
    #[must_use]
    pub fn with_max_age(mut self, time: Duration) -> Self {
        self.max_age = Some(time);
        self
    }

    /// Sets the room for all payloads.
    #[must_use]
    pub fn with_max_total_bytes(mut self, bytes: u64) -> Self {
        self.max_total_bytes = Some(bytes);
        self
    }
}

/// Why an entry goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EvictionReason {
    /// Not used for longer than [`EvictionPolicy::max_idle`].
    Idle,
    /// Older than [`EvictionPolicy::max_age`].
    Age,
    /// The least recently used when room was short.
    Size,
}

/// What would be removed, in this order, and what stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EvictionPlan {
    /// Entries to remove.
    pub remove: Vec<(EntryMetadata, EvictionReason)>,
    /// Bytes that stay.
    pub kept_bytes: u64,
}

/// Decides what goes, for a list of entries and a time. Pure: nothing is touched. A clock that
/// stands before an entry's times counts that entry as new.
#[must_use]
pub fn plan_eviction(
    mut entries: Vec<EntryMetadata>,
    policy: &EvictionPolicy,
    now: SystemTime,
) -> EvictionPlan {
    let used = |entry: &EntryMetadata| entry.last_used.unwrap_or(entry.created).max(entry.created);
    let longer = |since: SystemTime, limit: Option<Duration>| {
        limit.is_some_and(|limit| now.duration_since(since).is_ok_and(|age| age > limit))
    };
    entries.sort_by(|a, b| (used(a), &a.key).cmp(&(used(b), &b.key)));
    let mut plan = EvictionPlan::default();
    let mut kept = Vec::new();
    for entry in entries {
        if longer(entry.created, policy.max_age) {
            plan.remove.push((entry, EvictionReason::Age));
        } else if longer(used(&entry), policy.max_idle) {
            plan.remove.push((entry, EvictionReason::Idle));
        } else {
            plan.kept_bytes += entry.packed_size;
            kept.push(entry);
        }
    }
    for entry in kept {
        if policy
            .max_total_bytes
            .is_none_or(|room| plan.kept_bytes <= room)
        {
            break;
        }
        plan.kept_bytes -= entry.packed_size;
        plan.remove.push((entry, EvictionReason::Size));
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::CacheKey;
    use crate::store::{Codec, EntryFacts, NewEntry, Sha256Digest};

    fn entry(key: &str, created: u64, used: Option<u64>, size: u64) -> EntryMetadata {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let mut entry = NewEntry::new(CacheKey::new(key).unwrap(), at(created)).complete(
            &EntryFacts::opaque(Codec::None),
            String::new(),
            size,
            Sha256Digest::of(b""),
        );
        entry.last_used = used.map(at);
        entry
    }

    fn removed(plan: &EvictionPlan) -> Vec<(&str, EvictionReason)> {
        plan.remove
            .iter()
            .map(|(entry, reason)| (entry.key.as_str(), *reason))
            .collect()
    }

    #[test]
    fn least_recently_used_goes_first_until_it_fits() {
        let entries = vec![
            entry("old-but-used", 1, Some(90), 40),
            entry("never-used", 50, None, 40),
            entry("new", 80, None, 40),
        ];
        let policy = EvictionPolicy::default().with_max_total_bytes(80);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let plan = plan_eviction(entries, &policy, now);
        assert_eq!(removed(&plan), [("never-used", EvictionReason::Size)]);
        assert_eq!(plan.kept_bytes, 80);
    }

    #[test]
    fn age_counts_from_creation_and_idleness_from_use() {
        let entries = vec![
            entry("idle", 10, Some(20), 1),
            entry("used", 10, Some(95), 1),
            entry("ancient", 1, Some(99), 1),
        ];
        let policy = EvictionPolicy::default()
            .with_max_idle(Duration::from_secs(50))
            .with_max_age(Duration::from_secs(95));
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let plan = plan_eviction(entries, &policy, now);
        assert_eq!(
            removed(&plan),
            [
                ("idle", EvictionReason::Idle),
                ("ancient", EvictionReason::Age)
            ]
        );
    }

    #[test]
    fn a_clock_in_the_past_removes_nothing() {
        let policy = EvictionPolicy::default()
            .with_max_idle(Duration::ZERO)
            .with_max_age(Duration::ZERO);
        let plan = plan_eviction(
            vec![entry("a", 1000, None, 1)],
            &policy,
            SystemTime::UNIX_EPOCH,
        );
        assert!(plan.remove.is_empty());
    }
}
