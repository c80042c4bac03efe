//! The pytest configuration of a project.

use std::path::{Path, PathBuf};

use configparser::ini::{Ini, IniDefault};

use super::text::DecodedText;

/// What a project tells pytest in its configuration file.
///
/// Files are looked at in pytest's own order, and only the first with pytest settings counts:
/// <https://docs.pytest.org/en/stable/reference/customize.html>.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PytestConfig {
    pub(super) file: PathBuf,
    settings: Option<String>,
    sets_python_files: bool,
    addopts: Vec<String>,
}

impl PytestConfig {
    /// The file, relative to the project.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The Django settings module that the tests use, if the configuration names it: by
    /// `DJANGO_SETTINGS_MODULE`, by `--ds` among `addopts`, or by pytest-env's `env`.
    #[must_use]
    pub fn settings(&self) -> Option<&str> {
        self.settings.as_deref()
    }

    /// Whether the configuration says which files hold tests (`python_files`).
    #[must_use]
    pub fn sets_python_files(&self) -> bool {
        self.sets_python_files
    }

    /// The options that pytest always gets (`addopts`), in order.
    #[must_use]
    pub fn addopts(&self) -> &[String] {
        &self.addopts
    }

    /// The configuration in `dir`, a folder relative to `root`. A file that cannot be parsed
    /// counts as one without pytest settings; pytest will complain about it itself.
    pub(super) fn find(root: &Path, dir: &Path) -> Option<Self> {
        const FILES: [(&str, Format); 7] = [
            ("pytest.toml", Format::Toml(&["pytest"])),
            (".pytest.toml", Format::Toml(&["pytest"])),
            ("pytest.ini", Format::Ini("pytest")),
            (".pytest.ini", Format::Ini("pytest")),
            ("pyproject.toml", Format::Toml(&["tool", "pytest"])),
            ("tox.ini", Format::Ini("pytest")),
            ("setup.cfg", Format::Ini("tool:pytest")),
        ];
        FILES.into_iter().find_map(|(name, format)| {
            let file = dir.join(name);
            let bytes = std::fs::read(root.join(&file)).ok()?;
            let text = DecodedText::decode(&bytes).ok()?.text;
            let options = match format {
                Format::Ini(section) => ini_section(&text, section),
                Format::Toml(path) => toml_table(&text, path),
            };
            // A file of pytest's own counts even when it is empty.
            let own = name.contains("pytest.");
            let options = options.or_else(|| own.then(Options::default))?;
            Some(Self::new(file, options))
        })
    }

