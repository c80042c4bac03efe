use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::listing::{self, Listing};
use super::pattern::Pattern;

/// Files below a folder, chosen by patterns.
///
/// `*`, `?` and `[...]` stay within one name, `**` stands for any number of folders; names that
/// start with a dot are names like any other. A pattern that matches a folder takes everything in
/// it. Links are taken as links and never followed.
///
/// ```
/// use pipeline_cache::files::FileSet;
///
/// let sources = FileSet::new(["src", "**/*.toml"])?.without(["**/target"])?;
/// assert_eq!(sources.to_string(), "src **/*.toml without **/target");
/// assert!(FileSet::new(["../elsewhere"]).is_err());
/// # Ok::<(), pipeline_cache::files::FileSetError>(())
/// ```
#[derive(Clone, Debug)]
pub struct FileSet {
    pub(super) patterns: Vec<Pattern>,
    pub(super) excluded: Vec<Pattern>,
}

/// Why files cannot be chosen.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FileSetError {
    /// A pattern that cannot match below a folder.
    #[error("pattern {pattern:?} cannot be used: {problem}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// There is no pattern at all.
    #[error("no pattern was given")]
    NoPattern,
    /// A file or folder cannot be looked at.
    #[error("cannot {action} {path:?}")]
    Read {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl FileSet {
    /// Everything that one of the patterns matches. Patterns are relative to a folder that is
    /// named where the set is used.
    ///
    /// # Errors
    /// No pattern, or one that is absolute, holds `..`, or is malformed.
    pub fn new<S: AsRef<str>>(patterns: impl IntoIterator<Item = S>) -> Result<Self, FileSetError> {
        let patterns = parse(patterns)?;
        if patterns.is_empty() {
            return Err(FileSetError::NoPattern);
        }
        Ok(Self {
            patterns,
            excluded: Vec::new(),
        })
    }

    /// Leaves out what these match, with everything below.
    ///
    /// # Errors
    /// As for [`new`](Self::new); no pattern at all is fine here.
    pub fn without<S: AsRef<str>>(
        mut self,
        patterns: impl IntoIterator<Item = S>,
    ) -> Result<Self, FileSetError> {
        self.excluded.extend(parse(patterns)?);
        Ok(self)
    }

    /// Lists what there is. Blocks.
    pub(crate) fn list(&self, root: &Path) -> Result<Listing, FileSetError> {
        listing::list(self, root)
    }
}

fn parse<S: AsRef<str>>(
    patterns: impl IntoIterator<Item = S>,
) -> Result<Vec<Pattern>, FileSetError> {
    patterns
        .into_iter()
        .map(|pattern| Pattern::new(pattern.as_ref()))
        .collect()
}

/// The patterns as given.
impl fmt::Display for FileSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts = |patterns: &[Pattern]| {
            let texts: Vec<&str> = patterns.iter().map(|p| p.text.as_str()).collect();
            texts.join(" ")
        };
        f.write_str(&texts(&self.patterns))?;
        if !self.excluded.is_empty() {
            write!(f, " without {}", texts(&self.excluded))?;
        }
        Ok(())
    }
}
