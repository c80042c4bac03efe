//! Lists a tree on several threads: one `openat` a folder, one `statat` an entry.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    Access, AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, accessat, openat, readlinkat, statat,
};

use super::archive_error::escape;
use super::monitor::Monitor;
use super::set_id::SET_ID;
use super::staging::is_staging;
use super::{ArchiveError, DeclaredPath, DeclaredPaths, SkipReason, Skipped, Unreadable};

/// One file, folder or link.
#[derive(Debug)]
pub(crate) struct Node {
    /// Name in its folder; for a declared path itself, empty.
    pub(crate) name: Box<[u8]>,
    pub(crate) kind: NodeKind,
    pub(crate) mode: u32,
    /// Set-user-id and set-group-id bits.
    pub(crate) set_id: u32,
    pub(crate) mtime: i64,
    pub(crate) mtime_ns: u32,
    pub(crate) stamp: Stamp,
}

/// What else tells whether something is as it was when it was last looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) ctime: (i64, u32),
    pub(crate) links: u32,
    pub(crate) uid: u32,
    /// Has set-id or sticky bits, which an archive never gives.
    pub(crate) special_mode: bool,
}

#[derive(Debug)]
pub(crate) enum NodeKind {
    /// Index into [`Tree::folders`].
    Folder(usize),
    Symlink(Box<[u8]>),
    File(FileFacts),
}

/// What decides whether a file is still the one that was listed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileFacts {
    pub(crate) size: u64,
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) has_twins: bool,
    pub(crate) has_holes: bool,
}

/// A folder and what is in it, sorted by name.
#[derive(Debug)]
pub(crate) struct Folder {
    /// Which declared path it belongs to.
    pub(crate) root: usize,
    /// Path on disk below that declared path, empty for itself.
    pub(crate) below: Box<[u8]>,
    pub(crate) children: Vec<Node>,
    pub(crate) xattrs: Xattrs,
}

/// Names and values, most often none.
pub(crate) type Xattrs = Option<Box<[(Vec<u8>, Vec<u8>)]>>;

/// Everything below the declared paths.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) roots: Vec<Root>,
    pub(crate) folders: Vec<Folder>,
    /// What is left out.
    pub(crate) skipped: Vec<Skipped>,
}

#[derive(Debug)]
pub(crate) struct Root {
    pub(crate) declared: DeclaredPath,
    /// The declared path itself, when it is a folder: what names are resolved from.
    pub(crate) handle: Option<OwnedFd>,
    /// Its parent, to open a declared path that is a file.
    pub(crate) on_disk: PathBuf,
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) node: Node,
}

impl Tree {
    /// Lists everything. Names come out in one order, whatever the threads did.
    pub(crate) fn list(
        paths: &DeclaredPaths,
        working_folder: &Path,
        threads: usize,
        unreadable: Unreadable,
    ) -> Result<Self, ArchiveError> {
        let locate = |declared: &DeclaredPath| declared.locate(working_folder);
        Self::list_at(paths, &locate, threads, unreadable)
    }

