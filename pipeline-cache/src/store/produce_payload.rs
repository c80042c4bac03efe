use std::error::Error;
use std::fmt;
use std::io::Write;

use super::EntryFacts;

/// What a producer may fail with; the store hands it on unchanged.
pub type ProduceError = Box<dyn Error + Send + Sync>;

/// Writes a payload into a store.
pub trait ProducePayload: Send {
    /// Writes all bytes and says what they are. Called once, on a thread that may block. An error
    /// means that nothing is stored.
    ///
    /// # Errors
    /// Whatever stopped it; errors of `out` may be handed on as they are.
    fn produce(self: Box<Self>, out: &mut dyn Write) -> Result<EntryFacts, ProduceError>;
}

/// A closure as producer.
///
/// ```
/// use pipeline_cache::store::{Codec, EntryFacts, produce_with};
///
/// let payload = produce_with(|out| {
///     out.write_all(b"bytes made elsewhere")?;
///     Ok(EntryFacts::opaque(Codec::None))
/// });
/// # let _ = payload;
/// ```
pub fn produce_with<F>(produce: F) -> Box<dyn ProducePayload>
where
    F: FnOnce(&mut dyn Write) -> Result<EntryFacts, ProduceError> + Send + 'static,
{
    Box::new(ProduceWith(produce))
}

struct ProduceWith<F>(F);

impl<F> ProducePayload for ProduceWith<F>
where
    F: FnOnce(&mut dyn Write) -> Result<EntryFacts, ProduceError> + Send,
{
    fn produce(self: Box<Self>, out: &mut dyn Write) -> Result<EntryFacts, ProduceError> {
        (self.0)(out)
    }
}

impl fmt::Debug for dyn ProducePayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProducePayload")
    }
}
