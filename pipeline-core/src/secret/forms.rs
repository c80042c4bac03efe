//! The encodings in which a secret commonly shows up in a log.

/// Lines of a multi-line secret shorter than this are not masked alone: a
/// closing brace would blank half of every log.
const MINIMUM_LINE: usize = 6;
/// Encoded forms shorter than this say too little to be worth masking.
const MINIMUM_ENCODED: usize = 6;

/// All byte strings that count as an appearance of `secret`: the value, each
/// longer line of it, base64 (standard and URL alphabet, at all three
/// alignments), hexadecimal, percent-encoding, JSON, XML and shell quoting.
///
/// Not covered, and documented as such: other compressions and ciphers,
/// reversed text, changed letter case, a value printed in pieces.
pub(super) fn appearances(secret: &str) -> Vec<Vec<u8>> {
    let mut forms = Vec::new();
    let mut values = vec![secret.to_owned()];
    let trimmed = secret.trim();
    values.push(trimmed.to_owned());
    if trimmed.contains('\n') {
        values.push(trimmed.replace("\r\n", "\n"));
        values.extend(
            trimmed
                .lines()
                .map(str::trim)
                .filter(|line| line.len() >= MINIMUM_LINE && !line.starts_with("-----"))
                .map(str::to_owned),
        );
    }
    for value in &values {
        if value.is_empty() {
            continue;
        }
        forms.push(value.clone().into_bytes());
        let mut encoded = vec![
            hex(value, false),
            hex(value, true),
            percent(value, Percent::Strict, false),
            percent(value, Percent::Strict, true),
            percent(value, Percent::Form, false),
            json(value, false),
            json(value, true),
            xml(value),
            value.replace('\'', r"'\''"),
            value.replace('\'', "'\"'\"'"),
            backslashed(value),
            debug_escaped(value),
        ];
        for url_alphabet in [false, true] {
            encoded.extend((0..3).map(|shift| base64_core(value.as_bytes(), shift, url_alphabet)));
        }
        forms.extend(
            encoded
                .into_iter()
                .filter(|form| form.len() >= MINIMUM_ENCODED)
                .map(String::into_bytes),
        );
    }
    forms.sort();
    forms.dedup();
    forms
}

fn hex(value: &str, upper: bool) -> String {
    value
        .bytes()
        .map(|byte| {
            if upper {
                format!("{byte:02X}")
            } else {
                format!("{byte:02x}")
            }
        })
        .collect()
}

#[derive(Clone, Copy, PartialEq)]
enum Percent {
    Strict,
    Form,
}

fn percent(value: &str, rule: Percent, lower: bool) -> String {
    let mut text = String::new();
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                text.push(byte as char);
            }
            b' ' if rule == Percent::Form => text.push('+'),
            _ if lower => text.push_str(&format!("%{byte:02x}")),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

fn json(value: &str, escape_slash: bool) -> String {
    // A string always serialises; an empty form is filtered out later.
    let quoted = serde_json::to_string(value).unwrap_or_default();
    let inner = quoted
        .get(1..quoted.len().saturating_sub(1))
        .unwrap_or_default();
    if escape_slash {
        inner.replace('/', r"\/")
    } else {
        inner.to_owned()
    }
}

fn xml(value: &str) -> String {
    value
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

/// As shells print a word in a trace when they escape instead of quoting.
fn backslashed(value: &str) -> String {
    let mut text = String::new();
    for character in value.chars() {
        if !(character.is_ascii_alphanumeric() || "_-./:=@%+,".contains(character)) {
            text.push('\\');
        }
        text.push(character);
    }
    text
}

fn debug_escaped(value: &str) -> String {
    let quoted = format!("{value:?}");
    quoted[1..quoted.len() - 1].to_owned()
}

/// The characters of the base64 text that depend on the secret alone when it
/// starts `shift` bytes into a three-byte group.
fn base64_core(value: &[u8], shift: usize, url_alphabet: bool) -> String {
    const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let alphabet = if url_alphabet { URL } else { STANDARD };
    let mut padded = vec![0; shift];
    padded.extend_from_slice(value);
    let mut text = String::new();
    for group in padded.chunks(3) {
        let word = group
            .iter()
            .chain([0, 0].iter())
            .take(3)
            .fold(0u32, |word, byte| word << 8 | u32::from(*byte));
        for (position, drop_bits) in [18, 12, 6, 0].into_iter().enumerate() {
            // A character that mixes in bits of what follows is not ours.
            if (position + 1) * 6 <= group.len() * 8 {
                text.push(alphabet[(word >> drop_bits & 63) as usize] as char);
            }
        }
    }
    // The first `shift` bytes are somebody else's, and so is every character
    // that holds at least one of their bits.
    let foreign = (shift * 8).div_ceil(6);
    text.split_off(foreign.min(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_cores_stand_in_real_encodings_at_every_alignment() {
        // Printed by `printf %s … | base64`, with 0, 1 and 2 bytes in front.
        for (encoded, shift) in [
            ("c2VjcmV0LXZhbHVlLTE=", 0),
            ("eHNlY3JldC12YWx1ZS0x", 1),
            ("eHlzZWNyZXQtdmFsdWUtMQ==", 2),
        ] {
            let core = base64_core(b"secret-value-1", shift, false);
            assert!(core.len() >= 16, "{core}");
            assert!(encoded.contains(&core), "{encoded} does not hold {core}");
        }
    }

    #[test]
    fn headers_of_a_pem_block_are_not_masked_alone() {
        let forms =
            appearances("-----BEGIN KEY-----\nMIIEvAIBADANBg\nkqhkiG9w0B\n-----END KEY-----\n");
        assert!(forms.contains(&b"MIIEvAIBADANBg".to_vec()));
        assert!(!forms.contains(&b"-----BEGIN KEY-----".to_vec()));
    }
}
