//! [`Pattern`]: one line of an ignore file, compiled.

use std::sync::OnceLock;

use regex::Regex;

use super::IgnoreError;
use super::go_path::{clean, is_well_formed};
use super::go_regex::{self, Malformed};

/// One pattern.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    /// The cleaned text, without `!`.
    text: String,
    exception: bool,
    /// Compiled at the first match, as the reference does: some malformed patterns are an error
    /// only when they are tried.
    kind: OnceLock<Result<Kind, Malformed>>,
}

#[derive(Debug, Clone)]
enum Kind {
    Exact,
    /// `foo**`: the text without the stars.
    Prefix(String),
    /// `**foo`: the text without the stars.
    Suffix(String),
    Expression(Regex),
}

impl Pattern {
    /// `None` for an empty line.
    pub(super) fn new(line: &str) -> Result<Option<Self>, IgnoreError> {
        let line = line.trim();
        if line.is_empty() {
            return Ok(None);
        }
        let cleaned = clean(line);
        let (text, exception) = match cleaned.strip_prefix('!') {
            Some("") => return Err(IgnoreError::LoneExclamationMark),
            Some(rest) => (rest.to_owned(), true),
            None => (cleaned, false),
        };
        if !is_well_formed(&text) {
            return Err(IgnoreError::Malformed { pattern: text });
        }
        Ok(Some(Self {
            text,
            exception,
            kind: OnceLock::new(),
        }))
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) const fn is_exception(&self) -> bool {
        self.exception
    }

    /// The text without one trailing `/**` and one trailing `/*`.
    pub(super) fn without_trailing_glob(&self) -> &str {
        let text = self.text.strip_suffix("/**").unwrap_or(&self.text);
        text.strip_suffix("/*").unwrap_or(text)
    }

    pub(super) fn is_match(&self, path: &str) -> Result<bool, IgnoreError> {
        let kind = self.kind.get_or_init(|| compile(&self.text));
        match kind {
            Ok(Kind::Exact) => Ok(path == self.text),
            Ok(Kind::Prefix(prefix)) => Ok(path.starts_with(prefix.as_str())),
            Ok(Kind::Suffix(suffix)) => Ok(path.ends_with(suffix.as_str())
                // `**/foo` is also `foo` itself.
                || suffix.strip_prefix('/').is_some_and(|rest| path == rest)),
            Ok(Kind::Expression(expression)) => Ok(expression.is_match(path)),
            Err(Malformed) => Err(IgnoreError::Malformed {
                pattern: self.text.clone(),
            }),
        }
    }
}

/// What kind of match the text asks for; the order of the cases is the reference's.
fn compile(text: &str) -> Result<Kind, Malformed> {
    #[derive(PartialEq)]
    enum Type {
        Exact,
        Prefix,
        Suffix,
        Expression,
    }
    let mut go = String::from("^");
    let mut found = Type::Exact;
    let mut chars = text.chars().peekable();
    let mut first = true;
    while let Some(symbol) = chars.next() {
        match symbol {
            '*' if chars.peek() == Some(&'*') => {
                chars.next();
                // `**/` is `**`.
                if chars.peek() == Some(&'/') {
                    chars.next();
                }
                if chars.peek().is_none() {
                    if found == Type::Exact {
                        found = Type::Prefix;
                    } else {
                        go.push_str(".*");
                        found = Type::Expression;
                    }
                } else {
                    go.push_str("(.*/)?");
                    found = Type::Expression;
                }
                if first {
                    found = Type::Suffix;
                }
            }
            '*' => {
                go.push_str("[^/]*");
                found = Type::Expression;
            }
            '?' => {
                go.push_str("[^/]");
                found = Type::Expression;
            }
            '.' | '+' | '(' | ')' | '|' | '{' | '}' | '$' => {
                go.push('\\');
                go.push(symbol);
            }
            '\\' => {
                go.push('\\');
                if let Some(next) = chars.next() {
                    go.push(next);
                    found = Type::Expression;
                }
            }
            '[' | ']' => {
                go.push(symbol);
                found = Type::Expression;
            }
            other => go.push(other),
        }
        first = false;
    }
    Ok(match found {
        Type::Exact => Kind::Exact,
        Type::Prefix => Kind::Prefix(text.strip_suffix("**").unwrap_or(text).to_owned()),
        Type::Suffix => Kind::Suffix(text.strip_prefix("**").unwrap_or(text).to_owned()),
        Type::Expression => {
            go.push('$');
            Kind::Expression(go_regex::compile(&go)?)
        }
    })
}
