use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Component, Path, PathBuf};

use super::app::{SharedKind, SharedPath};

/// Copies a folder: files, folders, links as links, permission bits. Sockets, devices and
/// pipes are left out. Entries called one of `skip`, and the folder `never` (the target's
/// own, which may lie within the application's), are left out, too.
pub(super) fn copy(from: &Path, to: &Path, skip: &[String], never: &Path) -> io::Result<u64> {
    let never = identity(never);
    let mut files = 0;
    let mut todo = vec![(from.to_path_buf(), to.to_path_buf())];
    // Rights are set at the end: a read-only folder could not be filled.
    let mut rights = Vec::new();
    while let Some((from, to)) = todo.pop() {
        let metadata = at(&from, fs::metadata(&from))?;
        if never == Some((metadata.dev(), metadata.ino())) {
            continue;
        }
        at(&to, fs::create_dir(&to))?;
        rights.push((to.clone(), metadata.permissions()));
        for entry in at(&from, fs::read_dir(&from))? {
            let entry = at(&from, entry)?;
            let name = entry.file_name();
            if skip.iter().any(|skipped| name == **skipped) {
                continue;
            }
            let (from, to) = (entry.path(), to.join(&name));
            let kind = at(&from, entry.file_type())?;
            if kind.is_dir() {
                todo.push((from, to));
            } else if kind.is_symlink() {
                let target = at(&from, fs::read_link(&from))?;
                at(&to, symlink(target, &to))?;
            } else if kind.is_file() {
                at(&from, fs::copy(&from, &to))?;
                files += 1;
            }
        }
    }
    for (folder, rights) in rights.into_iter().rev() {
        at(&folder, fs::set_permissions(&folder, rights))?;
    }
    Ok(files)
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Adds the path to an error, which the system leaves out.
fn at<T>(path: &Path, result: io::Result<T>) -> io::Result<T> {
    result.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// Puts links to `shared` in place of the declared paths of a release.
///
/// What the release brings at such a path seeds `shared` when it is not there yet, and is
/// dropped otherwise.
pub(super) fn link_shared(release: &Path, shared: &Path, paths: &[SharedPath]) -> io::Result<()> {
    for SharedPath { path, kind } in paths {
        let (here, there) = (release.join(path), shared.join(path));
        for parent in [here.parent(), there.parent()].into_iter().flatten() {
            at(parent, fs::create_dir_all(parent))?;
        }
        let brought = fs::symlink_metadata(&here).is_ok();
        let kept = fs::symlink_metadata(&there).is_ok();
        if brought && !kept {
            at(&there, fs::rename(&here, &there))?;
        } else if brought && fs::symlink_metadata(&here)?.is_dir() {
            at(&here, fs::remove_dir_all(&here))?;
        } else if brought {
            at(&here, fs::remove_file(&here))?;
        }
        if *kind == SharedKind::Folder {
            at(&there, fs::create_dir_all(&there))?;
        }
        at(&here, symlink(&there, &here))?;
    }
    Ok(())
}

/// Whether `path` stays below the folder it is relative to.
pub(super) fn is_inside(path: &Path) -> bool {
    path.components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

/// The path that names the same place from every folder; it need not exist.
pub(super) fn absolute(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    // The existing part is resolved, so that one target has one name.
    let mut missing = Vec::new();
    let mut existing = path.as_path();
    loop {
        match existing.canonicalize() {
            Ok(mut real) => {
                real.extend(missing.iter().rev());
                return Ok(real);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (Some(parent), Some(name)) = (existing.parent(), existing.file_name()) else {
                    return Err(error);
                };
                missing.push(name.to_os_string());
                existing = parent;
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_copy_keeps_links_and_rights_and_leaves_out_what_it_must() {
        let root = tempfile::tempdir().unwrap();
        let from = root.path().join("app");
        let own = from.join("data/target");
        fs::create_dir_all(own.join("releases")).unwrap();
        fs::create_dir_all(from.join("sub/.git")).unwrap();
        fs::write(from.join("run.sh"), "x").unwrap();
        fs::set_permissions(from.join("run.sh"), fs::Permissions::from_mode(0o750)).unwrap();
        fs::set_permissions(from.join("sub"), fs::Permissions::from_mode(0o555)).unwrap();
        symlink("/does/not/exist", from.join("link")).unwrap();
        let to = root.path().join("copy");
        assert_eq!(copy(&from, &to, &[".git".into()], &own).unwrap(), 1);
        let mode = |path: &str| fs::metadata(to.join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("run.sh"), mode("sub")), (0o750, 0o555));
        assert_eq!(
            fs::read_link(to.join("link")).unwrap(),
            Path::new("/does/not/exist")
        );
        assert!(!to.join("sub/.git").exists());
        assert!(to.join("data").exists() && !to.join("data/target").exists());
    }

    #[test]
    fn shared_state_is_seeded_once_and_then_kept() {
        let root = tempfile::tempdir().unwrap();
        let shared = root.path().join("shared");
        let paths = [
            SharedPath::file("db/app.sqlite3"),
            SharedPath::folder("media"),
            SharedPath::file("later.db"),
        ];
        for (release, content) in [("r1", "seed"), ("r2", "other")] {
            let release = root.path().join(release);
            fs::create_dir_all(release.join("db")).unwrap();
            fs::create_dir_all(release.join("media")).unwrap();
            fs::write(release.join("db/app.sqlite3"), content).unwrap();
            fs::write(release.join("media/a"), content).unwrap();
            link_shared(&release, &shared, &paths).unwrap();
            assert_eq!(
                fs::read_to_string(release.join("db/app.sqlite3")).unwrap(),
                "seed"
            );
            assert_eq!(fs::read_to_string(release.join("media/a")).unwrap(), "seed");
        }
        // The application makes a file that did not exist through the link.
        fs::write(root.path().join("r1/later.db"), "made").unwrap();
        assert_eq!(
            fs::read_to_string(root.path().join("r2/later.db")).unwrap(),
            "made"
        );
    }

    #[test]
    fn paths_that_leave_the_folder_are_seen() {
        for (path, inside) in [("a/b", true), ("", true), ("../a", false), ("/a", false)] {
            assert_eq!(is_inside(Path::new(path)), inside, "{path}");
        }
    }
}
