use std::fmt;

use thiserror::Error;

/// One piece of a parsed template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    /// Text kept as it is.
    Text(String),
    /// A fact or function between `{{` and `}}`.
    Action(Action),
}

/// What stands between `{{` and `}}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Branch,
    BuildNum,
    Revision,
    CheckoutKey,
    Environment(String),
    Checksum(Vec<String>),
    Epoch,
    Arch,
    Platform,
    Tool(String),
}

/// The canonical spelling; parsing it gives the same action.
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Branch => f.write_str(".Branch"),
            Self::BuildNum => f.write_str(".BuildNum"),
            Self::Revision => f.write_str(".Revision"),
            Self::CheckoutKey => f.write_str(".CheckoutKey"),
            Self::Environment(name) => write!(f, ".Environment.{name}"),
            Self::Checksum(files) => {
                f.write_str("checksum")?;
                files
                    .iter()
                    .try_for_each(|file| write!(f, " {}", quote(file)))
            }
            Self::Epoch => f.write_str("epoch"),
            Self::Arch => f.write_str("arch"),
            Self::Platform => f.write_str("platform"),
            Self::Tool(name) => write!(f, "tool {}", quote(name)),
        }
    }
}

fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

/// Why a template does not parse, and where.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("key template, character {position}: {problem}")]
#[non_exhaustive]
pub struct TemplateError {
    /// Place of the trouble, counted in characters from 1.
    pub position: usize,
    /// What is wrong and what would be right.
    pub problem: String,
}

const KNOWN: &str = "known are .Branch, .BuildNum, .Revision, .CheckoutKey, .Environment.NAME, \
                     checksum \"FILE\", epoch, arch, platform, tool \"NAME\"";

/// Parses a template. Text outside of `{{ }}` is never an error.
pub(crate) fn parse(template: &str) -> Result<Vec<Node>, TemplateError> {
    let chars: Vec<char> = template.chars().collect();
    let mut parser = Parser {
        chars: &chars,
        at: 0,
    };
    let mut nodes = Vec::new();
    let mut text = String::new();
    // Where the text behind the last comment begins: trimming ends there.
    let mut piece = 0;
    while let Some(character) = parser.peek() {
        if !parser.starts_with("{{") {
            text.push(character);
            parser.at += 1;
            continue;
        }
        if parser.trims_before() {
            text.truncate(text[piece..].trim_end_matches(SPACE).len() + piece);
        }
        if let Some(action) = parser.action()? {
            if !text.is_empty() {
                nodes.push(Node::Text(std::mem::take(&mut text)));
            }
            nodes.push(Node::Action(action));
        }
        piece = text.len();
    }
    if !text.is_empty() {
        nodes.push(Node::Text(text));
    }
    Ok(nodes)
}

/// What Go trims.
const SPACE: [char; 4] = [' ', '\t', '\r', '\n'];

