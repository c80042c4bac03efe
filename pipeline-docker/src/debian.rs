//! A base root file system made of Debian packages, without root and without an engine.
//!
//! Where `apt-get` and `dpkg-deb` exist, the packages and what they depend on are resolved and
//! downloaded with a private state folder (the system's package lists, status and cache stay
//! untouched), verified by apt as always, and unpacked. Nothing is installed: maintainer scripts
//! do not run, so programs are there but nothing is configured. What a program usually needs from
//! those scripts is laid down by hand: users, temporary folders, the bundle of certificate
//! authorities.

mod apt;
mod rootfs;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use crate::oci::Digest;

/// What to make a root file system of.
///
/// By default: Python 3, certificate authorities, time zones and a shell, without manuals, in
/// about 45 MB.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DebianBase {
    /// Where results are kept, and where apt works. One folder serves any number of bases.
    pub cache_dir: PathBuf,
    /// The packages; what they depend on comes along. Order does not matter.
    pub packages: Vec<String>,
    /// Packages that are left out although something depends on them.
    ///
    /// Default: the package manager itself and what only configuring needs.
    pub without: Vec<String>,
    /// Whether manuals, translations and changelogs are unpacked; default no. Copyright files
    /// always are.
    pub documentation: Documentation,
    /// Whether an earlier result may be used; default yes, for as long as it exists.
    pub freshness: Freshness,
}

/// What to do with manuals, translations and changelogs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Documentation {
    /// Leave them out.
    #[default]
    Drop,
    /// Unpack them.
    Keep,
}

/// Whether an earlier result may be used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Freshness {
    /// The result of an earlier run is used as it is, which makes image digests repeatable and
    /// costs nothing. Security updates arrive when a program asks for [`Freshness::Update`].
    #[default]
    Reuse,
    /// Package versions are looked up again. Equal versions still use the earlier result.
    Update,
}

/// A root file system that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DebianRoot {
    /// The folder, ready for [`BaseImage::Rootfs`](crate::builder::BaseImage::Rootfs). It is
    /// shared between runs: do not change it.
    pub path: PathBuf,
    /// What was unpacked, sorted by name.
    pub packages: Vec<DebianPackage>,
    /// The Python interpreter in it.
    pub python: Option<PythonRuntime>,
    /// Whether it was there already.
    #[serde(skip)]
    pub reused: bool,
}

/// A package in a root file system.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DebianPackage {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its architecture, in Debian's words.
    pub architecture: String,
}

/// A Python interpreter in a root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PythonRuntime {
    /// Its path in the image, such as `/usr/bin/python3.11`.
    pub path: String,
    /// Its version, such as `3.11`. Compiled extensions must have been built for this one.
    pub version: String,
}

/// Why there is no root file system. A caller can fall back to an empty base.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DebianError {
    /// This is no machine with apt.
    #[error(
        "{program} is not installed, so no base can be made of Debian packages; give a base image or folder"
    )]
    AptMissing {
        /// The program that is not there.
        program: &'static str,
    },
    /// apt could not find the packages or what they depend on.
    #[error("apt could not resolve {packages}: {detail}")]
    Resolve {
        /// What was asked for.
        packages: String,
        /// What apt says, and what went wrong while updating its lists.
        detail: String,
    },
    /// The packages could not be downloaded.
    #[error("apt could not download {packages}: {detail}")]
    Download {
        /// What was asked for.
        packages: String,
        /// What apt says.
        detail: String,
    },
    /// A package could not be unpacked.
    #[error("could not unpack {}: {detail}", package.display())]
    Unpack {
        /// The package file.
        package: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// A name that apt would not take for a package.
    #[error("{name:?} is no name of a Debian package")]
    PackageName {
        /// The name.
        name: String,
    },
    /// A file or folder could not be read or written.
    #[error("could not {action} {}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The worker thread ended without an answer.
    #[error("making the base ended without an answer: {message}")]
    Aborted {
        /// What is known.
        message: String,
    },
}

