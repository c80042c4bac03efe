//! Which tags an image gets.

use std::fmt;

use pipeline_core::RunFacts;
use serde::{Deserialize, Serialize};

use crate::oci::Digest;
use crate::reference::check_tag;

/// Hexadecimal digits of a revision or digest in a tag.
const SHORT: usize = 12;
/// Characters of a branch or git tag in a tag that has other parts.
const MAX_SLUG: usize = 60;

/// Why no tag can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TagError {
    /// The template cannot be read.
    #[error(
        "tag template {template:?}: {what}; known are {{build}}, {{revision}}, {{branch}}, \
         {{tag}}, {{digest}}, and a length as in {{revision:12}}"
    )]
    Template {
        /// The template.
        template: String,
        /// What is wrong with it.
        what: String,
    },
    /// The template would give the same tag to every build.
    #[error(
        "tag template {template:?} gives every build the same tag; use {{build}}, {{revision}}, \
         {{tag}} or {{digest}}, and an alias for a tag that moves"
    )]
    NotUnique {
        /// The template.
        template: String,
    },
    /// A fact that the tag is made of is not known.
    #[error("tag {scheme} needs the {fact}, which this run does not know")]
    Missing {
        /// The scheme.
        scheme: String,
        /// The fact.
        fact: &'static str,
    },
    /// The git tag is no semantic version.
    #[error("git tag {tag:?} is not a semantic version such as v1.2.3")]
    NotSemantic {
        /// The git tag.
        tag: String,
    },
    /// The result is not a tag.
    #[error(
        "tag {scheme} gives {tag:?}, which is not a tag of at most 128 letters, digits, `_`, `.`, `-`"
    )]
    Invalid {
        /// The scheme.
        scheme: String,
        /// The result.
        tag: String,
    },
}

/// How one tag is made from what is known about the build.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TagScheme {
    /// `<branch or git tag>-<revision>-<build number>`, as far as known: `main-3f2a91c04b7d-42`.
    Unique,
    /// The revision, 12 digits of it: `3f2a91c04b7d`.
    Revision,
    /// The version in the git tag without a leading `v`: `1.4.2`. Build metadata, which a tag
    /// cannot hold, follows an underscore instead of the plus sign.
    SemanticVersion,
    /// The content: `sha256-` and 12 digits of the image's digest. Equal images, equal tags.
    Content,
    /// A text with placeholders: `0.1.{build}`.
    Template(TagTemplate),
}

/// A text with placeholders: `{build}`, `{revision}`, `{branch}`, `{tag}`, `{digest}`.
///
/// `{revision}` and `{digest}` are cut to 12 digits, or to the length given as in
/// `{revision:7}`. What a tag cannot hold in a branch or git tag becomes a dash.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TagTemplate {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Part {
    Text(String),
    Build,
    Revision(usize),
    Branch,
    Tag,
    Digest(usize),
}

impl TagTemplate {
    /// Reads a template.
    ///
    /// # Errors
    ///
    /// [`TagError::Template`] for an unknown placeholder, [`TagError::NotUnique`] for a text that
    /// never changes.
    pub fn new(template: impl Into<String>) -> Result<Self, TagError> {
        let text = template.into();
        let wrong = |what: &str| TagError::Template {
            template: text.clone(),
            what: what.to_owned(),
        };
        let mut parts = Vec::new();
        let mut rest = text.as_str();
        while let Some(open) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(open);
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            let (name, after) = from
                .strip_prefix('{')
                .ok_or_else(|| wrong("a `}` without its `{`"))?
                .split_once('}')
                .ok_or_else(|| wrong("a `{` without its `}`"))?;
            let (name, length) = match name.split_once(':') {
                Some((name, length)) => {
                    let length = length
                        .parse()
                        .ok()
                        .filter(|length| (4..=64).contains(length));
                    (
                        name,
                        Some(length.ok_or_else(|| wrong("a length is not between 4 and 64"))?),
                    )
                }
                None => (name, None),
            };
            parts.push(match (name, length) {
                ("build", None) => Part::Build,
                ("branch", None) => Part::Branch,
                ("tag", None) => Part::Tag,
                ("revision", length) => Part::Revision(length.unwrap_or(SHORT)),
                ("digest", length) => Part::Digest(length.unwrap_or(SHORT)),
                _ => return Err(wrong(&format!("{{{name}}} is not a placeholder here"))),
            });
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        if parts
            .iter()
            .all(|part| matches!(part, Part::Text(_) | Part::Branch))
        {
            return Err(TagError::NotUnique { template: text });
        }
        Ok(Self { text, parts })
    }
}

