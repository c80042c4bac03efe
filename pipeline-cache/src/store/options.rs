use super::EntryMetadata;

/// Options of [`CacheStore::get_opts`](super::CacheStore::get_opts).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GetOptions {
    /// Whether this counts as a use. Default: [`RecordUse::Yes`].
    pub record_use: RecordUse,
    /// How the payload will be read. Default: [`ReadPlan::Whole`].
    pub read_plan: ReadPlan,
    /// What to answer when nobody knows. Default: [`IfUnsure::Absent`].
    pub if_unsure: IfUnsure,
}

impl GetOptions {
    /// Sets whether this counts as a use.
    #[must_use]
    pub fn with_record_use(mut self, record_use: RecordUse) -> Self {
        self.record_use = record_use;
        self
    }

    /// Sets how the payload will be read.
    #[must_use]
    pub fn with_read_plan(mut self, read_plan: ReadPlan) -> Self {
        self.read_plan = read_plan;
        self
    }

    /// Sets what to answer when nobody knows.
    #[must_use]
    pub fn with_if_unsure(mut self, if_unsure: IfUnsure) -> Self {
        self.if_unsure = if_unsure;
        self
    }
}

/// How a payload will be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadPlan {
    /// From its start to its end: a remote store fetches it first.
    #[default]
    Whole,
    /// Here and there, by somebody who can tell what is damaged: a remote store fetches what is
    /// read when it is read, checks no digest, and cannot stop an eviction. A payload that is gone
    /// by then reads as [`std::io::ErrorKind::NotFound`].
    Parts,
}

/// What to answer when part of a store fails and the rest of it has no such entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum IfUnsure {
    /// There is none: a cache that cannot tell costs a build no more than one without it.
    #[default]
    Absent,
    /// The failure: something is removed if there is none.
    Fail,
}

/// Whether reading an entry makes it recently used, which keeps it from eviction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RecordUse {
    /// It does; where the store cannot write, silently not.
    #[default]
    Yes,
    /// It does not: looking at an entry to verify or export it is no use of it.
    No,
}

/// Options of [`CacheStore::put_opts`](super::CacheStore::put_opts).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PutOptions {
    /// What to do when the key is taken. Default: [`IfExists::Keep`].
    pub if_exists: IfExists,
}

impl PutOptions {
    /// Sets what to do when the key is taken.
    #[must_use]
    pub fn with_if_exists(mut self, if_exists: IfExists) -> Self {
        self.if_exists = if_exists;
        self
    }
}

/// What to do when a key is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum IfExists {
    /// Keep what is there: keys are written once.
    #[default]
    Keep,
    /// Replace it; readers of the old entry finish undisturbed.
    Replace,
}

/// What became of a [`put_opts`](super::CacheStore::put_opts).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PutOutcome {
    /// The entry is stored, durable and visible.
    Stored(EntryMetadata),
    /// The key was taken, before or while the payload was produced; this is what is there.
    Exists(EntryMetadata),
}

/// What became of a [`delete`](super::CacheStore::delete).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeleteOutcome {
    /// It is gone.
    Deleted,
    /// There was none.
    Absent,
    /// Someone is reading it; it stays.
    Leased,
}
