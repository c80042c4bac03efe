//! Declared paths: what a cache holds and where it goes back to.

use std::path::{Path, PathBuf};

use super::ArchiveError;

/// One declared path, normalised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredPath {
    text: String,
}

impl DeclaredPath {
    /// Normalises a path by its text alone: `./a//b/` is `a/b`.
    ///
    /// # Errors
    /// `..`, an empty text, or the root of the file system.
    pub fn new(text: &str) -> Result<Self, ArchiveError> {
        let refuse = |problem| ArchiveError::DeclaredPath {
            path: super::archive_error::escape(text.as_bytes()),
            problem,
        };
        if text.is_empty() {
            return Err(refuse("a declared path cannot be empty"));
        }
        if text.contains('\0') {
            return Err(refuse("a declared path cannot hold a NUL"));
        }
        let parts: Vec<&str> = text
            .split('/')
            .filter(|part| !part.is_empty() && *part != ".")
            .collect();
        if parts.contains(&"..") {
            return Err(refuse(
                "declared paths cannot hold ..; give it as an absolute path",
            ));
        }
        let joined = parts.join("/");
        let text = match (text.starts_with('/'), joined.is_empty()) {
            (true, true) => return Err(refuse("the root of the file system cannot be cached")),
            (true, false) => format!("/{joined}"),
            (false, true) => ".".to_owned(),
            (false, false) => joined,
        };
        Ok(Self { text })
    }

    /// The normalised text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether this is an absolute path.
    #[must_use]
    pub fn is_absolute(&self) -> bool {
        self.text.starts_with('/')
    }

    /// Whether this is the working folder itself.
    #[must_use]
    pub fn is_working_folder(&self) -> bool {
        self.text == "."
    }

    /// Where it is on disk.
    #[must_use]
    pub fn locate(&self, working_folder: &Path) -> PathBuf {
        // `join` takes an absolute path as it is.
        working_folder.join(&self.text)
    }

    /// How its entries are named in an archive, where names are relative; empty for `.`.
    pub(crate) fn archived(&self) -> &[u8] {
        match self.text.as_str() {
            "." => b"",
            text => text.trim_start_matches('/').as_bytes(),
        }
    }
}

/// Several declared paths that do not overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredPaths(Vec<DeclaredPath>);

impl DeclaredPaths {
    /// Normalises, sorts, and drops paths that lie inside others.
    ///
    /// # Errors
    /// Those of [`DeclaredPath::new`], no path at all, or an absolute and a relative path that
    /// would have the same name in an archive.
    pub fn new<S: AsRef<str>>(paths: impl IntoIterator<Item = S>) -> Result<Self, ArchiveError> {
        let mut declared = paths
            .into_iter()
            .map(|path| DeclaredPath::new(path.as_ref()))
            .collect::<Result<Vec<_>, _>>()?;
        declared.sort_by(|a, b| a.archived().cmp(b.archived()));
        let mut kept: Vec<DeclaredPath> = Vec::new();
        for path in declared {
            match kept
                .iter()
                .find(|outer| is_below(path.archived(), outer.archived()))
            {
                None => kept.push(path),
                Some(outer) if outer.is_absolute() == path.is_absolute() => {}
                Some(_) => {
                    return Err(ArchiveError::DeclaredPath {
                        path: path.text,
                        problem: "an absolute and a relative declared path overlap by name; \
                                  use two entries",
                    });
                }
            }
        }
        if kept.is_empty() {
            return Err(ArchiveError::DeclaredPath {
                path: String::new(),
                problem: "no path was declared",
            });
        }
        Ok(Self(kept))
    }

    /// One path alone.
    pub(crate) fn only(path: DeclaredPath) -> Self {
        Self(vec![path])
    }

    /// The paths, sorted.
    #[must_use]
    pub fn as_slice(&self) -> &[DeclaredPath] {
        &self.0
    }
}

/// Whether a name is another one or below it. Everything is below the empty name.
pub(crate) fn is_below(name: &[u8], outer: &[u8]) -> bool {
    outer.is_empty()
        || name
            .strip_prefix(outer)
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(paths: &[&str]) -> Vec<String> {
        DeclaredPaths::new(paths)
            .unwrap()
            .as_slice()
            .iter()
            .map(|path| path.as_str().to_owned())
            .collect()
    }

    #[test]
    fn normalised_sorted_and_without_nesting() {
        assert_eq!(texts(&["./venv//", "a/b", "a", "a"]), ["a", "venv"]);
        assert_eq!(texts(&["ab", "a"]), ["a", "ab"]);
        assert_eq!(texts(&[".", "a"]), ["."]);
        assert_eq!(texts(&["/x/y/", "z"]), ["/x/y", "z"]);
    }

    #[test]
    fn what_cannot_be_restored_is_refused() {
        for bad in ["", "..", "a/../b", "/", "a\0b"] {
            assert!(DeclaredPath::new(bad).is_err(), "{bad:?}");
        }
        assert!(DeclaredPaths::new(["/home/u", "home"]).is_err());
        assert!(DeclaredPaths::new(Vec::<String>::new()).is_err());
    }
}
