//! A disk in memory as a file system that the kernel asks.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::{Duration, SystemTime};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use crate::disk::{Counted, Disk};
use crate::disk_contents::Kind;

/// Nothing is remembered by the kernel: every operation comes here.
const TTL: Duration = Duration::ZERO;

/// Answers with what an operation gave.
macro_rules! answer {
    ($reply:ident, $result:expr, |$value:pat_param| $answer:expr) => {
        match (|| $result)() {
            Ok($value) => $answer,
            Err(error) => $reply.error(error),
        }
    };
}

fn entry(reply: ReplyEntry, result: Result<FileAttr, Errno>) {
    match result {
        Ok(made) => reply.entry(&TTL, &made, Generation(0)),
        Err(error) => reply.error(error),
    }
}

fn done(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

impl Disk {
    /// Makes something that takes room.
    fn make(&self, at: INodeNo, name: &OsStr, kind: Kind, mode: u32) -> Result<FileAttr, Errno> {
        self.gate(Counted::Changes, true)?.add(at, name, kind, mode)
    }

    fn sync(&self, number: INodeNo) -> Result<(), Errno> {
        self.gate(Counted::Changes, false)?.sync(number)
    }
}

impl Filesystem for Disk {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        answer!(
            reply,
            {
                let mut contents = self.gate(Counted::Reads, false)?;
                let number = contents.find(parent, name)?;
                contents.attributes(INodeNo(number))
            },
            |found| reply.entry(&TTL, &found, Generation(0))
        );
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        answer!(
            reply,
            self.gate(Counted::Reads, false)?.attributes(ino),
            |found| reply.attr(&TTL, &found)
        );
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        answer!(
            reply,
            {
                let mut contents = self.gate(Counted::Changes, false)?;
                let inode = contents.inode(ino)?;
                if let Some(mode) = mode {
                    inode.mode = (mode & 0o7777) as u16;
                }
                if let (Some(size), Kind::File(content)) = (size, &mut inode.kind) {
                    content.resize(usize::try_from(size).map_err(|_| Errno::EFBIG)?, 0);
                }
                match mtime {
                    Some(TimeOrNow::SpecificTime(time)) => inode.mtime = time,
                    Some(TimeOrNow::Now) => inode.mtime = SystemTime::now(),
                    None => {}
                }
                contents.attributes(ino)
            },
            |found| reply.attr(&TTL, &found)
        );
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        answer!(
            reply,
            match &self.gate(Counted::Reads, false)?.inode(ino)?.kind {
                Kind::Link(target) => Ok(target.clone()),
                _ => Err(Errno::EINVAL),
            },
            |target| reply.data(target.as_os_str().as_encoded_bytes())
        );
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let folder = Kind::Folder(BTreeMap::new());
        entry(reply, self.make(parent, name, folder, mode & !umask));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer!(
            reply,
            self.gate(Counted::Changes, false)?
                .remove(parent, name, false),
            |()| reply.ok()
        );
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer!(
            reply,
            self.gate(Counted::Changes, false)?
                .remove(parent, name, true),
            |()| reply.ok()
        );
    }

    fn symlink(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let link = Kind::Link(target.to_owned());
        entry(reply, self.make(parent, name, link, 0o777));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        answer!(
            reply,
            {
                let mut contents = self.gate(Counted::Changes, false)?;
                contents.rename((parent, name), (new_parent, new_name), flags)
            },
            |()| reply.ok()
        );
    }

    fn link(
        &self,
        _: &Request,
        ino: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        answer!(
            reply,
            {
                let mut contents = self.gate(Counted::Changes, true)?;
                if contents.folder(new_parent)?.contains_key(new_name) {
                    return Err(Errno::EEXIST);
                }
                contents
                    .folder(new_parent)?
                    .insert(new_name.to_owned(), ino.0);
                contents.attributes(ino)
            },
            |made| reply.entry(&TTL, &made, Generation(0))
        );
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        answer!(
            reply,
            self.gate(Counted::Reads, false)?.inode(ino).map(drop),
            |()| reply.opened(FileHandle(0), FopenFlags::empty())
        );
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        answer!(
            reply,
            {
                let mut contents = self.gate(Counted::Reads, false)?;
                let content = contents.content(ino)?;
                let from = content.len().min(offset as usize);
                let to = content.len().min(from + size as usize);
                Ok(content[from..to].to_vec())
            },
            |bytes| reply.data(&bytes)
        );
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        answer!(
            reply,
            {
                let mut contents = self.gate(Counted::Changes, true)?;
                let inode = contents.inode(ino)?;
                inode.mtime = SystemTime::now();
                let Kind::File(content) = &mut inode.kind else {
                    return Err(Errno::EISDIR);
                };
                let from = offset as usize;
                let length = content.len().max(from + data.len());
                content.resize(length, 0);
                content[from..from + data.len()].copy_from_slice(data);
                Ok(data.len() as u32)
            },
            |length| reply.written(length)
        );
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        done(reply, self.sync(ino));
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        done(reply, self.sync(ino));
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        answer!(
            reply,
            {
                let mut contents = self.gate(Counted::Reads, false)?;
                let children = contents.folder(ino)?.clone();
                let mut listing = vec![
                    (ino.0, FileType::Directory, OsString::from(".")),
                    (ino.0, FileType::Directory, OsString::from("..")),
                ];
                for (name, number) in children {
                    let kind = contents.attributes(INodeNo(number))?.kind;
                    listing.push((number, kind, name));
                }
                let handle = contents.next;
                contents.next += 1;
                contents.listings.insert(handle, listing);
                Ok(handle)
            },
            |handle| reply.opened(FileHandle(handle), FopenFlags::empty())
        );
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listing = match self.gate(Counted::Reads, false) {
            Ok(contents) => contents.listings.get(&handle.0).cloned(),
            Err(error) => return reply.error(error),
        };
        let listing = listing.unwrap_or_default();
        for (index, (number, kind, name)) in listing.iter().enumerate().skip(offset as usize) {
            if reply.add(INodeNo(*number), index as u64 + 1, *kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let file = Kind::File(Vec::new());
        match self.make(parent, name, file, mode & !umask) {
            Ok(made) => {
                let (handle, flags) = (FileHandle(0), FopenFlags::empty());
                reply.created(&TTL, &made, Generation(0), handle, flags);
            }
            Err(error) => reply.error(error),
        }
    }
}
