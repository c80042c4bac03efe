//! Source code: finding the wanted commit of a git repository, and checking it
//! out into a job's folder.
//!
//! Everything goes through the `git` program, so the user's credentials, keys
//! and proxies work. What must not depend on a user's settings is set on the
//! command line.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{
    executor::{CommandSpec, EnvValue},
    step::{Step, StepContext, StepError},
    value::InputRef,
};

/// The date of commits made from folders that have no history: the same
/// content is the same commit everywhere.
const FOLDER_COMMIT_DATE: &str = "2000-01-01T00:00:00Z";

const SETTINGS: [&str; 12] = [
    "-c",
    "core.excludesFile=/dev/null",
    "-c",
    "core.attributesFile=/dev/null",
    "-c",
    "advice.detachedHead=false",
    "-c",
    "core.autocrlf=false",
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "gc.auto=0",
];

/// A git repository, by an address that `git` understands.
#[derive(Clone, Debug)]
pub struct Repository {
    address: String,
    env: BTreeMap<String, EnvValue>,
}

/// One commit of a repository, as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Commit {
    /// The full object name.
    pub revision: String,
    /// The branch it was found at, if it was one.
    pub branch: Option<String>,
    /// The tag it was found at, if it was one.
    pub tag: Option<String>,
}

impl Commit {
    /// A commit that is known already, on no branch.
    #[must_use]
    pub fn new(revision: impl Into<String>) -> Self {
        Self {
            revision: revision.into(),
            branch: None,
            tag: None,
        }
    }

    /// Says which branch it was found at.
    #[must_use]
    pub fn with_branch(mut self, branch: Option<String>) -> Self {
        self.branch = branch;
        self
    }

    /// Says which tag it was found at.
    #[must_use]
    pub fn with_tag(mut self, tag: Option<String>) -> Self {
        self.tag = tag;
        self
    }
}

