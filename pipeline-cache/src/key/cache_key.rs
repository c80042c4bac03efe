use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest key in characters (`CircleCI`'s limit for an evaluated key).
pub const MAX_KEY_CHARS: usize = 900;

/// A rendered cache key: 1 to 900 characters, none of them a control character.
///
/// Everything else is allowed (`/`, `..`, spaces, any Unicode): stores never use a key as a file
/// name, so a branch called `../../etc` is only a name.
///
/// ```
/// use pipeline_cache::key::CacheKey;
///
/// let key: CacheKey = "deps1-main-47DEQpj8".parse()?;
/// assert_eq!(key.as_str(), "deps1-main-47DEQpj8");
/// assert!("".parse::<CacheKey>().is_err());
/// # Ok::<(), pipeline_cache::key::InvalidKey>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CacheKey(String);

/// Why a text is not a cache key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InvalidKey {
    /// Nothing in it.
    #[error("a cache key cannot be empty")]
    Empty,
    /// More characters than [`MAX_KEY_CHARS`].
    #[error(
        "cache key of {chars} characters is longer than {MAX_KEY_CHARS}; replace its longest part \
         by a checksum"
    )]
    TooLong {
        /// Characters found.
        chars: usize,
    },
    /// A control character, which would break logs and one-line reports.
    #[error("cache key holds the control character {character:?} at character {position}")]
    Control {
        /// The character.
        character: char,
        /// Its place, counted in characters from 1.
        position: usize,
    },
}

impl CacheKey {
    /// Checks a text and makes it a key.
    ///
    /// # Errors
    /// Empty, longer than [`MAX_KEY_CHARS`], or with a control character in it.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidKey> {
        let text = text.into();
        if text.is_empty() {
            return Err(InvalidKey::Empty);
        }
        let chars = text.chars().count();
        if chars > MAX_KEY_CHARS {
            return Err(InvalidKey::TooLong { chars });
        }
        if let Some((index, character)) = text.chars().enumerate().find(|(_, c)| c.is_control()) {
            return Err(InvalidKey::Control {
                character,
                position: index + 1,
            });
        }
        Ok(Self(text))
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for CacheKey {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for CacheKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        Self::new(text)
    }
}

impl TryFrom<String> for CacheKey {
    type Error = InvalidKey;

    fn try_from(text: String) -> Result<Self, InvalidKey> {
        Self::new(text)
    }
}

impl From<CacheKey> for String {
    fn from(key: CacheKey) -> Self {
        key.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nine_hundred_characters_is_the_limit() {
        assert!(CacheKey::new("é".repeat(900)).is_ok());
        assert_eq!(
            CacheKey::new("é".repeat(901)),
            Err(InvalidKey::TooLong { chars: 901 })
        );
    }

    #[test]
    fn control_characters_are_named_with_their_place() {
        assert_eq!(
            CacheKey::new("ab\ncd"),
            Err(InvalidKey::Control {
                character: '\n',
                position: 3
            })
        );
    }

    #[test]
    fn paths_and_unicode_are_ordinary_characters() {
        for text in ["../../etc/passwd", "pull/242", "ключ-🔑", "a b", "-"] {
            assert_eq!(CacheKey::new(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn json_cannot_smuggle_an_invalid_key() {
        assert!(serde_json::from_str::<CacheKey>("\"\"").is_err());
        assert!(serde_json::from_str::<CacheKey>("\"ok\"").is_ok());
    }
}
