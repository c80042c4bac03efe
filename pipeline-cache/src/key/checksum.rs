use std::io::{self, Read};

use base64::Engine as _;
use base64::alphabet::Alphabet;
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::PAD;
use sha2::{Digest, Sha256};

use crate::files::copy_with_digest;

/// Base64 with `/` replaced by `_` and `+` and `=` kept: neither the standard nor the URL-safe
/// alphabet, but the one seen in `CircleCI`'s keys.
fn engine() -> GeneralPurpose {
    const CHARS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+_";
    const ALPHABET: Alphabet = match Alphabet::new(CHARS) {
        Ok(alphabet) => alphabet,
        Err(_) => base64::alphabet::STANDARD,
    };
    GeneralPurpose::new(&ALPHABET, PAD)
}

/// Text form of a SHA-256 as it appears in keys.
pub(crate) fn encode(digest: &[u8]) -> String {
    engine().encode(digest)
}

/// `checksum` of bytes: base64 of their SHA-256, in the alphabet of `CircleCI`'s keys.
///
/// ```
/// assert_eq!(
///     pipeline_cache::key::checksum_bytes(b""),
///     "47DEQpj8HBSa+_TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
/// );
/// ```
#[must_use]
pub fn checksum_bytes(bytes: &[u8]) -> String {
    encode(&Sha256::digest(bytes))
}

/// `checksum` of everything a reader gives, in bounded memory.
///
/// # Errors
/// Those of the reader.
pub fn checksum_reader(reader: &mut impl Read) -> io::Result<String> {
    let (_, digest) = copy_with_digest(reader, &mut io::sink())?;
    Ok(encode(digest.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_vectors() {
        assert_eq!(
            checksum_bytes(b""),
            "47DEQpj8HBSa+_TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
        );
        assert_eq!(
            checksum_bytes(b"Django==3.0\n"),
            "6awjwApanElCwa5jf4CocJKVBaOv+vP4p18ktzTz_dQ="
        );
    }

    #[test]
    fn reader_and_bytes_agree_beyond_one_buffer() {
        let bytes: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
        assert_eq!(
            checksum_reader(&mut bytes.as_slice()).unwrap(),
            checksum_bytes(&bytes)
        );
    }
}
