use regex::Regex;

use crate::facts::RunFacts;

/// Which branches and tags a job runs for; CircleCI's rules.
///
/// A pattern is a name, or a regular expression between slashes that must
/// match the whole name. With no filter a job runs for all branches and for
/// no tag. `only` decides alone when both lists are given.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    only_branches: Vec<Pattern>,
    ignore_branches: Vec<Pattern>,
    only_tags: Vec<Pattern>,
    faults: Vec<FilterError>,
}

/// A pattern that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// The text between the slashes is no regular expression.
    #[error("the filter {pattern} is not a regular expression: {reason}")]
    NotARegex {
        /// As it was given.
        pattern: String,
        /// What the parser says.
        reason: String,
    },
    /// An empty name matches nothing.
    #[error("a filter is empty and can never match; remove it or name a branch")]
    Empty,
    /// Everything that `only` names is ignored as well.
    #[error("the filter can never match: {0} is both the only branch and ignored")]
    NeverMatches(String),
}

#[derive(Clone, Debug)]
enum Pattern {
    Name(String),
    Regex { text: String, regex: Regex },
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, FilterError> {
        if text.is_empty() {
            return Err(FilterError::Empty);
        }
        match text
            .strip_prefix('/')
            .and_then(|rest| rest.strip_suffix('/'))
        {
            Some(inner) => match Regex::new(&format!("^(?:{inner})$")) {
                Ok(regex) => Ok(Self::Regex {
                    text: text.to_owned(),
                    regex,
                }),
                Err(error) => Err(FilterError::NotARegex {
                    pattern: text.to_owned(),
                    reason: last_line(&error.to_string()),
                }),
            },
            None => Ok(Self::Name(text.to_owned())),
        }
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Name(wanted) => wanted == name,
            Self::Regex { regex, .. } => regex.is_match(name),
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Name(text) | Self::Regex { text, .. } => text,
        }
    }
}

fn last_line(text: &str) -> String {
    text.lines()
        .last()
        .unwrap_or_default()
        .trim()
        .trim_start_matches("error: ")
        .to_owned()
}

impl Filter {
    pub(crate) fn only_branches(&mut self, patterns: impl IntoIterator<Item: AsRef<str>>) {
        Self::add(&mut self.only_branches, &mut self.faults, patterns);
    }

    pub(crate) fn ignore_branches(&mut self, patterns: impl IntoIterator<Item: AsRef<str>>) {
        Self::add(&mut self.ignore_branches, &mut self.faults, patterns);
    }

    pub(crate) fn only_tags(&mut self, patterns: impl IntoIterator<Item: AsRef<str>>) {
        Self::add(&mut self.only_tags, &mut self.faults, patterns);
    }

    fn add(
        list: &mut Vec<Pattern>,
        faults: &mut Vec<FilterError>,
        patterns: impl IntoIterator<Item: AsRef<str>>,
    ) {
        for pattern in patterns {
            match Pattern::parse(pattern.as_ref()) {
                Ok(pattern) => list.push(pattern),
                Err(fault) => faults.push(fault),
            }
        }
    }

    /// What is wrong with the patterns.
    pub(crate) fn faults(&self) -> Vec<FilterError> {
        let mut faults = self.faults.clone();
        let ignored = |name: &str| self.ignore_branches.iter().any(|p| p.matches(name));
        if !self.only_branches.is_empty()
            && self
                .only_branches
                .iter()
                .all(|pattern| matches!(pattern, Pattern::Name(name) if ignored(name)))
        {
            faults.push(FilterError::NeverMatches(names(&self.only_branches)));
        }
        faults
    }

    /// Why a job with this filter does not run, or nothing when it does.
    pub(crate) fn reason_to_skip(&self, facts: &RunFacts) -> Option<String> {
        if let Some(tag) = &facts.tag {
            return if self.only_tags.iter().any(|pattern| pattern.matches(tag)) {
                None
            } else if self.only_tags.is_empty() {
                Some(format!(
                    "the build is for tag {tag}, and the job has no tag filter"
                ))
            } else {
                Some(format!("tag {tag} is not among {}", names(&self.only_tags)))
            };
        }
        let Some(branch) = &facts.branch else {
            return (!self.only_branches.is_empty()).then(|| {
                format!(
                    "the build is of a commit without a branch, and the job runs only for {}",
                    names(&self.only_branches)
                )
            });
        };
        if !self.only_branches.is_empty() {
            return (!self
                .only_branches
                .iter()
                .any(|pattern| pattern.matches(branch)))
            .then(|| {
                format!(
                    "branch {branch} is not among {}",
                    names(&self.only_branches)
                )
            });
        }
        self.ignore_branches
            .iter()
            .find(|pattern| pattern.matches(branch))
            .map(|pattern| format!("branch {branch} is ignored by {}", pattern.text()))
    }
}

fn names(patterns: &[Pattern]) -> String {
    patterns
        .iter()
        .map(Pattern::text)
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(only: &[&str], ignore: &[&str], tags: &[&str]) -> Filter {
        let mut filter = Filter::default();
        filter.only_branches(only);
        filter.ignore_branches(ignore);
        filter.only_tags(tags);
        filter
    }

    fn runs(filter: &Filter, branch: &str) -> bool {
        filter
            .reason_to_skip(&RunFacts::new().with_branch(branch))
            .is_none()
    }

    #[test]
    fn an_expression_must_match_the_whole_name() {
        let release = filter(&["/release-.*/"], &[], &[]);
        assert!(runs(&release, "release-1") && !runs(&release, "my-release-1"));
        assert!(!runs(&filter(&["/a|b/"], &[], &[]), "ab"));
    }

    #[test]
    fn only_decides_when_both_lists_are_given() {
        let both = filter(&["main", "dev"], &["dev", "old"], &[]);
        assert!(runs(&both, "dev") && !runs(&both, "old"));
        assert!(runs(&filter(&[], &["old"], &[]), "new"));
    }

    #[test]
    fn a_tag_needs_a_tag_filter() {
        let facts = RunFacts::new().with_tag("v1.0");
        assert!(filter(&[], &[], &[]).reason_to_skip(&facts).is_some());
        assert!(
            filter(&[], &[], &["/v.*/"])
                .reason_to_skip(&facts)
                .is_none()
        );
    }

    #[test]
    fn useless_filters_are_faults() {
        assert_eq!(filter(&["main"], &["main"], &[]).faults().len(), 1);
        assert!(matches!(
            filter(&["/(/"], &[], &[]).faults()[..],
            [FilterError::NotARegex { .. }]
        ));
        assert_eq!(filter(&[""], &[], &[]).faults(), [FilterError::Empty]);
    }
}
