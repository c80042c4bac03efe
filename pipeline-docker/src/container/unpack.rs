//! Archives that a container's files come in.

use std::fs::{Permissions, create_dir, hard_link, set_permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use crate::foreign_tar::ForeignTar;

/// Unpacks into a folder of our own.
///
/// What is in the container wrote the archive's names and links, so nothing in it is trusted: no
/// entry is followed through a link, and no file becomes set-id.
pub(super) fn unpack(source: impl Read, staging: &Path) -> io::Result<()> {
    let mut archive = ForeignTar::new(source);
    archive.preserve_modes_and_times();
    // Modes of folders last, or a folder without write permission could not be filled.
    let mut folders = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            enter(staging, &path)?;
            folders.push((path, entry.header().mode()?));
        } else if kind.is_hard_link() {
            let first = entry.link_name()?.map(std::borrow::Cow::into_owned);
            let first = in_folder(staging, &first.unwrap_or_default())?;
            // Also of a link, which is not followed.
            hard_link(first, in_folder(staging, &path)?)?;
        } else if kind.is_file() || kind.is_symlink() {
            in_folder(staging, &path)?;
            entry.unpack_in(staging)?;
        }
    }
    for (path, mode) in folders.into_iter().rev() {
        // Its owner has to be able to remove it again.
        let mode = Permissions::from_mode((mode & 0o777) | 0o700);
        set_permissions(enter(staging, &path)?, mode)?;
    }
    Ok(())
}

/// The place of an entry, in a folder that is there and was not reached through a link.
fn in_folder(staging: &Path, path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    let folder = enter(staging, path.parent().unwrap_or(Path::new("")))?;
    Ok(folder.join(name))
}

/// Makes the folders of a path as far as they are not there. All of them are real folders: a link
/// that an earlier entry made would lead anywhere.
fn enter(staging: &Path, path: &Path) -> io::Result<PathBuf> {
    let refused = |why: &str| {
        let path = path.display();
        io::Error::other(format!("the container's archive has {why}: {path}"))
    };
    let mut here = staging.to_owned();
    for part in path.components() {
        match part {
            Component::Normal(name) => here.push(name),
            Component::CurDir => continue,
            _ => return Err(refused("an entry outside of the folder")),
        }
        match create_dir(&here) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if !here.symlink_metadata()?.is_dir() {
                    return Err(refused("an entry below something that is no folder"));
                }
            }
            made => made?,
        }
    }
    Ok(here)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(0);
        header
    }

    /// Unpacks entries: a link has a target, a folder a name that ends with a slash.
    fn unpacked(staging: &Path, entries: &[(&str, &str, u32)]) -> io::Result<()> {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, target, mode) in entries {
            if target.is_empty() {
                let kind = match name.ends_with('/') {
                    true => tar::EntryType::Directory,
                    false => tar::EntryType::Regular,
                };
                let mut header = header(kind, *mode);
                archive.append_data(&mut header, name, io::empty())?;
            } else {
                let mut header = header(tar::EntryType::Symlink, *mode);
                archive.append_link(&mut header, name, target)?;
            }
        }
        unpack(&archive.into_inner()?[..], staging)
    }

    fn mode(path: &Path) -> u32 {
        path.symlink_metadata().unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn nothing_outside_is_made_or_changed_through_a_link() {
        let (staging, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        set_permissions(outside.path(), Permissions::from_mode(0o700)).unwrap();
        let target = outside.path().to_str().unwrap();
        for entries in [
            [("a", target, 0o777), ("a/sub/", "", 0o777)],
            [("b", target, 0o777), ("b/", "", 0o777)],
            [("c", target, 0o777), ("c/file", "", 0o777)],
            [("d/e", target, 0o777), ("d/e/sub/", "", 0o777)],
        ] {
            let error = unpacked(staging.path(), &entries).unwrap_err();
            assert!(error.to_string().contains("no folder"), "{error}");
        }
        assert_eq!(mode(outside.path()), 0o700);
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn modes_are_kept_without_set_id_bits() {
        let staging = tempfile::tempdir().unwrap();
        let entries = [
            ("dir/", "", 0o7055),
            ("dir/tool", "", 0o6755),
            ("dir/link", "/etc", 0o777),
        ];
        unpacked(staging.path(), &entries).unwrap();
        assert_eq!(mode(&staging.path().join("dir")), 0o755);
        assert_eq!(mode(&staging.path().join("dir/tool")), 0o755);
        assert!(staging.path().join("dir/link").is_symlink());
    }
}
