use std::fmt;

/// What becomes of files and folders below a declared path that may not be read.
///
/// A declared path itself that may not be read is an error in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unreadable {
    /// One is an error, and nothing is stored.
    #[default]
    Refuse,
    /// Left out and listed, a folder with all that is in it. A medium that fails is an error all
    /// the same.
    Skip,
}

/// Something that was left out of an archive.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Skipped {
    /// Its path, starting with the declared one; what is not printable is escaped.
    pub path: String,
    /// Why.
    pub reason: SkipReason,
}

/// Why something was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum SkipReason {
    /// A socket, a FIFO or a device.
    Special,
    /// It may not be read; see [`Unreadable::Skip`].
    Unreadable,
    /// What a restore that was killed left behind, or one that is going on makes.
    Staging,
}

/// `PATH: why, left out`.
impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.reason {
            SkipReason::Special => "neither a file nor a folder nor a link",
            SkipReason::Unreadable => "may not be read",
            SkipReason::Staging => "belongs to a restore",
        };
        write!(f, "{}: {why}, left out", self.path)
    }
}
