//! [`BuildContext`]: what a build of a folder is given.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::ignore::{
    IgnoreError, IgnoreRule, IgnoreRules, TreeEntry, TreeKind, WalkError, read_entry, walk,
};
use crate::tar_stream::{Entry, EntryError, EntryKind, TarStream};

/// A folder as the context of a build.
///
/// ```
/// use pipeline_docker::context::BuildContext;
///
/// # let dir = tempfile::tempdir()?;
/// # std::fs::write(dir.path().join("Dockerfile"), "FROM scratch\n")?;
/// # std::fs::write(dir.path().join(".dockerignore"), "*.log\n")?;
/// # std::fs::write(dir.path().join("debug.log"), "")?;
/// let files = BuildContext::new(dir.path()).scan()?;
/// assert_eq!(files.paths(), [".dockerignore", "Dockerfile"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BuildContext {
    /// The folder.
    pub root: PathBuf,
    /// The Dockerfile, relative to the folder; default `Dockerfile`.
    pub dockerfile: PathBuf,
    /// The ignore file. Default: by the rule of BuildKit `<Dockerfile>.dockerignore` beside the
    /// Dockerfile where it exists, else `.dockerignore` in the folder; a missing one ignores
    /// nothing.
    pub ignore_file: Option<PathBuf>,
    /// Whose way through ignored folders is followed; default BuildKit's.
    pub rule: IgnoreRule,
}

/// Why a context cannot be read or sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContextError {
    /// A file or folder cannot be read.
    #[error("could not read {} of the build context", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file changed its length or vanished after it was listed.
    #[error("{} changed while the build context was being sent; build again when nothing writes there", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The ignore file cannot be used.
    #[error("could not use the ignore file")]
    Ignore(#[source] IgnoreError),
    /// The receiver refused the bytes.
    #[error("could not send the build context")]
    Write(#[source] io::Error),
}

/// Everything in a context, sorted by path.
#[derive(Debug)]
pub struct ContextFiles {
    entries: Vec<TreeEntry>,
    /// The Dockerfile and the ignore file when the rules leave them out: an engine needs them all
    /// the same and drops them itself.
    helpers: Vec<TreeEntry>,
}

impl BuildContext {
    /// The context of `root` with the defaults.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            dockerfile: PathBuf::from("Dockerfile"),
            ignore_file: None,
            rule: IgnoreRule::default(),
        }
    }

    /// Sets the Dockerfile, relative to the folder.
    #[must_use]
    pub fn with_dockerfile(mut self, path: impl Into<PathBuf>) -> Self {
        self.dockerfile = path.into();
        self
    }

    /// Sets the ignore file, which must exist then.
    #[must_use]
    pub fn with_ignore_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ignore_file = Some(path.into());
        self
    }

    /// Sets whose way through ignored folders is followed.
    #[must_use]
    pub const fn with_rule(mut self, rule: IgnoreRule) -> Self {
        self.rule = rule;
        self
    }

    /// The ignore file that counts, if there is one.
    #[must_use]
    pub fn found_ignore_file(&self) -> Option<PathBuf> {
        if let Some(path) = &self.ignore_file {
            return Some(path.clone());
        }
        let mut own = self.root.join(&self.dockerfile).into_os_string();
        own.push(".dockerignore");
        let own = PathBuf::from(own);
        if self.rule == IgnoreRule::Buildkit && own.is_file() {
            return Some(own);
        }
        let shared = self.root.join(".dockerignore");
        shared.is_file().then_some(shared)
    }

    /// Reads the ignore file and walks the folder. Ignored folders that nothing is taken back in
    /// from are not entered.
    ///
    /// # Errors
    /// See [`ContextError`].
    pub fn scan(&self) -> Result<ContextFiles, ContextError> {
        let rules = match self.found_ignore_file() {
            Some(path) => IgnoreRules::read(&path).map_err(ContextError::Ignore)?,
            None => IgnoreRules::default(),
        };
        let mut entries = walk(&self.root, &rules, self.rule).map_err(fail)?;
        // A socket is a meeting point of running programs, nothing that can be sent.
        entries.retain(|entry| entry.kind != TreeKind::Special("socket"));
        let mut helpers = Vec::new();
        for path in [Path::new(".dockerignore"), &self.dockerfile] {
            let bytes = path.as_os_str().as_bytes().to_vec();
            let full = self.root.join(path);
            let known = entries
                .binary_search_by(|entry| entry.path.cmp(&bytes))
                .is_ok();
            if !known && full.is_file() {
                helpers.push(read_entry(full, bytes).map_err(fail)?);
            }
        }
        Ok(ContextFiles { entries, helpers })
    }
}

