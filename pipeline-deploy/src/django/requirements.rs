//! What a project's requirements file asks for.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Component, Path, PathBuf};

use thiserror::Error;

use super::requirement::{Requirement, normalise};
use super::requirement_lines::{logical_lines, option_and_value, split_options};
use super::text::{DecodeError, DecodedText, TextEncoding};
use super::version::VersionRange;

/// A requirements file with everything it includes, read as pip reads it.
///
/// Includes (`-r`) are followed inside the project's folder, each file in its own encoding.
/// Constraints (`-c`) are read too: they ask for nothing, and limit what may be added.
/// Rules: <https://pip.pypa.io/en/stable/reference/requirements-file-format/>.
#[derive(Debug, Clone)]
pub struct Requirements {
    path: PathBuf,
    encoding: TextEncoding,
    files: Vec<PathBuf>,
    asked: Vec<Requirement>,
    constraints: Vec<Requirement>,
    require_hashes: bool,
    normalised: String,
    warnings: Vec<String>,
}

/// Why a requirements file could not be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RequirementsError {
    /// The file itself could not be read.
    #[error("cannot read requirements file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file that an `-r` or `-c` line names could not be read.
    #[error("{}:{line} includes {}, which cannot be read", from.display(), path.display())]
    Include {
        /// The file with the line.
        from: PathBuf,
        /// The line's number, from 1.
        line: usize,
        /// The file that is missing.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The bytes are not text.
    #[error("requirements file {} {reason}", path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: DecodeError,
    },
    /// An include that leaves the project; a checkout elsewhere would not have it.
    #[error("{}:{line} includes {}, which is outside the project", from.display(), path.display())]
    Outside {
        /// The file with the line.
        from: PathBuf,
        /// The line's number, from 1.
        line: usize,
        /// The file outside.
        path: PathBuf,
    },
    /// A file that includes itself, directly or through others; pip refuses it as well.
    #[error("{}:{line} includes {}, which is being read already", from.display(), path.display())]
    Cycle {
        /// The file with the line.
        from: PathBuf,
        /// The line's number, from 1.
        line: usize,
        /// The file that includes itself.
        path: PathBuf,
    },
}

impl Requirements {
    /// Reads `path`, a file inside the project at `root`, relative to it or absolute.
    ///
    /// # Errors
    /// When a file is missing, is not text, leaves the project or includes itself.
    pub fn read(root: &Path, path: &Path) -> Result<Self, RequirementsError> {
        let path = tidy(&root.join(path));
        let mut reader = Reader {
            root: tidy(root),
            open: Vec::new(),
            read: Self {
                path: path.clone(),
                encoding: TextEncoding::Utf8,
                files: Vec::new(),
                asked: Vec::new(),
                constraints: Vec::new(),
                require_hashes: false,
                normalised: String::new(),
                warnings: Vec::new(),
            },
        };
        let bytes = std::fs::read(&path).map_err(|source| RequirementsError::Read {
            path: path.clone(),
            source,
        })?;
        reader.read.encoding = reader.file(&path, &bytes, Role::Ask)?;
        Ok(reader.read)
    }

    /// The file that was read.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How the file itself is encoded; includes may differ.
    #[must_use]
    pub fn encoding(&self) -> TextEncoding {
        self.encoding
    }

    /// Every file that was read, the first one first. A cache key should cover them all.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// What is asked for, in order, includes in place.
    #[must_use]
    pub fn entries(&self) -> &[Requirement] {
        &self.asked
    }

    /// The names that are asked for, in the normal form of PEP 503.
    #[must_use]
    pub fn names(&self) -> BTreeSet<&str> {
        self.asked.iter().filter_map(Requirement::name).collect()
    }

    /// Whether a distribution is asked for, however its name is written. A line with a marker
    /// counts: whether the marker holds is for pip to say.
    #[must_use]
    pub fn lists(&self, name: &str) -> bool {
        let name = normalise(name);
        self.asked.iter().any(|asked| asked.name() == Some(&name))
    }