    /// The same for declared paths that are somewhere else.
    pub(crate) fn list_at(
        paths: &DeclaredPaths,
        locate: &dyn Fn(&DeclaredPath) -> PathBuf,
        threads: usize,
        unreadable: Unreadable,
    ) -> Result<Self, ArchiveError> {
        let mut tree = Self {
            roots: Vec::new(),
            folders: Vec::new(),
            skipped: Vec::new(),
        };
        let mut jobs = Vec::new();
        for (index, declared) in paths.as_slice().iter().enumerate() {
            let root = open_root(declared, locate(declared), jobs.len())?;
            if root.handle.is_some() {
                jobs.push(Job {
                    folder: jobs.len(),
                    root: index,
                    below: Box::default(),
                });
            }
            tree.roots.push(root);
        }
        let queue = Queue(Monitor::new(State {
            next_folder: jobs.len(),
            jobs,
            busy: 0,
            failed: None,
        }));
        let mut listed: Vec<Listed> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads.max(1))
                .map(|_| scope.spawn(|| work(&queue, &tree.roots, unreadable)))
                .collect();
            workers
                .into_iter()
                .flat_map(|worker| {
                    worker
                        .join()
                        .unwrap_or_else(|p| std::panic::resume_unwind(p))
                })
                .collect()
        });
        if let Some(error) = queue.0.into_inner().failed {
            return Err(error);
        }
        listed.sort_unstable_by_key(|listed| listed.index);
        for listed in listed {
            tree.folders.push(listed.folder);
            tree.skipped.extend(listed.skipped);
        }
        tree.skipped.sort_unstable();
        tree.refuse_empty()?;
        Ok(tree)
    }

    /// Everything of one declared path in archive order: itself first, each folder before what is
    /// in it.
    pub(crate) fn visit<'a>(&'a self, root: usize, visit: &mut dyn FnMut(&'a Node)) {
        let top = &self.roots[root].node;
        visit(top);
        let mut path = match top.kind {
            NodeKind::Folder(folder) => vec![self.folders[folder].children.iter()],
            _ => Vec::new(),
        };
        while let Some(children) = path.last_mut() {
            let Some(node) = children.next() else {
                path.pop();
                continue;
            };
            visit(node);
            if let NodeKind::Folder(folder) = node.kind {
                path.push(self.folders[folder].children.iter());
            }
        }
    }

    fn refuse_empty(&self) -> Result<(), ArchiveError> {
        for root in &self.roots {
            let empty = match &root.node.kind {
                NodeKind::Folder(index) => self.folders[*index].children.is_empty(),
                NodeKind::File(facts) => facts.size == 0,
                NodeKind::Symlink(_) => false,
            };
            if empty {
                return Err(ArchiveError::Empty {
                    path: root.declared.as_str().to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Name of a node in the archive, without a trailing slash.
    pub(crate) fn archive_name(&self, root: usize, below: &[u8], name: &[u8]) -> Vec<u8> {
        let mut path = self.roots[root].declared.archived().to_vec();
        for part in [below, name] {
            if !part.is_empty() {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(part);
            }
        }
        path
    }
}

fn open_root(
    declared: &DeclaredPath,
    on_disk: PathBuf,
    folder: usize,
) -> Result<Root, ArchiveError> {
    let path = declared.as_str();
    let stat = match statat(CWD, &on_disk, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {
            return Err(ArchiveError::Missing {
                path: path.to_owned(),
            });
        }
        Err(error) => return Err(ArchiveError::read(path.as_bytes(), "look at it", error)),
    };
    let fail =
        |action, error: rustix::io::Errno| ArchiveError::read(path.as_bytes(), action, error);
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => NodeKind::Folder(folder),
        FileType::RegularFile => NodeKind::File(facts(&stat)),
        FileType::Symlink => NodeKind::Symlink(
            readlinkat(CWD, &on_disk, Vec::new())
                .map_err(|error| fail("read the link", error))?
                .into_bytes()
                .into(),
        ),
        _ => {
            return Err(ArchiveError::DeclaredPath {
                path: path.to_owned(),
                problem: "is neither a file nor a folder nor a link",
            });
        }
    };
    let handle = match kind {
        NodeKind::Folder(_) => Some(
            openat(CWD, &on_disk, FOLDER, Mode::empty())
                .map_err(|error| fail("open the folder", error))?,
        ),
        _ => None,
    };
    Ok(Root {
        declared: declared.clone(),
        handle,
        on_disk,
        device: stat.st_dev,
        inode: stat.st_ino,
        node: node(Box::default(), kind, &stat),
    })
}

/// How folders are opened: never through a link.
pub(crate) const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

fn node(name: Box<[u8]>, kind: NodeKind, stat: &Stat) -> Node {
    Node {
        name,
        kind,
        mode: stat.st_mode & 0o777,
        set_id: stat.st_mode & SET_ID,
        mtime: stat.st_mtime,
        mtime_ns: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        stamp: Stamp {
            ctime: (
                stat.st_ctime,
                u32::try_from(stat.st_ctime_nsec).unwrap_or(0),
            ),
            links: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
            uid: stat.st_uid,
            special_mode: stat.st_mode & 0o7000 != 0,
        },
    }
}

pub(crate) fn facts(stat: &Stat) -> FileFacts {
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    FileFacts {
        size,
        device: stat.st_dev,
        inode: stat.st_ino,
        has_twins: stat.st_nlink > 1,
        has_holes: u64::try_from(stat.st_blocks).unwrap_or(0) * 512 < size,
    }
}

struct Job {
    folder: usize,
    root: usize,
    below: Box<[u8]>,
}

struct State {
    jobs: Vec<Job>,
    next_folder: usize,
    busy: usize,
    failed: Option<ArchiveError>,
}

struct Queue(Monitor<State>);

impl Queue {
    /// The next folder to list; waits while others may still find some.
    fn next(&self) -> Option<Job> {
        let mut state = self.0.lock();
        loop {
            if state.failed.is_some() {
                return None;
            }
            if let Some(job) = state.jobs.pop() {
                state.busy += 1;
                return Some(job);
            }
            if state.busy == 0 {
                return None;
            }
            state = self.0.wait(state);
        }
    }
}

/// Ends a job also when listing panics: nobody may wait for it for ever.
struct Busy<'a>(&'a Queue);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.0.lock().busy -= 1;
        self.0.0.notify();
    }
}