impl fmt::Display for TagTemplate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl fmt::Display for TagScheme {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unique => formatter.write_str("branch-revision-build"),
            Self::Revision => formatter.write_str("revision"),
            Self::SemanticVersion => formatter.write_str("semantic version"),
            Self::Content => formatter.write_str("content"),
            Self::Template(template) => template.fmt(formatter),
        }
    }
}

impl TagScheme {
    /// The tag for these facts and this image.
    ///
    /// # Errors
    ///
    /// [`TagError`] if a fact is missing or the result is not a tag.
    pub fn render(&self, facts: &RunFacts, digest: &Digest) -> Result<String, TagError> {
        let missing = |fact| TagError::Missing {
            scheme: self.to_string(),
            fact,
        };
        let revision = |length| {
            let known = facts
                .revision
                .as_deref()
                .filter(|revision| !revision.is_empty());
            known
                .map(|revision| short(revision, length))
                .ok_or_else(|| missing("revision"))
        };
        let git_tag = || facts.tag.as_deref().ok_or_else(|| missing("git tag"));
        let build = || match facts.build_number {
            0 => Err(missing("build number")),
            number => Ok(number.to_string()),
        };
        let tag = match self {
            Self::Unique => {
                let name = facts.branch.as_deref().or(facts.tag.as_deref()).map(slug);
                let parts = [name, revision(SHORT).ok(), build().ok()];
                // A name alone would be the same for the next build.
                if parts.iter().skip(1).all(Option::is_none) {
                    return Err(missing("revision or build number"));
                }
                let known: Vec<String> = parts
                    .into_iter()
                    .flatten()
                    .filter(|part| !part.is_empty())
                    .collect();
                known.join("-")
            }
            Self::Revision => revision(SHORT)?,
            Self::SemanticVersion => semantic(git_tag()?)?.join(),
            Self::Content => format!("{}-{}", digest.algorithm(), short(digest.hex(), SHORT)),
            Self::Template(template) => {
                let mut tag = String::new();
                for part in &template.parts {
                    tag += &match part {
                        Part::Text(text) => text.clone(),
                        Part::Build => build()?,
                        Part::Revision(length) => revision(*length)?,
                        Part::Branch => {
                            slug(facts.branch.as_deref().ok_or_else(|| missing("branch"))?)
                        }
                        Part::Tag => slug(git_tag()?),
                        Part::Digest(length) => short(digest.hex(), *length),
                    };
                }
                tag
            }
        };
        check_tag(&tag).map_err(|_| TagError::Invalid {
            scheme: self.to_string(),
            tag: tag.clone(),
        })?;
        Ok(tag)
    }
}

/// The tags of one push.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TagSet {
    /// Tags that are this image's own; refused if they exist with another digest.
    pub unique: Vec<String>,
    /// Tags that move to this image once the others are in place and verified.
    pub aliases: Vec<String>,
}

/// Which tags an image gets: its own, and aliases that move.
///
/// By default one unique tag, [`TagScheme::Unique`], and no alias. A tag of its own never moves:
/// pushing another image under it is refused. An alias such as `latest` is the last thing that
/// happens, after the registry has confirmed the image under its own tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagPolicy {
    /// A tag that the caller chose, in place of the schemes.
    fixed: Option<String>,
    schemes: Vec<TagScheme>,
    aliases: Vec<String>,
    series: bool,
}

impl Default for TagPolicy {
    fn default() -> Self {
        Self::of(TagScheme::Unique)
    }
}

impl TagPolicy {
    /// One tag of its own, made by `scheme`.
    #[must_use]
    pub fn of(scheme: TagScheme) -> Self {
        Self {
            fixed: None,
            schemes: vec![scheme],
            aliases: Vec::new(),
            series: false,
        }
    }

    /// `<branch>-<revision>-<build number>`; the default.
    #[must_use]
    pub fn unique() -> Self {
        Self::default()
    }

    /// A template such as `0.1.{build}`.
    ///
    /// # Errors
    ///
    /// [`TagError`] if the template cannot be read or never changes.
    pub fn template(template: impl Into<String>) -> Result<Self, TagError> {
        Ok(Self::of(TagScheme::Template(TagTemplate::new(template)?)))
    }