struct Parser<'a> {
    chars: &'a [char],
    at: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn starts_with(&self, text: &str) -> bool {
        text.chars()
            .enumerate()
            .all(|(index, c)| self.chars.get(self.at + index) == Some(&c))
    }

    fn error(&self, at: usize, problem: impl Into<String>) -> TemplateError {
        TemplateError {
            position: at + 1,
            problem: problem.into(),
        }
    }

    fn skip_spaces(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
    }

    fn is_space(&self, at: usize) -> bool {
        self.chars.get(at).is_some_and(|c| SPACE.contains(c))
    }

    /// Whether an action starts with `{{- `, which takes the spaces before it away.
    fn trims_before(&self) -> bool {
        self.starts_with("{{-") && self.is_space(self.at + 3)
    }

    /// Passes over `}}`, or ` -}}` and the spaces after it.
    fn close(&mut self) -> bool {
        let trims = self.starts_with("-}}") && self.at > 0 && self.is_space(self.at - 1);
        if !trims && !self.starts_with("}}") {
            return false;
        }
        self.at += if trims { 3 } else { 2 };
        while trims && self.is_space(self.at) {
            self.at += 1;
        }
        true
    }

    /// `/* … */`, which must be all there is between the braces.
    fn comment(&mut self) -> Result<(), TemplateError> {
        let open = self.at;
        while !self.starts_with("*/") {
            if self.peek().is_none() {
                return Err(self.error(open, "the comment is never closed by */"));
            }
            self.at += 1;
        }
        self.at += 2;
        if self.is_space(self.at) {
            // Only before a trim marker.
            self.at += 1;
            if !self.starts_with("-}}") {
                return Err(self.error(self.at, "a comment ends with */}} or */ -}}"));
            }
        }
        if self.close() {
            return Ok(());
        }
        Err(self.error(self.at, "a comment ends with */}} or */ -}}"))
    }

    /// What is between two braces; `None` for a comment.
    fn action(&mut self) -> Result<Option<Action>, TemplateError> {
        let open = self.at;
        self.at += if self.trims_before() { 4 } else { 2 };
        if self.starts_with("/*") {
            return self.comment().map(|()| None);
        }
        self.skip_spaces();
        let start = self.at;
        let word = self.word();
        let action = match word.as_str() {
            ".Branch" => Action::Branch,
            ".BuildNum" => Action::BuildNum,
            ".Revision" => Action::Revision,
            ".CheckoutKey" => Action::CheckoutKey,
            "epoch" => Action::Epoch,
            "arch" => Action::Arch,
            "platform" => Action::Platform,
            "checksum" => Action::Checksum(self.arguments(start)?),
            "tool" => self.tool(start)?,
            "" => {
                let problem = match self.peek() {
                    None => "{{ is never closed by }}".to_owned(),
                    Some(_) if self.starts_with("}}") => {
                        format!("nothing between {{{{ and }}}}; {KNOWN}")
                    }
                    Some(c) => format!("unexpected {c:?}; {KNOWN}"),
                };
                return Err(self.error(start, problem));
            }
            other => match other.strip_prefix(".Environment.") {
                Some(name) if is_variable_name(name) => Action::Environment(name.to_owned()),
                Some(name) => {
                    let problem = format!("{name:?} is not the name of an environment variable");
                    return Err(self.error(start, problem));
                }
                None => {
                    return Err(self.error(start, format!("unknown function {other}; {KNOWN}")));
                }
            },
        };
        self.skip_spaces();
        if self.close() {
            return Ok(Some(action));
        }
        Err(match self.peek() {
            None => self.error(open, "{{ is never closed by }}"),
            Some(c) => self.error(self.at, format!("unexpected {c:?} after {word}, want }}}}")),
        })
    }

    fn tool(&mut self, start: usize) -> Result<Action, TemplateError> {
        let mut names = self.arguments(start)?;
        match (names.pop(), names.is_empty()) {
            (Some(name), true) => Ok(Action::Tool(name)),
            _ => Err(self.error(start, "tool takes one name, as in tool \"python\"")),
        }
    }

    /// A run of characters that can belong to a name.
    fn word(&mut self) -> String {
        let start = self.at;
        while self
            .peek()
            .is_some_and(|c| !c.is_whitespace() && !matches!(c, '}' | '{' | '"' | '`'))
        {
            self.at += 1;
        }
        self.chars[start..self.at].iter().collect()
    }

    /// One or more quoted texts.
    fn arguments(&mut self, start: usize) -> Result<Vec<String>, TemplateError> {
        let mut arguments = Vec::new();
        loop {
            self.skip_spaces();
            match self.peek() {
                Some('"') => arguments.push(self.quoted()?),
                Some('`') => arguments.push(self.raw()?),
                _ => break,
            }
        }
        if arguments.is_empty() {
            let name: String = self.chars[start..self.at].iter().collect();
            let name = name.trim();
            let problem = format!("{name} needs a quoted name, as in {name} \"NAME\"");
            return Err(self.error(self.at, problem));
        }
        if let Some(index) = arguments.iter().position(String::is_empty) {
            return Err(self.error(start, format!("name {} is empty", index + 1)));
        }
        Ok(arguments)
    }

    fn quoted(&mut self) -> Result<String, TemplateError> {
        let open = self.at;
        self.at += 1;
        let mut text = String::new();
        loop {
            let Some(character) = self.peek() else {
                return Err(self.error(open, "the quote is never closed"));
            };
            self.at += 1;
            match character {
                '"' => return Ok(text),
                '\n' => return Err(self.error(open, "the quote is never closed on its line")),
                '\\' => {
                    text.push(self.escape()?);
                }
                other => text.push(other),
            }
        }
    }

    /// What stands behind a backslash, as in Go.
    fn escape(&mut self) -> Result<char, TemplateError> {
        let start = self.at - 1;
        let unknown = || {
            self.error(
                start,
                "unknown escape; \\\\, \\\", \\a, \\b, \\f, \\n, \\r, \\t, \\v, \\x41, \\u0041, \\U00000041 and \\101 \
                 are known, up to \\x7f and \\177",
            )
        };
        let letter = self.peek().ok_or_else(unknown)?;
        let (skip, digits, radix) = match letter {
            'x' => (1, 2, 16),
            'u' => (1, 4, 16),
            'U' => (1, 8, 16),
            '0'..='7' => (0, 3, 8),
            _ => {
                let character = match letter {
                    '"' | '\\' => letter,
                    'a' => '\x07',
                    'b' => '\x08',
                    'f' => '\x0c',
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    'v' => '\x0b',
                    _ => return Err(unknown()),
                };
                self.at += 1;
                return Ok(character);
            }
        };
        let from = self.at + skip;
        let number = self.chars.get(from..from + digits).and_then(|digits| {
            let each = digits.iter().map(|digit| digit.to_digit(radix));
            each.into_iter().try_fold(0_u32, |number, digit| {
                number.checked_mul(radix)?.checked_add(digit?)
            })
        });
        // These two stand for a byte, and half a character is no text.
        let is_byte = matches!(letter, 'x' | '0'..='7');
        let character = number
            .filter(|&number| !is_byte || number < 0x80)
            .and_then(char::from_u32)
            .ok_or_else(unknown)?;
        self.at = from + digits;
        Ok(character)
    }

    fn raw(&mut self) -> Result<String, TemplateError> {
        let open = self.at;
        self.at += 1;
        let start = self.at;
        while let Some(character) = self.peek() {
            self.at += 1;
            if character == '`' {
                return Ok(self.chars[start..self.at - 1].iter().collect());
            }
        }
        Err(self.error(open, "the quote is never closed"))
    }
}

