//! Makes files, folders and links below one open folder, through handles that cannot leave it.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps, XattrFlags, fchmod, fsetxattr,
    ftruncate, futimens, linkat, mkdirat, openat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::entry_reader::SparseMap;
use super::set_id::SET_ID;
use super::walk::FOLDER;
use super::{ArchiveError, Refusal};

/// What to do when a name is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SameName {
    /// The later entry of the same type replaces the earlier, as `tar` does with appended ones.
    Replace,
    /// Refuse: entries come in no particular order.
    Refuse,
}

/// A folder whose mode and time are set at the end, when nothing is created in it any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FolderRecord {
    pub(crate) path: Box<[u8]>,
    pub(crate) mode: u32,
    /// The folder was made with this mode.
    pub(crate) mode_is_set: bool,
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Writes below one folder. Each worker has its own.
pub(crate) struct TreeWriter<'a> {
    top: BorrowedFd<'a>,
    /// Permission bits that the process's mask takes from new files.
    mask: u32,
    same_name: SameName,
    /// Names from the top down to the folder that was used last, with handles of the lower ones.
    names: Vec<Box<[u8]>>,
    handles: Vec<Option<OwnedFd>>,
    /// The same as one path, to see quickly that nothing changed.
    current: Vec<u8>,
}

/// Handles kept open at a time: deep trees must not use up the process's descriptors.
const OPEN_HANDLES: usize = 32;

impl<'a> TreeWriter<'a> {
    pub(crate) fn new(top: BorrowedFd<'a>, mask: u32, same_name: SameName) -> Self {
        Self {
            top,
            mask,
            same_name,
            names: Vec::new(),
            handles: Vec::new(),
            current: Vec::new(),
        }
    }

    /// Makes a folder and what is missing above it. Says whether it has its mode already;
    /// otherwise that comes later.
    pub(crate) fn folder(&mut self, path: &[u8], mode: u32) -> Result<bool, ArchiveError> {
        let (above, name) = split(path);
        if name.is_empty() {
            return self.enter(path, path).map(|_| false);
        }
        // Things are yet to be made in it.
        let mode_fits = mode & (self.mask | SET_ID) == 0 && mode & 0o700 == 0o700;
        let rights = if mode_fits { mode } else { 0o700 };
        let handle = self.enter(above, path)?;
        match mkdirat(handle, name, Mode::from_raw_mode(rights)) {
            Ok(()) => Ok(mode_fits),
            Err(Errno::EXIST) => self.enter(path, path).map(|_| false),
            Err(error) => Err(ArchiveError::destination(path, "make the folder", error)),
        }
    }

    pub(crate) fn symlink(
        &mut self,
        path: &[u8],
        target: &[u8],
        mtime: (i64, u32),
    ) -> Result<(), ArchiveError> {
        let (folder, name) = split(path);
        let same_name = self.same_name;
        let handle = self.enter(folder, path)?;
        let fail = |error| ArchiveError::destination(path, "make the link", error);
        match symlinkat(target, handle, name) {
            Err(Errno::EXIST) => {
                replace(handle, name, path, same_name, FileType::Symlink)?;
                symlinkat(target, handle, name).map_err(fail)?;
            }
            other => other.map_err(fail)?,
        }
        utimensat(handle, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| ArchiveError::destination(path, "set the time", error))
    }

