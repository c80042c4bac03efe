//! [`LayerSpec`]: what one layer holds.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One layer: a folder or file that is copied, paths that are removed, or both.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LayerSpec {
    /// What to copy from where to where, in any order.
    pub copies: Vec<CopySpec>,
    /// Paths of lower layers that are gone from this one on.
    pub removed: Vec<String>,
    /// The modification time of everything in it, in seconds since 1970; default 0.
    ///
    /// Time stamps of the files do not count, so that equal content gives equal layers. Compiled
    /// Python files that compare time stamps are stale then: leave `__pycache__` out or compile
    /// with unchecked hashes.
    pub mtime: u64,
    /// What the image's history says about it; default a description of the copies.
    pub comment: Option<String>,
}

impl LayerSpec {
    /// A folder's content, or one file, copied to `dest`.
    ///
    /// A file goes to `dest` itself, or into it when `dest` ends with a slash.
    #[must_use]
    pub fn copy(source: impl Into<PathBuf>, dest: impl Into<String>) -> Self {
        Self {
            copies: vec![CopySpec::new(source, dest)],
            ..Self::default()
        }
    }

    /// Adds something to copy.
    #[must_use]
    pub fn with_copy(mut self, copy: CopySpec) -> Self {
        self.copies.push(copy);
        self
    }

    /// Adds a path of lower layers that is gone from this layer on.
    #[must_use]
    pub fn with_removed(mut self, path: impl Into<String>) -> Self {
        self.removed.push(path.into());
        self
    }

    /// Sets the modification time of everything in it, in seconds since 1970.
    #[must_use]
    pub const fn with_mtime(mut self, seconds: u64) -> Self {
        self.mtime = seconds;
        self
    }

    /// Sets what the image's history says about it.
    #[must_use]
    pub fn with_comment(mut self, comment: impl Into<String>) -> Self {
        self.comment = Some(comment.into());
        self
    }

    /// Leaves paths out of every copy so far; see [`CopySpec::exclude`].
    #[must_use]
    pub fn with_exclude<I>(mut self, patterns: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let patterns: Vec<String> = patterns.into_iter().map(Into::into).collect();
        for copy in &mut self.copies {
            copy.exclude.extend(patterns.iter().cloned());
        }
        self
    }

    /// Sets the owner of every copy so far.
    #[must_use]
    pub fn with_owner(mut self, owner: Owner) -> Self {
        for copy in &mut self.copies {
            copy.owner = owner;
        }
        self
    }

    /// Sets the mode rule of every copy so far.
    #[must_use]
    pub fn with_modes(mut self, modes: ModeRule) -> Self {
        for copy in &mut self.copies {
            copy.modes = modes;
        }
        self
    }
}

/// Something to copy into a layer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CopySpec {
    /// A folder, whose content is copied, or a file.
    pub source: PathBuf,
    /// Where it goes: an absolute path in the image.
    pub dest: String,
    /// Whom it belongs to; default user and group 0.
    pub owner: Owner,
    /// Which modes it gets; default [`ModeRule::Normalised`].
    pub modes: ModeRule,
    /// What is left out: patterns as in `.dockerignore`, relative to the source; default nothing.
    pub exclude: Vec<String>,
}

impl CopySpec {
    /// A folder's content or a file, with the defaults.
    #[must_use]
    pub fn new(source: impl Into<PathBuf>, dest: impl Into<String>) -> Self {
        Self {
            source: source.into(),
            dest: dest.into(),
            ..Self::default()
        }
    }

    /// Sets the owner.
    #[must_use]
    pub const fn with_owner(mut self, owner: Owner) -> Self {
        self.owner = owner;
        self
    }

    /// Sets the mode rule.
    #[must_use]
    pub const fn with_modes(mut self, modes: ModeRule) -> Self {
        self.modes = modes;
        self
    }

    /// Adds a pattern of what is left out.
    #[must_use]
    pub fn with_exclude(mut self, pattern: impl Into<String>) -> Self {
        self.exclude.push(pattern.into());
        self
    }
}

/// Numbers of a user and a group. Names would need the base's list of users.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
}

/// Which modes files and folders get in a layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ModeRule {
    /// 0755 for folders and for files that anybody may execute, 0644 for other files. Does not
    /// depend on the umask with which the files were made.
    #[default]
    Normalised,
    /// As on disk, set-user-id and sticky bits included.
    Keep,
    /// The same for all.
    Fixed {
        /// For folders.
        folder: u32,
        /// For files.
        file: u32,
    },
}
