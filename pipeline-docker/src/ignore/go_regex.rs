//! Go's regular expressions in the words of the `regex` crate.
//!
//! The reference implementation turns a pattern into Go source text, and what that text happens to
//! mean is the rule: `[a*b]` becomes `[a[^/]*b]`, `\d` is a digit. So the same text is made here and
//! then translated, token by token.

use regex::Regex;

/// The expression is not one that Go accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// Compiles a Go expression.
pub(super) fn compile(go: &str) -> Result<Regex, Malformed> {
    let chars: Vec<char> = go.chars().collect();
    let mut rust = String::with_capacity(go.len() + 16);
    let mut place = 0;
    while let Some(&symbol) = chars.get(place) {
        place += 1;
        match symbol {
            '\\' => place = escape(&chars, place, &mut rust)?,
            '[' => place = class(&chars, place, &mut rust)?,
            // What the pattern compiler itself writes unescaped.
            '(' | ')' | '.' | '*' | '?' | '^' | '$' => rust.push(symbol),
            other => literal(other, &mut rust),
        }
    }
    Regex::new(&rust).map_err(|_| Malformed)
}

fn literal(symbol: char, rust: &mut String) {
    use std::fmt::Write;
    // Hexadecimal needs no knowledge of which characters are special where.
    let _ = write!(rust, "\\x{{{:x}}}", u32::from(symbol));
}

const DIGIT: &str = "0-9";
const SPACE: &str = r"\t\n\x0c\r\x20";
const WORD: &str = "0-9A-Za-z_";

fn perl_set(symbol: char) -> Option<(&'static str, bool)> {
    Some(match symbol {
        'd' => (DIGIT, false),
        'D' => (DIGIT, true),
        's' => (SPACE, false),
        'S' => (SPACE, true),
        'w' => (WORD, false),
        'W' => (WORD, true),
        _ => return None,
    })
}

/// An escape outside a class; `place` is behind the backslash.
fn escape(chars: &[char], place: usize, rust: &mut String) -> Result<usize, Malformed> {
    let symbol = *chars.get(place).ok_or(Malformed)?;
    if let Some((set, negated)) = perl_set(symbol) {
        rust.push_str(if negated { "[^" } else { "[" });
        rust.push_str(set);
        rust.push(']');
        return Ok(place + 1);
    }
    match symbol {
        'A' => rust.push_str(r"\A"),
        'z' => rust.push_str(r"\z"),
        'b' => rust.push_str(r"(?-u:\b)"),
        'B' => rust.push_str(r"(?-u:\B)"),
        'Q' => {
            let mut end = place + 1;
            while let Some(&symbol) = chars.get(end) {
                if symbol == '\\' && chars.get(end + 1) == Some(&'E') {
                    return Ok(end + 2);
                }
                literal(symbol, rust);
                end += 1;
            }
            return Ok(end);
        }
        'p' | 'P' => return unicode_group(chars, place, rust),
        _ => {
            let (symbol, next) = escaped_char(chars, place)?;
            literal(symbol, rust);
            return Ok(next);
        }
    }
    Ok(place + 1)
}

/// `\pL` and `\p{Greek}`; `place` is at the `p`.
fn unicode_group(chars: &[char], place: usize, rust: &mut String) -> Result<usize, Malformed> {
    let mut end = place + 1;
    if chars.get(end) == Some(&'{') {
        while *chars.get(end).ok_or(Malformed)? != '}' {
            end += 1;
        }
    } else {
        chars.get(end).ok_or(Malformed)?;
    }
    rust.push('\\');
    rust.extend(chars.get(place..=end).unwrap_or_default());
    Ok(end + 1)
}

/// An escape that stands for one character; `place` is behind the backslash.
fn escaped_char(chars: &[char], place: usize) -> Result<(char, usize), Malformed> {
    let symbol = *chars.get(place).ok_or(Malformed)?;
    let next = place + 1;
    let octal = |place: usize| chars.get(place).and_then(|symbol| symbol.to_digit(8));
    let simple = match symbol {
        'a' => '\x07',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        'x' => return hexadecimal(chars, next),
        '0'..='7' => {
            // A single digit other than zero would be a back reference.
            if symbol != '0' && octal(next).is_none() {
                return Err(Malformed);
            }
            let mut value = octal(place).ok_or(Malformed)?;
            let mut end = next;
            while let Some(digit) = octal(end)
                && end < place + 3
            {
                value = value * 8 + digit;
                end += 1;
            }
            return Ok((char::from_u32(value).ok_or(Malformed)?, end));
        }
        other if other.is_ascii() && !other.is_ascii_alphanumeric() => other,
        _ => return Err(Malformed),
    };
    Ok((simple, next))
}

