//! Splits the text of a requirements file as pip does.

/// Lines joined at a trailing backslash, comments and blank lines gone, each with the number of
/// its first line. A comment ends a joined line, as in pip.
pub(super) fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut joined: Option<(usize, String)> = None;
    for (at, line) in text.lines().enumerate() {
        let line = line.trim_end_matches('\r');
        let is_comment = line.trim_start().starts_with('#');
        let (start, mut so_far) = joined.take().unwrap_or((at + 1, String::new()));
        match line.strip_suffix('\\') {
            Some(part) if !is_comment => {
                so_far.push_str(part);
                joined = Some((start, so_far));
            }
            _ => {
                if is_comment {
                    so_far.push(' ');
                }
                so_far.push_str(line);
                lines.push((start, so_far));
            }
        }
    }
    lines.extend(joined);
    lines
        .into_iter()
        .map(|(start, line)| (start, without_comment(&line).trim().to_owned()))
        .filter(|(_, line)| !line.is_empty())
        .collect()
}

/// A `#` starts a comment at the start of the line or after white space; in a URL it does not.
fn without_comment(line: &str) -> &str {
    let start = line
        .match_indices('#')
        .map(|(at, _)| at)
        .find(|at| *at == 0 || line[..*at].ends_with(char::is_whitespace));
    &line[..start.unwrap_or(line.len())]
}

/// What comes before the first word that starts with a dash, and the rest.
pub(super) fn split_options(line: &str) -> (&str, &str) {
    if line.starts_with('-') {
        return ("", line);
    }
    let at = line
        .match_indices('-')
        .map(|(at, _)| at)
        .find(|at| line[..*at].ends_with([' ', '\t']));
    let (what, options) = line.split_at(at.unwrap_or(line.len()));
    (what.trim(), options)
}

/// The first option of a line with its value, in any of the forms `-rX`, `-r X`, `--long=X`
/// and `--long X`, the value without its quotes.
pub(super) fn option_and_value(options: &str) -> (&str, Option<&str>) {
    let (option, value) = if options.starts_with("--") {
        match options.find(|c: char| c == '=' || c.is_whitespace()) {
            Some(end) => (&options[..end], Some(options[end + 1..].trim())),
            None => (options, None),
        }
    } else {
        match options.char_indices().nth(2) {
            Some((end, _)) => (&options[..end], Some(options[end..].trim())),
            None => (options, None),
        }
    };
    let value = value
        .map(|value| value.trim_matches(['"', '\'']))
        .filter(|value| !value.is_empty());
    (option, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_joined_and_comments_removed() {
        let text = "a \\\n  b\r\n# c \\\nd # e\nf#g\n\nh \\\n# i\nj \\";
        let lines = logical_lines(text);
        let lines: Vec<_> = lines
            .iter()
            .map(|(at, line)| (*at, line.as_str()))
            .collect();
        assert_eq!(
            lines,
            [(1, "a   b"), (4, "d"), (5, "f#g"), (7, "h"), (9, "j")]
        );
    }

    #[test]
    fn options_start_at_a_dash() {
        assert_eq!(split_options("a-b==1 --hash=x"), ("a-b==1", "--hash=x"));
        assert_eq!(split_options("-r x"), ("", "-r x"));
        assert_eq!(split_options("a ; b < '-c'"), ("a ; b < '-c'", ""));
    }

    #[test]
    fn an_option_and_its_value() {
        for line in ["-r x.txt", "-rx.txt", "-r  x.txt", "-r 'x.txt'"] {
            assert_eq!(option_and_value(line), ("-r", Some("x.txt")), "{line}");
        }
        for line in [
            "--requirement x.txt",
            "--requirement=x.txt",
            "--requirement=\"x.txt\"",
        ] {
            assert_eq!(
                option_and_value(line),
                ("--requirement", Some("x.txt")),
                "{line}"
            );
        }
        assert_eq!(option_and_value("--pre"), ("--pre", None));
        assert_eq!(option_and_value("-r"), ("-r", None));
    }
}
