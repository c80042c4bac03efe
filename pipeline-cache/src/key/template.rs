use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::parser::{self, Action, Node};
use super::{CacheKey, KeyContext, KeyError, TemplateError, checksum};
use crate::files::{FileSet, FileSetError, Kind, is_glob, open_file};

/// What Go's templates print for a variable that is not there.
const NO_VALUE: &str = "<no value>";

/// A parsed key template, in the language of `CircleCI`'s cache keys.
///
/// | template | value |
/// |---|---|
/// | `{{ .Branch }}` | branch, slashes kept; empty when there is none (a tag build) |
/// | `{{ .BuildNum }}` | build number |
/// | `{{ .Revision }}` | commit |
/// | `{{ .CheckoutKey }}` | checkout key |
/// | `{{ .Environment.NAME }}` | a variable given in the context; `<no value>` when it is not set |
/// | `{{ checksum "FILE" }}` | base64 of the file's SHA-256, `/` written as `_` |
/// | `{{ epoch }}` | seconds since 1970 |
/// | `{{ arch }}` | `os-arch-family_model`, changes with the CPU model |
///
/// Beyond `CircleCI`: `{{ checksum "A" "B" }}` is one checksum over several files (their names
/// count, their order does not); a name with `*`, `?` or `[` that is no file itself stands for the
/// files it matches, `**` for any folders (see [`FileSet`](crate::files::FileSet)); `{{ platform }}` is `os-arch` without the CPU model, and
/// `{{ tool "NAME" }}` is a tool's version from the context.
///
/// Go's trim markers and comments are known; its pipelines and conditions are refused when parsing,
/// with the place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyTemplate {
    nodes: Vec<Node>,
}

/// One value that went into a key: what a miss is explained with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct KeyInput {
    /// The action as written canonically, for example `checksum "requirements.txt"`.
    pub name: String,
    /// What it rendered to.
    pub value: String,
}

/// A key with the template and values it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenderedKey {
    key: CacheKey,
    template: String,
    inputs: Vec<KeyInput>,
}

impl KeyInput {
    pub(crate) fn new(name: &str, value: &str) -> Self {
        Self {
            name: name.to_owned(),
            value: value.to_owned(),
        }
    }
}

impl KeyTemplate {
    /// Parses a template; no fact and no file is needed yet.
    ///
    /// # Errors
    /// The first mistake, with its place in characters from 1.
    pub fn parse(template: &str) -> Result<Self, TemplateError> {
        parser::parse(template).map(|nodes| Self { nodes })
    }

    /// Whether the template holds no `{{ }}`: it renders to itself.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        self.nodes.iter().all(|node| matches!(node, Node::Text(_)))
    }

    /// The files that `checksum` reads, as written.
    pub fn checksum_files(&self) -> impl Iterator<Item = &str> {
        self.nodes
            .iter()
            .flat_map(|node| match node {
                Node::Action(Action::Checksum(files)) => files.as_slice(),
                _ => &[],
            })
            .map(String::as_str)
    }

    /// Renders the key. Reads the files named by `checksum` (blocking) and nothing else.
    ///
    /// # Errors
    /// A fact or a file that is missing, or a text that is no key.
    pub fn render(&self, context: &KeyContext) -> Result<RenderedKey, KeyError> {
        let mut text = String::new();
        let mut inputs = Vec::new();
        for node in &self.nodes {
            match node {
                Node::Text(literal) => text.push_str(literal),
                Node::Action(action) => {
                    let value = value(action, context)?;
                    text.push_str(&value);
                    inputs.push(KeyInput {
                        name: action.to_string(),
                        value,
                    });
                }
            }
        }
        let template = self.to_string();
        match CacheKey::new(text) {
            Ok(key) => Ok(RenderedKey {
                key,
                template,
                inputs,
            }),
            Err(source) => Err(KeyError::InvalidKey { template, source }),
        }
    }
}