impl ContextFiles {
    /// The paths that the build sees, sorted; folders end with a slash.
    ///
    /// Bytes that are no text are replaced.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        let mut paths: Vec<String> = self
            .entries
            .iter()
            .map(|entry| {
                let mut path = String::from_utf8_lossy(&entry.path).into_owned();
                if entry.kind == TreeKind::Folder {
                    path.push('/');
                }
                path
            })
            .collect();
        paths.sort_unstable();
        paths
    }

    /// Bytes of all files.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.entries.iter().map(|entry| entry.size).sum()
    }

    /// How many files, folders and links there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the build sees nothing at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The files of at least `bytes`, largest first: what one may have forgotten to ignore.
    #[must_use]
    pub fn large_files(&self, bytes: u64) -> Vec<(String, u64)> {
        let mut large: Vec<(String, u64)> = self
            .entries
            .iter()
            .filter(|entry| entry.kind == TreeKind::File && entry.size >= bytes)
            .map(|entry| {
                (
                    String::from_utf8_lossy(&entry.path).into_owned(),
                    entry.size,
                )
            })
            .collect();
        large.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        large
    }

    /// Writes the tar that an engine builds from: sorted, without times and owners, modes as on
    /// disk. Equal trees give equal bytes. Memory does not grow with the size of files.
    ///
    /// The Dockerfile and `.dockerignore` are always in it: an engine needs them, and drops them
    /// itself where they are ignored.
    ///
    /// # Errors
    /// See [`ContextError`]. What was written so far is no complete archive then.
    pub fn write_tar<W: Write>(&self, sink: W) -> Result<W, ContextError> {
        let mut all: Vec<&TreeEntry> = self.entries.iter().chain(&self.helpers).collect();
        all.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let mut stream = TarStream::new(sink);
        for entry in all {
            let mut content: Box<dyn Read> = Box::new(io::empty());
            let kind = match &entry.kind {
                TreeKind::Folder => EntryKind::Folder,
                TreeKind::Symlink(target) => EntryKind::Symlink(target),
                TreeKind::File => {
                    content = Box::new(
                        File::open(&entry.full).map_err(|source| gone(&entry.full, source))?,
                    );
                    EntryKind::File(entry.size)
                }
                TreeKind::Special(_) => {
                    let source = io::Error::other("it is neither file, folder nor link; ignore it");
                    return Err(ContextError::Read {
                        path: entry.full.clone(),
                        source,
                    });
                }
            };
            let head = Entry {
                path: &entry.path,
                kind,
                mode: entry.mode,
                uid: 0,
                gid: 0,
                mtime: 0,
            };
            stream
                .entry(&head, content.as_mut(), &|| true)
                .map_err(|error| match error {
                    EntryError::Write(source) => ContextError::Write(source),
                    EntryError::Read(source) => ContextError::Read {
                        path: entry.full.clone(),
                        source,
                    },
                    EntryError::Changed => ContextError::Changed {
                        path: entry.full.clone(),
                    },
                })?;
        }
        stream.finish().map_err(ContextError::Write)
    }
}

fn gone(path: &Path, source: io::Error) -> ContextError {
    if source.kind() == io::ErrorKind::NotFound {
        ContextError::Changed {
            path: path.to_owned(),
        }
    } else {
        ContextError::Read {
            path: path.to_owned(),
            source,
        }
    }
}

fn fail(error: WalkError) -> ContextError {
    match error {
        WalkError::Io { path, source } => ContextError::Read { path, source },
        WalkError::Ignore(source) => ContextError::Ignore(source),
    }
}
