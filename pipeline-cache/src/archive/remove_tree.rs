//! Removes a tree through handles, also where folders deny it.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, Mode, fchmod, openat, unlinkat};
use rustix::io::Errno;

use super::walk::FOLDER;

/// Removes a file, link or folder with everything in it. Links are removed, never followed.
pub(crate) fn remove_tree(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error),
    }
    empty(parent, name)?;
    unlinkat(parent, name, AtFlags::REMOVEDIR)
}

/// A folder on the way down: its handle, its name, and what is still in it.
struct Level {
    name: Vec<u8>,
    handle: OwnedFd,
    folders: Vec<Vec<u8>>,
}

fn empty(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    // By hand instead of by recursion: an archive decides how deep this goes.
    let mut levels = vec![open(parent, name)?];
    while let Some(level) = levels.last_mut() {
        if let Some(next) = level.folders.pop() {
            let level = open(level.handle.as_fd(), &next)?;
            levels.push(level);
            continue;
        }
        if let Some(done) = levels.pop()
            && let Some(above) = levels.last()
        {
            unlinkat(&above.handle, done.name.as_slice(), AtFlags::REMOVEDIR)?;
        }
    }
    Ok(())
}

/// Opens a folder and removes all of it but its folders.
fn open(parent: BorrowedFd<'_>, name: &[u8]) -> Result<Level, Errno> {
    let handle = match openat(parent, name, FOLDER, Mode::empty()) {
        Err(Errno::ACCESS) => {
            // Not readable: give ourselves the right, by name because it cannot be opened.
            rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
            openat(parent, name, FOLDER, Mode::empty())?
        }
        other => other?,
    };
    let mut folders = Vec::new();
    let mut widened = false;
    for item in Dir::read_from(&handle)? {
        let item = item?;
        let child = item.file_name();
        if matches!(child.to_bytes(), b"." | b"..") {
            continue;
        }
        let mut removed = unlinkat(&handle, child, AtFlags::empty());
        if removed == Err(Errno::ACCESS) && !widened {
            widened = true;
            fchmod(&handle, Mode::RWXU)?;
            removed = unlinkat(&handle, child, AtFlags::empty());
        }
        match removed {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) => folders.push(child.to_bytes().to_vec()),
            Err(error) => return Err(error),
        }
    }
    if !folders.is_empty() && !widened {
        // Removing the inner folders takes write permission here.
        let _ = fchmod(&handle, Mode::RWXU);
    }
    Ok(Level {
        name: name.to_vec(),
        handle,
        folders,
    })
}