fn value(action: &Action, context: &KeyContext) -> Result<String, KeyError> {
    let missing = || KeyError::MissingFact {
        action: action.to_string(),
    };
    Ok(match action {
        Action::Branch => context.branch.clone().unwrap_or_default(),
        Action::BuildNum => context.build_num.ok_or_else(missing)?.to_string(),
        Action::Revision => context.revision.clone().ok_or_else(missing)?,
        Action::CheckoutKey => context.checkout_key.clone().ok_or_else(missing)?,
        Action::Environment(name) => match context.environment.get(name) {
            Some(value) => value.clone(),
            None => NO_VALUE.to_owned(),
        },
        Action::Epoch => context.epoch.ok_or_else(missing)?.to_string(),
        Action::Arch => context.host.as_ref().ok_or_else(missing)?.to_string(),
        Action::Platform => context.host.as_ref().ok_or_else(missing)?.platform(),
        Action::Tool(name) => context.tools.get(name).cloned().ok_or_else(missing)?,
        Action::Checksum(files) => match files.as_slice() {
            [file] if !stands_for_others(file, context) => file_checksum(file, context)?,
            several => {
                let mut files = BTreeMap::new();
                for name in several {
                    if stands_for_others(name, context) {
                        files.extend(matching_checksums(name, context)?);
                    } else {
                        files.insert(name.clone(), file_checksum(name, context)?);
                    }
                }
                let mut hasher = Sha256::new();
                for (name, checksum) in files {
                    hasher.update((name.len() as u64).to_be_bytes());
                    hasher.update(name.as_bytes());
                    hasher.update(checksum.as_bytes());
                }
                checksum::encode(&hasher.finalize())
            }
        },
    })
}

/// Whether a name is a pattern. One that is a file as it stands is that file, as for `CircleCI`.
fn stands_for_others(name: &str, context: &KeyContext) -> bool {
    is_glob(name) && !context.locate(name).is_some_and(|path| path.is_file())
}

/// Names and checksums of the files that a pattern matches.
fn matching_checksums(
    pattern: &str,
    context: &KeyContext,
) -> Result<Vec<(String, String)>, KeyError> {
    let unreadable = |source: io::Error| KeyError::ChecksumUnreadable {
        path: pattern.to_owned(),
        source,
    };
    // The folder in front of the first name that is a pattern.
    let glob_at = pattern.find(['*', '?', '[']).unwrap_or(pattern.len());
    let (folder, below) = match pattern[..glob_at].rfind('/') {
        Some(slash) => pattern.split_at(slash + 1),
        None => ("", pattern),
    };
    let root = context
        .locate(if folder.is_empty() { "." } else { folder })
        .ok_or_else(|| KeyError::NoHome {
            path: pattern.to_owned(),
        })?;
    let missing = || KeyError::ChecksumMissing {
        path: pattern.to_owned(),
        located: root.join(below),
    };
    let files = FileSet::new([below]).map_err(|source| KeyError::ChecksumPattern {
        path: pattern.to_owned(),
        source,
    })?;
    let listing = match files.list(&root) {
        Ok(listing) => listing,
        Err(FileSetError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Err(missing());
        }
        Err(FileSetError::Read { source, .. }) => return Err(unreadable(source)),
        Err(source) => {
            return Err(KeyError::ChecksumPattern {
                path: pattern.to_owned(),
                source,
            });
        }
    };
    let mut checksums = Vec::new();
    for found in listing.found {
        let path = root.join(&found.path);
        let checksum = match found.kind {
            Kind::Folder => continue,
            Kind::Link(target) if !path.is_file() => {
                checksum::checksum_bytes(target.as_os_str().as_bytes())
            }
            Kind::File | Kind::Link(_) => read_checksum(&path).map_err(unreadable)?,
        };
        let name = match found.path.to_str() {
            Some(name) => name.to_owned(),
            None => found.path.as_os_str().as_bytes().escape_ascii().to_string(),
        };
        checksums.push((format!("{folder}{name}"), checksum));
    }
    if checksums.is_empty() {
        return Err(missing());
    }
    Ok(checksums)
}

fn file_checksum(path: &str, context: &KeyContext) -> Result<String, KeyError> {
    let located = context.locate(path).ok_or_else(|| KeyError::NoHome {
        path: path.to_owned(),
    })?;
    read_checksum(&located).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => KeyError::ChecksumMissing {
            path: path.to_owned(),
            located: located.clone(),
        },
        _ => KeyError::ChecksumUnreadable {
            path: path.to_owned(),
            source,
        },
    })
}

fn read_checksum(path: &Path) -> io::Result<String> {
    checksum::checksum_reader(&mut open_file(path)?)
}

/// The template in its canonical spelling; parsing it gives the same template.
impl fmt::Display for KeyTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A brace of the text must not become one of an action.
        let mut after_brace = false;
        for node in &self.nodes {
            match node {
                Node::Text(text) => {
                    for character in text.chars() {
                        if after_brace && character == '{' {
                            f.write_str(" {{- /**/}}")?;
                        }
                        f.write_char(character)?;
                        after_brace = character == '{';
                    }
                }
                Node::Action(action) => {
                    let open = if after_brace { " {{-" } else { "{{" };
                    write!(f, "{open} {action} }}}}")?;
                    after_brace = false;
                }
            }
        }
        Ok(())
    }
}

impl FromStr for KeyTemplate {
    type Err = TemplateError;

