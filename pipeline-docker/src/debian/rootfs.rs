//! From package files to a tree.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use super::{DebianError, DebianPackage, Documentation, PythonRuntime};
use crate::foreign_tar::ForeignTar;

/// Folders that are links into `/usr` on every current release.
const MERGED: &[&str] = &["bin", "lib", "lib64", "sbin"];

const USERS: &str = "\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
";

const GROUPS: &str = "\
root:x:0:
daemon:x:1:
tty:x:5:
www-data:x:33:
nogroup:x:65534:
";

/// Unpacks the wanted ones of `archives` into `root`, which must not exist, and completes it.
pub(super) fn unpack(
    archives: &[PathBuf],
    wanted: &[DebianPackage],
    documentation: Documentation,
    root: &Path,
    go_on: &dyn Fn() -> bool,
) -> Result<Option<PythonRuntime>, DebianError> {
    let fail = |source| DebianError::io("prepare", root, source);
    skeleton(root).map_err(fail)?;
    for archive in archives {
        if !go_on() {
            return Err(DebianError::Aborted {
                message: "cancelled".to_owned(),
            });
        }
        let name = archive
            .file_name()
            .map(|name| name.to_string_lossy())
            .unwrap_or_default();
        let name = name.split('_').next().unwrap_or_default();
        if wanted.iter().any(|package| package.name == name) {
            unpack_one(archive, documentation, root)?;
        }
    }
    complete(root).map_err(fail)
}

fn skeleton(root: &Path) -> io::Result<()> {
    for (folder, mode) in [
        ("", 0o755),
        ("usr", 0o755),
        ("usr/bin", 0o755),
        ("usr/lib", 0o755),
        ("usr/lib64", 0o755),
        ("usr/sbin", 0o755),
        ("usr/local", 0o755),
        ("usr/local/bin", 0o755),
        ("dev", 0o755),
        ("etc", 0o755),
        ("home", 0o755),
        ("proc", 0o755),
        ("root", 0o700),
        ("run", 0o755),
        ("srv", 0o755),
        ("sys", 0o755),
        ("tmp", 0o1777),
        ("var", 0o755),
        ("var/tmp", 0o1777),
    ] {
        let path = root.join(folder);
        fs::create_dir(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
    }
    for name in MERGED {
        symlink(format!("usr/{name}"), root.join(name))?;
    }
    Ok(())
}

fn unpack_one(
    package: &Path,
    documentation: Documentation,
    root: &Path,
) -> Result<(), DebianError> {
    let broken = |detail: String| DebianError::Unpack {
        package: package.to_owned(),
        detail,
    };
    let mut child = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| {
            if source.kind() == io::ErrorKind::NotFound {
                DebianError::AptMissing {
                    program: "dpkg-deb",
                }
            } else {
                DebianError::io("run", Path::new("dpkg-deb"), source)
            }
        })?;
    let result = match child.stdout.take() {
        Some(stdout) => extract(stdout, documentation, root),
        None => Ok(()),
    };
    let mut errors = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        // A text for people; the exit status is what counts.
        let _ = stderr.read_to_string(&mut errors);
    }
    let status = child.wait().map_err(|error| broken(error.to_string()))?;
    result.map_err(|error| broken(error.to_string()))?;
    if status.success() {
        Ok(())
    } else {
        Err(broken(errors.trim().to_owned()))
    }
}

fn extract(tar: impl Read, documentation: Documentation, root: &Path) -> io::Result<()> {
    let mut archive = ForeignTar::new(tar);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let Some(path) = place(Path::new(std::ffi::OsStr::from_bytes(&entry.path_bytes())))? else {
            continue;
        };
        if documentation == Documentation::Drop && is_documentation(&path) {
            continue;
        }
        let full = root.join(&path);
        let mode = entry.header().mode()? & 0o7777;
        if let Some(parent) = full.parent() {
            fs::create_dir_all(parent)?;
        }
        match entry.header().entry_type() {
            tar::EntryType::Directory => {
                fs::create_dir_all(&full)?;
                fs::set_permissions(&full, Permissions::from_mode(mode))?;
            }
            tar::EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                remove(&full)?;
                symlink(std::ffi::OsStr::from_bytes(&target), &full)?;
            }
            tar::EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                let target = place(Path::new(std::ffi::OsStr::from_bytes(&target)))?
                    .ok_or_else(|| io::Error::other("a hard link to the root"))?;
                remove(&full)?;
                fs::hard_link(root.join(target), &full)?;
            }
            tar::EntryType::Regular => {
                remove(&full)?;
                let mut file = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(&full)?;
                io::copy(&mut entry, &mut file)?;
                file.set_permissions(Permissions::from_mode(mode))?;
            }
            other => {
                return Err(io::Error::other(format!(
                    "{} is a {other:?}",
                    path.display()
                )));
            }
        }
    }
    // dpkg-deb must not see a closed pipe.
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Where an entry goes: inside, and below `usr` for the folders that are links. `None` for the root.
fn place(path: &Path) -> io::Result<Option<PathBuf>> {
    let mut placed = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir | Component::RootDir => {}
            Component::Normal(name) => {
                if placed.as_os_str().is_empty() && MERGED.iter().any(|merged| name == *merged) {
                    placed.push("usr");
                }
                placed.push(name);
            }
            Component::ParentDir | Component::Prefix(_) => {
                return Err(io::Error::other(format!(
                    "{} leaves the root",
                    path.display()
                )));
            }
        }
    }
    Ok((!placed.as_os_str().is_empty()).then_some(placed))
}