/// Why the source cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// `git` is not installed or cannot be started.
    #[error("could not run git; install it, or put it into PATH")]
    NoGit(#[source] std::io::Error),
    /// `git` said no.
    #[error("git {what} failed for {address}: {message}")]
    Git {
        /// The verb.
        what: String,
        /// The repository, without credentials.
        address: String,
        /// Its last lines.
        message: String,
    },
    /// There is no such branch, tag or commit.
    #[error("{address} has no branch, tag or commit {name}; its branches are: {branches}")]
    NoSuchReference {
        /// The repository, without credentials.
        address: String,
        /// What was asked for.
        name: String,
        /// What there is.
        branches: String,
    },
    /// The repository is empty.
    #[error("{0} has no commits")]
    Empty(String),
    /// A folder to import holds a repository of its own.
    #[error("{path} in {} is a git repository of its own, whose files would be left out; remove its .git, or make the whole a repository with a submodule", folder.display())]
    NestedRepository {
        /// The folder to import.
        folder: PathBuf,
        /// The repository in it.
        path: String,
    },
    /// A name that git does not take for a branch.
    #[error("{0:?} is not a name for a branch")]
    BranchName(String),
    /// The folder to import cannot be used.
    #[error("could not read the source folder {}", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

impl Repository {
    /// A repository by URL, `user@host:path` or path. `env` is what `git` gets
    /// to see, usually `PATH` and `HOME`.
    #[must_use]
    pub fn new(address: impl Into<String>, env: BTreeMap<String, EnvValue>) -> Self {
        Self {
            address: address.into(),
            env,
        }
    }

    /// The address without a password.
    #[must_use]
    pub fn display_address(&self) -> String {
        without_credentials(&self.address)
    }

    /// The address as it was given, for `git`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether `folder` is the top of a git repository, rather than a plain
    /// folder or one inside somebody else's repository.
    pub async fn is_repository(folder: &Path, env: &BTreeMap<String, EnvValue>) -> bool {
        if folder.join(".git").exists() {
            return true;
        }
        let bare = folder.join("HEAD").is_file() && folder.join("objects").is_dir();
        bare && run_git(
            env,
            &["-C", &folder.to_string_lossy(), "rev-parse", "--git-dir"],
        )
        .await
        .is_ok_and(|output| output.success)
    }

    /// Whether a work tree holds changes that no commit has. `false` also when that cannot be
    /// found out, as in a bare repository.
    pub async fn has_uncommitted_changes(folder: &Path, env: &BTreeMap<String, EnvValue>) -> bool {
        let folder = folder.to_string_lossy();
        run_git(env, &["-C", &folder, "status", "--porcelain"])
            .await
            .is_ok_and(|output| output.success && !output.stdout.trim().is_empty())
    }

    /// Puts the content of a plain folder into a repository at `repository`,
    /// as one commit on `branch`. Unchanged content makes no new commit, and
    /// the same content gives the same commit on every machine.
    ///
    /// The folder itself is only read. Its `.gitignore` counts, and so does
    /// `exclude`, given relative to the folder.
    ///
    /// # Errors
    /// [`SourceError`] when `git` is missing or the folder cannot be read.
    pub async fn import_folder(
        folder: &Path,
        repository: &Path,
        branch: &str,
        exclude: &[PathBuf],
        env: BTreeMap<String, EnvValue>,
    ) -> Result<Self, SourceError> {
        let unreadable = |source| SourceError::Folder {
            folder: folder.to_owned(),
            source,
        };
        let folder = tokio::fs::canonicalize(folder).await.map_err(unreadable)?;
        let this = Self::new(repository.to_string_lossy(), env);
        let git_dir = repository.to_string_lossy().into_owned();
        let reference = format!("refs/heads/{branch}");
        if this
            .git("check-ref-format", &["check-ref-format", &reference])
            .await
            .is_err()
        {
            return Err(SourceError::BranchName(branch.to_owned()));
        }
        // One import at a time: they share an index. The system frees the lock of a program
        // that was killed.
        let lock = std::fs::File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(repository.with_extension("lock"))
            .map_err(unreadable)?;
        let _lock = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock))
            .await
            .map_err(|error| unreadable(std::io::Error::other(error)))?
            .map_err(unreadable)?;
        if !repository.join("HEAD").exists() {
            this.git("init", &["init", "--quiet", "--bare", &git_dir])
                .await?;
        }
        let excludes: String = exclude
            .iter()
            .filter_map(|path| path.to_str())
            .map(|path| format!("/{}\n", escaped(path)))
            .collect();
        let info = repository.join("info");
        tokio::fs::create_dir_all(&info).await.map_err(unreadable)?;
        tokio::fs::write(info.join("exclude"), format!(".git\n{excludes}"))
            .await
            .map_err(unreadable)?;
        // An index left by a killed run would lock the next one out.
        tokio::fs::remove_file(repository.join("index.lock"))
            .await
            .ok();
        let work_tree = folder.to_string_lossy().into_owned();
        let at = ["--git-dir", &git_dir, "--work-tree", &work_tree];
        this.git_at("add", &folder, &at, &["add", "--all", "."])
            .await?;
        let tree = this
            .git_at("write-tree", &folder, &at, &["write-tree"])
            .await?;
        let entries = this
            .git(
                "ls-tree",
                &["--git-dir", &git_dir, "ls-tree", "-r", tree.trim()],
            )
            .await?;
        if let Some(entry) = entries.lines().find(|line| line.starts_with("160000 ")) {
            let path = entry.split('\t').nth(1).unwrap_or_default().to_owned();
            return Err(SourceError::NestedRepository { folder, path });
        }
        let commit = this
            .git_with(
                "commit-tree",
                &[
                    "--git-dir",
                    &git_dir,
                    "commit-tree",
                    tree.trim(),
                    "-m",
                    "Import of a folder",
                ],
                &[
                    ("GIT_AUTHOR_NAME", "pipeline"),
                    ("GIT_AUTHOR_EMAIL", "pipeline@localhost"),
                    ("GIT_AUTHOR_DATE", FOLDER_COMMIT_DATE),
                    ("GIT_COMMITTER_NAME", "pipeline"),
                    ("GIT_COMMITTER_EMAIL", "pipeline@localhost"),
                    ("GIT_COMMITTER_DATE", FOLDER_COMMIT_DATE),
                ],
            )
            .await?;
        this.git(
            "update-ref",
            &[
                "--git-dir",
                &git_dir,
                "update-ref",
                &reference,
                commit.trim(),
            ],
        )
        .await?;
        this.git(
            "symbolic-ref",
            &["--git-dir", &git_dir, "symbolic-ref", "HEAD", &reference],
        )
        .await?;
        Ok(this)
    }

    /// Finds the commit of a branch, tag or object name; of the default branch
    /// when nothing is named.
    ///
    /// # Errors
    /// [`SourceError`] when the repository cannot be read or has no such thing.
    pub async fn find(&self, name: Option<&str>) -> Result<Commit, SourceError> {
        let listing = self
            .git("ls-remote", &["ls-remote", "--symref", "--", &self.address])
            .await?;
        let mut references = BTreeMap::new();
        let mut default = None;
        for line in listing.lines() {
            let Some((value, reference)) = line.split_once('\t') else {
                continue;
            };
            match value.strip_prefix("ref: ") {
                Some(target) if reference == "HEAD" => default = target.strip_prefix("refs/heads/"),
                Some(_) => {}
                None => {
                    references.insert(reference, value);
                }
            }
        }
        if references.is_empty() {
            return Err(SourceError::Empty(self.display_address()));
        }
        let at_branch = |branch: &str| {
            references
                .get(format!("refs/heads/{branch}").as_str())
                .map(|revision| Commit {
                    revision: (*revision).to_owned(),
                    branch: Some(branch.to_owned()),
                    tag: None,
                })
        };
        let found = match name {
            None => default.and_then(at_branch).or_else(|| {
                references.get("HEAD").map(|revision| Commit {
                    revision: (*revision).to_owned(),
                    branch: None,
                    tag: None,
                })
            }),
            Some(name) => at_branch(name)
                .or_else(|| {
                    // An annotated tag's commit stands beside it.
                    let tag = format!("refs/tags/{name}");
                    references
                        .get(format!("{tag}^{{}}").as_str())
                        .or_else(|| references.get(tag.as_str()))
                        .map(|revision| Commit {
                            revision: (*revision).to_owned(),
                            branch: None,
                            tag: Some(name.to_owned()),
                        })
                })
                .or_else(|| {
                    let full = matches!(name.len(), 40 | 64)
                        && name.bytes().all(|byte| byte.is_ascii_hexdigit());
                    full.then(|| Commit {
                        revision: name.to_lowercase(),
                        branch: None,
                        tag: None,
                    })
                }),
        };
        found.ok_or_else(|| SourceError::NoSuchReference {
            address: self.display_address(),
            name: name.unwrap_or("HEAD").to_owned(),
            branches: references
                .keys()
                .filter_map(|reference| reference.strip_prefix("refs/heads/"))
                .take(20)
                .collect::<Vec<_>>()
                .join(", "),
        })
    }

    async fn git(&self, what: &str, args: &[&str]) -> Result<String, SourceError> {
        self.git_with(what, args, &[]).await
    }

    async fn git_at(
        &self,
        what: &str,
        folder: &Path,
        at: &[&str],
        args: &[&str],
    ) -> Result<String, SourceError> {
        let folder = folder.to_string_lossy();
        let mut all = vec!["-C", &folder];
        all.extend(at);
        all.extend(args);
        self.git_with(what, &all, &[]).await
    }

    async fn git_with(
        &self,
        what: &str,
        args: &[&str],
        extra: &[(&str, &str)],
    ) -> Result<String, SourceError> {
        let mut env = self.env.clone();
        env.extend(
            extra
                .iter()
                .map(|(name, value)| ((*name).to_owned(), EnvValue::from(*value))),
        );
        let output = run_git(&env, args).await.map_err(SourceError::NoGit)?;
        if output.success {
            return Ok(output.stdout);
        }
        Err(SourceError::Git {
            what: what.to_owned(),
            address: self.display_address(),
            message: output
                .stderr
                .replace(&self.address, &self.display_address()),
        })
    }
}