impl DebianError {
    fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

/// Raise it when the same packages would give another tree.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Resolved {
    root: String,
}

impl DebianBase {
    /// A base for Python programs; see the type.
    #[must_use]
    pub fn python(cache_dir: impl Into<PathBuf>) -> Self {
        Self::new(cache_dir, ["python3", "ca-certificates", "tzdata", "dash"])
    }

    /// A base of any packages.
    #[must_use]
    pub fn new<I>(cache_dir: impl Into<PathBuf>, packages: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Self {
            cache_dir: cache_dir.into(),
            packages: packages.into_iter().map(Into::into).collect(),
            without: ["dpkg", "tar", "debconf", "debianutils", "gcc-12-base"]
                .map(str::to_owned)
                .to_vec(),
            documentation: Documentation::default(),
            freshness: Freshness::default(),
        }
    }

    /// Adds a package.
    #[must_use]
    pub fn with_package(mut self, name: impl Into<String>) -> Self {
        self.packages.push(name.into());
        self
    }

    /// Sets whether manuals, translations and changelogs are unpacked.
    #[must_use]
    pub const fn with_documentation(mut self, documentation: Documentation) -> Self {
        self.documentation = documentation;
        self
    }

    /// Sets whether an earlier result may be used.
    #[must_use]
    pub const fn with_freshness(mut self, freshness: Freshness) -> Self {
        self.freshness = freshness;
        self
    }

    /// Makes the root file system, or finds the one made before.
    ///
    /// The first time this downloads package lists and packages, some 30 MB for Python. Programs
    /// that ask for the same folder at once wait for each other.
    ///
    /// # Errors
    /// See [`DebianError`]. apt and dpkg are looked up in `PATH`; apt reads the system's sources,
    /// keys and proxy settings.
    ///
    /// # Cancellation
    /// Dropping the future ends apt. What was begun is removed by the next call.
    pub async fn prepare(&self) -> Result<DebianRoot, DebianError> {
        for name in self.packages.iter().chain(&self.without) {
            if !apt::is_package_name(name) {
                return Err(DebianError::PackageName { name: name.clone() });
            }
        }
        fs::create_dir_all(&self.cache_dir)
            .map_err(|source| DebianError::io("create", &self.cache_dir, source))?;
        // apt changes its folder and must find its files all the same.
        let cache_dir = fs::canonicalize(&self.cache_dir)
            .map_err(|source| DebianError::io("find", &self.cache_dir, source))?;
        let request = self.request_path(&cache_dir);
        if self.freshness == Freshness::Reuse
            && let Some(root) = earlier(&cache_dir, &request)
        {
            return Ok(root);
        }
        let lock = lock(&cache_dir).await?;
        // Somebody else may have made it while we waited.
        if self.freshness == Freshness::Reuse
            && let Some(root) = earlier(&cache_dir, &request)
        {
            return Ok(root);
        }
        sweep(&cache_dir);
        let root = self.make(&cache_dir, &request).await;
        drop(lock);
        root
    }

    async fn make(&self, cache_dir: &Path, request: &Path) -> Result<DebianRoot, DebianError> {
        let work = tempfile::Builder::new()
            .prefix(".work-")
            .tempdir_in(cache_dir)
            .map_err(|source| DebianError::io("create a folder in", cache_dir, source))?;
        let apt = apt::Apt::new(work.path())?;
        let mut packages = apt.resolve(&self.packages).await?;
        packages.retain(|package| !self.without.contains(&package.name));
        let name = self.root_name(&packages);
        let path = cache_dir.join("roots").join(&name);
        if let Some(root) = read_root(&path) {
            remember(request, &name)?;
            return Ok(root);
        }
        let archives = apt.download(&self.packages).await?;
        let cancelled = Arc::new(AtomicBool::new(false));
        let guard = CancelOnDrop(Arc::clone(&cancelled));
        let documentation = self.documentation;
        let staging = work.path().join("root");
        let wanted = packages.clone();
        let unpack = move || {
            let go_on = || !cancelled.load(Ordering::Relaxed);
            rootfs::unpack(&archives, &wanted, documentation, &staging, &go_on)
                .map(|python| (staging, python))
        };
        let (staging, python) = tokio::task::spawn_blocking(unpack)
            .await
            .map_err(|error| DebianError::Aborted {
                message: error.to_string(),
            })??;
        drop(guard);
        let root = DebianRoot {
            path: path.join("fs"),
            packages,
            python,
            reused: false,
        };
        publish(&staging, &path, &root)?;
        remember(request, &name)?;
        Ok(root)
    }

