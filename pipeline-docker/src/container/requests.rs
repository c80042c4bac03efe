//! [`Requests`]: what the engine was asked to make, asked to the end.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::engine::{EngineError, EngineErrorKind};

/// How long the engine's answers to what it was asked for are waited for before things are removed.
/// A busy engine takes seconds.
const ANSWERS: Duration = Duration::from_secs(20);

/// Requests to make something, by its name. Clones share them.
///
/// The asking is a task of its own: an engine goes on making what nobody waits for any more, and
/// only its answer tells when the thing can be removed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Requests(Arc<watch::Sender<Open>>);

#[derive(Debug, Default)]
struct Open {
    /// What the engine has not answered yet.
    asked: Vec<String>,
    /// Whose answer was lost: the engine may still be about to make it.
    unsure: Vec<String>,
}

impl Requests {
    /// Asks the engine for something, to the end, whether or not somebody waits for it.
    pub(crate) async fn ask<T, F>(&self, name: &str, asking: F) -> Result<T, EngineError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, EngineError>> + Send + 'static,
    {
        self.0.send_modify(|open| open.asked.push(name.to_owned()));
        let (open, name) = (Arc::clone(&self.0), name.to_owned());
        let task = tokio::spawn(async move {
            let made = asking.await;
            open.send_modify(|open| {
                open.asked.retain(|asked| *asked != name);
                if made.as_ref().is_err_and(|error| !is_answer(error)) {
                    open.unsure.push(name);
                }
            });
            made
        });
        task.await.unwrap_or_else(|_| {
            let why = "the program is ending";
            Err(EngineError::said("ask the engine", None, why))
        })
    }

    /// Waits until all is answered, unless that takes too long.
    pub(crate) async fn answered(&self) {
        let mut watched = self.0.subscribe();
        let answered = watched.wait_for(|open| open.asked.is_empty());
        tokio::time::timeout(ANSWERS, answered).await.ok();
    }

    /// Whether the engine may still be about to make this.
    pub(crate) fn is_pending(&self, name: &str) -> bool {
        let open = self.0.borrow();
        let mut names = open.asked.iter().chain(&open.unsure);
        names.any(|pending| pending == name)
    }
}

/// Whether the engine has said no, rather than nothing.
fn is_answer(error: &EngineError) -> bool {
    error.kind() != EngineErrorKind::Unavailable && !matches!(error, EngineError::Answer { .. })
}
