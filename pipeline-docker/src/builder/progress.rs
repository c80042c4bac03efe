//! What a build tells while it runs.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::LayerInfo;
use crate::reference::ImageReference;

/// Something that happened during a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "type")]
#[non_exhaustive]
pub enum BuildEvent {
    /// The context was listed and is being sent.
    ContextFound {
        /// Files, folders and links in it.
        entries: usize,
        /// Bytes of its files.
        bytes: u64,
    },
    /// The context is with the engine.
    ContextSent {
        /// Bytes that went over.
        bytes: u64,
    },
    /// Work on an instruction began.
    InstructionStarted {
        /// The instruction with its place, such as `[2/4] RUN make`.
        instruction: String,
    },
    /// Work on an instruction ended well.
    InstructionFinished {
        /// The instruction with its place.
        instruction: String,
        /// Whether its result was there already.
        cached: bool,
    },
    /// A line that an instruction printed, or the builder about it.
    Line {
        /// The line, without its end.
        text: String,
    },
    /// A base in a registry was found. From here on its digest counts.
    BaseResolved {
        /// Its name, pinned to the digest.
        reference: ImageReference,
    },
    /// Bytes of a layer moved: of a base that is pulled, or of the image on its way out. Told when
    /// another tenth of it is done.
    LayerProgress {
        /// The layer, as the one who moves it names it.
        layer: String,
        /// What is done with it, such as `downloading`.
        action: String,
        /// Bytes that are done.
        current: u64,
        /// Bytes that there are.
        total: u64,
    },
    /// A layer is complete. Builders that build of layers tell it.
    LayerFinished {
        /// The layer.
        layer: LayerInfo,
    },
    /// Something a person should know.
    Warning {
        /// In plain words.
        message: String,
    },
}

/// Hears what a build does.
///
/// # Contract
/// Called in order, one event after the other. It must return quickly and not block: it stands
/// in the way of the build.
pub trait BuildObserver: fmt::Debug + Send + Sync {
    /// One event.
    fn event(&self, event: &BuildEvent);
}

/// Remembers how far each layer was when it was told last: ten events of a layer are enough for a
/// person and a journal.
#[cfg(any(feature = "registry", feature = "engine"))]
#[derive(Debug, Default)]
pub(super) struct Tenths(std::collections::HashMap<String, u64>);

#[cfg(any(feature = "registry", feature = "engine"))]
impl Tenths {
    /// Whether another tenth of `what` is done.
    pub(super) fn is_news(&mut self, what: &str, current: u64, total: u64) -> bool {
        let tenth = current.saturating_mul(10) / total.max(1);
        if self.0.get(what) == Some(&tenth) {
            return false;
        }
        self.0.insert(what.to_owned(), tenth);
        true
    }
}