    /// Whether pip will demand a hash for everything it installs by this file. Then nothing may
    /// be added to the same pip command; a second command is free.
    #[must_use]
    pub fn checks_hashes(&self) -> bool {
        self.require_hashes || self.asked.iter().any(|asked| asked.hashed)
    }

    /// What a person should know: guessed encodings, includes that were not followed.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The same requirements as one UTF-8 text: comments gone, lines joined, includes in place,
    /// files named by `-c` and `-f` as absolute paths. Local paths to install stay as they are,
    /// since pip takes them from its working folder.
    ///
    /// pip itself reads UTF-8 and, by its mark, UTF-16, CRLF included (tried with pip 23.2); it
    /// does not read other encodings unless a coding comment names them.
    #[must_use]
    pub fn normalised(&self) -> &str {
        &self.normalised
    }

    /// `name==version` for all that is pinned, one per line: a constraints file that keeps a
    /// later `pip install` from moving what the project chose.
    #[must_use]
    pub fn pins(&self) -> String {
        let mut lines = BTreeSet::new();
        for asked in self.asked.iter().chain(&self.constraints) {
            if let (Some(name), Some(version)) = (asked.name(), asked.pinned_version()) {
                let marker = asked
                    .marker()
                    .map(|m| format!(" ; {m}"))
                    .unwrap_or_default();
                lines.insert(format!("{name}=={version}{marker}\n"));
            }
        }
        lines.into_iter().collect()
    }

    /// The versions of a distribution that the project allows.
    pub(super) fn range(&self, name: &str) -> VersionRange {
        self.asked
            .iter()
            .chain(&self.constraints)
            .filter(|entry| entry.name() == Some(name))
            .fold(VersionRange::default(), |range, entry| {
                range.meet(&entry.range())
            })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Ask,
    Constrain,
}

struct Reader {
    root: PathBuf,
    open: Vec<PathBuf>,
    read: Requirements,
}

impl Reader {
    fn file(
        &mut self,
        path: &Path,
        bytes: &[u8],
        role: Role,
    ) -> Result<TextEncoding, RequirementsError> {
        let decoded = DecodedText::decode(bytes).map_err(|reason| RequirementsError::Decode {
            path: path.to_owned(),
            reason,
        })?;
        if let Some(warning) = decoded.warning {
            self.warn(format!("{} {warning}", path.display()));
        }
        self.open.push(path.to_owned());
        if !self.read.files.iter().any(|seen| seen == path) {
            self.read.files.push(path.to_owned());
        }
        for (line, text) in logical_lines(&decoded.text) {
            self.line(path, line, &text, role)?;
        }
        self.open.pop();
        Ok(decoded.encoding)
    }

    fn line(
        &mut self,
        path: &Path,
        line: usize,
        text: &str,
        role: Role,
    ) -> Result<(), RequirementsError> {
        let (what, options) = split_options(text);
        if !what.is_empty() {
            return {
                self.entry(Requirement::parse(what, options), text, role);
                Ok(())
            };
        }
        let (option, value) = option_and_value(options);
        match (option, value) {
            ("-r" | "--requirement", Some(value)) => self.include(path, line, value, role),
            ("-c" | "--constraint", Some(value)) => {
                if role == Role::Ask {
                    let place = self.place(path, value);
                    let _ = writeln!(self.read.normalised, "-c {place}");
                }
                self.include(path, line, value, Role::Constrain)
            }
            ("-e" | "--editable", Some(value)) => {
                self.entry(Requirement::parse(value, ""), text, role);
                Ok(())
            }
            ("-f" | "--find-links", Some(value)) if role == Role::Ask => {
                let place = self.place(path, value);
                let _ = writeln!(self.read.normalised, "--find-links {place}");
                Ok(())
            }
            _ => {
                if role == Role::Ask {
                    self.read.require_hashes |= option == "--require-hashes";
                    let _ = writeln!(self.read.normalised, "{text}");
                }
                Ok(())
            }
        }
    }