    /// Links to a file of the same tree that is there already.
    pub(crate) fn hard_link(&mut self, path: &[u8], target: &[u8]) -> Result<(), ArchiveError> {
        let refused = || ArchiveError::refuse(path, Refusal::HardLinkTarget);
        if path == target {
            return Err(refused());
        }
        let same_name = self.same_name;
        let (from_folder, from_name) = split(target);
        // Not created on the way: a link to what is not there is refused.
        let from = self.open_existing(from_folder).map_err(|_| refused())?;
        let stat = statat(&from, from_name, AtFlags::SYMLINK_NOFOLLOW).map_err(|_| refused())?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(refused());
        }
        let (folder, name) = split(path);
        let handle = self.enter(folder, path)?;
        let fail = |error| ArchiveError::destination(path, "make the hard link", error);
        match linkat(&from, from_name, handle, name, AtFlags::empty()) {
            Err(Errno::EXIST) => {
                replace(handle, name, path, same_name, FileType::RegularFile)?;
                linkat(&from, from_name, handle, name, AtFlags::empty()).map_err(fail)
            }
            other => other.map_err(fail),
        }
    }

    /// Gives a file from elsewhere another name here, and says what was linked. `None` when it
    /// cannot be linked, for whatever reason.
    pub(crate) fn link_from(
        &mut self,
        path: &[u8],
        from: BorrowedFd<'_>,
        from_name: impl rustix::path::Arg,
    ) -> Result<Option<Stat>, ArchiveError> {
        let (folder, name) = split(path);
        let handle = self.enter(folder, path)?;
        if linkat(from, from_name, handle, name, AtFlags::empty()).is_err() {
            return Ok(None);
        }
        Ok(statat(handle, name, AtFlags::SYMLINK_NOFOLLOW).ok())
    }

    /// Makes an empty file that cannot have been there.
    pub(crate) fn file(&mut self, path: &[u8], mode: u32) -> Result<NewFile, ArchiveError> {
        let (folder, name) = split(path);
        let same_name = self.same_name;
        let mask = self.mask;
        let handle = self.enter(folder, path)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fail = |error| ArchiveError::destination(path, "create the file", error);
        // Writing takes set-id bits away again, so they come at the end.
        let rights = Mode::from_raw_mode(mode & 0o777);
        let file = match openat(handle, name, flags, rights) {
            Err(Errno::EXIST) => {
                replace(handle, name, path, same_name, FileType::RegularFile)?;
                openat(handle, name, flags, rights).map_err(fail)?
            }
            other => other.map_err(fail)?,
        };
        Ok(NewFile {
            file: file.into(),
            mode,
            mode_is_set: mode & (mask | SET_ID) == 0,
            position: 0,
        })
    }

    /// Opens a file that is written in parts, or makes it.
    #[cfg(feature = "chunked")]
    pub(crate) fn part(&mut self, path: &[u8], mode: u32) -> Result<NewFile, ArchiveError> {
        let (folder, name) = split(path);
        let handle = self.enter(folder, path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(handle, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| ArchiveError::destination(path, "create the file", error))?;
        Ok(NewFile {
            file: file.into(),
            mode,
            mode_is_set: false,
            position: 0,
        })
    }

    /// Sets modes and times of folders, deepest first: a folder that may not be entered any more
    /// is not needed any more.
    pub(crate) fn finish_folders(
        &mut self,
        mut records: Vec<FolderRecord>,
    ) -> Result<(), ArchiveError> {
        records.sort_by(|a, b| b.path.cmp(&a.path));
        // Of several entries for one folder, the last counts, and it comes last here too.
        for run in records.chunk_by(|a, b| a.path == b.path) {
            let Some(record) = run.last() else { continue };
            self.finish_folder(record)?;
        }
        Ok(())
    }

    fn finish_folder(&mut self, record: &FolderRecord) -> Result<(), ArchiveError> {
        let handle = self.enter(&record.path, &record.path)?;
        set_xattrs(handle, &record.xattrs, &record.path)?;
        let fail = |action| move |error| ArchiveError::destination(&record.path, action, error);
        futimens(handle, &times(record.mtime)).map_err(fail("set the time"))?;
        fchmod(handle, Mode::from_raw_mode(record.mode)).map_err(fail("set the mode"))
    }

    /// Sets the time of a folder that needs nothing else, without opening it.
    pub(crate) fn finish_time(&mut self, record: &FolderRecord) -> Result<(), ArchiveError> {
        let (above, name) = split(&record.path);
        let handle = self.enter(above, &record.path)?;
        utimensat(
            handle,
            name,
            &times(record.mtime),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(|error| ArchiveError::destination(&record.path, "set the time", error))
    }

    /// A handle of a folder that must be there.
    fn open_existing(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let mut at = openat(self.top, ".", FOLDER, Mode::empty())?;
        for part in parts(path) {
            at = openat(&at, part, FOLDER, Mode::empty())?;
        }
        Ok(at)
    }

    /// A handle of a folder, made where missing, one component at a time and never through a link.
    fn enter(&mut self, folder: &[u8], entry: &[u8]) -> Result<BorrowedFd<'_>, ArchiveError> {
        if self.current != folder || self.handles.last().is_some_and(Option::is_none) {
            self.go_to(folder, entry)?;
        }
        match self.handles.last() {
            Some(Some(handle)) => Ok(handle.as_fd()),
            _ => Ok(self.top),
        }
    }

    fn go_to(&mut self, folder: &[u8], entry: &[u8]) -> Result<(), ArchiveError> {
        let shared = parts(folder)
            .zip(&self.names)
            .take_while(|(part, name)| *part == &***name)
            .count();
        self.names.truncate(shared);
        self.handles.truncate(shared);
        // Handles given up on the way down are opened again on the way back.
        let open = self
            .handles
            .iter()
            .rposition(Option::is_some)
            .map_or(0, |index| index + 1);
        let keep: Vec<Box<[u8]>> = self.names.split_off(open);
        self.handles.truncate(open);
        let below = parts(folder).skip(shared);
        let names: Vec<Box<[u8]>> = keep
            .into_iter()
            .chain(below.map(Box::<[u8]>::from))
            .collect();
        self.current.clear();
        for name in names {
            let parent = match self.handles.last() {
                Some(Some(handle)) => handle.as_fd(),
                _ => self.top,
            };
            let handle = enter_one(parent, &name, entry)?;
            self.names.push(name);
            self.handles.push(Some(handle));
            if self.handles.len() > OPEN_HANDLES {
                let index = self.handles.len() - OPEN_HANDLES - 1;
                self.handles[index] = None;
            }
        }
        self.current.extend_from_slice(folder);
        Ok(())
    }
}

