use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{InvalidKey, TemplateError};
use crate::files::FileSetError;

/// Why a template could not be rendered.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The template itself is wrong.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// A file of `checksum` is not there.
    #[error(
        "checksum input {path:?} does not exist (looked for {located:?}); \
         without it there is no key, and nothing is cached"
    )]
    ChecksumMissing {
        /// As written in the template.
        path: String,
        /// Where it was looked for.
        located: PathBuf,
    },
    /// A file of `checksum` cannot be read.
    #[error("cannot read checksum input {path:?}")]
    ChecksumUnreadable {
        /// As written in the template.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A path starts with `~`, and the context knows no home folder.
    #[error("checksum input {path:?} starts with ~, but no home folder was given")]
    NoHome {
        /// As written in the template.
        path: String,
    },
    /// A name is neither a file nor a pattern.
    #[error("checksum input {path:?} does not exist, and is no pattern either")]
    ChecksumPattern {
        /// As written in the template.
        path: String,
        /// What is wrong with it.
        #[source]
        source: FileSetError,
    },
    /// The context does not hold a fact that the template asks for.
    #[error("the key asks for {{{{ {action} }}}}, which was not given")]
    MissingFact {
        /// The action, for example `.Revision`.
        action: String,
    },
    /// The rendered text is not a key.
    #[error("template {template:?} gives no usable key")]
    InvalidKey {
        /// The template.
        template: String,
        /// What is wrong with the text.
        #[source]
        source: InvalidKey,
    },
}

/// What kind of trouble a [`KeyError`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum KeyErrorKind {
    /// The template is wrong.
    Template,
    /// A file of `checksum` is not there.
    ChecksumMissing,
    /// A file of `checksum` cannot be read, or found.
    ChecksumUnreadable,
    /// A fact was not given.
    MissingFact,
    /// The text is no key.
    InvalidKey,
}

impl KeyError {
    /// What kind of trouble this is.
    #[must_use]
    pub fn kind(&self) -> KeyErrorKind {
        match self {
            Self::Template(_) => KeyErrorKind::Template,
            Self::ChecksumMissing { .. } | Self::ChecksumPattern { .. } => {
                KeyErrorKind::ChecksumMissing
            }
            Self::ChecksumUnreadable { .. } => KeyErrorKind::ChecksumUnreadable,
            Self::NoHome { .. } | Self::MissingFact { .. } => KeyErrorKind::MissingFact,
            Self::InvalidKey { .. } => KeyErrorKind::InvalidKey,
        }
    }

    /// The file that it is about, as written in the template.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        match self {
            Self::ChecksumMissing { path, .. }
            | Self::ChecksumUnreadable { path, .. }
            | Self::ChecksumPattern { path, .. }
            | Self::NoHome { path } => Some(path),
            Self::Template(_) | Self::MissingFact { .. } | Self::InvalidKey { .. } => None,
        }
    }
}
