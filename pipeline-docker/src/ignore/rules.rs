//! [`IgnoreRules`]: the patterns of an ignore file and what they say about a path.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::go_path::clean;
use super::pattern::Pattern;

/// The longest line that is read, one byte less than the reference's buffer.
const MAX_LINE: usize = 65_535;

/// Why an ignore file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IgnoreError {
    /// The file cannot be read.
    #[error("could not read ignore file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A line is longer than the engine's reader takes.
    #[error("line {line} of the ignore file is too long; at most {MAX_LINE} bytes are read")]
    LineTooLong {
        /// Counted from one.
        line: usize,
    },
    /// A pattern is `!` and nothing else.
    #[error("illegal exclusion pattern: \"!\"; write the path to keep behind it")]
    LoneExclamationMark,
    /// A pattern's syntax is wrong.
    #[error(
        "syntax error in ignore pattern {pattern:?}; escape brackets and backslashes with a backslash"
    )]
    Malformed {
        /// The pattern.
        pattern: String,
    },
}

/// An ordered list of patterns in the syntax of `.dockerignore`.
///
/// The last pattern that matches a path, or one of the folders above it, decides. A pattern that
/// begins with `!` takes a path back in. This follows moby's `patternmatcher`, also where that is
/// surprising: `*.md` is about the root only, `**/*.md` about every folder, and a trailing slash
/// means nothing.
///
/// Paths are relative, separated by `/`, without `./` in front.
///
/// ```
/// use pipeline_docker::ignore::IgnoreRules;
///
/// let rules = IgnoreRules::parse(b"**/*.pyc\nnode_modules\n!node_modules/keep\n")?;
/// assert!(rules.is_ignored("app/cache.pyc")?);
/// assert!(rules.is_ignored("node_modules/left-pad/index.js")?);
/// assert!(!rules.is_ignored("node_modules/keep/index.js")?);
/// # Ok::<(), pipeline_docker::ignore::IgnoreError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct IgnoreRules {
    patterns: Vec<Pattern>,
    exceptions: bool,
}

/// Which patterns matched a folder, needed for what lies below it.
#[derive(Debug, Clone, Default)]
pub(crate) struct FolderMatch(Vec<bool>);

impl IgnoreRules {
    /// Reads the text of an ignore file.
    ///
    /// # Errors
    /// A line that is too long or a pattern that is malformed makes the whole file unusable.
    pub fn parse(file: &[u8]) -> Result<Self, IgnoreError> {
        Self::from_patterns(read_lines(file)?)
    }

    /// Reads an ignore file.
    ///
    /// # Errors
    /// As for [`parse`](Self::parse), or the file cannot be read.
    pub fn read(path: &Path) -> Result<Self, IgnoreError> {
        let file = fs::read(path).map_err(|source| IgnoreError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&file)
    }

    /// Takes patterns as they stand, one each.
    ///
    /// # Errors
    /// A malformed pattern.
    pub fn from_patterns<I>(patterns: I) -> Result<Self, IgnoreError>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut list = Vec::new();
        for pattern in patterns {
            list.extend(Pattern::new(pattern.as_ref())?);
        }
        let exceptions = list.iter().any(Pattern::is_exception);
        Ok(Self {
            patterns: list,
            exceptions,
        })
    }

    /// Whether there is no pattern at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether `path` is left out, judged by itself and the folders above it.
    ///
    /// The walk of a [`BuildContext`](crate::context::BuildContext) is what a build sees. It differs
    /// where a later exception names a folder that nothing left out: after `a/b` and `!a`, a build
    /// does not get `a/b`, this answers that it is kept. Both are as in moby.
    ///
    /// # Errors
    /// A pattern that passed the first check turns out to be malformed when it is tried.
    pub fn is_ignored(&self, path: &str) -> Result<bool, IgnoreError> {
        let mut ignored = false;
        for pattern in &self.patterns {
            // A pattern that could not change the answer is not tried.
            if pattern.is_exception() == ignored && matches_with_parents(pattern, path)? {
                ignored = !pattern.is_exception();
            }
        }
        Ok(ignored)
    }

    /// The same during a walk, with what is known about the folder above.
    ///
    /// What matched the folder counts for everything below it.
    pub(crate) fn judge(
        &self,
        path: &str,
        parent: Option<&FolderMatch>,
    ) -> Result<(bool, FolderMatch), IgnoreError> {
        let mut ignored = false;
        let mut found = vec![false; self.patterns.len()];
        for (place, pattern) in self.patterns.iter().enumerate() {
            let mut matched =
                parent.is_some_and(|parent| parent.0.get(place).copied().unwrap_or(false));
            if !matched {
                if pattern.is_exception() != ignored {
                    continue;
                }
                matched = match parent {
                    Some(_) => pattern.is_match(path)?,
                    None => matches_with_parents(pattern, path)?,
                };
            }
            if matched {
                if let Some(slot) = found.get_mut(place) {
                    *slot = true;
                }
                ignored = !pattern.is_exception();
            }
        }
        Ok((ignored, FolderMatch(found)))
    }

    /// Whether an ignored folder may hold something that is taken back in, by the rule of the
    /// command line client: the text of an exception begins with the folder.
    pub(crate) fn may_reenter_classic(&self, folder: &str) -> bool {
        self.exceptions_reach(folder, Pattern::text)
    }

    /// The same by the rule of BuildKit: with a wildcard in any exception everything is walked.
    pub(crate) fn may_reenter_buildkit(&self, folder: &str) -> bool {
        if !self.exceptions {
            return false;
        }
        let wildcard = self.patterns.iter().any(|pattern| {
            pattern.is_exception()
                && pattern
                    .without_trailing_glob()
                    .contains(['*', '[', ']', '?', '^', '\\'])
        });
        wildcard || self.exceptions_reach(folder, Pattern::without_trailing_glob)
    }

    fn exceptions_reach(&self, folder: &str, text: impl Fn(&Pattern) -> &str) -> bool {
        self.exceptions
            && self
                .patterns
                .iter()
                .filter(|pattern| pattern.is_exception())
                .any(|pattern| {
                    text(pattern)
                        .strip_prefix(folder)
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                })
    }
}

