//! What the example programs share.

/// The code of the repository's first page is compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
#[derive(Debug)]
struct Readme;

#[cfg(feature = "s3-server")]
pub mod s3_server;

use sha2::{Digest, Sha256};

/// Twelve hexadecimal digits of SHA-256 over the parts. Lengths are hashed as well, so that no
/// two lists of parts look the same.
#[must_use]
pub fn short_hash<T: AsRef<[u8]>>(parts: &[T]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_ref().len().to_le_bytes());
        hash.update(part.as_ref());
    }
    let digest = hash.finalize();
    digest
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A name as image and tag names want it: lower case letters, digits and single dashes.
#[must_use]
pub fn slug(name: &str) -> String {
    let mut text = String::new();
    for character in name.chars() {
        if character.is_ascii_alphanumeric() {
            text.push(character.to_ascii_lowercase());
        } else if !text.is_empty() && !text.ends_with('-') {
            text.push('-');
        }
    }
    let text = text.trim_end_matches('-');
    if text.is_empty() {
        "site".into()
    } else {
        text.chars().take(60).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slug_is_a_valid_tag_whatever_the_branch_is_called() {
        assert_eq!(slug("feature/Log_In--2"), "feature-log-in-2");
        assert_eq!(slug("…"), "site");
    }

    #[test]
    fn parts_cannot_be_shifted_into_each_other() {
        assert_ne!(short_hash(&["ab", "c"]), short_hash(&["a", "bc"]));
    }
}
