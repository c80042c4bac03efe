use super::ArchiveError;
use crate::store::EntryMetadata;

/// What described payloads may grow to, as a multiple. gzip does not reach it, and what zstd packs
/// tighter is padded.
pub(crate) const MAX_RATIO: u64 = 1100;

/// How much an archive may take, counted on what comes out, never on what it claims.
///
/// The defaults stop bombs and let every ordinary cache through.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of tar. Default: the size in the entry's description, but no more than 1 GiB or 1,100
    /// times the payload, whichever is more, which no save goes beyond; where the description does
    /// not know it, 8 GiB or 200 times the payload.
    pub max_bytes: Option<u64>,
    /// Entries. Default: 5 million.
    pub max_entries: u64,
    /// Folders, which are remembered until the end. Default: 250 thousand.
    pub max_folders: u64,
    /// Hard links, likewise. Default: 250 thousand.
    pub max_hard_links: u64,
    /// Bytes of names and attributes of folders and hard links, which are remembered until the
    /// end. Default: 20 MiB.
    pub max_remembered: u64,
    /// Bytes that a zstd stream may refer back to, all of which are kept in memory. Default:
    /// 32 MiB, what `zstd` makes up to level 20; `zstd --long` needs 128 MiB or more.
    pub max_window: u64,
    /// Length of one file with its holes. Default: 1 TiB.
    pub max_file_length: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_bytes: None,
            max_entries: 5_000_000,
            max_folders: 250_000,
            max_hard_links: 250_000,
            max_remembered: 20 << 20,
            max_window: 32 << 20,
            max_file_length: 1 << 40,
        }
    }
}

impl Limits {
    /// Sets the bytes of tar.
    #[must_use]
    pub fn with_max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = Some(bytes);
        self
    }

    /// Sets the entries.
    #[must_use]
    pub fn with_max_entries(mut self, entries: u64) -> Self {
        self.max_entries = entries;
        self
    }

    /// Sets the folders.
    #[must_use]
    pub fn with_max_folders(mut self, folders: u64) -> Self {
        self.max_folders = folders;
        self
    }

    /// Sets the hard links.
    #[must_use]
    pub fn with_max_hard_links(mut self, links: u64) -> Self {
        self.max_hard_links = links;
        self
    }

    /// Sets the bytes of names and attributes that are remembered.
    #[must_use]
    pub fn with_max_remembered(mut self, bytes: u64) -> Self {
        self.max_remembered = bytes;
        self
    }

    /// Sets the bytes that a zstd stream may refer back to. Rounded down to a power of two, from
    /// 1 KiB to 2 GiB.
    #[must_use]
    pub fn with_max_window(mut self, bytes: u64) -> Self {
        self.max_window = bytes;
        self
    }

    /// Sets the length of one file.
    #[must_use]
    pub fn with_max_file_length(mut self, bytes: u64) -> Self {
        self.max_file_length = bytes;
        self
    }

    /// Bytes allowed to come out of so many packed ones, whatever a description says.
    pub(crate) fn bytes_from(&self, packed: u64) -> u64 {
        const FLOOR: u64 = 1 << 30;
        self.max_bytes
            .unwrap_or(FLOOR.max(packed.saturating_mul(MAX_RATIO)))
    }

    /// Refuses a description of more than its payload may become. Nothing is read.
    pub(crate) fn refuse_description(&self, metadata: &EntryMetadata) -> Result<(), ArchiveError> {
        let limit = self.bytes_from(metadata.packed_size);
        if metadata.raw_size > limit {
            let what = "bytes";
            return Err(ArchiveError::TooLarge { what, limit });
        }
        Ok(())
    }

    /// Bytes of tar allowed for a payload.
    pub(crate) fn bytes_for(&self, declared: u64, payload: u64) -> u64 {
        const FLOOR: u64 = 8 << 30;
        self.max_bytes.unwrap_or(match declared {
            0 => FLOOR.max(payload.saturating_mul(200)),
            declared => declared,
        })
    }
}
