use std::collections::{HashMap, HashSet};
use std::fmt;

use pipeline_core::error_chain;
use serde::{Serialize, Serializer};

use super::CacheError;
use crate::key::{CacheKey, KeyInput, RenderedKey};
use crate::store::EntryMetadata;

/// Why nothing was restored. As JSON it says the same to machines.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct Miss {
    /// The keys that were tried, in order.
    pub candidates: Vec<MissedCandidate>,
    /// Entries that matched but could not be used.
    pub rejected: Vec<Rejected>,
    /// The stored entry that comes nearest to the first key, and what differs.
    pub nearest: Option<NearestEntry>,
}

/// A key that found nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MissedCandidate {
    /// The key.
    pub key: CacheKey,
    /// Entries that matched, all of them rejected.
    pub matched: usize,
}

/// An entry that matched but was damaged, unsafe, or beyond what the reader takes.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct Rejected {
    /// The entry's key.
    pub key: CacheKey,
    /// What is wrong with it; as JSON `why`, with all causes.
    #[serde(rename = "why", serialize_with = "chain")]
    pub error: CacheError,
    /// Whether it was taken out of use, so that the next save replaces it. What only this reader's
    /// limits or set-id choice refuse stays for others.
    pub quarantined: bool,
}

/// The stored entry nearest to what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NearestEntry {
    /// Its description.
    pub entry: EntryMetadata,
    /// Key inputs that differ. Empty when the entry came from another template.
    pub changes: Vec<InputChange>,
}

/// A key input that differs between what is asked for and what is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct InputChange {
    /// The input, for example `checksum "requirements.txt"`.
    pub input: String,
    /// Value in the stored entry's key; `None` when it has no such input.
    pub stored: Option<String>,
    /// Value in the key asked for; `None` when that has no such input.
    pub wanted: Option<String>,
}

fn chain<S: Serializer>(error: &CacheError, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&error_chain(error))
}

impl fmt::Display for InputChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_none = |value: &Option<String>| value.clone().unwrap_or_else(|| "(none)".to_owned());
        write!(
            f,
            "{}: {} is stored, {} is wanted",
            self.input,
            or_none(&self.stored),
            or_none(&self.wanted)
        )
    }
}

/// One line for people.
impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<&str> = self
            .candidates
            .iter()
            .map(|candidate| candidate.key.as_str())
            .collect();
        write!(f, "no cache is found for key {}", keys.join(", "))?;
        match &self.nearest {
            None => write!(f, "; the store holds nothing like it"),
            Some(nearest) => {
                write!(f, "; nearest is {}", nearest.entry.key)?;
                let mut join = " (";
                for change in &nearest.changes {
                    write!(f, "{join}{change}")?;
                    join = "; ";
                }
                if nearest.changes.is_empty() {
                    Ok(())
                } else {
                    write!(f, ")")
                }
            }
        }
    }
}

/// The entry that shares most with a wanted key: the same template first and of those the one
/// with the fewest changed inputs; else the one whose key starts alike. Newest between equals.
pub(crate) fn nearest(wanted: &RenderedKey, entries: Vec<EntryMetadata>) -> Option<NearestEntry> {
    let shared = |entry: &EntryMetadata| {
        entry
            .key
            .as_str()
            .chars()
            .zip(wanted.key().as_str().chars())
            .take_while(|(a, b)| a == b)
            .count()
    };
    entries
        .into_iter()
        .map(|entry| {
            let alike = !wanted.inputs().is_empty() && entry.template == wanted.template();
            let changes = if alike {
                changes(&entry.inputs, wanted.inputs())
            } else {
                Vec::new()
            };
            let rank = (
                alike,
                std::cmp::Reverse(changes.len()),
                shared(&entry),
                entry.created,
            );
            (rank, NearestEntry { entry, changes })
        })
        .filter(|((alike, _, shared, _), _)| *alike || *shared > 0)
        .max_by(|(a, _), (b, _)| a.cmp(b))
        .map(|(_, nearest)| nearest)
}

fn changes(stored: &[KeyInput], wanted: &[KeyInput]) -> Vec<InputChange> {
    let by_name = |inputs: &[KeyInput]| -> HashMap<String, String> {
        // The first of one name counts.
        let all = inputs.iter().rev();
        all.map(|input| (input.name.clone(), input.value.clone()))
            .collect()
    };
    let (in_stored, in_wanted) = (by_name(stored), by_name(wanted));
    let mut seen = HashSet::new();
    wanted
        .iter()
        .chain(stored)
        .map(|input| input.name.as_str())
        .filter(|name| seen.insert(*name))
        .map(|name| InputChange {
            input: name.to_owned(),
            stored: in_stored.get(name).cloned(),
            wanted: in_wanted.get(name).cloned(),
        })
        .filter(|change| change.stored != change.wanted)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::key::{KeyContext, KeyTemplate};
    use crate::store::{Codec, EntryFacts, NewEntry, Sha256Digest};

    fn rendered(template: &str, branch: &str, revision: &str) -> RenderedKey {
        let context = KeyContext::new("/")
            .with_branch(branch)
            .with_revision(revision);
        KeyTemplate::parse(template)
            .unwrap()
            .render(&context)
            .unwrap()
    }

    fn entry(key: RenderedKey, second: u64) -> EntryMetadata {
        let created = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        NewEntry::new(key, created).complete(
            &EntryFacts::opaque(Codec::None),
            String::new(),
            0,
            Sha256Digest::of(b""),
        )
    }

    const TEMPLATE: &str = "deps-{{ .Branch }}-{{ .Revision }}";

    #[test]
    fn names_the_input_that_changed_against_the_nearest_entry() {
        let entries = vec![
            entry(rendered(TEMPLATE, "other", "old"), 9),
            entry(rendered(TEMPLATE, "main", "old"), 1),
            entry(rendered("x-{{ .Branch }}", "main", "new"), 10),
        ];
        let nearest = nearest(&rendered(TEMPLATE, "main", "new"), entries).unwrap();
        assert_eq!(nearest.entry.key.as_str(), "deps-main-old");
        assert_eq!(nearest.changes.len(), 1);
        assert_eq!(
            nearest.changes[0].to_string(),
            ".Revision: old is stored, new is wanted"
        );
    }

    #[test]
    fn nothing_alike_is_no_neighbour() {
        let entries = vec![entry(rendered("x", "main", "new"), 1)];
        assert_eq!(nearest(&rendered(TEMPLATE, "main", "new"), entries), None);
    }
}
