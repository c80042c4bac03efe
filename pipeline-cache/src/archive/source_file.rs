//! Files of a listed tree, as they are read.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, fstat, openat};

use super::ArchiveError;
use super::archive_error::escape;
use super::plan::NodeRef;
use super::walk::{NodeKind, Tree, Xattrs, facts, open_below, read_xattrs};

/// Opens files through a handle of the folder that was read from last.
pub(crate) struct Opener<'a> {
    tree: &'a Tree,
    folder: Option<(usize, OwnedFd)>,
}

impl<'a> Opener<'a> {
    pub(crate) fn new(tree: &'a Tree) -> Self {
        Self { tree, folder: None }
    }

    pub(crate) fn open(&mut self, place: NodeRef) -> Result<SourceFile<'a>, ArchiveError> {
        // Not waiting for a writer, should the file have become a FIFO meanwhile.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fail = |error| ArchiveError::read(&place.archive_name(self.tree), "open it", error);
        let handle = match (place, place.folder(self.tree)) {
            (NodeRef::Root(root), _) => {
                let path = &self.tree.roots[root as usize].on_disk;
                openat(CWD, path, flags, Mode::empty())
            }
            (_, None) => Err(rustix::io::Errno::NOENT),
            (_, Some((index, folder))) => {
                let handle = match self.folder.take() {
                    Some((open, handle)) if open == index => handle,
                    _ => open_below(&self.tree.roots[folder.root], &folder.below).map_err(fail)?,
                };
                let name = &*place.node(self.tree).name;
                let file = openat(&handle, name, flags, Mode::empty());
                self.folder = Some((index, handle));
                file
            }
        };
        Ok(SourceFile {
            tree: self.tree,
            place,
            handle: handle.map_err(fail)?,
        })
    }
}

/// An open file of a tree.
pub(crate) struct SourceFile<'a> {
    tree: &'a Tree,
    place: NodeRef,
    handle: OwnedFd,
}

impl SourceFile<'_> {
    fn fail(&self, action: &'static str, error: impl Into<std::io::Error>) -> ArchiveError {
        ArchiveError::read(&self.place.archive_name(self.tree), action, error)
    }

    fn changed(&self) -> ArchiveError {
        ArchiveError::Changed {
            path: escape(&self.place.archive_name(self.tree)),
        }
    }

    pub(crate) fn attributes(&self) -> Result<Xattrs, ArchiveError> {
        read_xattrs(self.handle.as_fd()).map_err(|error| self.fail("read attributes", error))
    }

    /// Fills a buffer, by position or in order.
    pub(crate) fn read_exact(
        &self,
        mut room: &mut [u8],
        mut position: Option<u64>,
    ) -> Result<(), ArchiveError> {
        while !room.is_empty() {
            let read = match position {
                None => rustix::io::read(&self.handle, &mut *room),
                Some(position) => rustix::io::pread(&self.handle, &mut *room, position),
            };
            match read {
                Ok(0) => return Err(self.changed()),
                Ok(read) => {
                    room = &mut room[read..];
                    position = position.map(|position| position + read as u64);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(self.fail("read it", error)),
            }
        }
        Ok(())
    }

    /// Fills a buffer from the bytes of some regions, as if there was nothing between them.
    pub(crate) fn read_regions(
        &self,
        regions: &[(u64, u64)],
        mut room: &mut [u8],
        mut offset: u64,
    ) -> Result<(), ArchiveError> {
        let mut start = 0;
        for &(position, length) in regions {
            if room.is_empty() {
                break;
            }
            if offset < start + length {
                let skip = offset - start;
                let count =
                    usize::try_from(length - skip).map_or(room.len(), |left| left.min(room.len()));
                let (now, later) = room.split_at_mut(count);
                self.read_exact(now, Some(position + skip))?;
                room = later;
                offset += count as u64;
            }
            start += length;
        }
        Ok(())
    }

    /// Fails when the file is no longer the one that was listed.
    pub(crate) fn check(&self) -> Result<(), ArchiveError> {
        let stat = fstat(&self.handle).map_err(|error| self.fail("look at it", error))?;
        let node = self.place.node(self.tree);
        let now = facts(&stat);
        let same = matches!(&node.kind, NodeKind::File(listed)
            if now.size == listed.size
                && now.inode == listed.inode
                && now.device == listed.device)
            && stat.st_mtime == node.mtime
            && u32::try_from(stat.st_mtime_nsec).unwrap_or(0) == node.mtime_ns;
        if same { Ok(()) } else { Err(self.changed()) }
    }
}