    fn from_str(template: &str) -> Result<Self, TemplateError> {
        Self::parse(template)
    }
}

impl RenderedKey {
    /// A key that came from no template.
    #[must_use]
    pub fn literal(key: CacheKey) -> Self {
        Self {
            template: key.to_string(),
            key,
            inputs: Vec::new(),
        }
    }

    /// A key that was made otherwise, with what it is explained by.
    pub(crate) fn from_parts(key: CacheKey, template: String, inputs: Vec<KeyInput>) -> Self {
        Self {
            key,
            template,
            inputs,
        }
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &CacheKey {
        &self.key
    }

    /// The template it was rendered from.
    #[must_use]
    pub fn template(&self) -> &str {
        &self.template
    }

    /// Variables of the template that were not given, and stand in the key as `<no value>`: most
    /// often a mistake, but no error for `CircleCI`.
    pub fn unset_variables(&self) -> impl Iterator<Item = &str> {
        self.inputs
            .iter()
            .filter(|input| input.value == NO_VALUE)
            .filter_map(|input| input.name.strip_prefix(".Environment."))
    }

    /// The values that went in, in the order of the template.
    #[must_use]
    pub fn inputs(&self) -> &[KeyInput] {
        &self.inputs
    }
}

impl From<CacheKey> for RenderedKey {
    fn from(key: CacheKey) -> Self {
        Self::literal(key)
    }
}

impl fmt::Display for RenderedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key.as_str())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::key::HostArch;

    fn render(template: &str, context: &KeyContext) -> Result<String, KeyError> {
        KeyTemplate::parse(template)?
            .render(context)
            .map(|rendered| rendered.key().to_string())
    }

    #[test]
    fn every_function_of_the_language() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("requirements.txt"), "Django==3.0\n").unwrap();
        let context = KeyContext::new(dir.path())
            .with_branch("pull/242")
            .with_build_num(7)
            .with_revision("abc")
            .with_checkout_key("ck")
            .with_environment("STAGE", "prod")
            .with_epoch(1_700_000_000)
            .with_host(HostArch::new("linux", "amd64", "6", "85"))
            .with_tool("python", "3.11.7");
        for (template, wanted) in [
            ("v1-{{ .Branch }}-x", "v1-pull/242-x"),
            ("{{ .BuildNum }}", "7"),
            ("{{.Revision}}", "abc"),
            ("{{ .CheckoutKey }}", "ck"),
            ("{{ .Environment.STAGE }}", "prod"),
            ("{{ epoch }}", "1700000000"),
            ("{{ arch }}", "linux-amd64-6_85"),
            ("{{ platform }}", "linux-amd64"),
            ("py{{ tool \"python\" }}", "py3.11.7"),
            (
                "deps1-{{ checksum \"requirements.txt\" }}",
                "deps1-6awjwApanElCwa5jf4CocJKVBaOv+vP4p18ktzTz_dQ=",
            ),
        ] {
            assert_eq!(render(template, &context).unwrap(), wanted);
        }
    }

    #[test]
    fn no_branch_is_an_empty_segment_as_on_a_tag() {
        let context = KeyContext::new("/");
        assert_eq!(render("a-{{ .Branch }}-b", &context).unwrap(), "a--b");
    }

    #[test]
    fn missing_facts_and_files_are_typed() {
        let dir = tempfile::tempdir().unwrap();
        let context = KeyContext::new(dir.path());
        assert!(matches!(
            render("{{ checksum \"nope.txt\" }}", &context),
            Err(KeyError::ChecksumMissing { path, .. }) if path == "nope.txt"
        ));
        assert!(matches!(
            render("{{ checksum \"~/x\" }}", &context),
            Err(KeyError::NoHome { .. })
        ));
        assert!(matches!(
            render("{{ checksum \".\" }}", &context),
            Err(KeyError::ChecksumUnreadable { .. })
        ));
        assert!(matches!(
            render("{{ .Revision }}", &context),
            Err(KeyError::MissingFact { action }) if action == ".Revision"
        ));
        assert!(matches!(
            render("{{ .Branch }}", &context),
            Err(KeyError::InvalidKey { .. })
        ));
    }

    #[test]
    fn braces_of_the_text_stay_apart_from_actions() {
        for (template, wanted) in [
            ("{ {{- .Branch }}", "{ {{- .Branch }}"),
            (
                "{ {{- /* why */}}{ {{- .Branch}}{",
                "{ {{- /**/}}{ {{- .Branch }}{",
            ),
            ("a{b}} {{- .Branch -}} {", "a{b}}{{ .Branch }}{"),
        ] {
            let parsed = KeyTemplate::parse(template).unwrap();
            assert_eq!(parsed.to_string(), wanted);
            assert_eq!(KeyTemplate::parse(wanted).unwrap(), parsed);
        }
    }

    /// Opening one waits for a writer, which no cancellation ends.
    #[test]
    fn a_pipe_is_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        let context = KeyContext::new(dir.path());
        assert!(matches!(
            render("{{ checksum \"pipe\" }}", &context),
            Err(KeyError::ChecksumUnreadable { .. })
        ));
    }

    #[test]
    fn several_files_count_by_name_and_content_not_by_order() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "1").unwrap();
        std::fs::write(dir.path().join("b"), "2").unwrap();
        let context = KeyContext::new(dir.path());
        let both = render("{{ checksum \"a\" \"b\" }}", &context).unwrap();
        assert_eq!(
            both,
            render("{{ checksum \"b\" \"a\" }}", &context).unwrap()
        );
        std::fs::write(dir.path().join("a"), "2").unwrap();
        std::fs::write(dir.path().join("b"), "1").unwrap();
        assert_ne!(
            both,
            render("{{ checksum \"a\" \"b\" }}", &context).unwrap()
        );
    }

    #[test]
    fn an_unset_variable_is_what_go_prints_and_is_named() {
        let template = KeyTemplate::parse("a-{{ .Environment.X }}-{{ .Environment.Y }}").unwrap();
        let context = KeyContext::new("/").with_environment("Y", "y");
        let rendered = template.render(&context).unwrap();
        assert_eq!(rendered.key().as_str(), "a-<no value>-y");
        assert_eq!(rendered.unset_variables().collect::<Vec<_>>(), ["X"]);
    }

    #[test]
    fn a_pattern_counts_the_names_and_contents_of_what_it_matches() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("requirements/base.txt", "1");
        write("requirements/dev.txt", "2");
        write("other.md", "3");
        let context = KeyContext::new(dir.path()).with_home_dir(dir.path());
        let glob = |pattern: &str| render(&format!("{{{{ checksum \"{pattern}\" }}}}"), &context);
        let all = glob("**/*.txt").unwrap();
        // The same as naming the files, from wherever the pattern starts.
        let named = r#"{{ checksum "requirements/dev.txt" "requirements/base.txt" }}"#;
        assert_eq!(all, render(named, &context).unwrap());
        assert_eq!(all, glob("requirements/*.txt").unwrap());
        assert_ne!(all, glob("requirements/b*.txt").unwrap());
        assert!(glob("~/requirements/*.txt").is_ok());
        assert!(glob(&format!("{}/requirements/*.txt", dir.path().display())).is_ok());
        write("other.md", "4");
        assert_eq!(all, glob("**/*.txt").unwrap());
        write("requirements/dev.txt", "5");
        assert_ne!(all, glob("**/*.txt").unwrap());
        for (pattern, names) in [("*.lock", "*.lock"), ("no/*", "no/*")] {
            assert!(matches!(
                glob(pattern),
                Err(KeyError::ChecksumMissing { path, .. }) if path == names
            ));
        }
        assert!(matches!(
            glob("a[/x"),
            Err(KeyError::ChecksumPattern { .. })
        ));
        // A file whose name looks like a pattern is that file.
        write("odd[1].txt", "Django==3.0\n");
        assert_eq!(
            glob("odd[1].txt").unwrap(),
            "6awjwApanElCwa5jf4CocJKVBaOv+vP4p18ktzTz_dQ="
        );
    }

    #[test]
    fn inputs_say_what_went_in() {
        let context = KeyContext::new("/").with_branch("main").with_revision("r");
        let rendered = KeyTemplate::parse("{{ .Branch }}-{{.Revision}}")
            .unwrap()
            .render(&context)
            .unwrap();
        let inputs: Vec<_> = rendered
            .inputs()
            .iter()
            .map(|input| (input.name.as_str(), input.value.as_str()))
            .collect();
        assert_eq!(inputs, [(".Branch", "main"), (".Revision", "r")]);
        assert_eq!(rendered.template(), "{{ .Branch }}-{{ .Revision }}");
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_printing_round_trips(template in "[a{}. \"`\\\\BranchecksumEviot-]{0,40}") {
            if let Ok(parsed) = KeyTemplate::parse(&template) {
                prop_assert_eq!(KeyTemplate::parse(&parsed.to_string()).unwrap(), parsed);
            }
        }

        #[test]
        fn checksum_names_survive_printing(names in prop::collection::vec("\\PC{1,12}", 1..4)) {
            let nodes = vec![Node::Action(Action::Checksum(names))];
            let template = KeyTemplate { nodes };
            prop_assert_eq!(KeyTemplate::parse(&template.to_string()).unwrap(), template);
        }
    }
}
