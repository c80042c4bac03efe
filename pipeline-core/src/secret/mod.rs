//! Values that cannot be printed, and the filter that keeps them out of every
//! byte of output.

mod forms;
mod redact;

use std::fmt;

use secrecy::{ExposeSecret, SecretString};

pub use redact::{MASK, MINIMUM_SECRET_BYTES, Redactor, RedactorStream};

/// A text that must not appear in logs, events, errors or reports.
///
/// It has no `Display`, no `Serialize`, and its `Debug` shows `<redacted>`.
/// The memory is overwritten when the last clone is dropped.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Wraps a value. Register it with the run as well
    /// (`Runner::with_secret`) so that output that repeats it is masked.
    #[must_use]
    pub fn new(value: impl Into<String>) -> Self {
        Self(SecretString::from(value.into()))
    }

    /// The value itself. Call this at the last moment, where a child process
    /// or a request header needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self::new(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_never_shows_the_value() {
        let secret = Secret::new("hunter2hunter2");
        assert_eq!(
            format!("{secret:?} {:?}", Some(&secret)),
            "<redacted> Some(<redacted>)"
        );
    }
}
