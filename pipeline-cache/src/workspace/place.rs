//! Moves staged files into place, through folder handles that follow no link.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use pipeline_core::StepError;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, fchmod, mkdirat, openat, renameat, statat, symlinkat,
    unlinkat,
};
use rustix::io::Errno;

use super::manifest::Entry;
use super::merge::Merged;

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Moves everything from `staged[layer]` below a folder. Blocks.
pub(super) fn place(merged: &Merged, staged: &[PathBuf], at: &Path) -> Result<(), StepError> {
    let top = open_top(at)?;
    let staged = staged
        .iter()
        .map(|folder| {
            // A layer of empty files only has no archive.
            match openat(CWD, folder, FOLDER, Mode::empty()) {
                Ok(handle) => Ok(Some(handle)),
                Err(Errno::NOENT) => Ok(None),
                Err(error) => Err(fail("open the staging folder", folder, error)),
            }
        })
        .collect::<Result<Vec<_>, _>>()?;
    let mut place = Place {
        top,
        at,
        last: None,
    };
    let mut modes = Vec::new();
    for (path, (entry, layer)) in &merged.entries {
        match entry {
            Entry::Folder { mode } => {
                if place.folder(path)? {
                    modes.push((path.as_str(), *mode));
                }
            }
            Entry::File { size: 0, mode, .. } => place.empty_file(path, *mode)?,
            entry => {
                let from = staged[*layer].as_ref().ok_or_else(|| damaged(path))?;
                place.file(path, entry, from)?;
            }
        }
    }
    // Last, and from the inside out: a folder may be made unwritable.
    for (path, mode) in modes.into_iter().rev() {
        place.set_mode(path, mode)?;
    }
    Ok(())
}

struct Place<'a> {
    top: OwnedFd,
    at: &'a Path,
    /// The folder above the last file, since the next is most often beside it.
    last: Option<(String, OwnedFd)>,
}

impl Place<'_> {
    fn fail<'b>(&'b self, action: &'b str, path: &'b str) -> impl Fn(Errno) -> StepError + use<'b> {
        move |error| fail(action, &self.at.join(path), error)
    }

    /// Makes sure that a folder is there, and says whether it was made.
    fn folder(&mut self, path: &str) -> Result<bool, StepError> {
        let name = self.enter_parent(path)?;
        let parent = self.parent();
        let made = match mkdirat(parent, name, Mode::from_raw_mode(0o777)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(self.fail("make the folder", path)(error)),
        };
        openat(parent, name, FOLDER, Mode::empty())
            .map_err(self.fail("use what is there as a folder", path))?;
        Ok(made)
    }

    fn empty_file(&mut self, path: &str, mode: u32) -> Result<(), StepError> {
        let name = self.enter_parent(path)?;
        let parent = self.parent();
        match unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(self.fail("replace", path)(error)),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat(parent, name, flags, Mode::from_raw_mode(0o600))
            .map_err(self.fail("make the file", path))?;
        fchmod(&file, Mode::from_raw_mode(mode & 0o777)).map_err(self.fail("set the mode of", path))
    }

    fn file(&mut self, path: &str, entry: &Entry, staged: &OwnedFd) -> Result<(), StepError> {
        let (above, name) = split(path);
        let name = name.to_owned();
        let mut from = openat(staged, ".", FOLDER, Mode::empty())
            .map_err(self.fail("open the staging folder of", path))?;
        for part in above.split('/').filter(|part| !part.is_empty()) {
            from = openat(&from, part, FOLDER, Mode::empty()).map_err(|_| damaged(path))?;
        }
        let stat =
            statat(&from, name.as_str(), AtFlags::SYMLINK_NOFOLLOW).map_err(|_| damaged(path))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let fits = match entry {
            Entry::File { size, .. } => {
                kind == FileType::RegularFile && u64::try_from(stat.st_size) == Ok(*size)
            }
            Entry::Link { .. } => kind == FileType::Symlink,
            Entry::Folder { .. } => false,
        };
        if !fits {
            return Err(damaged(path));
        }
        self.enter_parent(path)?;
        if let Entry::Link { target } = entry {
            // A link is made anew: renaming one onto a hard link of itself does nothing.
            return self.link(path, &name, target);
        }
        renameat(&from, name.as_str(), self.parent(), name.as_str())
            .map_err(self.fail("replace what is there by the file", path))
    }

    fn link(&self, path: &str, name: &str, target: &str) -> Result<(), StepError> {
        match unlinkat(self.parent(), name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(self.fail("replace", path)(error)),
        }
        symlinkat(target, self.parent(), name).map_err(self.fail("make the link", path))
    }

    fn set_mode(&mut self, path: &str, mode: u32) -> Result<(), StepError> {
        let name = self.enter_parent(path)?;
        openat(self.parent(), name, FOLDER, Mode::empty())
            .and_then(|folder| fchmod(&folder, Mode::from_raw_mode(mode & 0o777)))
            .map_err(self.fail("set the mode of", path))
    }

    /// Opens the folder above a path, made if missing, and gives the path's last name.
    fn enter_parent<'b>(&mut self, path: &'b str) -> Result<&'b str, StepError> {
        let (above, name) = split(path);
        if self.last.as_ref().is_some_and(|(last, _)| last == above) {
            return Ok(name);
        }
        let mut handle = openat(&self.top, ".", FOLDER, Mode::empty())
            .map_err(self.fail("open the folder above", path))?;
        for part in above.split('/').filter(|part| !part.is_empty()) {
            match mkdirat(&handle, part, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(self.fail("make the folder above", path)(error)),
            }
            handle = openat(&handle, part, FOLDER, Mode::empty()).map_err(|error| {
                let action = "use what is there as a folder (links are not followed) for";
                self.fail(action, path)(error)
            })?;
        }
        self.last = Some((above.to_owned(), handle));
        Ok(name)
    }

    fn parent(&self) -> &OwnedFd {
        self.last.as_ref().map_or(&self.top, |(_, handle)| handle)
    }
}

fn open_top(at: &Path) -> Result<OwnedFd, StepError> {
    // The caller names this folder; a link in its place is the caller's wish.
    let anywhere = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = openat(CWD, at, anywhere, Mode::empty())
        .map_err(|error| fail("open the folder", at, error))?;
    openat(top.as_fd(), ".", FOLDER, Mode::empty())
        .map_err(|error| fail("open the folder", at, error))
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn damaged(path: &str) -> StepError {
    StepError::failed(format!(
        "the layer's archive does not hold {path} as its list of files says"
    ))
}

fn fail(action: &str, path: &Path, error: Errno) -> StepError {
    StepError::errored(
        format!("could not {action} {}", path.display()),
        io::Error::from(error),
    )
}
