//! One line of a requirements file.

use super::version::VersionRange;

/// Something that a requirements file asks pip to install.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The distribution's name as PEP 503 writes it; for a bare URL or path only when it tells.
    pub(super) name: Option<String>,
    pub(super) specifiers: String,
    pub(super) marker: Option<String>,
    pub(super) hashed: bool,
}

impl Requirement {
    /// The distribution's name in the normal form of PEP 503: lower case, runs of `-`, `_` and
    /// `.` as one `-`. Nothing for a URL or path that does not tell its name.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The version specifiers as written, without spaces at the ends; may be empty.
    #[must_use]
    pub fn specifiers(&self) -> &str {
        &self.specifiers
    }

    /// The environment marker behind the semicolon, as written.
    #[must_use]
    pub fn marker(&self) -> Option<&str> {
        self.marker.as_deref()
    }

    /// The version, when the line allows exactly one (`==` or `===` without a wildcard).
    #[must_use]
    pub fn pinned_version(&self) -> Option<&str> {
        let version = self
            .specifiers
            .strip_prefix("===")
            .or_else(|| self.specifiers.strip_prefix("=="))?
            .trim();
        (!version.contains([',', '*', ' '])).then_some(version)
    }

    pub(super) fn range(&self) -> VersionRange {
        VersionRange::of_specifiers(&self.specifiers)
    }

    /// Reads a logical line without comment. `options` is what follows the first word that
    /// starts with a dash, as pip splits it.
    pub(super) fn parse(line: &str, options: &str) -> Self {
        let hashed = options
            .split_whitespace()
            .any(|word| word.starts_with("--hash"));
        // A marker follows `;`; after a URL only with a space before, for URLs may hold one.
        let is_direct = line.contains("://") || line.contains(" @ ");
        let (what, marker) = match line.split_once(if is_direct { " ;" } else { ";" }) {
            Some((what, marker)) => (what.trim(), Some(marker.trim().to_owned())),
            None => (line.trim(), None),
        };
        let (name, specifiers) = match named(what) {
            Some((name, specifiers)) => (Some(normalise(name)), specifiers.to_owned()),
            None => (name_of_location(what), String::new()),
        };
        Self {
            name,
            specifiers,
            marker,
            hashed,
        }
    }
}

/// The name in the normal form of PEP 503.
pub(super) fn normalise(name: &str) -> String {
    let mut normal = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '-' | '_' | '.' => {
                if !normal.ends_with('-') {
                    normal.push('-');
                }
            }
            c => normal.push(c.to_ascii_lowercase()),
        }
    }
    normal
}

/// Splits `name[extras] specifiers` or `name[extras] @ url`; nothing if it is not of that form.
fn named(what: &str) -> Option<(&str, &str)> {
    let end = what
        .find(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c)))
        .unwrap_or(what.len());
    let (name, rest) = what.split_at(end);
    let is_edge = |c: char| c.is_ascii_alphanumeric();
    if !(name.starts_with(is_edge) && name.ends_with(is_edge)) {
        return None;
    }
    let mut rest = rest.trim_start();
    if let Some(extras) = rest.strip_prefix('[') {
        rest = extras.split_once(']')?.1.trim_start();
    }
    if rest.starts_with('@') {
        return Some((name, ""));
    }
    let is_archive = [".whl", ".zip", ".tar.gz", ".tar.bz2", ".tgz"]
        .iter()
        .any(|end| name.ends_with(end));
    let is_specifier = rest.is_empty() || rest.starts_with(['=', '<', '>', '~', '!', '(']);
    (is_specifier && !is_archive).then(|| (name, rest.trim_matches(['(', ')', ' '])))
}