fn enter_one(parent: BorrowedFd<'_>, name: &[u8], entry: &[u8]) -> Result<OwnedFd, ArchiveError> {
    match openat(parent, name, FOLDER, Mode::empty()) {
        Ok(handle) => return Ok(handle),
        Err(Errno::NOENT) => {}
        Err(error) => return Err(not_a_folder(error, entry)),
    }
    match mkdirat(parent, name, Mode::RWXU) {
        // Another worker may have been here first.
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(ArchiveError::destination(entry, "make the folder", error)),
    }
    openat(parent, name, FOLDER, Mode::empty()).map_err(|error| not_a_folder(error, entry))
}

fn not_a_folder(error: Errno, entry: &[u8]) -> ArchiveError {
    match error {
        Errno::LOOP | Errno::NOTDIR => ArchiveError::refuse(entry, Refusal::ThroughLink),
        error => ArchiveError::destination(entry, "open the folder", error),
    }
}

/// Takes an earlier entry of the same name away, if that is allowed.
fn replace(
    folder: BorrowedFd<'_>,
    name: &[u8],
    path: &[u8],
    same_name: SameName,
    wanted: FileType,
) -> Result<(), ArchiveError> {
    if same_name == SameName::Refuse {
        return Err(ArchiveError::refuse(path, Refusal::Duplicate));
    }
    let stat = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|error| ArchiveError::destination(path, "look at it", error))?;
    if FileType::from_raw_mode(stat.st_mode) != wanted {
        return Err(ArchiveError::refuse(path, Refusal::TypeChange));
    }
    unlinkat(folder, name, AtFlags::empty())
        .map_err(|error| ArchiveError::destination(path, "replace it", error))
}

/// A file being written.
pub(crate) struct NewFile {
    file: File,
    mode: u32,
    mode_is_set: bool,
    position: u64,
}

impl NewFile {
    /// Writes the next bytes of a file without holes.
    pub(crate) fn write(&mut self, bytes: &[u8], path: &[u8]) -> Result<(), ArchiveError> {
        self.file
            .write_all(bytes)
            .map_err(|error| ArchiveError::destination(path, "write the file", error))?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    /// Writes a part of a file without holes.
    #[cfg(feature = "chunked")]
    pub(crate) fn write_at(
        &mut self,
        bytes: &[u8],
        position: u64,
        path: &[u8],
    ) -> Result<(), ArchiveError> {
        self.file
            .write_all_at(bytes, position)
            .map_err(|error| ArchiveError::destination(path, "write the file", error))
    }

    /// Says which of the stored bytes of a file with holes come next.
    #[cfg(feature = "chunked")]
    pub(crate) fn seek(&mut self, position: u64) {
        self.position = position;
    }

    /// Writes the next stored bytes of a file with holes to where they belong.
    pub(crate) fn write_sparse(
        &mut self,
        mut bytes: &[u8],
        map: &SparseMap,
        path: &[u8],
    ) -> Result<(), ArchiveError> {
        let mut start = 0;
        for &(offset, length) in &map.regions {
            if bytes.is_empty() {
                break;
            }
            if self.position < start + length {
                let into = self.position - start;
                let count = usize::try_from(length - into)
                    .map_or(bytes.len(), |left| left.min(bytes.len()));
                self.file
                    .write_all_at(&bytes[..count], offset + into)
                    .map_err(|error| ArchiveError::destination(path, "write the file", error))?;
                self.position += count as u64;
                bytes = &bytes[count..];
            }
            start += length;
        }
        Ok(())
    }

    /// Sets length, attributes, mode and time.
    pub(crate) fn finish(
        self,
        real_size: Option<u64>,
        xattrs: &[(Vec<u8>, Vec<u8>)],
        mtime: (i64, u32),
        path: &[u8],
    ) -> Result<(), ArchiveError> {
        let fail = |action| move |error: Errno| ArchiveError::destination(path, action, error);
        if let Some(size) = real_size {
            ftruncate(&self.file, size).map_err(fail("set the length"))?;
        }
        if !xattrs.is_empty() {
            // Attributes need a writable file, whatever its mode will be.
            fchmod(&self.file, Mode::RUSR | Mode::WUSR).map_err(fail("set the mode"))?;
            set_xattrs(self.file.as_fd(), xattrs, path)?;
        }
        if !self.mode_is_set || !xattrs.is_empty() {
            fchmod(&self.file, Mode::from_raw_mode(self.mode)).map_err(fail("set the mode"))?;
        }
        futimens(&self.file, &times(mtime)).map_err(fail("set the time"))
    }
}

/// Only what users may set: capabilities and the like do not come out of an entry, whatever kind
/// it is. A file system without attributes is no error.
fn set_xattrs(
    file: BorrowedFd<'_>,
    xattrs: &[(Vec<u8>, Vec<u8>)],
    path: &[u8],
) -> Result<(), ArchiveError> {
    for (name, value) in xattrs {
        if !name.starts_with(b"user.") || name.contains(&0) {
            continue;
        }
        match fsetxattr(file, name.as_slice(), value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::NOTSUP) => {}
            Err(error) => {
                return Err(ArchiveError::destination(path, "set an attribute", error));
            }
        }
    }
    Ok(())
}

fn times((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Folder and name of a path.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/')
        .filter(|part| !part.is_empty())
}
