//! A job folder gets other content, all of it or nothing.

use std::fs::{read_dir, rename, set_permissions};
use std::io;
use std::path::{Path, PathBuf};

/// Makes what is in `new` the content of `folder`. What was there goes to `aside`, an empty folder.
/// All three are on one file system.
pub(super) fn replace_content(folder: &Path, new: &Path, aside: &Path) -> Result<(), Replacing> {
    let mut moved = Vec::new();
    let replaced = move_all(folder, aside, &mut moved)
        .and_then(|()| move_all(new, folder, &mut moved))
        .and_then(|()| set_permissions(folder, new.metadata()?.permissions()));
    let Err(error) = replaced else { return Ok(()) };
    let mut undone = true;
    for (from, to) in moved.into_iter().rev() {
        undone &= rename(to, from).is_ok();
    }
    Err(if undone {
        Replacing::AsBefore(error)
    } else {
        Replacing::Half(error)
    })
}

/// Why a folder has not got its new content.
#[derive(Debug)]
pub(super) enum Replacing {
    /// It is as it was.
    AsBefore(io::Error),
    /// What was in it is still in the folder aside.
    Half(io::Error),
}

fn move_all(from: &Path, to: &Path, moved: &mut Vec<(PathBuf, PathBuf)>) -> io::Result<()> {
    for entry in read_dir(from)? {
        let name = entry?.file_name();
        let (from, to) = (from.join(&name), to.join(&name));
        rename(&from, &to)?;
        moved.push((from, to));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = read_dir(folder).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// A folder with `files` in it.
    fn folder(parent: &Path, name: &str, files: &[&str]) -> PathBuf {
        let path = parent.join(name);
        fs::create_dir(&path).unwrap();
        for file in files {
            fs::write(path.join(file), name).unwrap();
        }
        path
    }

    #[test]
    fn the_new_content_is_there_and_nothing_else() {
        let ground = tempfile::tempdir().unwrap();
        let old = folder(ground.path(), "old", &["both", "gone"]);
        let new = folder(ground.path(), "new", &["both", "more"]);
        let aside = folder(ground.path(), "aside", &[]);
        replace_content(&old, &new, &aside).unwrap();
        assert_eq!(names(&old), ["both", "more"]);
        assert_eq!(fs::read_to_string(old.join("both")).unwrap(), "new");
        assert_eq!(names(&aside), ["both", "gone"]);
    }

    #[test]
    fn a_failure_in_the_middle_leaves_what_was_there() {
        let ground = tempfile::tempdir().unwrap();
        let new = folder(ground.path(), "new", &["both", "more"]);
        let around = folder(&new, "around", &[]);
        // Nothing can be moved into itself.
        let old = folder(&around, "old", &["both", "gone"]);
        let aside = folder(ground.path(), "aside", &[]);
        let error = replace_content(&old, &new, &aside).unwrap_err();
        assert!(matches!(error, Replacing::AsBefore(_)), "{error:?}");
        assert_eq!(names(&old), ["both", "gone"]);
        assert_eq!(fs::read_to_string(old.join("both")).unwrap(), "old");
        assert_eq!(names(&new), ["around", "both", "more"]);
        assert_eq!(names(&aside), [""; 0]);
    }
}