fn is_documentation(path: &Path) -> bool {
    let Ok(shared) = path.strip_prefix("usr/share") else {
        return false;
    };
    let first = shared
        .components()
        .next()
        .map(|first| first.as_os_str().to_string_lossy());
    match first.as_deref() {
        Some("doc") => {
            // Licences ask for it.
            let is_copyright = shared.file_name().is_some_and(|name| name == "copyright");
            shared.components().count() > 2 && !is_copyright
        }
        Some(
            "doc-base" | "info" | "locale" | "man" | "lintian" | "bug" | "bash-completion"
            | "pixmaps" | "applications" | "debconf" | "polkit-1",
        ) => true,
        _ => false,
    }
}

/// What maintainer scripts would have made.
fn complete(root: &Path) -> io::Result<Option<PythonRuntime>> {
    write(&root.join("etc/passwd"), USERS.as_bytes())?;
    write(&root.join("etc/group"), GROUPS.as_bytes())?;
    write(
        &root.join("etc/nsswitch.conf"),
        b"passwd: files\ngroup: files\nhosts: files dns\n",
    )?;
    if root.join("usr/bin/dash").is_file() && fs::symlink_metadata(root.join("usr/bin/sh")).is_err()
    {
        symlink("dash", root.join("usr/bin/sh"))?;
    }
    authorities(root)?;
    let Ok(target) = fs::read_link(root.join("usr/bin/python3")) else {
        return Ok(None);
    };
    let name = target.to_string_lossy().into_owned();
    Ok(name.strip_prefix("python").map(|version| PythonRuntime {
        path: format!("/usr/bin/{name}"),
        version: version.to_owned(),
    }))
}

/// The bundle of certificate authorities, where OpenSSL looks for it.
fn authorities(root: &Path) -> io::Result<()> {
    let source = root.join("usr/share/ca-certificates/mozilla");
    let Ok(entries) = fs::read_dir(&source) else {
        return Ok(());
    };
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()?
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "crt"))
        .collect();
    files.sort();
    let mut bundle = Vec::new();
    for file in files {
        File::open(file)?.read_to_end(&mut bundle)?;
        if !bundle.ends_with(b"\n") {
            bundle.push(b'\n');
        }
    }
    let certs = root.join("etc/ssl/certs");
    fs::create_dir_all(&certs)?;
    write(&certs.join("ca-certificates.crt"), &bundle)?;
    let openssl = root.join("usr/lib/ssl");
    fs::create_dir_all(&openssl)?;
    for (name, target) in [
        ("cert.pem", "/etc/ssl/certs/ca-certificates.crt"),
        ("certs", "/etc/ssl/certs"),
    ] {
        if fs::symlink_metadata(openssl.join(name)).is_err() {
            symlink(target, openssl.join(name))?;
        }
    }
    Ok(())
}

/// With a mode that does not depend on the umask.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.set_permissions(Permissions::from_mode(0o644))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let placed = |path: &str| {
            place(Path::new(path))
                .unwrap()
                .map(|path| path.display().to_string())
        };
        assert_eq!(placed("./bin/dash").unwrap(), "usr/bin/dash");
        assert_eq!(placed("./usr/lib/x").unwrap(), "usr/lib/x");
        assert_eq!(placed("./etc/lib").unwrap(), "etc/lib");
        assert_eq!(placed("./"), None);
        assert!(place(Path::new("./a/../../b")).is_err());
    }

    #[test]
    fn licences_stay() {
        assert!(is_documentation(Path::new(
            "usr/share/doc/dash/changelog.gz"
        )));
        assert!(is_documentation(Path::new("usr/share/man/man1/dash.1.gz")));
        assert!(!is_documentation(Path::new("usr/share/doc/dash/copyright")));
        assert!(!is_documentation(Path::new("usr/share/zoneinfo/UTC")));
    }
}
