use std::io;

use thiserror::Error;

use crate::store::Codec;

/// Why an archive could not be packed or unpacked. Paths in messages are escaped.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// A declared path is not there.
    #[error("{path}: is missing; nothing is stored")]
    Missing {
        /// The declared path.
        path: String,
    },
    /// A declared path holds nothing.
    #[error("{path}: is empty; nothing is stored")]
    Empty {
        /// The declared path.
        path: String,
    },
    /// A declared path cannot be stored.
    #[error("{path}: {problem}")]
    DeclaredPath {
        /// The declared path.
        path: String,
        /// What is wrong and what would be right.
        problem: &'static str,
    },
    /// A file cannot be read.
    #[error("{path}: cannot {action}")]
    Read {
        /// The file.
        path: String,
        /// What was being done.
        action: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file changed while it was read.
    #[error("{path}: changed while it was read; save when nothing writes to it any more")]
    Changed {
        /// The file.
        path: String,
    },
    /// A file or folder has a set-id bit, and [`SetIdBits::Refuse`](super::SetIdBits) was asked
    /// for.
    #[error(
        "{path}: has a set-user-id or set-group-id bit; clear it, or store it with SetIdBits::Clear or Keep"
    )]
    SetId {
        /// The file or folder.
        path: String,
    },
    /// The archive cannot be written.
    #[error("cannot write the archive")]
    Write(#[source] io::Error),
    /// The archive cannot be read from where it is stored.
    #[error("cannot read the archive")]
    Payload(#[source] io::Error),
    /// The codec's feature is off.
    #[error("this build has no {codec} support; turn on the feature of that name")]
    Codec {
        /// The codec.
        codec: Codec,
    },
    /// The format is none that is known.
    #[error("not a tar archive in gzip, zstd or plain")]
    UnknownFormat,
    /// The bytes are not the ones that were stored.
    #[error("damaged: {what}")]
    Damaged {
        /// What does not fit.
        what: String,
    },
    /// The archive is malformed, ambiguous, or would do what an archive may not.
    #[error("unsafe archive: {path}: {reason}")]
    Unsafe {
        /// The entry, or the place in the archive.
        path: String,
        /// Why it is refused.
        reason: Refusal,
    },
    /// The archive goes beyond a limit.
    #[error("archive too large: more than {limit} {what}; raise the limit if it is trusted")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// What is to be stored goes beyond what a restore takes by default.
    #[error("tree too large: more than {limit} {what}; nothing is stored, store it in parts")]
    TreeTooLarge {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// A file or folder has more attributes than any restore takes.
    #[error("{path}: more than {limit} bytes of name and attributes; nothing is stored")]
    Attributes {
        /// The file or folder.
        path: String,
        /// The limit.
        limit: u64,
    },
    /// The destination's file system has no room for the content.
    #[error("{path}: not enough space: the content takes {needed} bytes and {free} are free")]
    NoRoom {
        /// The destination.
        path: String,
        /// What the content takes at least.
        needed: u64,
        /// What is free.
        free: u64,
    },
    /// The destination cannot be written.
    #[error("{path}: cannot {action}")]
    Destination {
        /// File or folder.
        path: String,
        /// What was being done.
        action: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The validator refused what was about to be stored.
    #[error("the validator refused the content, nothing is stored")]
    Validator(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Given up, because nobody waits for it any more.
    #[error("cancelled")]
    Cancelled,
}

/// Why an entry is refused: one variant per lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Nothing at all in it.
    #[error("the archive is empty")]
    EmptyArchive,
    /// Ends in the middle, or without its end mark.
    #[error("the archive is cut off")]
    Truncated,
    /// Something after the end mark.
    #[error("there is data after the end of the archive")]
    TrailingData,
    /// The checksum of a header does not fit.
    #[error("header checksum does not fit")]
    HeaderChecksum,
    /// The header's format mark is unknown.
    #[error("unknown header format")]
    HeaderFormat,
    /// A number in a header is malformed or negative.
    #[error("malformed number in a header")]
    Number,
    /// A PAX header is malformed.
    #[error("malformed PAX header")]
    Pax,
    /// A PAX header says the same thing twice.
    #[error("a PAX header gives the same field twice")]
    PaxDuplicate,
    /// A global PAX header changes entries.
    #[error("a global PAX header changes the entries after it")]
    PaxGlobal,
    /// Two headers disagree about name, target or size.
    #[error("headers of one entry disagree")]
    Disagreement,
    /// An extension header belongs to no entry.
    #[error("extension header without an entry")]
    Dangling,
    /// A NUL inside of a name.
    #[error("name holds a NUL")]
    Nul,
    /// A long name that does not end with a NUL, so that readers take different ends for it.
    #[error("a long name without its end")]
    UnendedName,
    /// No name.
    #[error("empty name")]
    EmptyName,
    /// `..` in a name.
    #[error("name holds ..")]
    Parent,
    /// A name from the root of the file system.
    #[error("absolute name")]
    Absolute,
    /// A name that no file system takes, or that is needlessly deep.
    #[error("name too long or too deep")]
    NameTooLong,
    /// Not below any declared path.
    #[error("outside of the declared paths")]
    OutsideRoots,
    /// A path component is a link or a file.
    #[error("goes through something that is not a folder")]
    ThroughLink,
    /// The same name again, as something else.
    #[error("appears twice as different things")]
    TypeChange,
    /// The same name again where that cannot be.
    #[error("appears twice")]
    Duplicate,
    /// A device, FIFO or socket.
    #[error("devices, FIFOs and sockets are not restored")]
    SpecialFile,
    /// A set-user-id or set-group-id bit, which nobody allowed.
    #[error(
        "has a set-user-id or set-group-id bit; if it is trusted, restore it with SetIdBits::Clear or Keep"
    )]
    SetId,
    /// An entry type that is unknown or makes no sense here.
    #[error("unsupported entry type")]
    EntryType,
    /// A link or folder with content.
    #[error("entry type cannot have content")]
    UnexpectedContent,
    /// A hard link to something that is not an earlier file of the archive.
    #[error("hard link to something that is not a file of the archive")]
    HardLinkTarget,
    /// A sparse map that does not fit its file.
    #[error("sparse map does not fit the file")]
    SparseMap,
    /// A compressed stream that cannot be decoded.
    #[error("the compressed data cannot be decoded")]
    Compression,
    /// The frame index contradicts the frames.
    #[error("the index contradicts the archive")]
    Index,
}

impl ArchiveError {
    /// Whether the stored entry is to blame, so that another one may do.
    #[must_use]
    pub fn is_entrys_fault(&self) -> bool {
        matches!(
            self,
            Self::Damaged { .. }
                | Self::Unsafe { .. }
                | Self::TooLarge { .. }
                | Self::UnknownFormat
        )
    }

    /// Whether it was the reader who chose not to take the entry: by limits, or by what becomes of
    /// set-id bits. Another one may take it, so it stays where it is.
    #[must_use]
    pub fn is_readers_choice(&self) -> bool {
        matches!(
            self,
            Self::TooLarge { .. }
                | Self::Unsafe {
                    reason: Refusal::SetId,
                    ..
                }
        )
    }

    /// Whether no reader could use the entry.
    pub(crate) fn is_for_nobody(&self) -> bool {
        self.is_entrys_fault() && !self.is_readers_choice()
    }

    pub(crate) fn refuse(path: &[u8], reason: Refusal) -> Self {
        Self::Unsafe {
            path: escape(path),
            reason,
        }
    }

    pub(crate) fn read(path: &[u8], action: &'static str, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        if source.kind() == io::ErrorKind::NotFound {
            // It was there when the folder was listed.
            return Self::Changed { path: escape(path) };
        }
        Self::Read {
            path: escape(path),
            action,
            source,
        }
    }

    pub(crate) fn destination(
        path: &[u8],
        action: &'static str,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::Destination {
            path: escape(path),
            action,
            source: source.into(),
        }
    }
}

/// A name on one line, whatever bytes it has. Very long ones are cut.
pub(crate) fn escape(path: &[u8]) -> String {
    const LONGEST: usize = 300;
    let cut = &path[..path.len().min(LONGEST)];
    let mut text = String::new();
    for chunk in cut.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() {
                text.extend(character.escape_default());
            } else {
                text.push(character);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    if cut.len() < path.len() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_on_one_line() {
        assert_eq!(escape(b"a\nb\x1b[31m\xff"), "a\\nb\\u{1b}[31m\\xff");
        assert!(escape(&vec![b'x'; 1000]).len() < 320);
    }
}
