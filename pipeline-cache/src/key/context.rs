use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::HostArch;

/// The facts a key is rendered from. Nothing else is looked at, except the files that `checksum`
/// names.
///
/// ```
/// use pipeline_cache::key::{KeyContext, KeyTemplate};
///
/// let context = KeyContext::new("/srv/app").with_branch("main");
/// let key = KeyTemplate::parse("deps1-{{ .Branch }}")?.render(&context)?;
/// assert_eq!(key.key().as_str(), "deps1-main");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyContext {
    /// Folder that relative `checksum` paths start from.
    pub working_dir: PathBuf,
    /// What `~` means in `checksum` paths. Default: none, and `~` is an error.
    pub home_dir: Option<PathBuf>,
    /// `{{ .Branch }}`. Default: none, which renders as an empty segment, as on a tag build.
    pub branch: Option<String>,
    /// `{{ .BuildNum }}`.
    pub build_num: Option<u64>,
    /// `{{ .Revision }}`.
    pub revision: Option<String>,
    /// `{{ .CheckoutKey }}`.
    pub checkout_key: Option<String>,
    /// `{{ .Environment.NAME }}`; one that is not here renders as `<no value>`.
    pub environment: BTreeMap<String, String>,
    /// `{{ epoch }}`: seconds since 1970.
    pub epoch: Option<u64>,
    /// `{{ arch }}` and `{{ platform }}`.
    pub host: Option<HostArch>,
    /// `{{ tool "NAME" }}`: versions of tools, as found by the caller.
    pub tools: BTreeMap<String, String>,
}

impl KeyContext {
    /// A context that knows only where files are.
    #[must_use]
    pub fn new(working_dir: impl Into<PathBuf>) -> Self {
        Self {
            working_dir: working_dir.into(),
            home_dir: None,
            branch: None,
            build_num: None,
            revision: None,
            checkout_key: None,
            environment: BTreeMap::new(),
            epoch: None,
            host: None,
            tools: BTreeMap::new(),
        }
    }

    /// Sets what `~` means.
    #[must_use]
    pub fn with_home_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.home_dir = Some(dir.into());
        self
    }

    /// Sets the branch.
    #[must_use]
    pub fn with_branch(mut self, branch: impl Into<String>) -> Self {
        self.branch = Some(branch.into());
        self
    }

    /// Sets the build number.
    #[must_use]
    pub fn with_build_num(mut self, number: u64) -> Self {
        self.build_num = Some(number);
        self
    }

    /// Sets the commit.
    #[must_use]
    pub fn with_revision(mut self, revision: impl Into<String>) -> Self {
        self.revision = Some(revision.into());
        self
    }

    /// Sets the checkout key.
    #[must_use]
    pub fn with_checkout_key(mut self, key: impl Into<String>) -> Self {
        self.checkout_key = Some(key.into());
        self
    }

    /// Adds one environment variable. Its value becomes part of the key, so never a secret.
    #[must_use]
    pub fn with_environment(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    /// Sets the time in seconds since 1970.
    #[must_use]
    pub fn with_epoch(mut self, seconds: u64) -> Self {
        self.epoch = Some(seconds);
        self
    }

    /// Sets the host facts.
    #[must_use]
    pub fn with_host(mut self, host: HostArch) -> Self {
        self.host = Some(host);
        self
    }

    /// Adds the version of one tool.
    #[must_use]
    pub fn with_tool(mut self, name: impl Into<String>, version: impl Into<String>) -> Self {
        self.tools.insert(name.into(), version.into());
        self
    }

    /// Where a path of a template is: `~`, absolute, or below the working folder. `None` when it
    /// starts with `~` and no home is known.
    pub(crate) fn locate(&self, path: &str) -> Option<PathBuf> {
        if path == "~" {
            return self.home_dir.clone();
        }
        match path.strip_prefix("~/") {
            Some(rest) => self.home_dir.as_ref().map(|home| home.join(rest)),
            None => Some(self.working_dir.join(Path::new(path))),
        }
    }
}

/// Environment values are left out: a template may use only some, the rest is not for logs.
impl fmt::Debug for KeyContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyContext")
            .field("working_dir", &self.working_dir)
            .field("branch", &self.branch)
            .field("build_num", &self.build_num)
            .field("revision", &self.revision)
            .field("environment", &self.environment.keys())
            .field("epoch", &self.epoch)
            .field("host", &self.host)
            .field("tools", &self.tools)
            .finish_non_exhaustive()
    }
}
