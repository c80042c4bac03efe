//! [`Dockerfile`]: as much of one as must be known before it is sent.

use std::collections::{BTreeMap, BTreeSet};

/// Arguments that every build knows without an `ARG`.
const PREDEFINED: [&str; 14] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "SOURCE_DATE_EPOCH",
    "TARGETPLATFORM",
    "TARGETOS",
    "TARGETARCH",
    "TARGETVARIANT",
    "BUILDPLATFORM",
    "BUILDOS",
    "BUILDARCH",
    "BUILDVARIANT",
];

/// What a Dockerfile declares and needs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Dockerfile {
    /// The frontend that a first line `# syntax=` names.
    pub(super) syntax: Option<String>,
    /// Names of its stages.
    pub(super) stages: BTreeSet<String>,
    /// Names of all `ARG`s, of any stage.
    pub(super) args: BTreeSet<String>,
    /// Those of stages.
    inner: BTreeSet<String>,
    /// What every `FROM` says, and what is declared before the first: where an `ARG` that is
    /// declared there can be used.
    heads: String,
    /// Whether a stage has begun.
    begun: bool,
    /// The first thing in it that only BuildKit can do, with its line.
    pub(super) needs_buildkit: Option<(usize, &'static str)>,
    /// What is declared before the first `FROM`, in order, with its default.
    globals: Vec<(String, String)>,
    /// What every `FROM` begins with, as written.
    bases: BTreeSet<String>,
    /// What is copied or mounted from, as written: stages, their numbers, images.
    sources: BTreeSet<String>,
    /// Ids of the secrets that its instructions mount.
    pub(super) secrets: BTreeSet<String>,
}

impl Dockerfile {
    /// Reads what can be read; what is wrong with the text, the engine says better.
    pub(super) fn read(text: &str) -> Self {
        let mut found = Self::default();
        let mut escape = '\\';
        let mut directives = true;
        let mut lines = text.lines().enumerate();
        while let Some((number, line)) = lines.next() {
            let trimmed = line.trim();
            if directives {
                match directive(trimmed) {
                    Some(("syntax", value)) => {
                        found.syntax.get_or_insert_with(|| value.to_owned());
                        continue;
                    }
                    Some(("escape", "`")) => {
                        escape = '`';
                        continue;
                    }
                    Some(_) => continue,
                    None => directives = false,
                }
            }
            if trimmed.is_empty() || trimmed.starts_with('#') {
                continue;
            }
            let mut instruction = trimmed.to_owned();
            // Comments and empty lines in the middle of an instruction do not end it.
            while instruction.ends_with(escape) {
                instruction.pop();
                let next = lines.by_ref().find(|(_, line)| {
                    let line = line.trim();
                    !line.is_empty() && !line.starts_with('#')
                });
                let Some((_, next)) = next else { break };
                instruction.push_str(next.trim_end());
            }
            found.instruction(number + 1, &instruction);
            for mark in heredocs(&instruction) {
                found.need(number + 1, "a here-document");
                lines
                    .by_ref()
                    .find(|(_, line)| line.trim_start_matches('\t') == mark);
            }
        }
        found
    }

