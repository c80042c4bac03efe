use std::{collections::VecDeque, sync::Arc};

use aho_corasick::{AhoCorasick, MatchKind};

use super::{Secret, forms::appearances};

/// What stands in the place of a secret.
pub const MASK: &str = "***";

/// Secrets shorter than this are not masked: a log of asterisks helps nobody.
/// CircleCI and GitLab draw their lines at 4 and 8 characters.
pub const MINIMUM_SECRET_BYTES: usize = 4;

/// How much may be held back while one unbroken run of overlapping secrets
/// goes on; beyond it the mask is written and the run continues under it.
const HOLD_LIMIT: usize = 64 * 1024;

/// Masks secrets in text and in streams of bytes, also when a secret is split
/// over several writes or shows up encoded.
///
/// Cheap to clone. The forms that are recognised: the value, each line of at
/// least six characters of a multi-line value, base64 at all alignments, hex,
/// percent-encoding, JSON, XML and shell quoting. What no filter can see: a
/// value that is compressed, encrypted, reversed or printed in pieces.
#[derive(Clone, Debug)]
pub struct Redactor {
    inner: Arc<Patterns>,
}

struct Patterns {
    automaton: Option<AhoCorasick>,
    /// Sorted, for the search of live prefixes.
    patterns: Vec<Vec<u8>>,
    longest: usize,
    too_short: usize,
}

impl std::fmt::Debug for Patterns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Patterns")
            .field("count", &self.patterns.len())
            .finish_non_exhaustive()
    }
}

impl Default for Redactor {
    fn default() -> Self {
        Self::new([])
    }
}

impl Redactor {
    /// A redactor for these secrets. Values under
    /// [`MINIMUM_SECRET_BYTES`] are counted in [`too_short`](Self::too_short)
    /// and not masked.
    #[must_use]
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Self {
        let mut patterns = Vec::new();
        let mut too_short = 0;
        for secret in secrets {
            let value = secret.expose();
            if value.trim().len() < MINIMUM_SECRET_BYTES {
                too_short += 1;
            } else {
                patterns.extend(appearances(value));
            }
        }
        patterns.sort();
        patterns.dedup();
        // Building fails only beyond 2^31 patterns or states.
        let automaton = (!patterns.is_empty())
            .then(|| {
                AhoCorasick::builder()
                    .match_kind(MatchKind::Standard)
                    .build(&patterns)
                    .ok()
            })
            .flatten();
        let longest = patterns.iter().map(Vec::len).max().unwrap_or(0);
        Self {
            inner: Arc::new(Patterns {
                automaton,
                patterns,
                longest,
                too_short,
            }),
        }
    }

    /// How many of the secrets are too short to be masked. A runner warns
    /// about them instead of staying silent.
    #[must_use]
    pub fn too_short(&self) -> usize {
        self.inner.too_short
    }

    /// Masks a whole text.
    #[must_use]
    pub fn redact(&self, text: &str) -> String {
        let mut stream = self.stream();
        let mut bytes = stream.push(text.as_bytes());
        bytes.extend(stream.finish());
        // Only whole patterns, which are UTF-8, were cut out of a `str`.
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Masks every string inside a JSON value, map keys included.
    #[must_use]
    pub fn redact_json(&self, value: serde_json::Value) -> serde_json::Value {
        use serde_json::Value;
        if self.inner.automaton.is_none() {
            return value;
        }
        match value {
            Value::String(text) => Value::String(self.redact(&text)),
            Value::Array(items) => Value::Array(
                items
                    .into_iter()
                    .map(|item| self.redact_json(item))
                    .collect(),
            ),
            Value::Object(map) => Value::Object(
                map.into_iter()
                    .map(|(key, item)| (self.redact(&key), self.redact_json(item)))
                    .collect(),
            ),
            other => other,
        }
    }

    /// A filter for one stream of bytes; each stream needs its own.
    #[must_use]
    pub fn stream(&self) -> RedactorStream {
        RedactorStream {
            patterns: Arc::clone(&self.inner),
            held: VecDeque::new(),
            under_mask: false,
        }
    }
}

/// The state of one redacted stream: what is held back because it may be the
/// beginning of a secret.
#[derive(Debug)]
pub struct RedactorStream {
    patterns: Arc<Patterns>,
    held: VecDeque<u8>,
    /// The mask for what `held` starts with has been written already.
    under_mask: bool,
}

impl RedactorStream {
    /// Takes bytes in and gives out what is safe to show. Only bytes that may
    /// be the start of a secret stay back.
    #[must_use]
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        if self.patterns.automaton.is_none() {
            return bytes.to_vec();
        }
        self.held.extend(bytes);
        self.drain(false)
    }

    /// Ends the stream and gives out the rest.
    #[must_use]
    pub fn finish(&mut self) -> Vec<u8> {
        self.drain(true)
    }

    fn drain(&mut self, end: bool) -> Vec<u8> {
        let Some(automaton) = &self.patterns.automaton else {
            return Vec::new();
        };
        let held = self.held.make_contiguous();
        let mut ranges: Vec<(usize, usize)> = Vec::new();
        for found in automaton.find_overlapping_iter(&*held) {
            ranges.push((found.start(), found.end()));
        }
        ranges.sort_unstable();
        let mut merged: Vec<(usize, usize)> = Vec::new();
        if self.under_mask {
            merged.push((0, 0));
        }
        for (start, end) in ranges {
            match merged.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => merged.push((start, end)),
            }
        }