struct Listed {
    index: usize,
    folder: Folder,
    skipped: Vec<Skipped>,
}

fn work(queue: &Queue, roots: &[Root], unreadable: Unreadable) -> Vec<Listed> {
    let mut done = Vec::new();
    while let Some(job) = queue.next() {
        let _busy = Busy(queue);
        match list_folder(queue, roots, job, unreadable) {
            Ok(listed) => done.push(listed),
            Err(error) => {
                queue.0.lock().failed.get_or_insert(error);
            }
        }
    }
    done
}

fn list_folder(
    queue: &Queue,
    roots: &[Root],
    job: Job,
    unreadable: Unreadable,
) -> Result<Listed, ArchiveError> {
    let root = &roots[job.root];
    let archived = |name: &[u8]| {
        let mut path = root.declared.as_str().as_bytes().to_vec();
        for part in [&job.below, name] {
            if !part.is_empty() {
                path.push(b'/');
                path.extend_from_slice(part);
            }
        }
        path
    };
    let fail = |name: &[u8], action, error: rustix::io::Errno| {
        ArchiveError::read(&archived(name), action, error)
    };
    let handle = open_below(root, &job.below).map_err(|e| fail(b"", "open the folder", e))?;
    let xattrs = read_xattrs(handle.as_fd())
        .map_err(|error| ArchiveError::read(&archived(b""), "read attributes", error))?;
    let mut children = Vec::new();
    let mut skipped = Vec::new();
    let mut skip = |name: &[u8], reason| {
        let path = escape(&archived(name));
        skipped.push(Skipped { path, reason });
    };
    let listing = Dir::read_from(&handle).map_err(|e| fail(b"", "list the folder", e))?;
    for item in listing {
        let item = item.map_err(|e| fail(b"", "list the folder", e))?;
        let name = item.file_name();
        let bytes = name.to_bytes();
        if matches!(bytes, b"." | b"..") {
            continue;
        }
        let stat = statat(&handle, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| fail(bytes, "look at it", e))?;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if is_staging(bytes) => {
                skip(bytes, SkipReason::Staging);
                continue;
            }
            // The index is given once the folder's name has its place.
            FileType::Directory => NodeKind::Folder(0),
            FileType::RegularFile => NodeKind::File(facts(&stat)),
            FileType::Symlink => NodeKind::Symlink(
                read_link(handle.as_fd(), name).map_err(|e| fail(bytes, "read the link", e))?,
            ),
            _ => {
                skip(bytes, SkipReason::Special);
                continue;
            }
        };
        if unreadable == Unreadable::Skip && is_denied(handle.as_fd(), name, &kind) {
            skip(bytes, SkipReason::Unreadable);
            continue;
        }
        children.push(node(bytes.into(), kind, &stat));
    }
    children.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    // Most of what a large tree takes in memory.
    children.shrink_to_fit();
    let mut state = queue.0.lock();
    let mut found = 0;
    for child in &mut children {
        if let NodeKind::Folder(index) = &mut child.kind {
            *index = state.next_folder;
            state.next_folder += 1;
            found += 1;
            let mut below = Vec::with_capacity(job.below.len() + child.name.len() + 1);
            below.extend_from_slice(&job.below);
            if !below.is_empty() {
                below.push(b'/');
            }
            below.extend_from_slice(&child.name);
            let job = Job {
                folder: *index,
                root: job.root,
                below: below.into(),
            };
            state.jobs.push(job);
        }
    }
    drop(state);
    if found > 0 {
        queue.0.notify();
    }
    Ok(Listed {
        index: job.folder,
        folder: Folder {
            root: job.root,
            below: job.below,
            children,
            xattrs,
        },
        skipped,
    })
}

