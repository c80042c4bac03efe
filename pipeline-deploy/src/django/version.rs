//! The part of PEP 440 that choosing a tool needs: release numbers and ranges of them.

use std::cmp::Ordering;

/// The release part of a version: `7.4.4rc1` is 7, 4, 4. Trailing zeros do not count.
#[derive(Debug, Clone)]
pub(super) struct ReleaseNumber(Vec<u64>);

impl ReleaseNumber {
    /// Reads the leading numbers; an epoch (`1!2.0`) or no number at all gives nothing.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim().trim_start_matches(['v', 'V']);
        if text.contains('!') {
            return None;
        }
        let mut parts = Vec::new();
        for part in text.split('.') {
            let digits = part.len() - part.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            match part[..digits].parse() {
                Ok(number) => parts.push(number),
                Err(_) => break,
            }
            if digits < part.len() {
                break;
            }
        }
        (!parts.is_empty()).then_some(Self(parts))
    }

    /// The first release that is not of this series: 7.4 gives 7.5.
    fn next_in_series(&self) -> Self {
        let mut parts = self.0.clone();
        if let Some(last) = parts.last_mut() {
            *last = last.saturating_add(1);
        }
        Self(parts)
    }

    /// Just above this release, below every release that follows it.
    fn just_above(&self) -> Self {
        let mut parts = self.0.clone();
        parts.resize(parts.len().max(6), 0);
        parts.push(1);
        Self(parts)
    }
}

impl Ord for ReleaseNumber {
    fn cmp(&self, other: &Self) -> Ordering {
        let length = self.0.len().max(other.0.len());
        let part = |parts: &[u64], at: usize| parts.get(at).copied().unwrap_or(0);
        (0..length)
            .map(|at| part(&self.0, at).cmp(&part(&other.0, at)))
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal)
    }
}

impl PartialOrd for ReleaseNumber {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ReleaseNumber {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for ReleaseNumber {}

/// Versions from `lower` (included) up to `upper` (not included).
#[derive(Debug, Clone, Default)]
pub(super) struct VersionRange {
    lower: Option<ReleaseNumber>,
    upper: Option<ReleaseNumber>,
}

impl VersionRange {
    /// A range by its two ends, an empty text meaning open.
    pub(super) fn between(lower: &str, upper: &str) -> Self {
        Self {
            lower: ReleaseNumber::parse(lower),
            upper: ReleaseNumber::parse(upper),
        }
    }

    /// What specifiers like `>=3.2,<4` allow. Exclusions (`!=`) and clauses that are not
    /// understood leave the range as wide as it was.
    pub(super) fn of_specifiers(specifiers: &str) -> Self {
        let mut range = Self::default();
        for clause in specifiers.trim_matches(['(', ')', ' ']).split(',') {
            range.narrow(clause.trim());
        }
        range
    }

    fn narrow(&mut self, clause: &str) {
        let end = clause
            .find(|c| !"=<>~!".contains(c))
            .unwrap_or(clause.len());
        let (operator, version) = clause.split_at(end);
        let series = version.trim().strip_suffix(".*");
        let Some(release) = ReleaseNumber::parse(series.unwrap_or(version)) else {
            return;
        };
        let (lower, upper) = match operator {
            "==" | "===" if series.is_some() => {
                (Some(release.clone()), Some(release.next_in_series()))
            }
            "==" | "===" => (Some(release.clone()), Some(release.just_above())),
            "~=" => {
                let mut stem = release.clone();
                stem.0.pop();
                let upper = (!stem.0.is_empty()).then(|| stem.next_in_series());
                (Some(release), upper)
            }
            ">=" => (Some(release), None),
            ">" => (Some(release.just_above()), None),
            "<" => (None, Some(release)),
            "<=" => (None, Some(release.just_above())),
            _ => (None, None),
        };
        if let Some(lower) = lower {
            self.lower = Some(
                self.lower
                    .take()
                    .map_or(lower.clone(), |old| old.max(lower)),
            );
        }
        if let Some(upper) = upper {
            self.upper = Some(
                self.upper
                    .take()
                    .map_or(upper.clone(), |old| old.min(upper)),
            );
        }
    }

    /// What both ranges allow.
    pub(super) fn meet(&self, other: &Self) -> Self {
        let pick = |a: &Option<ReleaseNumber>, b: &Option<ReleaseNumber>, larger: bool| match (
            a.clone(),
            b.clone(),
        ) {
            (Some(a), Some(b)) => Some(if larger { a.max(b) } else { a.min(b) }),
            (a, b) => a.or(b),
        };
        Self {
            lower: pick(&self.lower, &other.lower, true),
            upper: pick(&self.upper, &other.upper, false),
        }
    }

    /// Whether every version is at least this one.
    pub(super) fn is_from(&self, lowest: &str) -> bool {
        let lowest = ReleaseNumber::parse(lowest);
        self.lower.is_some() && self.lower >= lowest
    }

    /// Whether no version is left.
    pub(super) fn is_empty(&self) -> bool {
        matches!((&self.lower, &self.upper), (Some(lower), Some(upper)) if lower >= upper)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> ReleaseNumber {
        ReleaseNumber::parse(text).unwrap()
    }

    fn meets(specifiers: &str, lower: &str, upper: &str) -> bool {
        let range = VersionRange::of_specifiers(specifiers);
        !range.meet(&VersionRange::between(lower, upper)).is_empty()
    }

    #[test]
    fn numbers_compare_by_part() {
        assert!(number("7.10") > number("7.9.9"));
        assert_eq!(number("7.0"), number("7"));
        assert_eq!(number("7.4.4rc1"), number("v7.4.4"));
        assert!(number("7").just_above() < number("7.0.1"));
        assert!(ReleaseNumber::parse("1!7").is_none());
        assert!(ReleaseNumber::parse("banana").is_none());
    }

    #[test]
    fn specifiers_become_ranges() {
        for (specifiers, expected) in [
            ("==6.2.5", false),
            ("== 7.4.4", true),
            ("===7.4.4", true),
            ("==6.*", false),
            ("==7.*", true),
            ("~=6.2", false),
            ("~=6.2.1", false),
            ("~=7.0", true),
            (">=5", true),
            (">=5,<7", false),
            (">=5,<=7", true),
            ("<7.0.0", false),
            ("<8", true),
            (">7,!=8.0", true),
            ("(>=6.0)", true),
            ("", true),
            ("nonsense", true),
        ] {
            assert_eq!(meets(specifiers, "7", ""), expected, "{specifiers}");
        }
        assert!(!meets("==9.2.0", "7", "9"));
        assert!(meets("==8.3.5", "7", "9"));
        assert!(!meets(">=9", "", "9"));
        let from = |specifiers: &str| VersionRange::of_specifiers(specifiers).is_from("25.1");
        assert!(
            from("==27.0.1") && from(">=25.1") && !from("==23.0.0") && !from(">=20") && !from("")
        );
    }
}
