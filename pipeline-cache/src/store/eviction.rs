use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use super::EntryMetadata;
use crate::key::CacheKey;

/// What an eviction removes. Default: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EvictionPolicy {
    /// Remove entries that were neither made nor used for this long. Default: no limit.
    pub max_idle: Option<Duration>,
    /// Remove entries made longer ago than this, used or not. Default: no limit.
    pub max_age: Option<Duration>,
    /// Then remove the least recently used until what stays fits: all payloads together, and each
    /// chunk segment that they need once. Default: no limit.
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

    /// Sets the room for everything.
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
    /// Bytes of the entries that stay, and of chunk segments that these need.
    pub kept_bytes: u64,
}

/// Decides what goes, for a list of entries and a time. Pure: nothing is touched. A clock that
/// stands before an entry's times counts that entry as new.
///
/// Chunks that entries share are left alone and not counted, since a list does not say who needs
/// them: where entries are chunked, `Cache::plan_eviction` knows.
#[must_use]
pub fn plan_eviction(
    entries: Vec<EntryMetadata>,
    policy: &EvictionPolicy,
    now: SystemTime,
) -> EvictionPlan {
    plan_with_parts(entries, &HashMap::new(), policy, now)
}

/// The same, knowing which shared parts each entry needs: a part counts once, for as long as an
/// entry that stays needs it.
pub(crate) fn plan_with_parts(
    mut entries: Vec<EntryMetadata>,
    parts: &HashMap<CacheKey, Vec<CacheKey>>,
    policy: &EvictionPolicy,
    now: SystemTime,
) -> EvictionPlan {
    let used = |entry: &EntryMetadata| entry.last_used.unwrap_or(entry.created).max(entry.created);
    let longer = |since: SystemTime, limit: Option<Duration>| {
        limit.is_some_and(|limit| now.duration_since(since).is_ok_and(|age| age > limit))
    };
    entries.sort_by(|a, b| (used(a), &a.key).cmp(&(used(b), &b.key)));
    let (shared, entries): (Vec<_>, Vec<_>) =
        entries.into_iter().partition(EntryMetadata::is_shared_part);
    // Size, and how many of the entries that stay need it.
    let mut shared: HashMap<CacheKey, (u64, usize)> = shared
        .into_iter()
        .map(|part| (part.key, (part.packed_size, 0)))
        .collect();
    let needs = |entry: &EntryMetadata| parts.get(&entry.key).map_or(&[][..], Vec::as_slice);
    let mut plan = EvictionPlan::default();
    let mut kept = Vec::new();
    for entry in entries {
        if longer(entry.created, policy.max_age) {
            plan.remove.push((entry, EvictionReason::Age));
        } else if longer(used(&entry), policy.max_idle) {
            plan.remove.push((entry, EvictionReason::Idle));
        } else {
            plan.kept_bytes += entry.packed_size;
            for part in needs(&entry) {
                if let Some((size, users)) = shared.get_mut(part) {
                    plan.kept_bytes += if *users == 0 { *size } else { 0 };
                    *users += 1;
                }
            }
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
        for part in needs(&entry) {
            if let Some((size, users)) = shared.get_mut(part) {
                *users -= 1;
                plan.kept_bytes -= if *users == 0 { *size } else { 0 };
            }
        }
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
    fn a_shared_part_counts_once_and_until_its_last_user_goes() {
        let part = |name: &str| format!("pipeline-cache/chunks/segment/{name}");
        let entries = vec![
            entry("oldest", 1, None, 1),
            entry("middle", 2, None, 1),
            entry("newest", 3, None, 1),
            entry(&part("a"), 1, None, 20),
            entry(&part("b"), 2, None, 30),
            entry(&part("nobody's"), 3, None, 1000),
        ];
        let key = |text: &str| CacheKey::new(text).unwrap();
        let parts = HashMap::from([
            (key("oldest"), vec![key(&part("a"))]),
            (key("middle"), vec![key(&part("a")), key(&part("b"))]),
            (key("newest"), vec![key(&part("b")), key(&part("gone"))]),
        ]);
        for (room, evicted, kept) in [
            (53, &[][..], 53),
            (52, &["oldest"], 52),
            (51, &["oldest", "middle"], 31),
            (31, &["oldest", "middle"], 31),
            (30, &["oldest", "middle", "newest"], 0),
        ] {
            let policy = EvictionPolicy::default().with_max_total_bytes(room);
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
            let plan = plan_with_parts(entries.clone(), &parts, &policy, now);
            let gone: Vec<&str> = removed(&plan).iter().map(|(key, _)| *key).collect();
            assert_eq!((&gone[..], plan.kept_bytes), (evicted, kept), "{room}");
        }
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
