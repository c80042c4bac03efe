use std::ffi::OsStr;

/// Quotes one word for a POSIX shell, in single quotes where needed. Bytes
/// that are not UTF-8 are replaced, since the result is a text for people.
#[must_use]
pub fn quote(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain =
        |character: char| character.is_ascii_alphanumeric() || "_-./:=@%+,".contains(character);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