    /// Equal requests on the same release of the system share a result.
    fn request_path(&self, cache_dir: &Path) -> PathBuf {
        let mut packages = self.packages.clone();
        packages.sort();
        packages.dedup();
        let mut without = self.without.clone();
        without.sort();
        let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let text = format!(
            "{FORMAT}\n{packages:?}\n{without:?}\n{:?}\n{}\n{system}",
            self.documentation,
            std::env::consts::ARCH,
        );
        cache_dir
            .join("requests")
            .join(format!("{}.json", Digest::sha256(text.as_bytes()).hex()))
    }

    fn root_name(&self, packages: &[DebianPackage]) -> String {
        let mut text = format!("{FORMAT} {:?}\n", self.documentation);
        for package in packages {
            let DebianPackage {
                name,
                version,
                architecture,
            } = package;
            text.push_str(&format!("{name} {version} {architecture}\n"));
        }
        Digest::sha256(text.as_bytes()).hex().to_owned()
    }
}

struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What an earlier run made for this request.
fn earlier(cache_dir: &Path, request: &Path) -> Option<DebianRoot> {
    let resolved: Resolved = serde_json::from_slice(&fs::read(request).ok()?).ok()?;
    read_root(&cache_dir.join("roots").join(resolved.root))
}

fn read_root(path: &Path) -> Option<DebianRoot> {
    let root: DebianRoot = serde_json::from_slice(&fs::read(path.join("root.json")).ok()?).ok()?;
    let root = DebianRoot {
        path: path.join("fs"),
        reused: true,
        ..root
    };
    root.path.is_dir().then_some(root)
}

/// The description lies beside the tree, and both appear in one rename.
fn publish(staging: &Path, path: &Path, root: &DebianRoot) -> Result<(), DebianError> {
    let whole = staging.with_extension("whole");
    let write = || -> io::Result<()> {
        fs::create_dir(&whole)?;
        fs::rename(staging, whole.join("fs"))?;
        fs::write(whole.join("root.json"), serde_json::to_vec_pretty(root)?)?;
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        // Only a broken one can be in the way: whole ones were looked for under the lock.
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::rename(&whole, path)
    };
    write().map_err(|source| DebianError::io("publish", path, source))
}

fn remember(request: &Path, root: &str) -> Result<(), DebianError> {
    let write = || -> io::Result<()> {
        let folder = request.parent().unwrap_or(request);
        fs::create_dir_all(folder)?;
        let file = crate::oci::unpublished(folder)?;
        serde_json::to_writer(
            &file,
            &Resolved {
                root: root.to_owned(),
            },
        )?;
        file.persist(request)?;
        Ok(())
    };
    write().map_err(|source| DebianError::io("write", request, source))
}

async fn lock(cache_dir: &Path) -> Result<File, DebianError> {
    let path = cache_dir.join(".lock");
    let open = move || {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|source| DebianError::io("open", &path, source))?;
        file.lock()
            .map_err(|source| DebianError::io("lock", &path, source))?;
        Ok(file)
    };
    tokio::task::spawn_blocking(open)
        .await
        .map_err(|error| DebianError::Aborted {
            message: error.to_string(),
        })?
}

/// Removes what killed runs left behind; under the lock, so nobody works there.
fn sweep(cache_dir: &Path) {
    let Ok(entries) = fs::read_dir(cache_dir) else {
        return;
    };
    for entry in entries.filter_map(Result::ok) {
        if entry.file_name().to_string_lossy().starts_with(".work-") {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