        let mut cut = if end {
            held.len()
        } else {
            held.len() - self.patterns.live_prefix(held)
        };
        if !end {
            // A secret that reaches into the held bytes may still grow.
            for range in merged.iter().rev() {
                if range.0 < cut && range.1 >= cut {
                    cut = range.0;
                }
            }
        }
        let mut out = Vec::with_capacity(cut);
        let mut position = 0;
        for (index, (start, stop)) in merged.iter().copied().enumerate() {
            if stop > cut || (start == cut && !end) {
                break;
            }
            out.extend_from_slice(&held[position..start]);
            let mask_is_out = index == 0 && self.under_mask;
            if !mask_is_out {
                out.extend_from_slice(MASK.as_bytes());
            }
            position = stop;
        }
        if position < cut {
            out.extend_from_slice(&held[position..cut]);
            position = cut;
        }
        if position > 0 {
            self.held.drain(..position);
            self.under_mask = false;
        } else if self.held.len() > HOLD_LIMIT.max(self.patterns.longest * 2) {
            // One endless run of secrets: keep what may still continue it.
            if !self.under_mask {
                out.extend_from_slice(MASK.as_bytes());
            }
            let keep = self.patterns.longest.saturating_sub(1);
            let drop = self.held.len() - keep;
            self.held.drain(..drop);
            self.under_mask = true;
        }
        out
    }
}

impl Patterns {
    /// Length of the longest end of `bytes` that a secret could start with.
    fn live_prefix(&self, bytes: &[u8]) -> usize {
        let longest = self.longest.saturating_sub(1).min(bytes.len());
        (1..=longest)
            .rev()
            .find(|length| {
                let tail = &bytes[bytes.len() - length..];
                let at = self
                    .patterns
                    .partition_point(|pattern| pattern.as_slice() < tail);
                self.patterns
                    .get(at)
                    .is_some_and(|pattern| pattern.len() > tail.len() && pattern.starts_with(tail))
                    || self.patterns.get(at + 1).is_some_and(|pattern| {
                        // `at` may be the tail itself, a whole secret.
                        pattern.len() > tail.len() && pattern.starts_with(tail)
                    })
            })
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn redactor(values: &[&str]) -> Redactor {
        let secrets: Vec<Secret> = values.iter().map(|value| Secret::new(*value)).collect();
        Redactor::new(&secrets)
    }

    fn streamed(redactor: &Redactor, chunks: &[&[u8]]) -> Vec<u8> {
        let mut stream = redactor.stream();
        let mut out: Vec<u8> = chunks.iter().flat_map(|chunk| stream.push(chunk)).collect();
        out.extend(stream.finish());
        out
    }

    #[test]
    fn a_secret_split_over_writes_is_masked() {
        let redactor = redactor(&["secret-value"]);
        assert_eq!(
            streamed(&redactor, &[b"a se", b"cret-va", b"lue b"]),
            b"a *** b"
        );
    }

    #[test]
    fn overlapping_secrets_become_one_mask() {
        let redactor = redactor(&["abcd", "cdef", "bcdefg"]);
        assert_eq!(redactor.redact("xabcdefgx"), "x***x");
        assert_eq!(streamed(&redactor, &[b"xabcd", b"ef", b"gx"]), b"x***x");
    }

    #[test]
    fn a_prompt_is_shown_at_once_when_it_cannot_start_a_secret() {
        let mut stream = redactor(&["hunter2hunter2"]).stream();
        assert_eq!(stream.push(b"Password: "), b"Password: ");
        assert_eq!(stream.push(b"hunt"), b"");
        assert_eq!(stream.push(b"ing"), b"hunting");
    }

    #[test]
    fn encoded_forms_are_masked() {
        let redactor = redactor(&["pa ss/wo\"rd'1"]);
        for text in [
            "cGEgc3Mvd28icmQnMQ==",
            "70612073732f776f227264273 1".replace(' ', "").as_str(),
            "pa%20ss%2Fwo%22rd%271",
            "pa+ss%2Fwo%22rd%271",
            r#"pa ss/wo\"rd'1"#,
            "pa ss/wo&quot;rd&#39;1",
            r"pa\ ss/wo\",
        ] {
            let shown = redactor.redact(text);
            assert!(
                shown.contains(MASK) || text.ends_with('\\'),
                "{text} gave {shown}"
            );
        }
    }

    #[test]
    fn short_values_are_counted_and_left_alone() {
        let redactor = redactor(&["1", "abc"]);
        assert_eq!(redactor.too_short(), 2);
        assert_eq!(redactor.redact("1 abc"), "1 abc");
    }

    #[test]
    fn an_endless_run_of_one_secret_stays_bounded() {
        let redactor = redactor(&["aaaa"]);
        let mut stream = redactor.stream();
        let mut out = Vec::new();
        for _ in 0..100 {
            out.extend(stream.push(&[b'a'; 8192]));
            assert!(stream.held.len() <= HOLD_LIMIT + 8192);
        }
        out.extend(stream.push(b"!"));
        out.extend(stream.finish());
        assert_eq!(out, b"***!");
    }

    proptest! {
        /// For any chunking the stream shows what the whole text shows, and
        /// never a secret.
        #[test]
        fn chunking_changes_nothing(
            secrets in proptest::collection::vec("[ab]{4,7}", 1..4),
            text in "[abc]{0,80}",
            cuts in proptest::collection::vec(0usize..80, 0..6),
        ) {
            let secrets: Vec<Secret> = secrets.into_iter().map(Secret::new).collect();
            let redactor = Redactor::new(&secrets);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> =
                cuts.windows(2).map(|pair| &text.as_bytes()[pair[0]..pair[1]]).collect();
            let whole = redactor.redact(&text);
            prop_assert_eq!(String::from_utf8(streamed(&redactor, &chunks)).unwrap(), whole.clone());
            for secret in &secrets {
                prop_assert!(!whole.contains(secret.expose()));
            }
        }
    }
}