    /// A tag that the caller has made unique by other means.
    #[must_use]
    pub fn fixed(tag: impl Into<String>) -> Self {
        Self::default().only(tag)
    }

    /// The same aliases for a tag that the caller chose.
    #[must_use]
    pub(crate) fn only(mut self, tag: impl Into<String>) -> Self {
        self.fixed = Some(tag.into());
        self.schemes.clear();
        self
    }

    /// Adds a further tag of its own.
    #[must_use]
    pub fn with(mut self, scheme: TagScheme) -> Self {
        self.schemes.push(scheme);
        self
    }

    /// Adds an alias that moves, such as `latest`.
    #[must_use]
    pub fn with_alias(mut self, tag: impl Into<String>) -> Self {
        self.aliases.push(tag.into());
        self
    }

    /// Lets the series of a semantic version move along: `1.4` and `1` for `1.4.2`. A
    /// pre-release moves nothing, nor does `0` for `0.x`.
    #[must_use]
    pub fn with_series_aliases(mut self) -> Self {
        self.series = true;
        self
    }

    /// The tags for these facts and this image, each once.
    ///
    /// # Errors
    ///
    /// [`TagError`].
    pub fn render(&self, facts: &RunFacts, digest: &Digest) -> Result<TagSet, TagError> {
        let mut tags = TagSet {
            unique: Vec::new(),
            aliases: Vec::new(),
        };
        if let Some(tag) = &self.fixed {
            check_tag(tag).map_err(|_| TagError::Invalid {
                scheme: "given by hand".to_owned(),
                tag: tag.clone(),
            })?;
            tags.unique.push(tag.clone());
        }
        for scheme in &self.schemes {
            let tag = scheme.render(facts, digest)?;
            if !tags.unique.contains(&tag) {
                tags.unique.push(tag);
            }
        }
        let series = match &facts.tag {
            Some(tag) if self.series => semantic(tag)?.series(),
            _ => Vec::new(),
        };
        for alias in series.into_iter().chain(self.aliases.iter().cloned()) {
            check_tag(&alias).map_err(|_| TagError::Invalid {
                scheme: "alias".to_owned(),
                tag: alias.clone(),
            })?;
            if !tags.aliases.contains(&alias) && !tags.unique.contains(&alias) {
                tags.aliases.push(alias);
            }
        }
        Ok(tags)
    }
}

fn short(hex: &str, length: usize) -> String {
    hex.chars().take(length).collect()
}

/// What a tag can hold of a branch's name.
fn slug(name: &str) -> String {
    let mut slug = String::new();
    for character in name.chars() {
        let fits = character.is_ascii_alphanumeric() || matches!(character, '.' | '_');
        if fits {
            slug.push(character);
        } else if !slug.ends_with('-') {
            slug.push('-');
        }
        if slug.len() >= MAX_SLUG {
            break;
        }
    }
    slug.trim_matches(['-', '.']).to_owned()
}

struct Version {
    numbers: [u64; 3],
    pre: String,
    build: String,
}

impl Version {
    fn join(&self) -> String {
        let [major, minor, patch] = self.numbers;
        let mut text = format!("{major}.{minor}.{patch}");
        if !self.pre.is_empty() {
            text += &format!("-{}", self.pre);
        }
        if !self.build.is_empty() {
            text += &format!("_{}", self.build);
        }
        text
    }

    fn series(&self) -> Vec<String> {
        let [major, minor, _] = self.numbers;
        if !self.pre.is_empty() {
            return Vec::new();
        }
        let mut series = vec![format!("{major}.{minor}")];
        if major > 0 {
            series.push(major.to_string());
        }
        series
    }
}

