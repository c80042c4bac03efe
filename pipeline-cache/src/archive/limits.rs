/// How much an archive may take, counted on what comes out, never on what it claims.
///
/// The defaults stop bombs and let every ordinary cache through.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of tar. Default: the size in the entry's description; where that is not known, 8 GiB
    /// or 200 times the payload, whichever is more.
    pub max_bytes: Option<u64>,
    /// Entries. Default: 5 million.
    pub max_entries: u64,
    /// Folders, which are remembered until the end. Default: 250 thousand.
    pub max_folders: u64,
    /// Hard links, likewise. Default: 250 thousand.
    pub max_hard_links: u64,
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

    /// Sets the length of one file.
    #[must_use]
    pub fn with_max_file_length(mut self, bytes: u64) -> Self {
        self.max_file_length = bytes;
        self
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
