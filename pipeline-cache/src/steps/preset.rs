use std::path::{Path, PathBuf};

use pipeline_core::Input;

use super::{RestoreCache, SaveCache};
use crate::cache::Cache;
use crate::key::{KeyTemplate, TemplateError};

/// What a package manager downloads, kept from build to build: the right folders under a key of
/// the right facts, for [`RestoreCache`] and [`SaveCache`].
///
/// | preset | folders below home | lock file |
/// |---|---|---|
/// | [`pip`](Self::pip) | `.cache/pip` | `requirements.txt` |
/// | [`pipenv`](Self::pipenv) | `.cache/pipenv`, `.cache/pip` | `Pipfile.lock` |
/// | [`poetry`](Self::poetry) | `.cache/pypoetry/cache`, `.cache/pypoetry/artifacts` | `poetry.lock` |
/// | [`uv`](Self::uv) | `.cache/uv` | `uv.lock` |
/// | [`cargo`](Self::cargo) | `.cargo/registry/index`, `.cargo/registry/cache`, `.cargo/git/db` | `Cargo.lock` |
/// | [`npm`](Self::npm) | `.npm/_cacache` | `package-lock.json` |
///
/// (Below `Library/Caches` instead of `.cache` on macOS, where the tools do so.) Variables that
/// move them are heeded when they are given to [`with_variables`](Self::with_variables).
///
/// The key is of platform, versions of interpreter and tool, and the checksum of the lock file.
/// When that is new, the newest entry of the same versions is restored, and what the installation
/// made of it is saved under the new key. The branch is no part of it: downloads are the same on
/// every branch. Downloads are kept, and not installed trees, which cannot move: folders are
/// stored relative to the home, so that an entry fits every machine and user.
///
/// A restore replaces those folders of the home. Give builds a home of their own where people
/// work, and point the tools there (`HOME`).
///
/// ```
/// use pipeline_cache::{cache::Cache, store::FilesystemStore};
/// use pipeline_cache::steps::{CachePreset, ToolVersion};
/// use pipeline_core::{Job, sh};
///
/// let cache = Cache::new(FilesystemStore::new(".pipeline/cache"));
/// let home = std::env::temp_dir().join("build-home");
/// let mut job = Job::new("test").env("HOME", home.display().to_string());
/// let python = job.step("python", ToolVersion::of("python3"));
/// let pip = job.step("pip", ToolVersion::of("python3").with_args(["-m", "pip", "--version"]));
/// let preset = CachePreset::pip(home, python, pip).with_lock_files(["requirements/*.txt"]);
/// job.step("restore", preset.restore(&cache)?);
/// job.step("install", sh("python3 -m venv venv && venv/bin/pip install -r requirements/dev.txt"));
/// job.step("save", preset.save(&cache)?);
/// # Ok::<(), pipeline_cache::key::TemplateError>(())
/// ```
#[derive(Clone, Debug)]
pub struct CachePreset {
    name: &'static str,
    home: PathBuf,
    prefix: String,
    tools: Vec<(&'static str, Input<String>)>,
    lock_files: Vec<String>,
    paths: Vec<String>,
}

impl CachePreset {
    /// What pip downloads and builds.
    #[must_use]
    pub fn pip(
        home: impl Into<PathBuf>,
        python: impl Into<Input<String>>,
        pip: impl Into<Input<String>>,
    ) -> Self {
        let tools = [("python", python.into()), ("pip", pip.into())];
        Self::new("pip", home, tools, "requirements.txt", &[&caches("pip")])
    }

    /// What pipenv downloads and builds.
    #[must_use]
    pub fn pipenv(
        home: impl Into<PathBuf>,
        python: impl Into<Input<String>>,
        pipenv: impl Into<Input<String>>,
    ) -> Self {
        let tools = [("python", python.into()), ("pipenv", pipenv.into())];
        let paths = [&*caches("pipenv"), &*caches("pip")];
        Self::new("pipenv", home, tools, "Pipfile.lock", &paths)
    }

    /// What poetry downloads and builds.
    #[must_use]
    pub fn poetry(
        home: impl Into<PathBuf>,
        python: impl Into<Input<String>>,
        poetry: impl Into<Input<String>>,
    ) -> Self {
        let tools = [("python", python.into()), ("poetry", poetry.into())];
        let paths = [&*caches("pypoetry/cache"), &*caches("pypoetry/artifacts")];
        Self::new("poetry", home, tools, "poetry.lock", &paths)
    }

    /// What uv downloads, unpacks and builds. It keeps its cache in `.cache` on every system.
    #[must_use]
    pub fn uv(
        home: impl Into<PathBuf>,
        python: impl Into<Input<String>>,
        uv: impl Into<Input<String>>,
    ) -> Self {
        let tools = [("python", python.into()), ("uv", uv.into())];
        Self::new("uv", home, tools, "uv.lock", &[".cache/uv"])
    }

