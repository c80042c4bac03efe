use crate::store::Codec;
use crate::testing::tar_maker::Tar;

/// What must happen when an archive is restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expectation {
    /// It is refused, and the destination stays as it was.
    Refused,
    /// It may be restored, because nothing bad comes of it: no set-id bit, no device, nothing
    /// outside.
    Harmless,
}

/// One archive that tries something.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HostileArchive {
    /// A name for messages.
    pub name: &'static str,
    /// What it tries, or what is wrong with it.
    pub reason: &'static str,
    /// How its bytes are compressed.
    pub codec: Codec,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What must happen.
    pub expectation: Expectation,
}

/// The list while it is made.
#[derive(Default)]
pub(super) struct List(pub(super) Vec<HostileArchive>);

impl List {
    pub(super) fn add(
        &mut self,
        name: &'static str,
        reason: &'static str,
        codec: Codec,
        bytes: Vec<u8>,
        expectation: Expectation,
    ) {
        self.0.push(HostileArchive {
            name,
            reason,
            codec,
            bytes,
            expectation,
        });
    }

    pub(super) fn refused(&mut self, name: &'static str, reason: &'static str, tar: Tar) {
        self.refused_raw(name, reason, tar.end());
    }

    pub(super) fn refused_raw(&mut self, name: &'static str, reason: &'static str, bytes: Vec<u8>) {
        self.add(name, reason, Codec::None, bytes, Expectation::Refused);
    }

    pub(super) fn harmless(&mut self, name: &'static str, reason: &'static str, tar: Tar) {
        self.add(name, reason, Codec::None, tar.end(), Expectation::Harmless);
    }
}
