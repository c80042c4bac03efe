//! Image references: `[domain[:port]/]path[:tag][@digest]`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::oci::{Digest, DigestError};

/// The domain that a reference without one belongs to.
const DEFAULT_DOMAIN: &str = "docker.io";
/// An older name of the same registry; normalised away.
const LEGACY_DOMAIN: &str = "index.docker.io";
/// The host that serves the distribution API of [`DEFAULT_DOMAIN`].
const DEFAULT_API_HOST: &str = "registry-1.docker.io";
/// The namespace of one-component names on [`DEFAULT_DOMAIN`].
const OFFICIAL_NAMESPACE: &str = "library";
/// The longest repository name that registries accept.
const MAX_NAME: usize = 255;
/// The longest tag of the distribution specification.
const MAX_TAG: usize = 128;

/// The name of an image in a registry, always in its full form.
///
/// Parsed with the rules of the distribution specification and the normalisation of the docker
/// command line: `alpine` is `docker.io/library/alpine`, and the first component is a domain only
/// if it holds a dot, a colon or an upper-case letter or is `localhost`. No tag is invented: a
/// reference without tag and digest stays without, and operations that need one say so or use
/// [`ImageReference::or_latest`].
///
/// ```
/// use pipeline_docker::ImageReference;
///
/// let image: ImageReference = "localhost:5000/team/app:1.2".parse()?;
/// assert_eq!(image.domain(), "localhost:5000");
/// assert_eq!(image.repository(), "team/app");
/// assert_eq!(image.tag(), Some("1.2"));
/// assert_eq!("alpine".parse::<ImageReference>()?.to_string(), "docker.io/library/alpine");
/// # Ok::<(), pipeline_docker::ReferenceError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageReference {
    domain: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is not an image reference.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// Nothing is left to be a name.
    #[error("image reference {reference:?} has no repository name")]
    Empty {
        /// The whole text.
        reference: String,
    },
    /// The part before the first slash is no host with an optional port.
    #[error("image reference {reference:?}: {domain:?} is not a host name with an optional port")]
    Domain {
        /// The whole text.
        reference: String,
        /// The refused part.
        domain: String,
    },
    /// The repository has an upper-case letter.
    #[error("image reference {reference:?}: repository names are lower case")]
    Uppercase {
        /// The whole text.
        reference: String,
    },
    /// A path component has a character or a separator in a place where it cannot be.
    #[error(
        "image reference {reference:?}: {component:?} is not a repository path component \
         (letters and digits, between them `.`, `_`, `__` or dashes)"
    )]
    Component {
        /// The whole text.
        reference: String,
        /// The refused component.
        component: String,
    },
    /// The repository name is longer than 255 bytes.
    #[error("image reference {reference:?}: the repository name is longer than {MAX_NAME} bytes")]
    TooLong {
        /// The whole text.
        reference: String,
    },
    /// The tag does not match `[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}`.
    #[error(
        "{tag:?} is not a tag (at most {MAX_TAG} letters, digits, `_`, `.` or `-`, \
         not starting with `.` or `-`)"
    )]
    Tag {
        /// The refused tag.
        tag: String,
    },
    /// The part after `@` is no digest.
    #[error("image reference {reference:?} does not end in a digest")]
    Digest {
        /// The whole text.
        reference: String,
        /// What is wrong with the digest.
        #[source]
        source: DigestError,
    },
    /// The name is 64 hexadecimal digits, which docker takes for an image id.
    #[error(
        "image reference {reference:?} looks like an image id; put a domain or namespace in front of it"
    )]
    LooksLikeId {
        /// The whole text.
        reference: String,
    },
}