    fn entry(&mut self, entry: Requirement, text: &str, role: Role) {
        match role {
            Role::Ask => {
                let _ = writeln!(self.read.normalised, "{text}");
                self.read.asked.push(entry);
            }
            Role::Constrain => self.read.constraints.push(entry),
        }
    }

    fn include(
        &mut self,
        from: &Path,
        line: usize,
        value: &str,
        role: Role,
    ) -> Result<(), RequirementsError> {
        if value.contains("://") {
            self.warn(format!(
                "{}:{line} includes {value}, which is not read here",
                from.display()
            ));
            if role == Role::Ask {
                let _ = writeln!(self.read.normalised, "-r {value}");
            }
            return Ok(());
        }
        let from = from.to_owned();
        let path = beside(&from, value);
        if !path.starts_with(&self.root) {
            return Err(RequirementsError::Outside { from, line, path });
        }
        if self.open.contains(&path) {
            return Err(RequirementsError::Cycle { from, line, path });
        }
        match std::fs::read(&path) {
            Ok(bytes) => self.file(&path, &bytes, role).map(drop),
            Err(source) => Err(RequirementsError::Include {
                from,
                line,
                path,
                source,
            }),
        }
    }

    /// A place named in a file, as it must be written in a file elsewhere.
    fn place(&self, from: &Path, value: &str) -> String {
        let path = beside(from, value);
        if value.contains("://") || !path.exists() {
            value.to_owned()
        } else {
            path.display().to_string()
        }
    }