    fn new(file: PathBuf, options: Options) -> Self {
        let env = options.env.iter().find_map(|line| {
            // pytest-env allows flags before the name: `D:NAME=value`.
            let (name, value) = line.split_once('=')?;
            let name = name.rsplit(':').next().unwrap_or(name).trim();
            (name == "DJANGO_SETTINGS_MODULE").then(|| value.trim().to_owned())
        });
        Self {
            file,
            settings: ds_option(&options.addopts).or(options.settings).or(env),
            sets_python_files: options.sets_python_files,
            addopts: options.addopts,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Format {
    Ini(&'static str),
    Toml(&'static [&'static str]),
}

#[derive(Debug, Default)]
struct Options {
    settings: Option<String>,
    sets_python_files: bool,
    addopts: Vec<String>,
    env: Vec<String>,
}

fn ini_section(text: &str, section: &str) -> Option<Options> {
    let mut style = IniDefault::default();
    style.case_sensitive = true;
    style.multiline = true;
    // pytest reads `#` inside a value as part of it.
    style.enable_inline_comments = false;
    style.default_section = String::new();
    let mut ini = Ini::new_from_defaults(style);
    let mut sections = ini.read(text.to_owned()).ok()?;
    let mut options = sections.remove(section)?;
    let mut take = |key: &str| {
        options
            .remove(key)
            .flatten()
            .map(|value| value.trim().to_owned())
    };
    Some(Options {
        settings: take("DJANGO_SETTINGS_MODULE").filter(|value| !value.is_empty()),
        sets_python_files: take("python_files").is_some(),
        addopts: take("addopts")
            .map(|value| words(&value))
            .unwrap_or_default(),
        env: take("env")
            .map(|value| value.lines().map(|line| line.trim().to_owned()).collect())
            .unwrap_or_default(),
    })
}

fn toml_table(text: &str, path: &[&str]) -> Option<Options> {
    let document: toml::Table = toml::from_str(text).ok()?;
    let mut table = &document;
    for key in path {
        table = table.get(*key)?.as_table()?;
    }
    if let Some(options) = table.get("ini_options") {
        table = options.as_table()?;
    }
    let strings = |key: &str| -> Vec<String> {
        match table.get(key) {
            Some(toml::Value::String(value)) => words(value),
            Some(toml::Value::Array(values)) => values
                .iter()
                .filter_map(|value| value.as_str())
                .map(str::to_owned)
                .collect(),
            _ => Vec::new(),
        }
    };
    Some(Options {
        settings: table
            .get("DJANGO_SETTINGS_MODULE")
            .and_then(toml::Value::as_str)
            .map(str::to_owned),
        sets_python_files: table.contains_key("python_files"),
        addopts: strings("addopts"),
        env: strings("env"),
    })
}

/// Splits like a shell as far as quotes go.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in text.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => word.get_or_insert_default().push(c),
            None if c == '"' || c == '\'' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c.is_whitespace() => words.extend(word.take()),
            None => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

fn ds_option(addopts: &[String]) -> Option<String> {
    addopts
        .iter()
        .enumerate()
        .rev()
        .find_map(|(at, word)| match word.strip_prefix("--ds")? {
            "" => addopts.get(at + 1).cloned(),
            value => value.strip_prefix('=').map(str::to_owned),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(files: &[(&str, &str)]) -> Option<PytestConfig> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        PytestConfig::find(dir.path(), "".as_ref())
    }

    fn settings(name: &str, text: &str) -> Option<String> {
        find(&[(name, text)])?.settings
    }

    #[test]
    fn each_format_names_the_settings() {
        for (name, text) in [
            (
                "pytest.ini",
                "[pytest]\nDJANGO_SETTINGS_MODULE = shop.settings\npython_files = tests.py\n",
            ),
            (
                "pytest.ini",
                "[pytest]\r\nDJANGO_SETTINGS_MODULE=shop.settings\r\n",
            ),
            (
                "pytest.ini",
                "[pytest]\naddopts = -q --ds=shop.settings\nDJANGO_SETTINGS_MODULE = old\n",
            ),
            (
                "pytest.ini",
                "[pytest]\naddopts =\n    -q\n    --ds shop.settings\n",
            ),
            (
                "pytest.ini",
                "[pytest]\nenv =\n    OTHER=1\n    D:DJANGO_SETTINGS_MODULE=shop.settings\n",
            ),
            (
                "tox.ini",
                "[tox]\nenvlist = py3\n[testenv]\ncommands =\n    pytest {posargs}\n\n[pytest]\nDJANGO_SETTINGS_MODULE: shop.settings\n",
            ),
            (
                "setup.cfg",
                "# a comment\n[flake8]\nmax-line-length = 99\nper-file-ignores =\n    a.py: F401\n    # why\n    b.py: E501\n\n[tool:pytest]\nDJANGO_SETTINGS_MODULE = shop.settings\naddopts = -v\n",
            ),
            (
                "pyproject.toml",
                "[tool.pytest.ini_options]\nDJANGO_SETTINGS_MODULE = \"shop.settings\"\n",
            ),
            (
                "pyproject.toml",
                "[tool.pytest.ini_options]\naddopts = [\"--ds=shop.settings\"]\n",
            ),
            (
                "pyproject.toml",
                "[tool.pytest]\naddopts = [\"--ds\", \"shop.settings\"]\n",
            ),
            (
                "pytest.toml",
                "[pytest]\nDJANGO_SETTINGS_MODULE = 'shop.settings'\n",
            ),
        ] {
            assert_eq!(
                settings(name, text).as_deref(),
                Some("shop.settings"),
                "{name}: {text}"
            );
        }
    }

    #[test]
    fn the_first_file_with_pytest_settings_counts() {
        let config = find(&[
            ("setup.cfg", "[tool:pytest]\nDJANGO_SETTINGS_MODULE = b\n"),
            ("pytest.ini", "[pytest]\nDJANGO_SETTINGS_MODULE = a\n"),
        ]);
        assert_eq!(config.unwrap().settings(), Some("a"));
        let config = find(&[
            ("setup.cfg", "[tool:pytest]\nDJANGO_SETTINGS_MODULE = b\n"),
            ("pyproject.toml", "[project]\nname = 'x'\n"),
            ("tox.ini", "[tox]\n"),
        ]);
        assert_eq!(config.unwrap().file(), Path::new("setup.cfg"));
        assert_eq!(find(&[("pytest.ini", "")]).unwrap().settings(), None);
        assert_eq!(
            find(&[("setup.cfg", "[flake8]\nx = 1\n"), ("tox.ini", "[tox]\n")]),
            None
        );
        assert_eq!(find(&[]), None);
    }

    #[test]
    fn options_are_read() {
        let config = find(&[(
            "setup.cfg",
            "[tool:pytest]\naddopts = --cov=. -k 'a b' # not a comment\npython_files = tests.py test_*.py\n",
        )])
        .unwrap();
        assert!(config.sets_python_files());
        assert_eq!(config.addopts()[..3], ["--cov=.", "-k", "a b"]);
    }

    #[test]
    fn broken_files_have_no_settings() {
        assert_eq!(find(&[("pyproject.toml", "[tool.pytest\n")]), None);
        assert_eq!(find(&[("setup.cfg", "[tool:pytest\nx")]), None);
    }
}
