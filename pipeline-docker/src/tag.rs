//! [`TagScheme`]: how an image's tag is made of what is known about the build.

use std::fmt;

use pipeline_core::RunFacts;

use crate::oci::Digest;

/// The longest tag of the distribution specification.
const MAX_TAG: usize = 128;

/// How a tag is made.
///
/// A tag is for people; everything downstream speaks of digests. Tags should be unique: registries
/// may forbid moving one, `latest` included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TagScheme {
    /// `<branch or tag>-<short commit>-<build number>`, leaving out what is not known.
    #[default]
    Unique,
    /// The first twelve digits of the commit.
    Revision,
    /// The first twelve digits of the image's own digest: equal images get equal tags.
    Content,
    /// A text in which `{branch}`, `{tag}`, `{revision}`, `{short}` and `{build}` are replaced,
    /// such as `0.1.{build}`.
    Template(String),
}

/// Why a tag cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TagError {
    /// The scheme needs something that is not known.
    #[error("the tag scheme {scheme} needs the {missing}, which is not known for this run")]
    Missing {
        /// The scheme.
        scheme: String,
        /// What is missing.
        missing: &'static str,
    },
    /// A template holds something that is not understood.
    #[error(
        "tag template {template:?} holds {{{name}}}; only {{branch}}, {{tag}}, {{revision}}, {{short}} and {{build}} are known"
    )]
    UnknownPart {
        /// The template.
        template: String,
        /// What is not understood.
        name: String,
    },
    /// The result is no tag.
    #[error(
        "{tag:?} is no tag: letters, digits, _ . and - only, not beginning with . or -, at most {MAX_TAG}"
    )]
    Malformed {
        /// The result.
        tag: String,
    },
}

impl TagScheme {
    /// Makes the tag.
    ///
    /// Characters of branch names that a tag cannot hold become dashes.
    ///
    /// # Errors
    /// Something that the scheme needs is not known, or the result is no tag.
    pub fn render(&self, facts: &RunFacts, image: &Digest) -> Result<String, TagError> {
        let tag = match self {
            Self::Unique => {
                let mut parts: Vec<String> = facts
                    .branch
                    .iter()
                    .chain(&facts.tag)
                    .take(1)
                    .map(|name| slug(name))
                    .collect();
                parts.retain(|part| !part.is_empty());
                // The end says which one it is, so the beginning gives way.
                if let Some(name) = parts.first_mut() {
                    name.truncate(80);
                }
                parts.extend(facts.revision.as_deref().map(short));
                match facts.build_number {
                    0 if facts.revision.is_none() => return Err(self.missing("build number")),
                    0 => {}
                    number => parts.push(number.to_string()),
                }
                parts.join("-")
            }
            Self::Revision => {
                let revision = facts.revision.as_deref();
                short(revision.ok_or_else(|| self.missing("commit"))?)
            }
            Self::Content => image.short().to_owned(),
            Self::Template(template) => self.fill(template, facts)?,
        };
        if is_tag(&tag) {
            Ok(tag)
        } else {
            Err(TagError::Malformed { tag })
        }
    }

    fn fill(&self, template: &str, facts: &RunFacts) -> Result<String, TagError> {
        let mut tag = String::new();
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('{') {
            tag.push_str(before);
            let Some((name, after)) = after.split_once('}') else {
                return Err(TagError::Malformed {
                    tag: template.to_owned(),
                });
            };
            let value = match name {
                "branch" => facts.branch.as_deref().map(slug).ok_or("branch"),
                "tag" => facts.tag.as_deref().map(slug).ok_or("tag"),
                "revision" => facts.revision.clone().ok_or("commit"),
                "short" => facts.revision.as_deref().map(short).ok_or("commit"),
                "build" if facts.build_number == 0 => Err("build number"),
                "build" => Ok(facts.build_number.to_string()),
                other => {
                    return Err(TagError::UnknownPart {
                        template: template.to_owned(),
                        name: other.to_owned(),
                    });
                }
            };
            tag.push_str(&value.map_err(|missing| self.missing(missing))?);
            rest = after;
        }
        tag.push_str(rest);
        Ok(tag)
    }

    fn missing(&self, missing: &'static str) -> TagError {
        TagError::Missing {
            scheme: self.to_string(),
            missing,
        }
    }
}

impl fmt::Display for TagScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unique => f.write_str("unique"),
            Self::Revision => f.write_str("revision"),
            Self::Content => f.write_str("content"),
            Self::Template(template) => write!(f, "{template:?}"),
        }
    }
}

fn short(revision: &str) -> String {
    revision.chars().take(12).collect()
}

/// A name with nothing in it that a tag cannot hold.
fn slug(name: &str) -> String {
    let mut slug = String::with_capacity(name.len());
    for symbol in name.chars() {
        if symbol.is_ascii_alphanumeric() || matches!(symbol, '_' | '.') {
            slug.push(symbol);
        } else if !slug.ends_with('-') {
            slug.push('-');
        }
    }
    slug.trim_matches(['-', '.']).to_owned()
}

fn is_tag(tag: &str) -> bool {
    tag.len() <= MAX_TAG
        && tag.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '_')
        && tag
            .chars()
            .all(|symbol| symbol.is_ascii_alphanumeric() || matches!(symbol, '_' | '.' | '-'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn facts() -> RunFacts {
        RunFacts::new()
            .with_branch("feature/Größe #7")
            .with_revision("4f2c1e7aa0b1c2d3e4f5")
            .with_build_number(42)
    }

    fn render(scheme: TagScheme, facts: &RunFacts) -> Result<String, TagError> {
        scheme.render(facts, &Digest::sha256(b""))
    }

    #[test]
    fn schemes() {
        assert_eq!(
            render(TagScheme::Unique, &facts()).unwrap(),
            "feature-Gr-e-7-4f2c1e7aa0b1-42"
        );
        assert_eq!(
            render(TagScheme::Revision, &facts()).unwrap(),
            "4f2c1e7aa0b1"
        );
        assert_eq!(
            render(TagScheme::Content, &facts()).unwrap(),
            "e3b0c44298fc"
        );
        let template = |text: &str| render(TagScheme::Template(text.to_owned()), &facts());
        assert_eq!(template("0.1.{build}").unwrap(), "0.1.42");
        assert_eq!(template("{short}-x").unwrap(), "4f2c1e7aa0b1-x");
        assert!(matches!(
            template("{tag}"),
            Err(TagError::Missing { missing: "tag", .. })
        ));
        assert!(matches!(
            template("{nope}"),
            Err(TagError::UnknownPart { .. })
        ));
        assert!(matches!(template("a b"), Err(TagError::Malformed { .. })));
        assert!(matches!(
            template("{build"),
            Err(TagError::Malformed { .. })
        ));
    }

    #[test]
    fn nothing_is_invented() {
        let error = render(TagScheme::Unique, &RunFacts::new()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the tag scheme unique needs the build number, which is not known for this run"
        );
        let only_number = RunFacts::new().with_build_number(3);
        assert_eq!(render(TagScheme::Unique, &only_number).unwrap(), "3");
    }

    proptest! {
        #[test]
        fn any_branch_gives_a_tag(branch in ".{0,300}", number in 1_u64..) {
            let facts = facts().with_branch(branch).with_build_number(number);
            let tag = render(TagScheme::Unique, &facts).unwrap();
            prop_assert!(is_tag(&tag));
            let suffix = format!("4f2c1e7aa0b1-{number}");
            prop_assert!(tag.ends_with(&suffix));
        }
    }
}