struct GitOutput {
    success: bool,
    stdout: String,
    stderr: String,
}

/// A path as a pattern that matches nothing else.
fn escaped(path: &str) -> String {
    let mut pattern = String::new();
    for character in path.chars() {
        if matches!(character, '\\' | '*' | '?' | '[' | ']' | ' ') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern
}

/// Ends git with everything that it started, when nobody waits for it any more.
struct Group(Option<rustix::process::Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0.take() {
            rustix::process::kill_process_group(group, rustix::process::Signal::KILL).ok();
        }
    }
}

async fn run_git(env: &BTreeMap<String, EnvValue>, args: &[&str]) -> std::io::Result<GitOutput> {
    let child = tokio::process::Command::new("git")
        .args(SETTINGS)
        .args(args)
        .env_clear()
        .envs(env.iter().map(|(name, value)| (name, value.expose())))
        .env("GIT_TERMINAL_PROMPT", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let id = child.id().and_then(|id| i32::try_from(id).ok());
    let mut group = Group(id.and_then(rustix::process::Pid::from_raw));
    let output = child.wait_with_output().await?;
    group.0 = None;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(GitOutput {
        success: output.status.success(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr)
            .trim()
            .lines()
            .collect::<Vec<_>>()
            .join("; "),
    })
}

/// The secret in an address: the password, or the user where it stands alone, as tokens do.
/// Register it with the run: `git` is called with the whole address.
#[must_use]
pub fn credentials(address: &str) -> Option<crate::secret::Secret> {
    let (scheme, rest) = address.split_once("://")?;
    let authority = rest.split('/').next()?;
    let (user, _) = authority.rsplit_once('@')?;
    let secret = match user.split_once(':') {
        Some((_, password)) => password,
        None if scheme == "ssh" => return None,
        None => user,
    };
    (!secret.is_empty()).then(|| crate::secret::Secret::new(secret))
}

/// An address without the user and password part, for messages and records.
#[must_use]
pub fn without_credentials(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else {
        return address.to_owned();
    };
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, ""),
    };
    match authority.rsplit_once('@') {
        // A user without password is no secret, and ssh needs it.
        Some((user, host)) if !user.contains(':') && scheme == "ssh" => {
            format!("{scheme}://{user}@{host}{path}")
        }
        Some((_, host)) => format!("{scheme}://{host}{path}"),
        None => address.to_owned(),
    }
}

