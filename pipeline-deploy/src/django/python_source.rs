//! Reads Python source without running it.
//!
//! Only tokens are recognised, never expressions: enough to tell a constant from anything that
//! is computed, and a name in code from one in a comment or a string. What is computed counts
//! as unknown, so a wrong guess is not possible, only no answer.

/// A Python token, as far as this module tells them apart.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Name(String),
    /// A string constant; adjacent constants are joined as Python does.
    Text(String),
    /// A string whose value is not known here: an f-string, bytes, or one with escapes.
    Computed,
    Mark(char),
    /// The end of a logical line.
    End,
}

#[derive(Debug)]
struct Spot {
    token: Token,
    /// Whether the token starts its line without indentation.
    at_margin: bool,
}

/// What a setting is given in source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Given {
    /// A string constant, or the constant that an environment look-up falls back to.
    Constant(String),
    /// Something computed.
    Computed,
}

/// A tokenised Python file.
#[derive(Debug)]
pub(super) struct PythonSource {
    spots: Vec<Spot>,
}

impl PythonSource {
    /// Splits the text into tokens. Text that is not Python gives tokens that match nothing.
    pub(super) fn new(text: &str) -> Self {
        Self {
            spots: Lexer::new(text).run(),
        }
    }

    /// What `os.environ.setdefault(NAME, …)` and `os.environ[NAME] = …` give, in order.
    pub(super) fn environment(&self, name: &str) -> Vec<Given> {
        let is_environ =
            |at: usize| matches!(self.token(at), Some(Token::Name(n)) if n == "environ");
        let mut found = Vec::new();
        for at in (0..self.spots.len()).filter(|at| is_environ(*at)) {
            let value = if self.is_mark(at + 1, '.')
                && self.is_name(at + 2, "setdefault")
                && self.is_mark(at + 3, '(')
                && self.is_text(at + 4, name)
                && self.is_mark(at + 5, ',')
            {
                at + 6
            } else if self.is_mark(at + 1, '[')
                && self.is_text(at + 2, name)
                && self.is_mark(at + 3, ']')
                && self.is_mark(at + 4, '=')
                && !self.is_mark(at + 5, '=')
            {
                at + 5
            } else {
                continue;
            };
            found.push(self.given(value));
        }
        found
    }

    /// What `NAME = …` at the margin gives last; an assignment in a block is not looked at.
    pub(super) fn assigned(&self, name: &str) -> Option<Given> {
        (0..self.spots.len())
            .rev()
            .find(|&at| {
                self.spots[at].at_margin
                    && self.is_name(at, name)
                    && self.is_mark(at + 1, '=')
                    && !self.is_mark(at + 2, '=')
            })
            .map(|at| self.given(at + 2))
    }

    /// Whether the name is used in code.
    pub(super) fn mentions(&self, name: &str) -> bool {
        (0..self.spots.len()).any(|at| self.is_name(at, name))
    }

    /// Whether a string constant is exactly this text.
    pub(super) fn has_text(&self, text: &str) -> bool {
        (0..self.spots.len()).any(|at| self.is_text(at, text))
    }

    /// Whether a function is defined at the margin whose name starts with `prefix`.
    pub(super) fn defines_function(&self, prefix: &str) -> bool {
        (0..self.spots.len()).any(|at| {
            let at = match self.token(at) {
                Some(Token::Name(n)) if n == "def" && self.spots[at].at_margin => at + 1,
                Some(Token::Name(n)) if n == "async" && self.spots[at].at_margin => at + 2,
                _ => return false,
            };
            matches!(self.token(at), Some(Token::Name(n)) if n.starts_with(prefix))
        })
    }

    /// Whether the module is imported, by `import` or `from`.
    pub(super) fn imports(&self, module: &str) -> bool {
        (0..self.spots.len()).any(|at| {
            (self.is_name(at, "import") || self.is_name(at, "from")) && self.is_name(at + 1, module)
        })
    }

    /// The modules of `from MODULE import *` at the margin; relative ones keep their dots.
    pub(super) fn star_imports(&self) -> Vec<String> {
        let mut modules = Vec::new();
        for at in 0..self.spots.len() {
            if !(self.spots[at].at_margin && self.is_name(at, "from")) {
                continue;
            }
            let mut module = String::new();
            let mut next = at + 1;
            loop {
                match self.token(next) {
                    Some(Token::Mark('.')) => module.push('.'),
                    Some(Token::Name(name)) if name != "import" => module.push_str(name),
                    _ => break,
                }
                next += 1;
            }
            if self.is_name(next, "import") && self.is_mark(next + 1, '*') {
                modules.push(module);
            }
        }
        modules
    }