impl ImageReference {
    /// The registry as users write it, with its port if one was given: `docker.io`,
    /// `localhost:5000`.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository path below the domain: `library/alpine`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, if the reference has one.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if the reference has one. It wins over the tag in every operation that reads.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Domain and repository without tag and digest.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.repository)
    }

    /// The host (and port) that answers the distribution API for this reference.
    ///
    /// Differs from [`ImageReference::domain`] for `docker.io` only.
    #[must_use]
    pub fn api_host(&self) -> &str {
        api_host(&self.domain)
    }

    /// The same repository under another tag; the digest is dropped.
    ///
    /// # Errors
    ///
    /// [`ReferenceError::Tag`] if `tag` is none.
    pub fn with_tag(&self, tag: impl Into<String>) -> Result<Self, ReferenceError> {
        let tag = tag.into();
        check_tag(&tag)?;
        Ok(Self {
            tag: Some(tag),
            digest: None,
            ..self.clone()
        })
    }

    /// The same repository and tag, pinned to `digest`.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// The same repository pinned to `digest`, without a tag.
    #[must_use]
    pub fn pinned(&self, digest: Digest) -> Self {
        Self {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// The reference itself if it has a tag or a digest, else the same with the tag `latest`.
    ///
    /// This is what `docker pull` does with a bare name.
    #[must_use]
    pub fn or_latest(&self) -> Self {
        if self.tag.is_some() || self.digest.is_some() {
            return self.clone();
        }
        Self {
            tag: Some("latest".to_owned()),
            ..self.clone()
        }
    }

    /// The shortest form that parses back to the same reference: `alpine:3.20`.
    #[must_use]
    pub fn familiar(&self) -> String {
        let mut name = if self.domain == DEFAULT_DOMAIN {
            let official = self
                .repository
                .strip_prefix(OFFICIAL_NAMESPACE)
                .and_then(|rest| rest.strip_prefix('/'))
                .filter(|rest| !rest.contains('/') && !is_id(rest));
            official.unwrap_or(&self.repository).to_owned()
        } else {
            self.name()
        };
        self.push_suffix(&mut name);
        name
    }

    /// What goes into a manifest URL: the digest, else the tag.
    #[cfg(feature = "registry")]
    pub(crate) fn selector(&self) -> Option<String> {
        self.digest
            .as_ref()
            .map(ToString::to_string)
            .or_else(|| self.tag.clone())
    }

    fn push_suffix(&self, text: &mut String) {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
    }
}

/// The host that answers the distribution API of `domain`.
pub(crate) fn api_host(domain: &str) -> &str {
    if domain == DEFAULT_DOMAIN {
        DEFAULT_API_HOST
    } else {
        domain
    }
}

/// Checks `tag` against the distribution specification.
///
/// # Errors
///
/// [`ReferenceError::Tag`].
pub(crate) fn check_tag(tag: &str) -> Result<(), ReferenceError> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let valid = tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(word)
        && tag
            .bytes()
            .all(|byte| word(byte) || byte == b'.' || byte == b'-');
    if valid {
        Ok(())
    } else {
        Err(ReferenceError::Tag {
            tag: tag.to_owned(),
        })
    }
}

impl FromStr for ImageReference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let reference = || text.to_owned();
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest = digest
                    .parse::<Digest>()
                    .map_err(|source| ReferenceError::Digest {
                        reference: reference(),
                        source,
                    })?;
                (rest, Some(digest))
            }
            None => (text, None),
        };
        // A colon after the last slash starts a tag; before it, a port.
        let name_start = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[name_start..].split_once(':') {
            Some((last, tag)) => (&rest[..name_start + last.len()], Some(tag)),
            None => (rest, None),
        };
        if let Some(tag) = tag {
            check_tag(tag)?;
        }
        let (domain, path) = split_domain(name);
        if path.is_empty() {
            return Err(ReferenceError::Empty {
                reference: reference(),
            });
        }
        if !is_domain(domain) {
            return Err(ReferenceError::Domain {
                reference: reference(),
                domain: domain.to_owned(),
            });
        }
        if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(ReferenceError::Uppercase {
                reference: reference(),
            });
        }
        if let Some(component) = path.split('/').find(|component| !is_component(component)) {
            return Err(ReferenceError::Component {
                reference: reference(),
                component: component.to_owned(),
            });
        }
        if !name.contains('/') && is_id(name) {
            return Err(ReferenceError::LooksLikeId {
                reference: reference(),
            });
        }
        let domain = if domain == LEGACY_DOMAIN {
            DEFAULT_DOMAIN
        } else {
            domain
        };
        let repository = if domain == DEFAULT_DOMAIN && !path.contains('/') {
            format!("{OFFICIAL_NAMESPACE}/{path}")
        } else {
            path.to_owned()
        };
        if repository.len() > MAX_NAME {
            return Err(ReferenceError::TooLong {
                reference: reference(),
            });
        }
        Ok(Self {
            domain: domain.to_owned(),
            repository,
            tag: tag.map(str::to_owned),
            digest,
        })
    }
}

/// Splits a name as docker does: what looks like a host is the domain, anything else is a path on
/// the default registry.
fn split_domain(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|byte| byte.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, name),
    }
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = if let Some(bracketed) = domain.strip_prefix('[') {
        let Some((address, port)) = bracketed.split_once(']') else {
            return false;
        };
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return false;
        }
        match port.strip_prefix(':') {
            Some(port) => (None, Some(port)),
            None if port.is_empty() => (None, None),
            None => return false,
        }
    } else {
        match domain.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(domain), None),
        }
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    host.is_none_or(|host| host.split('.').all(label))
        && port.is_none_or(|port| {
            port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()
        })
}

