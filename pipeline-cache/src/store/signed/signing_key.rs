use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pipeline_core::Secret;
use thiserror::Error;

/// The text is not 32 bytes in base64, or no point of the curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("an Ed25519 key is 32 bytes in base64")]
pub struct InvalidKey;

/// The private half: whoever has it can sign entries.
///
/// Its text is 32 random bytes in base64, as `openssl rand -base64 32` makes them. Keep it where
/// only jobs that may write the cache can read it.
#[derive(Clone)]
pub struct SigningKey(pub(super) ed25519_dalek::SigningKey);

impl SigningKey {
    /// Reads the text.
    ///
    /// # Errors
    /// It is not 32 bytes in base64. The error does not repeat it.
    pub fn from_secret(secret: &Secret) -> Result<Self, InvalidKey> {
        Ok(Self(ed25519_dalek::SigningKey::from_bytes(&decode(
            secret.expose(),
        )?)))
    }

    /// The public half.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(<redacted>, {})", self.public_key())
    }
}

/// The public half: says which entries to trust. Its text is base64.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(pub(super) ed25519_dalek::VerifyingKey);

impl FromStr for PublicKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let key = ed25519_dalek::VerifyingKey::from_bytes(&decode(text)?);
        match key {
            // Under a weak key anything is signed.
            Ok(key) if !key.is_weak() => Ok(Self(key)),
            _ => Err(InvalidKey),
        }
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0.as_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

fn decode(text: &str) -> Result<[u8; 32], InvalidKey> {
    let bytes = STANDARD.decode(text.trim()).map_err(|_| InvalidKey)?;
    bytes.try_into().map_err(|_| InvalidKey)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_and_never_shown() {
        // From RFC 8032, section 7.1, test 1.
        let secret = Secret::new("nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=\n");
        let key = SigningKey::from_secret(&secret).unwrap();
        let public = key.public_key();
        assert_eq!(
            public.to_string(),
            "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
        );
        assert_eq!(public.to_string().parse(), Ok(public));
        assert!(!format!("{key:?}").contains("nWGxne"));
    }

    #[test]
    fn anything_else_is_no_key() {
        for text in ["", "x", "AAAA", &"A".repeat(44)] {
            assert!(
                SigningKey::from_secret(&Secret::new(text)).is_err(),
                "{text}"
            );
            assert!(text.parse::<PublicKey>().is_err(), "{text}");
        }
        // The neutral element.
        let weak = format!("AQ{}=", "A".repeat(41));
        assert!(weak.parse::<PublicKey>().is_err());
    }
}