/// `\x7f` and `\x{10ffff}`; `place` is behind the `x`.
fn hexadecimal(chars: &[char], place: usize) -> Result<(char, usize), Malformed> {
    let digits = |from: usize, to: usize| -> Result<char, Malformed> {
        let text: String = chars.get(from..to).ok_or(Malformed)?.iter().collect();
        let all_digits = !text.is_empty() && text.chars().all(|symbol| symbol.is_ascii_hexdigit());
        let value = all_digits
            .then(|| u32::from_str_radix(&text, 16).ok())
            .flatten();
        value.and_then(char::from_u32).ok_or(Malformed)
    };
    if chars.get(place) == Some(&'{') {
        let end = (place..chars.len())
            .find(|&end| chars.get(end) == Some(&'}'))
            .ok_or(Malformed)?;
        Ok((digits(place + 1, end)?, end + 1))
    } else {
        Ok((digits(place, place + 2)?, place + 2))
    }
}

/// A class; `place` is behind the opening bracket.
fn class(chars: &[char], mut place: usize, rust: &mut String) -> Result<usize, Malformed> {
    rust.push('[');
    if chars.get(place) == Some(&'^') {
        rust.push('^');
        place += 1;
    }
    let first = place;
    loop {
        let symbol = *chars.get(place).ok_or(Malformed)?;
        if symbol == ']' && place > first {
            rust.push(']');
            return Ok(place + 1);
        }
        if symbol == '['
            && chars.get(place + 1) == Some(&':')
            && let Some(end) = named_class(chars, place, rust)?
        {
            place = end;
            continue;
        }
        if symbol == '\\'
            && let Some(&kind) = chars.get(place + 1)
        {
            if let Some((set, negated)) = perl_set(kind) {
                rust.push_str(if negated { "[^" } else { "[" });
                rust.push_str(set);
                rust.push(']');
                place += 2;
                continue;
            }
            if matches!(kind, 'p' | 'P') {
                place = unicode_group(chars, place + 1, rust)?;
                continue;
            }
        }
        let (low, next) = class_char(chars, place)?;
        place = next;
        literal(low, rust);
        let range = chars.get(place) == Some(&'-')
            && chars.get(place + 1).is_some_and(|symbol| *symbol != ']');
        if range {
            let (high, next) = class_char(chars, place + 1)?;
            if high < low {
                return Err(Malformed);
            }
            place = next;
            rust.push('-');
            literal(high, rust);
        }
    }
}

fn class_char(chars: &[char], place: usize) -> Result<(char, usize), Malformed> {
    match *chars.get(place).ok_or(Malformed)? {
        '\\' => escaped_char(chars, place + 1),
        other => Ok((other, place + 1)),
    }
}

/// `[:alpha:]`; `place` is at its opening bracket. Without `:]` further on it is no named class.
fn named_class(
    chars: &[char],
    place: usize,
    rust: &mut String,
) -> Result<Option<usize>, Malformed> {
    let rest = chars.get(place + 2..).unwrap_or_default();
    let Some(end) = rest.windows(2).position(|pair| pair == [':', ']']) else {
        return Ok(None);
    };
    let name: String = rest.get(..end).unwrap_or_default().iter().collect();
    let known = [
        "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct",
        "space", "upper", "word", "xdigit",
    ];
    if !known.contains(&name.strip_prefix('^').unwrap_or(&name)) {
        return Err(Malformed);
    }
    rust.push_str("[:");
    rust.push_str(&name);
    rust.push_str(":]");
    Ok(Some(place + 2 + end + 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_mean_what_go_says() {
        let matches = |go: &str, text: &str| compile(go).unwrap().is_match(text);
        assert!(matches("^[[]a]$", "[a]") && !matches("^[[]a]$", "aa"));
        assert!(matches("^[a&&b]$", "&") && matches("^[a&&b]$", "a"));
        assert!(matches("^[a~~b]$", "~") && matches("^[+--]$", ","));
        assert!(matches("^[]a]$", "]") && matches("^[^]a]$", "b"));
        assert!(matches("^[a-]$", "-") && matches("^[[:digit:]x]$", "7"));
        assert!(matches(r"^\d\x41$", "7A") && !matches(r"^\d$", "٣"));
        assert!(matches(r"^\101$", "A") && matches(r"^\Q[x\E$", "[x"));
        assert!(matches(r"^[\d\]]$", "]"));
        for bad in ["[z-a]", "[", "[[:nope:]]", r"\8", r"\y", r"\x4", r"[\pZZZ"] {
            assert!(compile(bad).is_err(), "{bad}");
        }
    }
}