fn is_variable_name(name: &str) -> bool {
    name.chars()
        .enumerate()
        .all(|(index, c)| c == '_' || c.is_ascii_alphabetic() || (index > 0 && c.is_ascii_digit()))
        && !name.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(template: &str) -> (usize, String) {
        let error = parse(template).unwrap_err();
        (error.position, error.problem)
    }

    #[test]
    fn errors_point_at_the_place() {
        for (template, position, word) in [
            ("deps-{{ .Brnch }}", 9, ".Brnch"),
            ("deps-{{ checksum }}", 18, "quoted name"),
            ("deps-{{ checksum requirements.txt }}", 18, "quoted name"),
            ("deps-{{ checksum \"a }}", 18, "never closed"),
            ("deps-{{ .Branch", 6, "never closed"),
            ("deps-{{ }}", 9, "nothing between"),
            ("deps-{{ .Branch | upper }}", 17, "unexpected '|'"),
            ("{{ .Environment.A-B }}", 4, "environment variable"),
            ("{{ checksum \"a\\q\" }}", 15, "unknown escape"),
            ("é{{-.Branch }}", 4, "unknown function -.Branch"),
            ("{{ .Branch-}}", 4, "unknown function .Branch-"),
            ("{{/* a */ }}", 11, "ends with"),
            ("{{/* a }}", 3, "never closed"),
            ("{{ /* a */}}", 4, "unknown function /*"),
            ("{{ checksum \"\\xff\" }}", 14, "unknown escape"),
            ("{{ checksum \"\\u12\" }}", 14, "unknown escape"),
            ("{{ tool \"a\" \"b\" }}", 4, "one name"),
            ("{{ checksum \"\" }}", 4, "empty"),
        ] {
            let (at, problem) = place(template);
            assert_eq!(at, position, "{template}: {problem}");
            assert!(problem.contains(word), "{template}: {problem}");
        }
    }

    #[test]
    fn trim_markers_comments_and_escapes_are_those_of_go() {
        let text = |text: &str| Node::Text(text.to_owned());
        let checksum = |name: &str| Node::Action(Action::Checksum(vec![name.to_owned()]));
        for (template, wanted) in [
            (
                "a \n {{- .Branch -}} \t b",
                vec![text("a"), Node::Action(Action::Branch), text("b")],
            ),
            (
                "a {{ .Branch -}} b",
                vec![text("a "), Node::Action(Action::Branch), text("b")],
            ),
            ("  {{- epoch }}", vec![Node::Action(Action::Epoch)]),
            ("a{{/* why */}}b", vec![text("ab")]),
            ("a {{/* why */}}{{- /* why */}} b", vec![text("a  b")]),
            ("a {{- /* why }} */ -}} b", vec![text("ab")]),
            (
                r#"{{ checksum "\x41\u00e9\U0001F600\101\a" }}"#,
                vec![checksum("Aé😀A\x07")],
            ),
        ] {
            assert_eq!(parse(template).unwrap(), wanted, "{template}");
        }
    }

    #[test]
    fn braces_alone_are_text() {
        assert_eq!(
            parse("a}b{c}}d").unwrap(),
            vec![Node::Text("a}b{c}}d".to_owned())]
        );
        assert_eq!(parse("").unwrap(), vec![]);
    }

    #[test]
    fn spaces_inside_are_free_and_both_quotes_work() {
        let wanted = vec![Node::Action(Action::Checksum(vec![
            "a b".to_owned(),
            "c\"".to_owned(),
        ]))];
        assert_eq!(parse("{{checksum \"a b\" `c\"`}}").unwrap(), wanted);
        assert_eq!(
            parse("{{   checksum\t\"a b\" \"c\\\"\"  }}").unwrap(),
            wanted
        );
    }
}