    /// Build arguments that nothing in the file declares.
    pub(super) fn unknown<'a>(&self, given: impl Iterator<Item = &'a String>) -> Vec<String> {
        given
            .filter(|name| {
                let upper = name.to_ascii_uppercase();
                !self.args.contains(*name)
                    && !PREDEFINED.contains(&upper.as_str())
                    && !name.starts_with("BUILDKIT_")
            })
            .cloned()
            .collect()
    }

    /// Build arguments that are declared before the first `FROM` only, and that no `FROM` uses:
    /// no stage sees them.
    pub(super) fn unused<'a>(&self, given: impl Iterator<Item = &'a String>) -> Vec<String> {
        given
            .filter(|name| {
                self.args.contains(*name) && !self.inner.contains(*name) && !uses(&self.heads, name)
            })
            .cloned()
            .collect()
    }

    /// Images of registries that a build with these arguments begins with or copies from, and the
    /// one of its frontend.
    pub(super) fn images(&self, given: &BTreeMap<String, String>) -> BTreeSet<String> {
        let mut known: BTreeMap<&str, String> = BTreeMap::new();
        for (name, default) in &self.globals {
            let value = match given.get(name) {
                Some(value) => value.clone(),
                None => expand(default, &known),
            };
            known.insert(name, value);
        }
        let stage = |name: &String| {
            let same = |stage: &String| stage.eq_ignore_ascii_case(name);
            name.parse::<usize>().is_ok() || self.stages.iter().any(same)
        };
        let bases = self.bases.iter().map(|base| expand(base, &known));
        // Other than in `FROM`, a variable is no image here.
        let sources = self.sources.iter();
        let sources = sources.filter(|name| !name.contains('$') && !stage(name));
        let frontend = self.syntax.iter().filter_map(|syntax| {
            let name = syntax.split_whitespace().next()?;
            Some(name.to_owned())
        });
        bases
            .chain(sources.cloned())
            .filter(|name| !name.is_empty() && name != "scratch")
            .chain(frontend)
            .collect()
    }

    fn need(&mut self, line: usize, what: &'static str) {
        self.needs_buildkit.get_or_insert((line, what));
    }

    fn instruction(&mut self, line: usize, text: &str) {
        let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let name = name.to_ascii_uppercase();
        if name == "ARG" {
            for part in rest.split_whitespace() {
                let (name, default) = part.split_once('=').unwrap_or((part, ""));
                self.args.insert(name.to_owned());
                if self.begun {
                    self.inner.insert(name.to_owned());
                } else {
                    let default = default.trim_matches(['"', '\'']);
                    self.globals.push((name.to_owned(), default.to_owned()));
                    self.heads.push_str(default);
                    self.heads.push('\n');
                }
            }
            return;
        }
        if name == "FROM" {
            self.begun = true;
            self.heads.push_str(rest);
            self.heads.push('\n');
            self.from(rest);
        }
        let flags = rest
            .split_whitespace()
            .take_while(|part| part.starts_with("--"));
        for flag in flags {
            let (flag, value) = flag.split_once('=').unwrap_or((flag, ""));
            match (name.as_str(), flag) {
                ("RUN", "--mount") => {
                    self.need(line, "RUN --mount");
                    self.secret(value);
                    self.sources.extend(mount_part(value, "from"));
                }
                ("COPY" | "ADD", "--from") => {
                    self.sources.insert(value.to_owned());
                }
                ("RUN", "--network") => self.need(line, "RUN --network"),
                ("RUN", "--security") => self.need(line, "RUN --security"),
                ("COPY" | "ADD", "--link") => self.need(line, "COPY --link"),
                ("COPY" | "ADD", "--chmod") => self.need(line, "COPY --chmod"),
                ("COPY", "--parents") => self.need(line, "COPY --parents"),
                ("COPY" | "ADD", "--exclude") => self.need(line, "COPY --exclude"),
                ("ADD", "--checksum") => self.need(line, "ADD --checksum"),
                _ => {}
            }
        }
    }

    fn from(&mut self, rest: &str) {
        let mut words = rest
            .split_whitespace()
            .filter(|word| !word.starts_with("--"));
        let Some(image) = words.next() else { return };
        let same = |stage: &String| stage.eq_ignore_ascii_case(image);
        if !self.stages.iter().any(same) {
            self.bases.insert(image.to_owned());
        }
        if words
            .next()
            .is_some_and(|word| word.eq_ignore_ascii_case("as"))
            && let Some(stage) = words.next()
        {
            self.stages.insert(stage.to_owned());
        }
    }

    fn secret(&mut self, mount: &str) {
        let part = |wanted| mount_part(mount, wanted);
        if part("type").as_deref() != Some("secret") {
            return;
        }
        let target = part("target")
            .or(part("dst"))
            .or(part("destination"))
            .and_then(|path| path.rsplit('/').next().map(str::to_owned));
        self.secrets.extend(part("id").or(target));
    }
}

/// One of the settings in `type=secret,id=token`.
fn mount_part(mount: &str, wanted: &str) -> Option<String> {
    mount
        .split(',')
        .filter_map(|part| part.split_once('='))
        .find(|(key, _)| *key == wanted)
        .map(|(_, value)| value.to_owned())
}

/// The text with `$NAME`, `${NAME}`, `${NAME:-word}` and `${NAME:+word}` replaced, as in `FROM`.
fn expand(text: &str, known: &BTreeMap<&str, String>) -> String {
    let word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let braced = after
            .strip_prefix('{')
            .and_then(|inner| inner.split_once('}'));
        let end = after.find(|letter| !word(letter)).unwrap_or(after.len());
        let (name, left) = braced.unwrap_or_else(|| after.split_at(end));
        rest = left;
        let (name, otherwise) = match name.split_once(':') {
            Some((name, otherwise)) => (name, Some(otherwise)),
            None => (name, None),
        };
        let value = known.get(name).filter(|value| !value.is_empty());
        match (otherwise.and_then(|text| text.split_at_checked(1)), value) {
            (Some(("-", default)), None) => out.push_str(&expand(default, known)),
            (Some(("+", instead)), Some(_)) => out.push_str(&expand(instead, known)),
            (Some(("+", _)), None) | (_, None) => {}
            (_, Some(value)) => out.push_str(value),
        }
    }
    out.push_str(rest);
    out
}

/// Whether the value of a variable is asked for.
fn uses(text: &str, name: &str) -> bool {
    let word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    text.split('$').skip(1).any(|rest| {
        let rest = rest.strip_prefix('{').unwrap_or(rest);
        rest.strip_prefix(name)
            .is_some_and(|after| !after.starts_with(word))
    })
}

