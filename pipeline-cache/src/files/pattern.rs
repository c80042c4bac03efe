use std::ffi::{OsStr, OsString};

use globset::{GlobBuilder, GlobMatcher};

use super::FileSetError;

/// A pattern, cut at its slashes.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    pub(crate) text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug)]
enum Part {
    /// Exactly this name.
    Name(OsString),
    /// `*`, `?` and `[...]` within one name.
    Glob(GlobMatcher),
    /// `**`: any number of folders.
    Folders,
}

/// Where a match has got to: places in the pattern that are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Progress(Vec<usize>);

/// Whether a name means more than itself.
pub(crate) fn is_glob(name: &str) -> bool {
    name.contains(['*', '?', '['])
}

impl Pattern {
    pub(crate) fn new(text: &str) -> Result<Self, FileSetError> {
        let refuse = |problem: &str| FileSetError::Pattern {
            pattern: text.to_owned(),
            problem: problem.to_owned(),
        };
        if text.is_empty() {
            return Err(refuse("it is empty; use . for everything"));
        }
        if text.starts_with('/') {
            return Err(refuse("it is absolute; give it relative to the root"));
        }
        if text.contains('\0') {
            return Err(refuse("it holds a NUL"));
        }
        let mut parts = Vec::new();
        for part in text.split('/').filter(|part| !matches!(*part, "" | ".")) {
            parts.push(match part {
                ".." => return Err(refuse("it holds .., which leaves the root")),
                "**" => Part::Folders,
                name if !is_glob(name) && !name.contains('\\') => Part::Name(name.into()),
                glob => Part::Glob(name_matcher(glob).map_err(|error| refuse(&error))?),
            });
        }
        Ok(Self {
            text: text.to_owned(),
            parts,
        })
    }

    /// Nothing matched yet: the root.
    pub(crate) fn start(&self) -> Progress {
        self.reach(vec![0])
    }

    /// One name further down.
    pub(crate) fn step(&self, from: &Progress, name: &OsStr) -> Progress {
        let mut reached = Vec::new();
        for &at in &from.0 {
            match self.parts.get(at) {
                Some(Part::Folders) => reached.push(at),
                Some(Part::Name(wanted)) if wanted == name => reached.push(at + 1),
                Some(Part::Glob(glob)) if glob.is_match(name) => reached.push(at + 1),
                _ => {}
            }
        }
        self.reach(reached)
    }

    fn reach(&self, mut places: Vec<usize>) -> Progress {
        let mut index = 0;
        while let Some(&at) = places.get(index) {
            // `**` also stands for no folder at all.
            if matches!(self.parts.get(at), Some(Part::Folders)) && !places.contains(&(at + 1)) {
                places.push(at + 1);
            }
            index += 1;
        }
        Progress(places)
    }

    pub(crate) fn is_match(&self, progress: &Progress) -> bool {
        progress.0.contains(&self.parts.len())
    }

    /// Whether something further down may match.
    pub(crate) fn may_go_on(&self, progress: &Progress) -> bool {
        progress.0.iter().any(|at| *at < self.parts.len())
    }
}

fn name_matcher(glob: &str) -> Result<GlobMatcher, String> {
    // Braces are ordinary characters, as they are for hosted CI.
    let mut text = String::with_capacity(glob.len());
    let (mut escaped, mut in_class) = (false, false);
    for character in glob.chars() {
        match character {
            '{' | '}' if !escaped && !in_class => text.extend(['[', character, ']']),
            other => text.push(other),
        }
        in_class = !escaped && (character == '[' || in_class && character != ']');
        escaped = !escaped && character == '\\';
    }
    GlobBuilder::new(&text)
        .literal_separator(true)
        .backslash_escape(true)
        .build()
        .map(|glob| glob.compile_matcher())
        .map_err(|error| error.kind().to_string())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        let pattern = Pattern::new(pattern).unwrap();
        let end = Path::new(path)
            .iter()
            .fold(pattern.start(), |at, name| pattern.step(&at, name));
        pattern.is_match(&end)
    }

    #[test]
    fn stars_stay_within_a_name_and_two_stars_do_not() {
        for (pattern, path, wanted) in [
            (".", "", true),
            ("a/b", "a/b", true),
            ("./a//b/", "a/b", true),
            ("a", "a/b", false),
            ("*.xml", "a.xml", true),
            ("*.xml", ".hidden.xml", true),
            ("*.xml", "a/b.xml", false),
            ("**/*.xml", "b.xml", true),
            ("**/*.xml", "a/b/c.xml", true),
            ("a/**", "a", true),
            ("a/**/z", "a/z", true),
            ("a/**/z", "a/b/c/z", true),
            ("a/**/z", "b/z", false),
            ("**/a/**/b", "x/a/y/b", true),
            ("f?o", "foo", true),
            ("f[a-c]o", "fbo", true),
            ("f[^a-c]o", "fbo", false),
            (r"a\*b", "a*b", true),
            (r"a\*b", "axb", false),
            ("{a,b}", "{a,b}", true),
            ("{a,b}*", "a", false),
        ] {
            assert_eq!(matches(pattern, path), wanted, "{pattern} {path}");
        }
    }

    #[test]
    fn what_leaves_the_root_is_refused_with_the_reason() {
        for (pattern, word) in [
            ("", "empty"),
            ("/etc", "absolute"),
            ("a/../../b", ".."),
            ("a[", "class"),
            ("a\0", "NUL"),
        ] {
            let error = Pattern::new(pattern).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