/// Whether this process may not read a file, or may not list and enter a folder. Any other trouble
/// shows when it is read.
fn is_denied(folder: BorrowedFd<'_>, name: &CStr, kind: &NodeKind) -> bool {
    let wanted = match kind {
        NodeKind::Folder(_) => Access::READ_OK | Access::EXEC_OK,
        NodeKind::File(_) => Access::READ_OK,
        NodeKind::Symlink(_) => return false,
    };
    let found = accessat(folder, name, wanted, AtFlags::EACCESS);
    matches!(
        found,
        Err(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM)
    )
}

fn read_link(folder: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<Box<[u8]>> {
    Ok(readlinkat(folder, name, Vec::with_capacity(128))?
        .into_bytes()
        .into())
}

/// Opens a folder below a declared path.
pub(crate) fn open_below(root: &Root, below: &[u8]) -> rustix::io::Result<OwnedFd> {
    let Some(handle) = &root.handle else {
        return Err(rustix::io::Errno::NOTDIR);
    };
    let below = if below.is_empty() { b"." } else { below };
    match openat(handle, below, FOLDER, Mode::empty()) {
        // Longer than one system call takes: go down step by step.
        Err(rustix::io::Errno::NAMETOOLONG) => {
            let mut at = openat(handle, ".", FOLDER, Mode::empty())?;
            for part in below.split(|&b| b == b'/') {
                at = openat(&at, part, FOLDER, Mode::empty())?;
            }
            Ok(at)
        }
        other => other,
    }
}

/// Attributes of the `user.` name space, the only one that is archived.
pub(crate) fn read_xattrs(file: BorrowedFd<'_>) -> io::Result<Xattrs> {
    use rustix::fs::{fgetxattr, flistxattr};
    use rustix::io::Errno;

    let mut names = [0_u8; 1024];
    let length = match flistxattr(file, &mut names) {
        Ok(0) | Err(Errno::NOTSUP | Errno::PERM) => return Ok(None),
        Ok(length) => length,
        Err(Errno::RANGE) => return read_many_xattrs(file),
        Err(error) => return Err(error.into()),
    };
    collect_xattrs(&names[..length], |name| {
        let mut value = vec![0; 64 * 1024];
        let length = fgetxattr(file, name, &mut value)?;
        value.truncate(length);
        Ok(value)
    })
}

fn read_many_xattrs(file: BorrowedFd<'_>) -> io::Result<Xattrs> {
    use rustix::fs::{fgetxattr, flistxattr};

    let mut names = vec![0; 64 * 1024];
    let length = flistxattr(file, &mut names)?;
    collect_xattrs(&names[..length], |name| {
        let mut value = vec![0; 64 * 1024];
        let length = fgetxattr(file, name, &mut value)?;
        value.truncate(length);
        Ok(value)
    })
}

fn collect_xattrs(
    names: &[u8],
    value: impl Fn(&[u8]) -> io::Result<Vec<u8>>,
) -> io::Result<Xattrs> {
    let mut found = names
        .split(|&b| b == 0)
        .filter(|name| name.starts_with(b"user."))
        // A PAX record cannot hold such a name.
        .filter(|name| !name.contains(&b'='))
        .map(|name| Ok((name.to_vec(), value(name)?)))
        .collect::<io::Result<Vec<_>>>()?;
    found.sort_unstable();
    Ok((!found.is_empty()).then(|| found.into()))
}

/// The data regions of a file with holes. `None` when it has no holes after all.
pub(crate) fn data_regions(file: &File, size: u64) -> io::Result<Option<Vec<(u64, u64)>>> {
    use rustix::fs::{SeekFrom, seek};
    use rustix::io::Errno;

    let mut regions = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start.min(size),
            Err(Errno::NXIO) => break,
            // A file system that does not know its holes.
            Err(Errno::INVAL | Errno::NOTSUP) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if start >= size {
            break;
        }
        let end = seek(file, SeekFrom::Hole(start))?.min(size);
        if end <= start {
            break;
        }
        regions.push((start, end - start));
        at = end;
    }
    let dense = regions == [(0, size)];
    Ok((!dense).then_some(regions))
}
