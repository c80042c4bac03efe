//! Files, folders and links on a disk in memory, as they are and as they were synced.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender};
use std::time::SystemTime;

use fuser::{Errno, FileAttr, FileType, INodeNo, RenameFlags};

use crate::disk::{Counted, Fault};

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    File(Vec<u8>),
    Folder(BTreeMap<OsString, u64>),
    Link(PathBuf),
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Inode {
    pub(crate) kind: Kind,
    pub(crate) mode: u16,
    pub(crate) mtime: SystemTime,
}

pub(crate) type Inodes = BTreeMap<u64, Inode>;

pub(crate) struct Contents {
    pub(crate) now: Inodes,
    pub(crate) synced: Inodes,
    pub(crate) next: u64,
    pub(crate) listings: BTreeMap<u64, Vec<(u64, FileType, OsString)>>,
    pub(crate) plan: Option<(Fault, Counted, u64)>,
    pub(crate) seen: [u64; 2],
    pub(crate) broken: Option<Errno>,
    /// Files whose content the medium lost.
    pub(crate) rotten: BTreeSet<u64>,
    pub(crate) full: bool,
    pub(crate) off: bool,
    pub(crate) reached: Option<(Sender<()>, Receiver<()>)>,
}

impl Contents {
    /// A disk with nothing on it but its top folder.
    pub(crate) fn empty() -> Self {
        let top = Inode {
            kind: Kind::Folder(BTreeMap::new()),
            mode: 0o755,
            mtime: SystemTime::now(),
        };
        let now = Inodes::from([(1, top)]);
        Self {
            synced: now.clone(),
            now,
            next: 2,
            listings: BTreeMap::new(),
            plan: None,
            seen: [0; 2],
            broken: None,
            rotten: BTreeSet::new(),
            full: false,
            off: false,
            reached: None,
        }
    }

    /// Content of a file, unless it is rotten.
    pub(crate) fn content(&mut self, number: INodeNo) -> Result<&[u8], Errno> {
        if self.rotten.contains(&number.0) {
            return Err(Errno::EIO);
        }
        match &self.inode(number)?.kind {
            Kind::File(content) => Ok(content),
            _ => Err(Errno::EISDIR),
        }
    }

    pub(crate) fn inode(&mut self, number: INodeNo) -> Result<&mut Inode, Errno> {
        self.now.get_mut(&number.0).ok_or(Errno::ENOENT)
    }

    pub(crate) fn folder(
        &mut self,
        number: INodeNo,
    ) -> Result<&mut BTreeMap<OsString, u64>, Errno> {
        match &mut self.inode(number)?.kind {
            Kind::Folder(children) => Ok(children),
            _ => Err(Errno::ENOTDIR),
        }
    }

    pub(crate) fn find(&mut self, parent: INodeNo, name: &OsStr) -> Result<u64, Errno> {
        self.folder(parent)?.get(name).copied().ok_or(Errno::ENOENT)
    }

    pub(crate) fn add(
        &mut self,
        at: INodeNo,
        name: &OsStr,
        kind: Kind,
        mode: u32,
    ) -> Result<FileAttr, Errno> {
        if self.folder(at)?.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        let number = self.next;
        self.next += 1;
        let inode = Inode {
            kind,
            mode: (mode & 0o7777) as u16,
            mtime: SystemTime::now(),
        };
        self.now.insert(number, inode);
        self.folder(at)?.insert(name.to_owned(), number);
        self.attributes(INodeNo(number))
    }

    pub(crate) fn remove(
        &mut self,
        parent: INodeNo,
        name: &OsStr,
        is_folder: bool,
    ) -> Result<(), Errno> {
        let number = self.find(parent, name)?;
        match (&self.inode(INodeNo(number))?.kind, is_folder) {
            (Kind::Folder(children), true) if !children.is_empty() => Err(Errno::ENOTEMPTY),
            (Kind::Folder(_), false) => Err(Errno::EISDIR),
            (Kind::File(_) | Kind::Link(_), true) => Err(Errno::ENOTDIR),
            _ => self
                .folder(parent)?
                .remove(name)
                .map(drop)
                .ok_or(Errno::ENOENT),
        }
    }

    fn names_of(&self, number: u64) -> u32 {
        let names = self.now.values().map(|inode| match &inode.kind {
            Kind::Folder(children) => children.values().filter(|&&child| child == number).count(),
            _ => 0,
        });
        names.sum::<usize>() as u32
    }

    pub(crate) fn attributes(&mut self, number: INodeNo) -> Result<FileAttr, Errno> {
        let nlink = self.names_of(number.0);
        let inode = self.inode(number)?;
        let (kind, size) = match &inode.kind {
            Kind::File(content) => (FileType::RegularFile, content.len()),
            Kind::Folder(_) => (FileType::Directory, 0),
            Kind::Link(target) => (FileType::Symlink, target.as_os_str().len()),
        };
        Ok(FileAttr {
            ino: number,
            size: size as u64,
            blocks: size.div_ceil(512) as u64,
            atime: inode.mtime,
            mtime: inode.mtime,
            ctime: inode.mtime,
            crtime: inode.mtime,
            kind,
            perm: inode.mode,
            nlink: nlink.max(1),
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    pub(crate) fn rename(
        &mut self,
        from: (INodeNo, &OsStr),
        to: (INodeNo, &OsStr),
        flags: RenameFlags,
    ) -> Result<(), Errno> {
        let moved = self.find(from.0, from.1)?;
        let there = self.find(to.0, to.1).ok();
        if flags.contains(RenameFlags::RENAME_EXCHANGE) {
            let other = there.ok_or(Errno::ENOENT)?;
            self.folder(from.0)?.insert(from.1.to_owned(), other);
        } else {
            if there.is_some() && flags.contains(RenameFlags::RENAME_NOREPLACE) {
                return Err(Errno::EEXIST);
            }
            if let Some(there) = there
                && let Kind::Folder(children) = &self.inode(INodeNo(there))?.kind
                && !children.is_empty()
            {
                return Err(Errno::ENOTEMPTY);
            }
            self.folder(from.0)?.remove(from.1);
        }
        self.folder(to.0)?.insert(to.1.to_owned(), moved);
        Ok(())
    }

    pub(crate) fn sync(&mut self, number: INodeNo) -> Result<(), Errno> {
        let inode = self.inode(number)?.clone();
        self.synced.insert(number.0, inode);
        Ok(())
    }
}
