//! The two functions of Go's path package that the rules are defined by.

/// `path.Clean`: the shortest text that names the same path.
pub(super) fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => match parts.last() {
                Some(&last) if last != ".." => {
                    parts.pop();
                }
                _ if rooted => {}
                _ => parts.push(".."),
            },
            other => parts.push(other),
        }
    }
    let joined = parts.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

/// Whether `filepath.Match` finds the pattern well-formed.
pub(super) fn is_well_formed(pattern: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let mut place = 0;
    while let Some(&symbol) = pattern.get(place) {
        place += 1;
        match symbol {
            '\\' => {
                if place == pattern.len() {
                    return false;
                }
                place += 1;
            }
            '[' => match class_end(&pattern, place) {
                Some(end) => place = end,
                None => return false,
            },
            _ => {}
        }
    }
    true
}

/// The place behind the class that opened just before `place`, or `None` for a malformed one.
fn class_end(pattern: &[char], mut place: usize) -> Option<usize> {
    if pattern.get(place) == Some(&'^') {
        place += 1;
    }
    let first = place;
    loop {
        if place > first && pattern.get(place) == Some(&']') {
            return Some(place + 1);
        }
        place = class_char(pattern, place)?;
        if pattern.get(place) == Some(&'-') {
            place = class_char(pattern, place + 1)?;
        }
    }
}

/// The place behind one, possibly escaped, character of a class. There must be more after it.
fn class_char(pattern: &[char], mut place: usize) -> Option<usize> {
    match pattern.get(place)? {
        '-' | ']' => return None,
        '\\' => {
            place += 1;
            pattern.get(place)?;
        }
        _ => {}
    }
    (place + 1 < pattern.len()).then_some(place + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clean_as_go_does() {
        for (path, expected) in [
            ("", "."),
            ("a//b/./c/", "a/b/c"),
            ("a/../b", "b"),
            ("../a/..", ".."),
            ("../../x", "../../x"),
            ("/../a", "/a"),
            ("/", "/"),
            ("./", "."),
            ("!/", "!"),
        ] {
            assert_eq!(clean(path), expected, "{path}");
        }
    }

    #[test]
    fn well_formed_as_go_finds() {
        for good in [
            "a", "[a]", "[^a]", "[a-c]", "[\\]]", "\\[", "a]", "[a\\-z]", "[*]", "[[]a]", "[!a]",
        ] {
            assert!(is_well_formed(good), "{good}");
        }
        for bad in [
            "[", "[]a]", "[-]", "[a-]", "[x-]", "a[", "\\", "[^]", "[^", "[a", "[a-b-c]", "[-x]",
        ] {
            assert!(!is_well_formed(bad), "{bad}");
        }
    }
}
