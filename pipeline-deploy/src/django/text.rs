//! Turns the bytes of a project's file into text.

use std::fmt;

use thiserror::Error;

/// How the bytes of a file became text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TextEncoding {
    /// UTF-8 without a byte order mark, plain ASCII included.
    Utf8,
    /// UTF-8 that starts with a byte order mark.
    Utf8Bom,
    /// UTF-16, low byte first: what `>` writes in Windows PowerShell 5.
    Utf16Le,
    /// UTF-16, high byte first.
    Utf16Be,
    /// One byte per character; the last resort, since every byte string is valid.
    Latin1,
}

impl fmt::Display for TextEncoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Utf8 => "UTF-8",
            Self::Utf8Bom => "UTF-8 with byte order mark",
            Self::Utf16Le => "UTF-16 LE",
            Self::Utf16Be => "UTF-16 BE",
            Self::Latin1 => "Latin-1",
        })
    }
}

/// Why bytes could not become text.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// pip itself takes the mark of UTF-32 LE for that of UTF-16 and reads nonsense.
    #[error("UTF-32 is not supported; save the file as UTF-8")]
    Utf32,
    /// The byte order mark promised UTF-16 and the bytes are not.
    #[error("starts like {0} but is not valid; save the file as UTF-8")]
    Utf16(TextEncoding),
}

/// Text with what was learnt while reading it.
#[derive(Debug)]
pub(super) struct DecodedText {
    pub(super) text: String,
    pub(super) encoding: TextEncoding,
    /// Set when the encoding was a guess.
    pub(super) warning: Option<&'static str>,
}

impl DecodedText {
    /// Decodes in pip's order: byte order mark, coding comment (PEP 263), UTF-8; then guesses.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let done = |text, encoding, warning| {
            Ok(Self {
                text,
                encoding,
                warning,
            })
        };
        if bytes.starts_with(&[0xff, 0xfe, 0, 0]) || bytes.starts_with(&[0, 0, 0xfe, 0xff]) {
            return Err(DecodeError::Utf32);
        }
        if let Some(rest) = bytes.strip_prefix(&[0xff, 0xfe]) {
            let text =
                utf16(rest, u16::from_le_bytes).ok_or(DecodeError::Utf16(TextEncoding::Utf16Le))?;
            return done(text, TextEncoding::Utf16Le, None);
        }
        if let Some(rest) = bytes.strip_prefix(&[0xfe, 0xff]) {
            let text =
                utf16(rest, u16::from_be_bytes).ok_or(DecodeError::Utf16(TextEncoding::Utf16Be))?;
            return done(text, TextEncoding::Utf16Be, None);
        }
        let (bytes, plain) = match bytes.strip_prefix(&[0xef, 0xbb, 0xbf]) {
            Some(rest) => (rest, TextEncoding::Utf8Bom),
            None => (bytes, TextEncoding::Utf8),
        };
        // NUL is valid UTF-8 but never part of a text file: it is the other half of UTF-16.
        if bytes.contains(&0) {
            let guesses = [
                (utf16(bytes, u16::from_le_bytes), TextEncoding::Utf16Le),
                (utf16(bytes, u16::from_be_bytes), TextEncoding::Utf16Be),
            ];
            for (text, encoding) in guesses {
                if let Some(text) = text.filter(|text| looks_like_text(text)) {
                    let warning =
                        "has no byte order mark and looks like UTF-16; pip cannot read it";
                    return done(text, encoding, Some(warning));
                }
            }
        }
        if let Ok(text) = std::str::from_utf8(bytes) {
            return done(text.to_owned(), plain, None);
        }
        let text: String = bytes.iter().copied().map(char::from).collect();
        let warning = (!declares_single_byte(&text))
            .then_some("is neither UTF-8 nor UTF-16; read as Latin-1, so accents may be wrong");
        done(text, TextEncoding::Latin1, warning)
    }
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Option<String> {
    let pairs = bytes.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    let units = pairs.map(|pair| unit([pair[0], pair[1]]));
    char::decode_utf16(units).collect::<Result<_, _>>().ok()
}

/// Whether most characters are ASCII: swapped UTF-16 reads as CJK instead.
fn looks_like_text(text: &str) -> bool {
    let ascii = text.chars().filter(|c| c.is_ascii() && *c != '\0').count();
    ascii * 2 > text.chars().count()
}

/// Whether a PEP 263 comment in the first two lines names a one-byte encoding.
fn declares_single_byte(text: &str) -> bool {
    let named = text.lines().take(2).find_map(|line| {
        let (_, after) = line.strip_prefix('#')?.split_once("coding")?;
        let after = after.strip_prefix([':', '='])?.trim_start();
        let end = after
            .find(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c)))
            .unwrap_or(after.len());
        Some(after[..end].to_ascii_lowercase().replace('_', "-"))
    });
    matches!(
        named.as_deref(),
        Some("latin-1" | "latin1" | "iso-8859-1" | "iso8859-1" | "cp1252" | "windows-1252")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8]) -> (String, TextEncoding, bool) {
        let decoded = DecodedText::decode(bytes).unwrap();
        (decoded.text, decoded.encoding, decoded.warning.is_some())
    }

    fn units(text: &str, mark: bool, swap: bool) -> Vec<u8> {
        let mark = mark.then_some(0xfeff);
        mark.into_iter()
            .chain(text.encode_utf16())
            .flat_map(|unit| {
                if swap {
                    unit.to_be_bytes()
                } else {
                    unit.to_le_bytes()
                }
            })
            .collect()
    }

    #[test]
    fn byte_order_marks_decide() {
        let text = "Django==5.2 # é\r\n";
        assert_eq!(
            decode(text.as_bytes()),
            (text.into(), TextEncoding::Utf8, false)
        );
        let with_mark = [b"\xef\xbb\xbf", text.as_bytes()].concat();
        assert_eq!(
            decode(&with_mark),
            (text.into(), TextEncoding::Utf8Bom, false)
        );
        assert_eq!(
            decode(&units(text, true, false)),
            (text.into(), TextEncoding::Utf16Le, false)
        );
        assert_eq!(
            decode(&units(text, true, true)),
            (text.into(), TextEncoding::Utf16Be, false)
        );
        assert_eq!(decode(b""), (String::new(), TextEncoding::Utf8, false));
    }

    #[test]
    fn utf16_without_a_mark_is_a_guess() {
        let text = "Django==5.2\n";
        assert_eq!(
            decode(&units(text, false, false)),
            (text.into(), TextEncoding::Utf16Le, true)
        );
        assert_eq!(
            decode(&units(text, false, true)),
            (text.into(), TextEncoding::Utf16Be, true)
        );
    }

    #[test]
    fn other_bytes_are_latin_1_and_say_so() {
        assert_eq!(
            decode(b"# caf\xe9\nDjango\n"),
            ("# café\nDjango\n".into(), TextEncoding::Latin1, true)
        );
        let declared = b"# -*- coding: latin-1 -*-\n# caf\xe9\n";
        assert!(!decode(declared).2);
        assert!(decode(b"# -*- coding: koi8-r -*-\n# \xc1\n").2);
    }

    #[test]
    fn broken_utf16_and_utf32_are_errors() {
        assert_eq!(
            DecodedText::decode(b"\xff\xfeD").unwrap_err(),
            DecodeError::Utf16(TextEncoding::Utf16Le)
        );
        assert_eq!(
            DecodedText::decode(b"\xff\xfe\x00\x00D\x00\x00\x00").unwrap_err(),
            DecodeError::Utf32
        );
    }
}