/// `# key=value`, which counts only before anything else.
fn directive(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.strip_prefix('#')?.split_once('=')?;
    let key = key.trim();
    ["syntax", "escape", "check"]
        .into_iter()
        .find(|known| key.eq_ignore_ascii_case(known))
        .map(|known| (known, value.trim()))
}

/// The marks that end the here-documents of an instruction.
fn heredocs(instruction: &str) -> Vec<String> {
    let takes = ["RUN ", "COPY ", "ADD "];
    let upper = instruction.to_ascii_uppercase();
    if !takes.iter().any(|name| upper.starts_with(name)) {
        return Vec::new();
    }
    let mut marks = Vec::new();
    for part in instruction.split_whitespace() {
        let Some((before, mark)) = part.split_once("<<") else {
            continue;
        };
        // `<<<` is a here-string, `1<<2` arithmetic.
        if !before.bytes().all(|byte| byte.is_ascii_digit()) || mark.starts_with('<') {
            continue;
        }
        let mark = mark.strip_prefix('-').unwrap_or(mark);
        let bare = mark.trim_matches(['"', '\'']);
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let starts = bare
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
        if starts && bare.bytes().all(word) {
            marks.push(bare.to_owned());
        }
    }
    marks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_declared_and_needed() {
        let text = "# syntax=docker/dockerfile:1\n# escape=`\n\nARG BASE=x\nFROM ${BASE} AS one\nFROM localhost:1/x\n\
            arg a b=1 `\n  # in between\n\n  c\nRUN --mount=type=secret,id=token,required --mount=type=secret,target=/run/secrets/other x\n\
            FROM one\nRUN <<EOF\nARG inside\nEOF\nARG last\n";
        let found = Dockerfile::read(text);
        assert_eq!(found.syntax.as_deref(), Some("docker/dockerfile:1"));
        let names = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join(" ");
        assert_eq!(names(&found.args), "BASE a b c last");
        assert_eq!(names(&found.secrets), "other token");
        assert_eq!(found.needs_buildkit, Some((11, "RUN --mount")));
        let none = BTreeMap::new();
        assert_eq!(
            names(&found.images(&none)),
            "docker/dockerfile:1 localhost:1/x x"
        );
        let given = ["a", "typo", "http_proxy"].map(str::to_owned);
        assert_eq!(found.unknown(given.iter()), ["typo"]);
    }

    #[test]
    fn images_are_found_wherever_they_are_named() {
        let text = "# syntax=one/frontend:1 --flag\nARG HOST=two:5000\nARG TAG\nARG BASE=\"$HOST/base:${TAG:-1}\"\n\
            FROM $BASE AS Build\nFROM build\nFROM ${GONE:-three/x}${TAG:+-y}\n\
            COPY --from=four/img --chown=1:1 /a /b\nCOPY --from=0 /a /b\nCOPY --from=BUILD /a /b\n\
            RUN --mount=type=bind,from=five/img,target=/x true\nADD --from=$NO a b\nFROM scratch\n";
        let found = Dockerfile::read(text);
        let images = |given: &[(&str, &str)]| {
            let given = given
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            let found = found.images(&given.collect());
            found.into_iter().collect::<Vec<_>>().join(" ")
        };
        let fixed = "five/img four/img one/frontend:1";
        assert_eq!(images(&[]), format!("{fixed} three/x two:5000/base:1"));
        let given = [("TAG", "2"), ("HOST", "six")];
        assert_eq!(images(&given), format!("{fixed} six/base:2 three/x-y"));
        let given = [("BASE", "seven")];
        assert_eq!(images(&given), format!("{fixed} seven three/x"));
    }

    #[test]
    fn an_argument_that_no_stage_sees_is_unused() {
        let text = "ARG TAG=1\nARG BASE=x:${TAG}\nARG HOST\nARG LOST\nARG BASES\nARG LATER\n\
            FROM --platform=$HOST ${BASE:-y}\nARG LATER\nRUN echo $LOST\n";
        let found = Dockerfile::read(text);
        let given = ["TAG", "BASE", "HOST", "LOST", "BASES", "LATER", "typo"].map(str::to_owned);
        assert_eq!(found.unused(given.iter()), ["LOST", "BASES"]);
        assert_eq!(found.unknown(given.iter()), ["typo"]);
    }

    #[test]
    fn plain_files_need_nothing() {
        let text = "FROM scratch\n# syntax=late\nRUN echo $((1<<2)) \\\n && cat <<< x\nCOPY --chown=1:1 a b\n";
        let found = Dockerfile::read(text);
        let plain = Dockerfile {
            heads: "scratch\n".to_owned(),
            begun: true,
            bases: BTreeSet::from(["scratch".to_owned()]),
            ..Dockerfile::default()
        };
        assert_eq!(found, plain);
        let heredoc = Dockerfile::read("FROM scratch\nCOPY <<-'END' /a\n\tx\n\tEND\nARG y\n");
        assert_eq!(heredoc.needs_buildkit, Some((2, "a here-document")));
        assert!(heredoc.args.contains("y"));
    }
}