    /// The value that starts at a token: a lone constant, or
    /// `os.environ.get(…, constant)` / `os.getenv(…, constant)`.
    fn given(&self, at: usize) -> Given {
        if let Some(Token::Text(text)) = self.token(at) {
            if self.ends_value(at + 1) {
                return Given::Constant(text.clone());
            }
            return Given::Computed;
        }
        let mut next = at;
        while matches!(self.token(next), Some(Token::Name(_) | Token::Mark('.'))) {
            next += 1;
        }
        let reads_environment = next > at
            && (self.is_name(next - 1, "getenv")
                || (next >= at + 3
                    && self.is_name(next - 1, "get")
                    && self.is_name(next - 3, "environ")));
        if reads_environment
            && self.is_mark(next, '(')
            && matches!(self.token(next + 1), Some(Token::Text(_)))
            && self.is_mark(next + 2, ',')
            && self.is_mark(next + 4, ')')
            && self.ends_value(next + 5)
            && let Some(Token::Text(text)) = self.token(next + 3)
        {
            return Given::Constant(text.clone());
        }
        Given::Computed
    }

    fn ends_value(&self, at: usize) -> bool {
        matches!(
            self.token(at),
            None | Some(Token::End | Token::Mark(')' | ',' | ';'))
        )
    }

    fn token(&self, at: usize) -> Option<&Token> {
        self.spots.get(at).map(|spot| &spot.token)
    }

    fn is_mark(&self, at: usize, mark: char) -> bool {
        self.token(at) == Some(&Token::Mark(mark))
    }

    fn is_name(&self, at: usize, name: &str) -> bool {
        matches!(self.token(at), Some(Token::Name(n)) if n == name)
    }

    fn is_text(&self, at: usize, text: &str) -> bool {
        matches!(self.token(at), Some(Token::Text(t)) if t == text)
    }
}

struct Lexer<'a> {
    rest: &'a str,
    spots: Vec<Spot>,
    /// Open brackets; inside them a new line ends nothing.
    depth: usize,
    /// Whether the next token is the first of its line, and the line is not indented.
    margin: bool,
}