fn is_component(component: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    alphanumeric(first)
        && alphanumeric(last)
        && component
            .split(|character: char| character.is_ascii_lowercase() || character.is_ascii_digit())
            .all(|gap| matches!(gap, "" | "." | "_" | "__") || gap.bytes().all(|byte| byte == b'-'))
}

fn is_id(name: &str) -> bool {
    name.len() == 64
        && name
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl fmt::Display for ImageReference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.name();
        self.push_suffix(&mut text);
        formatter.write_str(&text)
    }
}

impl Serialize for ImageReference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ImageReference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    fn parse(text: &str) -> ImageReference {
        text.parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn names_are_normalised_as_docker_does() {
        for (text, domain, repository) in [
            ("alpine", "docker.io", "library/alpine"),
            ("user/app", "docker.io", "user/app"),
            ("docker.io/alpine", "docker.io", "library/alpine"),
            ("index.docker.io/alpine", "docker.io", "library/alpine"),
            ("docker.io/library/alpine", "docker.io", "library/alpine"),
            ("localhost/app", "localhost", "app"),
            ("localhost:5000/app", "localhost:5000", "app"),
            ("127.0.0.1:5000/a/b/c", "127.0.0.1:5000", "a/b/c"),
            ("ghcr.io/Org".to_lowercase().as_str(), "ghcr.io", "org"),
            ("[::1]:5000/app", "[::1]:5000", "app"),
            ("HOST/app", "HOST", "app"),
            ("a/b/c", "docker.io", "a/b/c"),
            ("quay.io/a__b/c-d.e_f---g", "quay.io", "a__b/c-d.e_f---g"),
        ] {
            let reference = parse(text);
            assert_eq!(
                (reference.domain(), reference.repository()),
                (domain, repository),
                "{text}"
            );
            assert_eq!(parse(&reference.to_string()), reference);
            assert_eq!(
                parse(&reference.familiar()),
                reference,
                "{}",
                reference.familiar()
            );
        }
    }

    #[test]
    fn tags_digests_and_ports_do_not_mix() {
        let reference = parse(&format!("localhost:5000/app:v1@sha256:{HEX}"));
        assert_eq!(reference.domain(), "localhost:5000");
        assert_eq!(reference.tag(), Some("v1"));
        assert_eq!(
            reference.digest().map(ToString::to_string),
            Some(format!("sha256:{HEX}"))
        );
        assert_eq!(parse("localhost:5000/app").tag(), None);
        assert_eq!(parse("app:5000").tag(), Some("5000"));
        assert_eq!(parse("alpine").or_latest().tag(), Some("latest"));
        assert_eq!(parse("alpine:3").or_latest().tag(), Some("3"));
        assert_eq!(parse("docker.io/library/alpine:3").familiar(), "alpine:3");
        assert_eq!(parse("alpine").api_host(), "registry-1.docker.io");
    }

    #[test]
    fn what_docker_refuses_is_refused() {
        for text in [
            "",
            ":tag",
            "@",
            "App",
            "a//b",
            "/a",
            "a/",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a_.b",
            "a:",
            "a:-tag",
            "a:.tag",
            "a:ta g",
            "a@sha256:abc",
            "host.com:port/a",
            "host..com/a",
            "-host.com/a",
            "host.com:99999/a",
            "[::1/a",
            "[zz]:1/a",
            "localhost:5000/",
            "a b",
            "ä",
            "https://host.com/a",
            HEX,
        ] {
            assert!(
                text.parse::<ImageReference>().is_err(),
                "{text:?} was accepted"
            );
        }
        assert!(
            format!("app:{}", "t".repeat(128))
                .parse::<ImageReference>()
                .is_ok()
        );
        assert!(
            format!("app:{}", "t".repeat(129))
                .parse::<ImageReference>()
                .is_err()
        );
        assert!("a".repeat(256).parse::<ImageReference>().is_err());
        assert!(parse(&format!("host.com/{HEX}")).repository().len() == 64);
    }

    #[test]
    fn serde_uses_the_text() {
        let json = serde_json::to_string(&parse("alpine:3")).unwrap();
        assert_eq!(json, r#""docker.io/library/alpine:3""#);
        assert_eq!(
            serde_json::from_str::<ImageReference>(&json).unwrap(),
            parse("alpine:3")
        );
        assert!(serde_json::from_str::<ImageReference>("\"A B\"").is_err());
    }

    proptest::proptest! {
        #[test]
        fn what_parses_prints_and_parses_again(text in "[a-zA-Z0-9./:@_-]{0,40}") {
            if let Ok(reference) = text.parse::<ImageReference>() {
                proptest::prop_assert_eq!(&parse(&reference.to_string()), &reference);
                proptest::prop_assert_eq!(&parse(&reference.familiar()), &reference);
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".*") {
            drop(text.parse::<ImageReference>());
        }
    }
}