    fn warn(&mut self, warning: String) {
        self.read.warnings.push(warning);
    }
}

fn beside(file: &Path, value: &str) -> PathBuf {
    tidy(&file.parent().unwrap_or(Path::new("")).join(value))
}

/// The path without `.` and `..`, by text alone.
fn tidy(path: &Path) -> PathBuf {
    let mut tidied = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir
                if matches!(tidied.components().next_back(), Some(Component::Normal(_))) =>
            {
                tidied.pop();
            }
            part => tidied.push(part),
        }
    }
    tidied
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new(files: &[(&str, &[u8])]) -> Self {
            let tree = Self(tempfile::tempdir().unwrap());
            for (path, bytes) in files {
                let path = tree.0.path().join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, bytes).unwrap();
            }
            tree
        }

        fn read(&self, path: &str) -> Result<Requirements, RequirementsError> {
            Requirements::read(self.0.path(), path.as_ref())
        }
    }

    fn read(text: &str) -> Requirements {
        Tree::new(&[("requirements.txt", text.as_bytes())])
            .read("requirements.txt")
            .unwrap()
    }

    fn names(requirements: &Requirements) -> Vec<&str> {
        requirements.names().into_iter().collect()
    }

    #[test]
    fn utf16_with_mark_and_crlf() {
        let text = "Django==5.2.19\r\nPytest_Django==4.14.0\r\n";
        let bytes: Vec<u8> = [0xfeff]
            .into_iter()
            .chain(text.encode_utf16())
            .flat_map(u16::to_le_bytes)
            .collect();
        let requirements = Tree::new(&[("requirements.txt", &bytes)])
            .read("requirements.txt")
            .unwrap();
        assert_eq!(requirements.encoding(), TextEncoding::Utf16Le);
        assert_eq!(names(&requirements), ["django", "pytest-django"]);
        assert_eq!(
            requirements.normalised(),
            "Django==5.2.19\nPytest_Django==4.14.0\n"
        );
        assert!(requirements.warnings().is_empty());
    }

    #[test]
    fn hashes_and_joined_lines() {
        let requirements = read(
            "Django==5.2.19 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n    # via shop\nsqlparse==0.6.1 \\\n    --hash=sha256:cc\n",
        );
        assert_eq!(names(&requirements), ["django", "sqlparse"]);
        assert!(requirements.checks_hashes());
        assert_eq!(requirements.pins(), "django==5.2.19\nsqlparse==0.6.1\n");
        assert!(
            requirements
                .normalised()
                .lines()
                .next()
                .unwrap()
                .ends_with("--hash=sha256:bb")
        );
        assert!(read("--require-hashes\nx==1\n").checks_hashes());
        assert!(!read("x==1\n").checks_hashes());
    }

    #[test]
    fn options_urls_and_comments() {
        let requirements = read(
            "# comment\n--index-url https://example.org/simple\n-e .\n\n\
             -e git+https://example.org/a.git#egg=Alpha\nbeta @ https://example.org/b.zip#sha256=00\n\
             gamma[x,y] >= 1 ; python_version < '4' # why\n./libs/delta-1.0.tar.gz\n",
        );
        assert_eq!(names(&requirements), ["alpha", "beta", "delta", "gamma"]);
        assert_eq!(requirements.entries().len(), 5);
        assert!(requirements.lists("ALPHA") && !requirements.lists("epsilon"));
        assert!(
            requirements
                .normalised()
                .starts_with("--index-url https://example.org/simple\n-e .\n")
        );
        assert!(
            requirements
                .normalised()
                .contains("gamma[x,y] >= 1 ; python_version < '4'\n")
        );
    }

    #[test]
    fn includes_are_followed_each_in_its_encoding() {
        let base: Vec<u8> = [0xfeff]
            .into_iter()
            .chain("Django\r\n".encode_utf16())
            .flat_map(u16::to_be_bytes)
            .collect();
        let tree = Tree::new(&[
            (
                "requirements/dev.txt",
                b"-r base.txt\n--requirement=../more.txt\n-c limits.txt\nflake8\n",
            ),
            ("requirements/base.txt", &base),
            ("more.txt", b"gunicorn\n"),
            ("requirements/limits.txt", b"pytest==7.4.4\n"),
        ]);
        let requirements = tree.read("requirements/dev.txt").unwrap();
        assert_eq!(names(&requirements), ["django", "flake8", "gunicorn"]);
        assert_eq!(requirements.files().len(), 4);
        let limits = tree.0.path().join("requirements/limits.txt");
        assert_eq!(
            requirements.normalised(),
            format!("Django\ngunicorn\n-c {}\nflake8\n", limits.display())
        );
        assert_eq!(requirements.pins(), "pytest==7.4.4\n");
    }

    #[test]
    fn a_file_may_be_included_twice_but_not_by_itself() {
        let tree = Tree::new(&[
            ("a.txt", b"-r c.txt\n-r c.txt\n"),
            ("c.txt", b"x\n"),
            ("loop.txt", b"x\n-r other.txt\n"),
            ("other.txt", b"-r loop.txt\n"),
        ]);
        assert_eq!(names(&tree.read("a.txt").unwrap()), ["x"]);
        let error = tree.read("loop.txt").unwrap_err();
        assert!(
            matches!(&error, RequirementsError::Cycle { line: 1, .. }),
            "{error}"
        );
    }

    #[test]
    fn what_is_missing_or_outside_is_named() {
        let tree = Tree::new(&[
            ("a.txt", b"\n-r gone.txt\n"),
            ("b.txt", b"-r ../outside.txt\n"),
            ("c.txt", b"-r /etc/hostname\n"),
        ]);
        let error = tree.read("a.txt").unwrap_err();
        assert!(matches!(&error, RequirementsError::Include { line: 2, .. }));
        assert!(error.to_string().contains("gone.txt"), "{error}");
        assert!(matches!(
            tree.read("b.txt").unwrap_err(),
            RequirementsError::Outside { .. }
        ));
        assert!(matches!(
            tree.read("c.txt").unwrap_err(),
            RequirementsError::Outside { .. }
        ));
        assert!(matches!(
            tree.read("none.txt").unwrap_err(),
            RequirementsError::Read { .. }
        ));
    }

    #[test]
    fn remote_includes_and_guesses_are_warnings() {
        let tree = Tree::new(&[("a.txt", b"-r https://example.org/r.txt\n# caf\xe9\nx\n")]);
        let requirements = tree.read("a.txt").unwrap();
        assert_eq!(requirements.warnings().len(), 2);
        assert_eq!(
            requirements.normalised(),
            "-r https://example.org/r.txt\nx\n"
        );
    }
}