/// Checks a commit out into a folder below the job's folder.
///
/// A repository that is already there is fetched into and reset; anything else
/// in the folder is an error. Files that the commit does not hold are removed
/// (`git clean -ffdx`), so what earlier runs made below the folder is gone.
/// Submodules are checked out as well.
#[derive(Clone, Debug)]
pub struct Checkout {
    repository: String,
    commit: Commit,
    folder: PathBuf,
}

impl Checkout {
    /// Checks `commit` out into `folder`, relative to the job's folder.
    #[must_use]
    pub fn new(repository: &Repository, commit: Commit, folder: impl Into<PathBuf>) -> Self {
        Self {
            repository: repository.address.clone(),
            commit,
            folder: folder.into(),
        }
    }

    fn git(&self, args: &[&str]) -> CommandSpec {
        CommandSpec::new("git")
            .args(SETTINGS)
            .args(args)
            .cwd(&self.folder)
            .env("GIT_TERMINAL_PROMPT", "0")
            .no_output_timeout(Some(Duration::from_secs(20 * 60)))
    }
}

#[async_trait]
impl Step for Checkout {
    /// The commit that is checked out.
    type Output = Commit;

    fn inputs(&self) -> Vec<InputRef> {
        Vec::new()
    }

    async fn run(&self, cx: &StepContext) -> Result<Commit, StepError> {
        let make = CommandSpec::new("mkdir")
            .args(["-p", "--"])
            .arg(self.folder.as_os_str());
        cx.exec(make).await?.check()?;
        let is_repository = CommandSpec::new("test")
            .args(["-d", ".git"])
            .cwd(&self.folder);
        if cx.exec(is_repository).await?.exit.success() {
            // Left by a run that was killed while it held them.
            cx.exec(
                CommandSpec::new("find")
                    .args([".git", "-name", "*.lock", "-type", "f", "-delete"])
                    .cwd(&self.folder),
            )
            .await?
            .check()?;
        } else {
            let listing = cx
                .exec(CommandSpec::new("ls").arg("-A").cwd(&self.folder))
                .await?;
            if !listing.stdout().trim().is_empty() {
                return Err(StepError::failed(format!(
                    "{} holds files and is not a git repository; empty it or check out elsewhere",
                    self.folder.display()
                )));
            }
            cx.exec(self.git(&["init", "--quiet"])).await?.check()?;
        }
        let revision = self.commit.revision.as_str();
        let known = self.git(&["cat-file", "-e", &format!("{revision}^{{commit}}")]);
        if !cx.exec(known).await?.exit.success() {
            cx.log(format!(
                "Cloning from {}",
                without_credentials(&self.repository)
            ))
            .await;
            let wanted = match (&self.commit.branch, &self.commit.tag) {
                (Some(branch), _) => format!("+refs/heads/{branch}:refs/remotes/origin/{branch}"),
                (None, Some(tag)) => format!("+refs/tags/{tag}:refs/tags/{tag}"),
                (None, None) => "+refs/heads/*:refs/remotes/origin/*".to_owned(),
            };
            cx.exec(self.git(&["fetch", "--no-tags", "--", &self.repository, &wanted]))
                .await?
                .check()?;
        }
        cx.exec(self.git(&["reset", "--quiet", "--hard", revision]))
            .await?
            .check()?;
        cx.exec(self.git(&["clean", "-ffdxq"])).await?.check()?;
        let submodules = CommandSpec::new("test")
            .args(["-f", ".gitmodules"])
            .cwd(&self.folder);
        if cx.exec(submodules).await?.exit.success() {
            cx.exec(self.git(&["submodule", "update", "--init", "--recursive", "--force"]))
                .await?
                .check()?;
        }
        let head = cx.exec(self.git(&["log", "-1", "--format=%H %s"])).await?;
        let line = head.stdout();
        head.check()?;
        let (actual, subject) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        if actual != revision {
            return Err(StepError::failed(format!(
                "HEAD is {actual} after the checkout, wanted {revision}"
            )));
        }
        let short: String = revision.chars().take(7).collect();
        cx.log(format!("HEAD is now at {short} {subject}")).await;
        let name = self.commit.branch.as_ref().or(self.commit.tag.as_ref());
        cx.summary(name.map_or_else(|| short.clone(), |name| format!("{name}@{short}")));
        Ok(self.commit.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_part_of_an_address_is_found() {
        for (address, secret) in [
            ("https://user:pw-1234@host/x.git", Some("pw-1234")),
            ("https://token-1234@host/x", Some("token-1234")),
            ("ssh://git@host/x", None),
            ("https://host/x@y", None),
            ("git@host:x.git", None),
        ] {
            let found = credentials(address);
            assert_eq!(
                found.as_ref().map(|found| found.expose()),
                secret,
                "{address}"
            );
        }
    }

    #[test]
    fn passwords_are_dropped_from_addresses() {
        for (given, shown) in [
            ("https://user:pw@host/x.git", "https://host/x.git"),
            ("https://token@host:8443/x", "https://host:8443/x"),
            ("ssh://git@host/x", "ssh://git@host/x"),
            ("git@host:x.git", "git@host:x.git"),
            ("/some/path", "/some/path"),
        ] {
            assert_eq!(without_credentials(given), shown);
        }
    }
}
