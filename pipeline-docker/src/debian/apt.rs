//! [`Apt`]: apt with a state of its own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use super::{DebianError, DebianPackage};

/// What the system's configuration might run or write outside our folder is taken out, and so is
/// the fetching of lists that nobody needs here.
const CONFIGURATION: &str = r#"#clear APT::Update;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
#clear DPkg::Pre-Install-Pkgs;
#clear Acquire::IndexTargets::deb::DEP-11;
#clear Acquire::IndexTargets::deb::DEP-11-icons-small;
#clear Acquire::IndexTargets::deb::DEP-11-icons;
#clear Acquire::IndexTargets::deb::DEP-11-icons-hidpi;
#clear Acquire::IndexTargets::deb::CNF;
#clear Acquire::IndexTargets::deb-src;
APT::Sandbox::User "";
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Get::Assume-Yes "true";
APT::Keep-Downloaded-Packages "true";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
"#;

#[derive(Debug)]
pub(super) struct Apt {
    folder: PathBuf,
}

impl Apt {
    pub(super) fn new(folder: &Path) -> Result<Self, DebianError> {
        let prepare = || -> io::Result<()> {
            for sub in ["state/lists/partial", "cache/archives/partial", "log"] {
                fs::create_dir_all(folder.join(sub))?;
            }
            // An empty status: nothing counts as installed, so everything needed is named.
            fs::write(folder.join("state/status"), "")?;
            fs::write(folder.join("apt.conf"), CONFIGURATION)
        };
        prepare().map_err(|source| DebianError::io("prepare", folder, source))?;
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    /// Brings the lists up to date and names every package that is needed, sorted.
    pub(super) async fn resolve(
        &self,
        names: &[String],
    ) -> Result<Vec<DebianPackage>, DebianError> {
        // A source that is out of reach is no failure as long as the packages can be found.
        let update = self.run(&["update"], &[]).await?;
        let simulate = self.run(&["install", "--simulate"], names).await?;
        if !simulate.success {
            let mut detail = simulate.tail();
            if !update.errors.is_empty() {
                detail = format!("{detail}; while updating: {}", update.tail());
            }
            return Err(DebianError::Resolve {
                packages: names.join(" "),
                detail,
            });
        }
        let mut packages: Vec<DebianPackage> = simulate
            .output
            .lines()
            .filter_map(parse_instruction)
            .collect();
        packages.sort();
        Ok(packages)
    }

    /// Downloads what [`resolve`](Self::resolve) named; apt verifies it.
    pub(super) async fn download(&self, names: &[String]) -> Result<Vec<PathBuf>, DebianError> {
        let outcome = self
            .run(&["install", "--download-only", "-q"], names)
            .await?;
        if !outcome.success {
            return Err(DebianError::Download {
                packages: names.join(" "),
                detail: outcome.tail(),
            });
        }
        let folder = self.folder.join("cache/archives");
        let read = || -> io::Result<Vec<PathBuf>> {
            let mut files = Vec::new();
            for entry in fs::read_dir(&folder)? {
                let path = entry?.path();
                if path.extension().is_some_and(|extension| extension == "deb") {
                    files.push(path);
                }
            }
            files.sort();
            Ok(files)
        };
        read().map_err(|source| DebianError::io("read", &folder, source))
    }

    async fn run(&self, verb: &[&str], names: &[String]) -> Result<AptOutput, DebianError> {
        let option = |name: &str, path: &str| {
            let mut text = std::ffi::OsString::from(format!("{name}="));
            text.push(self.folder.join(path));
            text
        };
        let mut command = Command::new("apt-get");
        command.arg("-c").arg(self.folder.join("apt.conf"));
        for (name, path) in [
            ("Dir::State", "state"),
            ("Dir::State::status", "state/status"),
            ("Dir::Cache", "cache"),
            ("Dir::Log", "log"),
        ] {
            command.arg("-o").arg(option(name, path));
        }
        command
            .args(verb)
            .arg("--")
            .args(names)
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = command.output().await.map_err(|source| {
            if source.kind() == io::ErrorKind::NotFound {
                DebianError::AptMissing { program: "apt-get" }
            } else {
                DebianError::io("run", Path::new("apt-get"), source)
            }
        })?;
        Ok(AptOutput {
            success: output.status.success(),
            output: String::from_utf8_lossy(&output.stdout).into_owned(),
            errors: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

struct AptOutput {
    success: bool,
    output: String,
    errors: String,
}

impl AptOutput {
    /// The last few lines of what went wrong, in one line.
    fn tail(&self) -> String {
        let text = if self.errors.trim().is_empty() {
            &self.output
        } else {
            &self.errors
        };
        let lines: Vec<&str> = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        lines
            .get(lines.len().saturating_sub(4)..)
            .unwrap_or_default()
            .join("; ")
    }
}

/// `Inst name (version origin [architecture])`.
fn parse_instruction(line: &str) -> Option<DebianPackage> {
    let rest = line.strip_prefix("Inst ")?;
    let (name, rest) = rest.split_once(' ')?;
    let inside = rest.split_once('(')?.1.split_once(')')?.0;
    let version = inside.split(' ').next()?;
    let architecture = inside.rsplit_once('[')?.1.strip_suffix(']')?;
    Some(DebianPackage {
        name: name.split(':').next().unwrap_or(name).to_owned(),
        version: version.to_owned(),
        architecture: architecture.to_owned(),
    })
}

/// By Debian's policy; an option or a version must not slip in as a name.
pub(super) fn is_package_name(name: &str) -> bool {
    name.len() > 1
        && name.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
        && name.chars().all(|symbol| {
            symbol.is_ascii_lowercase() || symbol.is_ascii_digit() || "+-.".contains(symbol)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions() {
        let line =
            "Inst libc6 (2.36-9+deb12u14 Debian:12.15/oldstable, Debian-Security:12/x [amd64]) []";
        let package = parse_instruction(line).unwrap();
        assert_eq!(
            (package.name.as_str(), package.version.as_str()),
            ("libc6", "2.36-9+deb12u14")
        );
        assert_eq!(package.architecture, "amd64");
        let line = "Inst libx:i386 [1.0] (1:4.4 Debian:12 [i386])";
        let package = parse_instruction(line).unwrap();
        assert_eq!(
            (package.name.as_str(), package.version.as_str()),
            ("libx", "1:4.4")
        );
        assert_eq!(
            parse_instruction("Conf libc6 (2.36 Debian:12 [amd64])"),
            None
        );
    }

    #[test]
    fn names() {
        assert!(is_package_name("python3.11-minimal") && is_package_name("g++"));
        for bad in ["", "a", "-o", "x=1", "Python", "a b", "a/b"] {
            assert!(!is_package_name(bad), "{bad}");
        }
    }
}
