use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::parser::{self, Action, Node};
use super::{CacheKey, InvalidKey, KeyContext, TemplateError, checksum};

/// A parsed key template, in the language of `CircleCI`'s cache keys.
///
/// | template | value |
/// |---|---|
/// | `{{ .Branch }}` | branch, slashes kept; empty when there is none (a tag build) |
/// | `{{ .BuildNum }}` | build number |
/// | `{{ .Revision }}` | commit |
/// | `{{ .CheckoutKey }}` | checkout key |
/// | `{{ .Environment.NAME }}` | a variable given in the context |
/// | `{{ checksum "FILE" }}` | base64 of the file's SHA-256, `/` written as `_` |
/// | `{{ epoch }}` | seconds since 1970 |
/// | `{{ arch }}` | `os-arch-family_model`, changes with the CPU model |
///
/// Beyond `CircleCI`: `{{ checksum "A" "B" }}` is one checksum over several files (their names
/// count, their order does not), `{{ platform }}` is `os-arch` without the CPU model, and
/// `{{ tool "NAME" }}` is a tool's version from the context.
///
/// Go's pipelines, conditions and trim markers are refused when parsing, with the place.
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

/// Why a template could not be rendered.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The template itself is wrong.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// A file of `checksum` is not there.
    #[error(
        "checksum input {path:?} does not exist (looked for {located:?}); \
         without it there is no key, and nothing is cached"
    )]
    ChecksumMissing {
        /// As written in the template.
        path: String,
        /// Where it was looked for.
        located: PathBuf,
    },
    /// A file of `checksum` cannot be read.
    #[error("cannot read checksum input {path:?}")]
    ChecksumUnreadable {
        /// As written in the template.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A path starts with `~`, and the context knows no home folder.
    #[error("checksum input {path:?} starts with ~, but no home folder was given")]
    NoHome {
        /// As written in the template.
        path: String,
    },
    /// The context does not hold a fact that the template asks for.
    #[error("the key asks for {{{{ {action} }}}}, which was not given")]
    MissingFact {
        /// The action, for example `.Environment.STAGE`.
        action: String,
    },
    /// The rendered text is not a key.
    #[error("template {template:?} gives no usable key")]
    InvalidKey {
        /// The template.
        template: String,
        /// What is wrong with the text.
        #[source]
        source: InvalidKey,
    },
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
        Action::Environment(name) => context.environment.get(name).cloned().ok_or_else(missing)?,
        Action::Epoch => context.epoch.ok_or_else(missing)?.to_string(),
        Action::Arch => context.host.as_ref().ok_or_else(missing)?.to_string(),
        Action::Platform => context.host.as_ref().ok_or_else(missing)?.platform(),
        Action::Tool(name) => context.tools.get(name).cloned().ok_or_else(missing)?,
        Action::Checksum(files) => match files.as_slice() {
            [file] => file_checksum(file, context)?,
            several => {
                let mut names: Vec<&String> = several.iter().collect();
                names.sort_unstable();
                names.dedup();
                let mut hasher = Sha256::new();
                for name in names {
                    let checksum = file_checksum(name, context)?;
                    hasher.update((name.len() as u64).to_be_bytes());
                    hasher.update(name.as_bytes());
                    hasher.update(checksum.as_bytes());
                }
                checksum::encode(&hasher.finalize())
            }
        },
    })
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
    checksum::checksum_reader(&mut File::open(path)?)
}

/// The template in its canonical spelling; parsing it gives the same template.
impl fmt::Display for KeyTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.nodes.iter().try_for_each(|node| match node {
            Node::Text(text) => f.write_str(text),
            Node::Action(action) => write!(f, "{{{{ {action} }}}}"),
        })
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
            render("{{ .Environment.X }}", &context),
            Err(KeyError::MissingFact { action }) if action == ".Environment.X"
        ));
        assert!(matches!(
            render("{{ .Branch }}", &context),
            Err(KeyError::InvalidKey { .. })
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
