//! Cuts content where the content says.

use fastcdc::v2020::FastCDC;

/// Files up to this length are one chunk.
pub(super) const AVERAGE: usize = 64 << 10;
const SMALLEST: usize = 16 << 10;
pub(super) const LARGEST: usize = 256 << 10;

/// BLAKE3 of a chunk, cut to 160 bits: 80 bits of safety against two contents with one name.
pub(super) type ChunkId = [u8; 20];

pub(super) fn chunk_id(content: &[u8]) -> ChunkId {
    let mut id = [0; 20];
    id.copy_from_slice(&blake3::hash(content).as_bytes()[..20]);
    id
}

/// Cuts the start of some content into chunks and says where each ends. What is left after the
/// last cut belongs in front of what comes next, unless this is all.
pub(super) fn cut(content: &[u8], is_all: bool, ends: &mut Vec<usize>) {
    let cutter = FastCDC::new(content, SMALLEST, AVERAGE, LARGEST);
    let mut start = 0;
    // With less than the largest chunk ahead, what comes next may decide.
    while start < content.len() && (is_all || content.len() - start >= LARGEST) {
        let (_, end) = cutter.cut(start, content.len() - start);
        if end <= start {
            // Cannot be; a chunk of everything is right as well.
            ends.push(content.len());
            return;
        }
        ends.push(end);
        start = end;
    }
}

/// Cuts a whole file.
pub(super) fn cut_file(content: &[u8], ends: &mut Vec<usize>) {
    if content.is_empty() {
        return;
    }
    if content.len() <= AVERAGE {
        ends.push(content.len());
    } else {
        cut(content, true, ends);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::noise;

    fn whole(content: &[u8]) -> Vec<usize> {
        let mut ends = Vec::new();
        cut(content, true, &mut ends);
        ends
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn chunks_follow_each_other_and_keep_their_sizes(length in 0usize..2_000_000, seed in any::<u64>(), flat in any::<bool>()) {
            let content = if flat { vec![7; length] } else { noise(length, seed) };
            let mut ends = Vec::new();
            cut_file(&content, &mut ends);
            let mut joined = Vec::new();
            let mut start = 0;
            for (number, &end) in ends.iter().enumerate() {
                prop_assert!(end > start && end - start <= LARGEST);
                prop_assert!(number + 1 == ends.len() || end - start >= SMALLEST);
                joined.extend_from_slice(&content[start..end]);
                start = end;
            }
            prop_assert!(joined == content);
        }

        #[test]
        fn pieces_are_cut_like_the_whole(seed in any::<u64>(), pieces in prop::collection::vec(1usize..600_000, 1..8)) {
            let content = noise(pieces.iter().sum(), seed);
            let (mut carry, mut done, mut found, mut at) = (Vec::new(), 0, Vec::new(), 0);
            for piece in pieces {
                carry.extend_from_slice(&content[at..at + piece]);
                at += piece;
                let mut ends = Vec::new();
                cut(&carry, at == content.len(), &mut ends);
                found.extend(ends.iter().map(|end| done + end));
                let used = ends.last().copied().unwrap_or(0);
                carry.drain(..used);
                done += used;
            }
            prop_assert_eq!(found, whole(&content));
        }

        #[test]
        fn an_insertion_changes_the_chunks_around_it(seed in any::<u64>(), at in 0usize..1_500_000) {
            let before = noise(1_500_000, seed);
            let mut after = before.clone();
            after.splice(at..at, *b"sixty-four bytes of something that was not there before, at all");
            let ids = |content: &[u8]| -> Vec<ChunkId> {
                let mut start = 0;
                whole(content).into_iter().map(|end| { let id = chunk_id(&content[start..end]); start = end; id }).collect()
            };
            let known = ids(&before);
            let new = ids(&after).into_iter().filter(|id| !known.contains(id)).count();
            prop_assert!(new <= 6, "{} new chunks", new);
        }
    }
}
