/// What becomes of set-user-id and set-group-id bits.
///
/// Owners are not kept, so such a file would run as whoever restored it. The sticky bit is always
/// left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SetIdBits {
    /// An entry that has one is an error, and nothing is stored or restored.
    Refuse,
    /// Left out; everything else of the entry is kept.
    Clear,
    /// Kept. Only for trees, and archives, that are trusted.
    Keep,
}

/// The bits.
pub(crate) const SET_ID: u32 = 0o6000;

impl SetIdBits {
    /// The mode that is left of one; `None` when it is refused.
    pub(crate) fn apply(self, mode: u32) -> Option<u32> {
        let plain = mode & 0o777;
        match self {
            Self::Refuse if mode & SET_ID != 0 => None,
            Self::Refuse | Self::Clear => Some(plain),
            Self::Keep => Some(plain | mode & SET_ID),
        }
    }
}