/// What a URL or path tells about the name: `#egg=NAME`, or the name of an archive.
fn name_of_location(location: &str) -> Option<String> {
    if let Some((_, fragment)) = location.split_once('#')
        && let Some(egg) = fragment
            .split('&')
            .find_map(|part| part.strip_prefix("egg="))
    {
        let end = egg.find('[').unwrap_or(egg.len());
        return Some(normalise(&egg[..end]));
    }
    let path = location.split(['#', '?']).next().unwrap_or(location);
    let file = path.rsplit(['/', '\\']).next().unwrap_or(path);
    if let Some(wheel) = file.strip_suffix(".whl") {
        return wheel.split_once('-').map(|(name, _)| normalise(name));
    }
    let stem = [".tar.gz", ".zip", ".tar.bz2", ".tgz"]
        .iter()
        .find_map(|end| file.strip_suffix(end))?;
    let (name, version) = stem.rsplit_once('-')?;
    version
        .starts_with(|c: char| c.is_ascii_digit())
        .then(|| normalise(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> (Option<String>, String, Option<String>) {
        let requirement = Requirement::parse(line, "");
        (requirement.name, requirement.specifiers, requirement.marker)
    }

    fn named(name: &str, specifiers: &str) -> (Option<String>, String, Option<String>) {
        (Some(name.into()), specifiers.into(), None)
    }

    #[test]
    fn names_extras_and_specifiers() {
        assert_eq!(parse("Django"), named("django", ""));
        assert_eq!(parse("Django==5.2.19"), named("django", "==5.2.19"));
        assert_eq!(parse("django >= 4.2, < 6"), named("django", ">= 4.2, < 6"));
        assert_eq!(parse("uvicorn[standard]~=0.30"), named("uvicorn", "~=0.30"));
        assert_eq!(
            parse("Typing_Extensions (>=4)"),
            named("typing-extensions", ">=4")
        );
        assert_eq!(parse("zope.interface"), named("zope-interface", ""));
        assert_eq!(parse("ruamel..yaml"), named("ruamel-yaml", ""));
    }

    #[test]
    fn markers_are_kept_apart() {
        let (name, specifiers, marker) = parse("tomli==2.0 ; python_version < \"3.11\"");
        assert_eq!(
            (name.as_deref(), specifiers.as_str()),
            (Some("tomli"), "==2.0")
        );
        assert_eq!(marker.as_deref(), Some("python_version < \"3.11\""));
        assert_eq!(parse("a;b").0.as_deref(), Some("a"));
    }

    #[test]
    fn places_tell_their_name_or_not() {
        for (line, expected) in [
            ("pip @ https://example.org/pip-1.3.1.zip", Some("pip")),
            (
                "pip@https://example.org/x.zip ; python_version > '3'",
                Some("pip"),
            ),
            (
                "git+https://example.org/shop.git@main#egg=My_Shop[x]",
                Some("my-shop"),
            ),
            (
                "https://example.org/wxPython_Phoenix-3.0.3-cp34-none-any.whl",
                Some("wxpython-phoenix"),
            ),
            ("./downloads/numpy-1.9.2.tar.gz", Some("numpy")),
            ("numpy-1.9.2-cp34-none-win32.whl", Some("numpy")),
            ("https://example.org/archive/refs/tags/main.zip", None),
            ("./libs/thing", None),
            (".", None),
            ("../shared[extra]", None),
        ] {
            assert_eq!(parse(line).0.as_deref(), expected, "{line}");
        }
    }

    #[test]
    fn a_pin_is_one_version() {
        let pinned = |line: &str| {
            Requirement::parse(line, "")
                .pinned_version()
                .map(str::to_owned)
        };
        assert_eq!(pinned("a==1.2").as_deref(), Some("1.2"));
        assert_eq!(pinned("a == 1.2").as_deref(), Some("1.2"));
        assert_eq!(pinned("a===1.2").as_deref(), Some("1.2"));
        assert_eq!(pinned("a==1.*"), None);
        assert_eq!(pinned("a==1.2,!=1.3"), None);
        assert_eq!(pinned("a>=1.2"), None);
    }
}
