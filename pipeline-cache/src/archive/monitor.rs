//! State that threads share and wait for.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// State behind a lock, and whoever waits for it to change. A thread that panicked with the lock
/// leaves the state as it is: what that means is for the state to say.
#[derive(Default)]
pub(crate) struct Monitor<T> {
    state: Mutex<T>,
    wake: Condvar,
}

impl<T> Monitor<T> {
    pub(crate) fn new(state: T) -> Self {
        Self {
            state: Mutex::new(state),
            wake: Condvar::new(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something may have changed.
    pub(crate) fn wait<'a>(&self, state: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.wake
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells all who wait.
    pub(crate) fn notify(&self) {
        self.wake.notify_all();
    }

    pub(crate) fn into_inner(self) -> T {
        self.state
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