    /// What cargo downloads: the registry's index, crates, and git dependencies.
    #[must_use]
    pub fn cargo(home: impl Into<PathBuf>, cargo: impl Into<Input<String>>) -> Self {
        let paths = [
            ".cargo/registry/index",
            ".cargo/registry/cache",
            ".cargo/git/db",
        ];
        Self::new(
            "cargo",
            home,
            [("cargo", cargo.into())],
            "Cargo.lock",
            &paths,
        )
    }

    /// What npm downloads.
    #[must_use]
    pub fn npm(
        home: impl Into<PathBuf>,
        node: impl Into<Input<String>>,
        npm: impl Into<Input<String>>,
    ) -> Self {
        let tools = [("node", node.into()), ("npm", npm.into())];
        Self::new("npm", home, tools, "package-lock.json", &[".npm/_cacache"])
    }

    fn new(
        name: &'static str,
        home: impl Into<PathBuf>,
        tools: impl IntoIterator<Item = (&'static str, Input<String>)>,
        lock_file: &str,
        paths: &[&str],
    ) -> Self {
        Self {
            name,
            home: home.into(),
            prefix: "v1".to_owned(),
            tools: tools.into_iter().collect(),
            lock_files: vec![lock_file.to_owned()],
            paths: paths.iter().map(|&path| path.to_owned()).collect(),
        }
    }

    /// Sets the files that say what is installed, relative to the job's folder; globs as in
    /// `checksum`.
    #[must_use]
    pub fn with_lock_files<S: Into<String>>(mut self, files: impl IntoIterator<Item = S>) -> Self {
        self.lock_files = files.into_iter().map(Into::into).collect();
        self
    }

    /// Moves the folders to where the tools put them when the job has these variables:
    /// `PIP_CACHE_DIR`, `PIPENV_CACHE_DIR`, `POETRY_CACHE_DIR`, `UV_CACHE_DIR`, `CARGO_HOME`,
    /// `npm_config_cache`, and, except on macOS, `XDG_CACHE_HOME`. Others are passed over. Nothing is
    /// read from the environment of this program.
    ///
    /// What is not below the home is stored with its full path, and fits only machines that have it
    /// in the same place.
    #[must_use]
    pub fn with_variables<K: AsRef<str>, V: AsRef<str>>(
        mut self,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let given: Vec<(K, V)> = variables.into_iter().collect();
        let value = |name: &str| {
            let found = given.iter().find(|(known, _)| known.as_ref() == name);
            found
                .map(|(_, value)| value.as_ref())
                .filter(|value| !value.is_empty())
        };
        for path in &mut self.paths {
            let place = MOVED.iter().find_map(|(usual, variable)| {
                let usual = match usual.strip_prefix(".cache/") {
                    // uv keeps it there on every system.
                    Some(name) if name != "uv" => caches(name),
                    _ => (*usual).to_owned(),
                };
                let rest = Path::new(&*path).strip_prefix(usual).ok()?;
                let place = Path::new(value(variable)?).join(rest);
                // Without a slash at the end where nothing follows.
                Some(place.components().collect::<PathBuf>())
            });
            if let Some(place) = place {
                let below = place.strip_prefix(&self.home).unwrap_or(&place);
                *path = below.to_string_lossy().into_owned();
            }
        }
        self
    }

    /// Sets the folders, relative to the home or absolute, in place of the usual ones.
    #[must_use]
    pub fn with_paths<S: Into<String>>(mut self, paths: impl IntoIterator<Item = S>) -> Self {
        self.paths = paths.into_iter().map(Into::into).collect();
        self
    }

    /// Sets what keys begin with; another beginning is a fresh start. Default: `v1`.
    #[must_use]
    pub fn with_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// The exact key, and the beginning that other entries of the same versions share.
    fn keys(&self) -> Result<[KeyTemplate; 2], TemplateError> {
        let mut shared = format!("{}-{}-{{{{ platform }}}}", self.prefix, self.name);
        for (tool, _) in &self.tools {
            shared.push_str(&format!("-{tool}{{{{ tool {tool:?} }}}}"));
        }
        shared.push('-');
        let files: Vec<String> = self.lock_files.iter().map(|file| quoted(file)).collect();
        let exact = format!("{shared}{{{{ checksum {} }}}}", files.join(" "));
        Ok([KeyTemplate::parse(&exact)?, KeyTemplate::parse(&shared)?])
    }

    /// The step before the installation.
    ///
    /// # Errors
    /// A prefix or a lock file that cannot be in a key.
    pub fn restore(&self, cache: &Cache) -> Result<RestoreCache, TemplateError> {
        let step = RestoreCache::new(cache.clone(), self.keys()?)
            .with_home(&self.home)
            .with_folder(&self.home);
        Ok(self.tools.iter().fold(step, |step, (name, version)| {
            step.with_tool(*name, version.clone())
        }))
    }

    /// The step after the installation. Folders that the tool did not make are left out.
    ///
    /// # Errors
    /// A prefix or a lock file that cannot be in a key.
    pub fn save(&self, cache: &Cache) -> Result<SaveCache, TemplateError> {
        let [exact, _] = self.keys()?;
        let none: [&str; 0] = [];
        let step = SaveCache::new(cache.clone(), exact, none)
            .with_optional_paths(&self.paths)
            .with_home(&self.home)
            .with_folder(&self.home);
        Ok(self.tools.iter().fold(step, |step, (name, version)| {
            step.with_tool(*name, version.clone())
        }))
    }
}

/// What moves a folder, the stronger first.
const MOVED: [(&str, &str); 7] = [
    (".cache/pip", "PIP_CACHE_DIR"),
    (".cache/pipenv", "PIPENV_CACHE_DIR"),
    (".cache/pypoetry", "POETRY_CACHE_DIR"),
    (".cache/uv", "UV_CACHE_DIR"),
    (".cargo", "CARGO_HOME"),
    (".npm", "npm_config_cache"),
    (".cache", "XDG_CACHE_HOME"),
];

/// Where tools that follow the system's custom keep their caches.
fn caches(name: &str) -> String {
    let folder = if cfg!(target_os = "macos") {
        "Library/Caches"
    } else {
        ".cache"
    };
    format!("{folder}/{name}")
}

/// As a template reads it.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(not(target_os = "macos"))]
    fn folders_are_where_the_variables_say() {
        let version = || "1".to_owned();
        let pip = || CachePreset::pip("/h", version(), version());
        let poetry = CachePreset::poetry("/h", version(), version());
        let cargo = CachePreset::cargo("/h", version());
        let npm = CachePreset::npm("/h", version(), version());
        let pipenv = CachePreset::pipenv("/h", version(), version());
        for (preset, variables, wanted) in [
            (
                pip(),
                vec![("PIP_CACHE_DIR", "/var/pip/")],
                vec!["/var/pip"],
            ),
            (pip(), vec![("PIP_CACHE_DIR", "/h/.pip")], vec![".pip"]),
            (
                pip(),
                vec![("XDG_CACHE_HOME", "/h/x"), ("CARGO_HOME", "/c")],
                vec!["x/pip"],
            ),
            (
                pip(),
                vec![("XDG_CACHE_HOME", "/x"), ("PIP_CACHE_DIR", "/p")],
                vec!["/p"],
            ),
            (pip(), vec![("PIP_CACHE_DIR", "")], vec![".cache/pip"]),
            (
                pipenv,
                vec![("PIP_CACHE_DIR", "/p")],
                vec![".cache/pipenv", "/p"],
            ),
            (
                poetry,
                vec![("POETRY_CACHE_DIR", "/p")],
                vec!["/p/cache", "/p/artifacts"],
            ),
            (
                cargo,
                vec![("CARGO_HOME", "/h/c")],
                vec!["c/registry/index", "c/registry/cache", "c/git/db"],
            ),
            (npm, vec![("npm_config_cache", "/n")], vec!["/n/_cacache"]),
        ] {
            assert_eq!(preset.with_variables(variables).paths, wanted);
        }
        assert_eq!(pip().with_paths([".venv"]).paths, [".venv"]);
    }

    #[test]
    fn keys_name_platform_versions_and_lock_files() {
        let version = || "1".to_owned();
        let preset = CachePreset::pip("/h", version(), version())
            .with_lock_files(["a.txt", "b/*.txt"])
            .with_prefix("v2");
        let [exact, shared] = preset.keys().unwrap();
        let start = r#"v2-pip-{{ platform }}-python{{ tool "python" }}-pip{{ tool "pip" }}-"#;
        assert_eq!(shared.to_string(), start);
        assert_eq!(
            exact.to_string(),
            format!("{start}{}", r#"{{ checksum "a.txt" "b/*.txt" }}"#)
        );
        for preset in [
            CachePreset::pipenv("/h", version(), version()),
            CachePreset::poetry("/h", version(), version()),
            CachePreset::uv("/h", version(), version()),
            CachePreset::cargo("/h", version()),
            CachePreset::npm("/h", version(), version()),
        ] {
            let [exact, _] = preset.keys().unwrap();
            assert_eq!(exact.checksum_files().count(), 1, "{exact}");
        }
    }
}
