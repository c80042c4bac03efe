//! What an earlier listing found.

use serde::{Deserialize, Serialize};

/// Names the descriptions of an earlier listing with their tags and contents. Only saves
/// requests: the bucket's own listing says what there is, a tag that differs means reading anew,
/// and each document has its seal. That of a large store comes in several parts.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Index {
    format: u32,
    /// How many parts there are; the first one's word counts.
    #[serde(default = "one")]
    pub(crate) parts: usize,
    pub(crate) entries: Vec<IndexEntry>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IndexEntry {
    pub(crate) name: String,
    pub(crate) tag: String,
    pub(crate) document: String,
}

const FORMAT: u32 = 1;

/// About how many bytes of entries a part takes.
pub(crate) const PART: usize = 16 * 1024 * 1024;

/// As many as are read: a part takes one entry more than fits, and escaping makes it longer.
pub(crate) const MAX_PART: u64 = 64 * 1024 * 1024;

/// As many as are read. What is beyond is read from the descriptions.
pub(crate) const MAX_PARTS: usize = 64;

fn one() -> usize {
    1
}

pub(crate) fn part_name(number: usize) -> String {
    match number {
        0 => "index.json".to_owned(),
        number => format!("index-{number}.json"),
    }
}

impl Index {
    /// A part as it is stored, if it is one.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let index: Self = serde_json::from_slice(bytes).ok()?;
        (index.format == FORMAT).then_some(index)
    }

    /// The parts to store, each of about so many bytes.
    pub(crate) fn encode(mut entries: Vec<IndexEntry>, part: usize) -> Vec<Vec<u8>> {
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let (mut parts, mut length) = (vec![Vec::new()], 0);
        for entry in entries {
            if length >= part && parts.len() < MAX_PARTS {
                parts.push(Vec::new());
                length = 0;
            }
            length += entry.name.len() + entry.tag.len() + entry.document.len();
            if length < part * 2
                && let Some(last) = parts.last_mut()
            {
                last.push(entry);
            }
        }
        let count = parts.len();
        let encode = |entries| {
            serde_json::to_vec(&Self {
                format: FORMAT,
                parts: count,
                entries,
            })
        };
        parts
            .into_iter()
            .filter_map(|part| encode(part).ok())
            .collect()
    }
}

/// For fuzzers: how many descriptions a part holds.
#[cfg(all(feature = "chunked", feature = "testing"))]
pub(crate) fn read_index_bytes(bytes: &[u8]) -> Option<usize> {
    Index::decode(bytes).map(|index| index.entries.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: usize) -> IndexEntry {
        IndexEntry {
            name: format!("{number:04}.json"),
            tag: "tag".to_owned(),
            document: "{}".repeat(20),
        }
    }

    #[test]
    fn a_large_index_comes_in_parts_and_is_the_same() {
        for (count, wanted) in [(0, 1), (1, 1), (60, 3)] {
            let parts = Index::encode((0..count).rev().map(entry).collect(), 1_000);
            assert_eq!(parts.len(), wanted, "{count}");
            let mut found = Vec::new();
            for bytes in &parts {
                let part = Index::decode(bytes).unwrap();
                assert_eq!(part.parts, wanted);
                assert!(bytes.len() < 3_000);
                found.extend(part.entries);
            }
            assert!(found.into_iter().eq((0..count).map(entry)), "{count}");
        }
    }

    #[test]
    fn an_index_is_never_larger_than_what_is_read() {
        let parts = Index::encode((0..10_000).map(entry).collect(), 1_000);
        assert_eq!(parts.len(), MAX_PARTS);
        assert!(parts.iter().all(|part| part.len() < 4_000));
    }
}