/// Reads `v1.2.3-pre+build` by the rules of semantic versioning.
fn semantic(tag: &str) -> Result<Version, TagError> {
    let wrong = || TagError::NotSemantic {
        tag: tag.to_owned(),
    };
    let text = tag.strip_prefix('v').unwrap_or(tag);
    let version = semver::Version::parse(text).map_err(|_| wrong())?;
    Ok(Version {
        numbers: [version.major, version.minor, version.patch],
        pre: version.pre.to_string(),
        build: version.build.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> RunFacts {
        RunFacts::new()
            .with_branch("feature/Login form!")
            .with_revision("3f2a91c04b7d8899aabbccddeeff001122334455")
            .with_build_number(42)
    }

    fn digest() -> Digest {
        Digest::sha256(b"image")
    }

    fn template(text: &str) -> Result<String, TagError> {
        TagScheme::Template(TagTemplate::new(text)?).render(&facts(), &digest())
    }

    #[test]
    fn every_scheme_gives_its_tag() {
        let render = |scheme: TagScheme| scheme.render(&facts(), &digest()).unwrap();
        assert_eq!(
            render(TagScheme::Unique),
            "feature-Login-form-3f2a91c04b7d-42"
        );
        assert_eq!(render(TagScheme::Revision), "3f2a91c04b7d");
        let hex = digest().hex()[..12].to_owned();
        assert_eq!(render(TagScheme::Content), format!("sha256-{hex}"));
        assert_eq!(template("0.1.{build}").unwrap(), "0.1.42");
        assert_eq!(
            template("{branch}-{revision:7}").unwrap(),
            "feature-Login-form-3f2a91c"
        );
        assert_eq!(template("x{digest:12}").unwrap(), format!("x{hex}"));
        let tagged = RunFacts::new().with_tag("v1.4.2-rc.1+linux");
        let version = TagScheme::SemanticVersion
            .render(&tagged, &digest())
            .unwrap();
        assert_eq!(version, "1.4.2-rc.1_linux");
    }

    #[test]
    fn missing_facts_and_bad_templates_are_named() {
        let empty = RunFacts::new().with_branch("main");
        for (scheme, fact) in [
            (TagScheme::Unique, "revision or build number"),
            (TagScheme::Revision, "revision"),
            (TagScheme::SemanticVersion, "git tag"),
            (
                TagScheme::Template(TagTemplate::new("0.1.{build}").unwrap()),
                "build number",
            ),
        ] {
            let error = scheme.render(&empty, &digest()).unwrap_err();
            assert!(
                matches!(&error, TagError::Missing { fact: seen, .. } if *seen == fact),
                "{error}"
            );
        }
        for text in [
            "{nothing}",
            "{build",
            "build}",
            "{revision:2}",
            "{revision:x}",
            "{build:4}",
            "{}",
        ] {
            assert!(
                matches!(template(text), Err(TagError::Template { .. })),
                "{text}"
            );
        }
        for text in ["latest", "", "{branch}", "stable-{branch}"] {
            assert!(
                matches!(template(text), Err(TagError::NotUnique { .. })),
                "{text}"
            );
        }
        for text in [".{build}", "-{build}", "a b{build}", "a/{build}"] {
            assert!(
                matches!(template(text), Err(TagError::Invalid { .. })),
                "{text}"
            );
        }
        for tag in ["1.2", "v1.02.3", "release", "vv1.2.3"] {
            let facts = RunFacts::new().with_tag(tag);
            let error = TagScheme::SemanticVersion
                .render(&facts, &digest())
                .unwrap_err();
            assert!(matches!(error, TagError::NotSemantic { .. }), "{tag}");
        }
    }

    #[test]
    fn aliases_follow_the_unique_tags() {
        let policy = TagPolicy::of(TagScheme::SemanticVersion)
            .with(TagScheme::Content)
            .with_series_aliases()
            .with_alias("latest")
            .with_alias("latest");
        let render = |tag: &str| {
            policy
                .render(&RunFacts::new().with_tag(tag), &digest())
                .unwrap()
        };
        assert_eq!(render("v1.4.2").unique.len(), 2);
        assert_eq!(render("v1.4.2").aliases, ["1.4", "1", "latest"]);
        assert_eq!(render("0.4.2").aliases, ["0.4", "latest"]);
        assert_eq!(render("v1.4.2-rc.1").aliases, ["latest"]);
        let bad = TagPolicy::unique().with_alias("not a tag");
        assert!(bad.render(&facts(), &digest()).is_err());
    }

    #[test]
    fn long_and_strange_branches_still_give_a_tag() {
        for branch in [
            "ä".repeat(300),
            "x".repeat(300),
            "---".to_owned(),
            "a//b".to_owned(),
        ] {
            let facts = facts().with_branch(branch);
            let tag = TagScheme::Unique.render(&facts, &digest()).unwrap();
            assert!(tag.ends_with("3f2a91c04b7d-42"), "{tag}");
        }
    }
}
