use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::StoreError;

/// Says whether anybody still waits for a piece of blocking work.
#[derive(Clone, Debug, Default)]
pub(crate) struct Abandoned(Arc<AtomicBool>);

impl Abandoned {
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

struct SetOnDrop(Abandoned);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// Runs blocking work on the runtime's blocking threads. Dropping the future sets the flag that
/// the work looks at.
pub(crate) async fn run_blocking<T, E, F>(work: F) -> Result<T, E>
where
    T: Send + 'static,
    E: From<StoreError> + Send + 'static,
    F: FnOnce(&Abandoned) -> Result<T, E> + Send + 'static,
{
    let abandoned = Abandoned::default();
    let _guard = SetOnDrop(abandoned.clone());
    match tokio::task::spawn_blocking(move || work(&abandoned)).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(StoreError::Cancelled.into()),
        },
    }
}

/// Fails as soon as nobody waits any more, so that a producer stops.
pub(crate) struct AbandonableWriter<'a, W> {
    inner: W,
    abandoned: &'a Abandoned,
}

impl<'a, W> AbandonableWriter<'a, W> {
    pub(crate) fn new(inner: W, abandoned: &'a Abandoned) -> Self {
        Self { inner, abandoned }
    }

    pub(crate) fn into_inner(self) -> W {
        self.inner
    }
}

impl<W: Write> Write for AbandonableWriter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.abandoned.is_set() {
            return Err(io::Error::other(StoreError::Cancelled));
        }
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