impl<'a> Lexer<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            rest: text,
            spots: Vec::new(),
            depth: 0,
            margin: true,
        }
    }

    fn run(mut self) -> Vec<Spot> {
        while let Some(first) = self.rest.chars().next() {
            match first {
                '\n' => {
                    self.rest = &self.rest[1..];
                    if self.depth == 0 {
                        self.push(Token::End);
                        self.margin = true;
                    }
                }
                // A joined line: the next one is its continuation.
                '\\' => {
                    let after = &self.rest[1..];
                    let after = after.strip_prefix('\r').unwrap_or(after);
                    self.rest = after.strip_prefix('\n').unwrap_or(after);
                }
                '#' => {
                    let end = self.rest.find('\n').unwrap_or(self.rest.len());
                    self.rest = &self.rest[end..];
                }
                c if c.is_whitespace() => {
                    self.rest = &self.rest[c.len_utf8()..];
                    self.margin = false;
                }
                '"' | '\'' => self.string(""),
                c if c.is_alphanumeric() || c == '_' => self.word(),
                c => {
                    self.rest = &self.rest[c.len_utf8()..];
                    match c {
                        '(' | '[' | '{' => self.depth += 1,
                        ')' | ']' | '}' => self.depth = self.depth.saturating_sub(1),
                        _ => {}
                    }
                    self.push(Token::Mark(c));
                }
            }
        }
        self.spots
    }

    fn word(&mut self) {
        let end = self
            .rest
            .find(|c: char| !(c.is_alphanumeric() || c == '_'))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        let is_prefix = word.len() <= 2 && word.chars().all(|c| "rRbBuUfFtT".contains(c));
        if is_prefix && rest.starts_with(['"', '\'']) {
            self.rest = rest;
            self.string(word);
        } else {
            self.rest = rest;
            self.push(Token::Name(word.to_owned()));
        }
    }

    fn string(&mut self, prefix: &str) {
        let prefix = prefix.to_ascii_lowercase();
        let quote = &self.rest[..1];
        let triple = quote.repeat(3);
        let fence = if self.rest.starts_with(&triple) {
            triple.as_str()
        } else {
            quote
        };
        let body = &self.rest[fence.len()..];
        let mut end = body.len();
        let mut escaped = false;
        let mut chars = body.char_indices();
        while let Some((at, c)) = chars.next() {
            if c == '\\' {
                escaped = true;
                chars.next();
            } else if body[at..].starts_with(fence) || (fence.len() == 1 && c == '\n') {
                end = at;
                break;
            }
        }
        let value = &body[..end];
        let after = &body[end..];
        self.rest = after.strip_prefix(fence).unwrap_or(after);
        let known = !prefix.contains(['f', 'b', 't']) && (!escaped || prefix.contains('r'));
        let token = if known {
            Token::Text(value.to_owned())
        } else {
            Token::Computed
        };
        match (self.spots.last_mut().map(|spot| &mut spot.token), &token) {
            (Some(Token::Text(before)), Token::Text(more)) => before.push_str(more),
            (Some(before @ Token::Text(_)), Token::Computed) => *before = Token::Computed,
            (Some(Token::Computed), _) => {}
            _ => self.push(token),
        }
    }

    fn push(&mut self, token: Token) {
        let at_margin = self.margin && self.depth == 0 && token != Token::End;
        self.margin = false;
        self.spots.push(Spot { token, at_margin });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "DJANGO_SETTINGS_MODULE";

    fn constant(text: &str) -> Given {
        Given::Constant(text.into())
    }

    fn environment(source: &str) -> Vec<Given> {
        PythonSource::new(source).environment(KEY)
    }

    #[test]
    fn the_usual_manage_py() {
        let source = r#"#!/usr/bin/env python
"""Django's command-line utility for administrative tasks."""
import os
import sys


def main():
    """Run administrative tasks."""
    os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop.settings')
    try:
        from django.core.management import execute_from_command_line
    except ImportError as exc:
        raise ImportError("Couldn't import Django.") from exc
    execute_from_command_line(sys.argv)
"#;
        assert_eq!(environment(source), [constant("shop.settings")]);
        assert!(PythonSource::new(source).mentions("execute_from_command_line"));
    }

    #[test]
    fn other_ways_to_say_it() {
        for source in [
            "os.environ.setdefault(\"DJANGO_SETTINGS_MODULE\", \"shop.settings\")",
            "environ.setdefault(u'DJANGO_SETTINGS_MODULE', r'shop.settings')",
            "os.environ.setdefault(\n    'DJANGO_SETTINGS_MODULE',  # which\n    'shop.settings',\n)",
            "os.environ['DJANGO_SETTINGS_MODULE'] = 'shop.settings'\r\n",
            "os.environ.setdefault('DJANGO_' 'SETTINGS_MODULE', 'shop' '.settings')",
            "os.environ.setdefault('DJANGO_SETTINGS_MODULE', os.getenv('S', 'shop.settings'))",
            "os.environ.setdefault('DJANGO_SETTINGS_MODULE', os.environ.get('S', 'shop.settings'))",
            "os.environ \\\n  .setdefault('DJANGO_SETTINGS_MODULE', '''shop.settings''')",
        ] {
            assert_eq!(environment(source), [constant("shop.settings")], "{source}");
        }
    }

    #[test]
    fn what_is_computed_is_unknown() {
        for source in [
            "os.environ.setdefault('DJANGO_SETTINGS_MODULE', f'shop.{mode}')",
            "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop.' + mode)",
            "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop.%s' % mode)",
            "os.environ.setdefault('DJANGO_SETTINGS_MODULE', config('S', default='shop.settings'))",
            "os.environ.setdefault('DJANGO_SETTINGS_MODULE', settings.get('S', 'shop.settings'))",
            "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'a' if prod else 'b')",
            "os.environ['DJANGO_SETTINGS_MODULE'] = 'shop\\x2esettings'",
        ] {
            assert_eq!(environment(source), [Given::Computed], "{source}");
        }
    }

    #[test]
    fn comments_strings_and_comparisons_do_not_count() {
        for source in [
            "# os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'old.settings')",
            "'''\nos.environ.setdefault(\"DJANGO_SETTINGS_MODULE\", \"old.settings\")\n'''",
            "if os.environ['DJANGO_SETTINGS_MODULE'] == 'old.settings': pass",
            "os.environ.get('DJANGO_SETTINGS_MODULE', 'old.settings')",
            "os.environ.setdefault('OTHER', 'old.settings')",
        ] {
            assert_eq!(environment(source), [], "{source}");
        }
    }

    #[test]
    fn the_last_assignment_at_the_margin_counts() {
        let source = "WSGI_APPLICATION = 'a.wsgi.application'\nif X:\n    WSGI_APPLICATION = 'b'\n\
                      WSGI_APPLICATION = (\n    'c.wsgi.application'\n)\n";
        assert_eq!(
            PythonSource::new(source).assigned("WSGI_APPLICATION"),
            Some(Given::Computed)
        );
        let source = "WSGI_APPLICATION = 'a.wsgi.app'  # why\nd = {\n'x': 1}\n";
        assert_eq!(
            PythonSource::new(source).assigned("WSGI_APPLICATION"),
            Some(constant("a.wsgi.app"))
        );
        assert_eq!(PythonSource::new("X == 'a'").assigned("X"), None);
        assert_eq!(PythonSource::new("f(\nX='a')").assigned("X"), None);
    }

    #[test]
    fn imports_and_functions() {
        let source = "from .base import *  # noqa\nfrom ..other.thing import *\nfrom x import y\n\
                      import pytest\n\nclass T:\n    def test_in_class(self): ...\n";
        let parsed = PythonSource::new(source);
        assert_eq!(parsed.star_imports(), [".base", "..other.thing"]);
        assert!(parsed.imports("pytest") && !parsed.imports("unittest"));
        assert!(!parsed.defines_function("test"));
        assert!(PythonSource::new("@mark\ndef test_x(db): ...").defines_function("test"));
        assert!(PythonSource::new("async def test_x(db): ...").defines_function("test"));
        assert!(!PythonSource::new("s = '''\ndef test_x(): ...\n'''").defines_function("test"));
    }

    #[test]
    fn nothing_makes_it_panic() {
        for source in [
            "'",
            "'''",
            "\\",
            "(((",
            "\u{feff}é = 'ü'\\",
            "f'",
            "rb'\\",
            "\"\\",
        ] {
            let _ = PythonSource::new(source);
        }
    }
}