fn matches_with_parents(pattern: &Pattern, path: &str) -> Result<bool, IgnoreError> {
    if pattern.is_match(path)? {
        return Ok(true);
    }
    for (end, _) in path.match_indices('/') {
        if pattern.is_match(path.get(..end).unwrap_or_default())? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The patterns in a file, as the engine's reader finds them.
fn read_lines(file: &[u8]) -> Result<Vec<String>, IgnoreError> {
    const BYTE_ORDER_MARK: &[u8] = &[0xef, 0xbb, 0xbf];
    let mut patterns = Vec::new();
    for (number, line) in file.split(|byte| *byte == b'\n').enumerate() {
        if line.len() > MAX_LINE {
            return Err(IgnoreError::LineTooLong { line: number + 1 });
        }
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = if number == 0 {
            line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line)
        } else {
            line
        };
        // Only in the first column; behind blanks it is part of a pattern.
        if line.first() == Some(&b'#') {
            continue;
        }
        let text = String::from_utf8_lossy(line);
        let text = text.trim();
        if text.is_empty() {
            continue;
        }
        let (mark, path) = match text.strip_prefix('!') {
            Some(rest) => ("!", rest.trim()),
            None => ("", text),
        };
        let mut path = if path.is_empty() {
            String::new()
        } else {
            clean(path)
        };
        if path.len() > 1 && path.starts_with('/') {
            path.remove(0);
        }
        patterns.push(format!("{mark}{path}"));
    }
    Ok(patterns)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Lines of parts that matter to the matcher.
    fn lines() -> impl Strategy<Value = String> {
        let part = prop::sample::select(vec![
            "a", "b", "ab", "*", "**", "?", "a*", "*b", "**a", "a**", "[ab]", "[^a]", "\\a", "..",
            ".", "[a*b]", "é",
        ]);
        let line = (any::<bool>(), prop::collection::vec(part, 1..4))
            .prop_map(|(not, parts)| format!("{}{}", if not { "!" } else { "" }, parts.join("/")));
        prop::collection::vec(line, 0..5).prop_map(|lines| lines.join("\n"))
    }

    /// What a walk down to `path` says.
    fn walked(rules: &IgnoreRules, path: &str) -> bool {
        let mut parent = None;
        for (end, _) in path.match_indices('/') {
            parent = Some(rules.judge(&path[..end], parent.as_ref()).unwrap().1);
        }
        rules.judge(path, parent.as_ref()).unwrap().0
    }

    /// An exception that changes nothing about a folder is not tried there, so a walk does not know
    /// below that it would have matched. The engine's builds show the same.
    #[test]
    fn a_walk_may_ignore_what_a_question_does_not() {
        let rules = IgnoreRules::parse(b"ab/ab\n!ab").unwrap();
        assert!(walked(&rules, "ab/ab") && !rules.is_ignored("ab/ab").unwrap());
    }

    proptest! {
        /// Without exceptions, knowing what matched the folder above changes nothing.
        #[test]
        fn walks_and_questions_agree(file in lines(), path in "(a|b|ab|é)(/(a|b|ab|é)){0,3}") {
            let rules = IgnoreRules::parse(file.replace('!', "").as_bytes()).unwrap();
            prop_assert_eq!(walked(&rules, &path), rules.is_ignored(&path).unwrap());
        }

        /// Whatever is in an ignore file, the answer is an answer or an error.
        #[test]
        fn nothing_panics(file in prop::collection::vec(any::<u8>(), 0..200), path in ".{0,40}") {
            if let Ok(rules) = IgnoreRules::parse(&file) {
                let _ = rules.is_ignored(&path);
            }
        }

        #[test]
        fn no_pattern_panics(file in r"[\[\]\\^!*?a-z0-9{}()|.:,-]{0,30}", path in "[a-z0-9/.]{0,20}") {
            if let Ok(rules) = IgnoreRules::parse(file.as_bytes()) {
                let _ = rules.is_ignored(&path);
            }
        }
    }

    fn ignored(file: &str, path: &str) -> bool {
        IgnoreRules::parse(file.as_bytes())
            .unwrap()
            .is_ignored(path)
            .unwrap()
    }

    #[test]
    fn reading() {
        let lines = |text: &str| read_lines(text.as_bytes()).unwrap();
        assert_eq!(
            lines("\u{feff}a\r\n#x\n # x\n\n\u{a0} b \u{b}\n! ./c//d/ \n/e\n/\n!\n"),
            ["a", "# x", "b", "!c/d", "e", "/", "!"]
        );
        assert_eq!(lines("a\n\u{feff}b"), ["a", "\u{feff}b"]);
        assert_eq!(lines("a\rb\r\r\n"), ["a\rb"]);
        assert_eq!(lines("\\#a\n\\!b"), ["\\#a", "\\!b"]);
        assert!(read_lines(&vec![b'a'; 65_535]).is_ok());
        assert!(matches!(
            read_lines(&vec![b'a'; 65_536]),
            Err(IgnoreError::LineTooLong { line: 1 })
        ));
    }

    #[test]
    fn wildcards() {
        for (pattern, path, expected) in [
            ("*.md", "a.md", true),
            ("*.md", "d/a.md", false),
            ("**/*.md", "a.md", true),
            ("**/*.md", "d/e/a.md", true),
            ("node_modules", "node_modules/x/y", true),
            ("node_modules", "d/node_modules", false),
            ("**/node_modules", "d/node_modules/x", true),
            ("dir/**", "dir", false),
            ("dir/**", "dir/x/y", true),
            ("**foo", "a/xfoo", true),
            ("**/foo", "a/xfoo", false),
            ("foo**", "foobar/x", true),
            ("**.txt", "a/foo/x.txt/b", true),
            ("a?c", "a/c", false),
            ("a?c", "aéc", true),
            ("[!a]", "!", true),
            ("[^a]", "b", true),
            ("a/*/c", "a/b/c", true),
            ("a/*/c", "a/b/b/c", false),
            ("a.b+c", "a.b+c", true),
            ("a.b", "axb", false),
            ("{a,b}", "a", false),
            ("A", "a", false),
            ("dir/", "dir", true),
            ("./x", "x", true),
            (".", "x", false),
            ("**", "x/y", true),
            ("[a*b]", "[", false),
            ("[a*b]", "a*b]", false),
            ("[a*b]", "ab]", true),
        ] {
            assert_eq!(ignored(pattern, path), expected, "{pattern} on {path}");
        }
    }

    #[test]
    fn order_decides() {
        let file = "*\n!docs\ndocs/*.tmp\n!docs/keep.tmp";
        assert!(ignored(file, "a"));
        assert!(!ignored(file, "docs/a.md"));
        assert!(ignored(file, "docs/a.tmp"));
        assert!(!ignored(file, "docs/keep.tmp"));
    }

    #[test]
    fn errors_of_the_whole_file() {
        for bad in ["[", "a\n[]a]", "[-]", "[a-]", "\\", "!", "!/"] {
            assert!(IgnoreRules::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        // Passes the first check and fails at the first match.
        let late = IgnoreRules::parse(b"[Local-Only]").unwrap();
        assert!(matches!(
            late.is_ignored("x"),
            Err(IgnoreError::Malformed { .. })
        ));
    }

    #[test]
    fn walk_and_single_question_agree() {
        let rules = IgnoreRules::parse(b"*\n!a/b\na/b/*.o\n!**/k.o").unwrap();
        for path in ["a/b/c", "a/b/x.o", "a/b/k.o", "a/z", "k.o"] {
            assert_eq!(
                walked(&rules, path),
                rules.is_ignored(path).unwrap(),
                "{path}"
            );
        }
    }

    #[test]
    fn entering_ignored_folders() {
        let rules = IgnoreRules::parse(b"*\n!src/app/*\n").unwrap();
        assert!(rules.may_reenter_classic("src") && rules.may_reenter_buildkit("src/app"));
        assert!(!rules.may_reenter_classic("srcs") && !rules.may_reenter_buildkit("docs"));
        let wild = IgnoreRules::parse(b"*\n!**/*.md\n").unwrap();
        assert!(!wild.may_reenter_classic("docs") && wild.may_reenter_buildkit("docs"));
    }
}
