//! What a destination holds already, and keeping of it what is the same.
//!
//! A kept file becomes part of the staged tree as another name of the same inode; then the staged
//! tree is swapped in as a whole and the old one removed, so a kept file costs one link instead of
//! a copy and the swap stays one step. Two things follow from sharing an inode: nothing is ever
//! set on a kept file, it is only kept when mode, times and attributes are right already; and a
//! file with other names than the archive gives it is written anew.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, fstat, openat};

use super::archive_error::escape;
use super::entry_reader::EntryReader;
use super::listing::{ListedKind, Listing};
use super::plan::NodeRef;
use super::roots::is_below;
use super::stat_cache::{StatCache, TreeRecord, has_local_clock, next_tick};
use super::tree_writer::TreeWriter;
use super::walk::{Node, NodeKind, Tree, facts, open_below, read_xattrs};
use super::{ArchiveError, DeclaredPath, DeclaredPaths, Unreadable};
use crate::store::Sha256Digest;

/// What a restore does with files that are there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExistingFiles {
    /// Keeps those that are what the archive holds; only what differs is written. The result is
    /// the same as without.
    #[default]
    Reuse,
    /// Writes everything anew.
    Replace,
}

/// What is there, one for each declared path.
pub(crate) struct Existing {
    roots: Vec<ExistingRoot>,
    /// Who new files would belong to: a file of someone else is not kept.
    owner: u32,
}

struct ExistingRoot {
    archived: Vec<u8>,
    found: Option<Found>,
}

/// A tree that is there.
pub(crate) struct Found {
    pub(crate) tree: Tree,
    pub(crate) known: Option<Known>,
}

const UNKNOWN: u32 = u32::MAX;

/// What is there beside what was recorded.
pub(crate) struct Known {
    pub(crate) record: TreeRecord,
    /// Where each recorded entry is now, if it is as it was recorded.
    pub(crate) same: Vec<Option<NodeRef>>,
    /// Which recorded entry each child of each folder is; [`UNKNOWN`] for others.
    by_node: Vec<Box<[u32]>>,
    /// There is nothing that was not recorded.
    is_complete: bool,
}

/// A file that is there.
#[derive(Clone, Copy)]
pub(crate) struct Candidate {
    root: usize,
    place: NodeRef,
    /// Known to be the entry's content without looking.
    pub(crate) vouched: bool,
}

/// The folder of the destination that was used last; each worker has its own.
#[derive(Default)]
pub(crate) struct OpenFolder(Option<((usize, usize), OwnedFd)>);

/// Where a declared path is restored to; `None` for the working folder, whose children are placed
/// one by one.
pub(crate) fn location(
    declared: &DeclaredPath,
    into: Option<&Path>,
    working_folder: &Path,
) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt as _;

    if declared.is_working_folder() {
        return None;
    }
    let below = Path::new(std::ffi::OsStr::from_bytes(declared.archived()));
    Some(match into {
        Some(into) => into.join(below),
        None => declared.locate(working_folder),
    })
}

fn list(declared: &DeclaredPath, place: &Path, workers: usize) -> Option<Tree> {
    let paths = DeclaredPaths::only(declared.clone());
    Tree::list_at(
        &paths,
        &|_| place.to_path_buf(),
        workers,
        Unreadable::Refuse,
    )
    .ok()
}

impl Existing {
    /// Looks at the destination of every declared path. What cannot be listed counts as not there.
    pub(crate) fn look(
        paths: &DeclaredPaths,
        into: Option<&Path>,
        working_folder: &Path,
        workers: usize,
        stat_cache: Option<&StatCache>,
    ) -> Self {
        let owner = rustix::process::geteuid().as_raw();
        let roots = paths
            .as_slice()
            .iter()
            .map(|declared| ExistingRoot {
                archived: declared.archived().to_vec(),
                found: location(declared, into, working_folder).and_then(|place| {
                    let tree = list(declared, &place, workers)?;
                    let known = stat_cache
                        .and_then(|cache| cache.load(&place))
                        .map(|record| Known::new(record, &tree, 0, Some(owner)));
                    Some(Found { tree, known })
                }),
            })
            .collect();
        Self { roots, owner }
    }

    /// The number of entries and of files, if everything is there as this very entry left it.
    pub(crate) fn is_whole(&self, entry: Sha256Digest) -> Option<(u64, u64)> {
        let (mut entries, mut files) = (0, 0);
        for root in &self.roots {
            let found = root.found.as_ref()?;
            let known = found.known.as_ref().filter(|k| k.record.entry == entry)?;
            if !known.is_complete || !found.tree.skipped.is_empty() {
                return None;
            }
            let listing = &known.record.listing;
            entries += listing.len() as u64;
            files += (0..listing.len())
                .filter(|&at| listing.kind(at) == ListedKind::File)
                .count() as u64;
        }
        Some((entries, files))
    }

    /// Whether there is anything at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.roots.iter().all(|root| root.found.is_none())
    }

    #[cfg(feature = "chunked")]
    pub(crate) fn root(&self, root: usize) -> Option<&Found> {
        self.roots[root].found.as_ref()
    }

    /// A file that may be what an entry of the archive holds.
    pub(crate) fn candidate(
        &self,
        entry: Sha256Digest,
        path: &[u8],
        mode: u32,
        mtime: (i64, u32),
        size: u64,
    ) -> Option<Candidate> {
        let root = self
            .roots
            .iter()
            .position(|root| is_below(path, &root.archived))?;
        let found = self.roots[root].found.as_ref()?;
        let below = path.get(self.roots[root].archived.len()..)?;
        let place = find(&found.tree, below)?;
        if let Some(known) = found.known.as_ref().filter(|k| k.record.entry == entry)
            && known.is_same(place)
        {
            let vouched = true;
            return Some(Candidate {
                root,
                place,
                vouched,
            });
        }
        self.may_be(root, place, mode, mtime, size)
    }

    /// The same for a place that was found already.
    pub(crate) fn may_be(
        &self,
        root: usize,
        place: NodeRef,
        mode: u32,
        mtime: (i64, u32),
        size: u64,
    ) -> Option<Candidate> {
        let tree = &self.roots[root].found.as_ref()?.tree;
        let node = place.node(tree);
        let NodeKind::File(facts) = &node.kind else {
            return None;
        };
        let fits = facts.size == size
            && node.mode == mode
            && (node.mtime, node.mtime_ns) == mtime
            && !node.stamp.special_mode
            && node.stamp.links == 1
            && node.stamp.uid == self.owner
            && !facts.has_holes;
        fits.then_some(Candidate {
            root,
            place,
            vouched: false,
        })
    }

    #[cfg(feature = "chunked")]
    pub(crate) fn vouched(&self, root: usize, place: NodeRef) -> Candidate {
        Candidate {
            root,
            place,
            vouched: true,
        }
    }

    fn node(&self, candidate: Candidate) -> Option<(&Tree, &Node)> {
        let tree = &self.roots[candidate.root].found.as_ref()?.tree;
        Some((tree, candidate.place.node(tree)))
    }

    /// Opens a file to compare it. `None` when that cannot be, or it has attributes.
    pub(crate) fn open(&self, candidate: Candidate, folder: &mut OpenFolder) -> Option<File> {
        let (tree, node) = self.node(candidate)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match candidate.place {
            NodeRef::Root(_) => openat(CWD, &tree.roots[0].on_disk, flags, Mode::empty()).ok()?,
            NodeRef::Child { .. } => {
                let handle = folder.enter(tree, candidate)?;
                openat(handle, &*node.name, flags, Mode::empty()).ok()?
            }
        };
        matches!(read_xattrs(file.as_fd()), Ok(None)).then(|| file.into())
    }

    /// Gives the staged tree another name of a file that is there.
    pub(crate) fn keep(
        &self,
        candidate: Candidate,
        folder: &mut OpenFolder,
        writer: &mut TreeWriter<'_>,
        path: &[u8],
    ) -> Result<(), ArchiveError> {
        let changed = || ArchiveError::Changed { path: escape(path) };
        let (tree, node) = self.node(candidate).ok_or_else(changed)?;
        let linked = match candidate.place {
            NodeRef::Root(_) => writer.link_from(path, CWD, &tree.roots[0].on_disk)?,
            NodeRef::Child { .. } => {
                let handle = folder.enter(tree, candidate).ok_or_else(changed)?;
                writer.link_from(path, handle.as_fd(), &*node.name)?
            }
        };
        // Whatever the name meant when it was listed, this is what it means now.
        match linked {
            Some(stat) if is_still(node, &stat) => Ok(()),
            _ => Err(changed()),
        }
    }

    /// Compares an entry's content with a file that is there.
    pub(crate) fn compare<R: std::io::BufRead>(
        &self,
        candidate: Candidate,
        folder: &mut OpenFolder,
        reader: &mut EntryReader<'_, R>,
        path: &[u8],
    ) -> Result<bool, ArchiveError> {
        let Some((file, node)) = self
            .open(candidate, folder)
            .zip(self.node(candidate).map(|(_, node)| node))
        else {
            return Ok(false);
        };
        let changed = || ArchiveError::Changed { path: escape(path) };
        let mut buffer = vec![0; 64 * 1024];
        let mut position = 0;
        loop {
            let content = reader.content()?;
            let length = content.len();
            if length == 0 {
                break;
            }
            let mut at = position;
            for piece in content.chunks(buffer.len()) {
                let there = &mut buffer[..piece.len()];
                if file.read_exact_at(there, at).is_err() || there != piece {
                    // What was equal so far has been passed over, and cannot be read twice.
                    return if position == 0 {
                        Ok(false)
                    } else {
                        Err(changed())
                    };
                }
                at += piece.len() as u64;
            }
            position = at;
            reader.consume(length);
        }
        match fstat(&file) {
            Ok(stat) if is_still(node, &stat) => Ok(true),
            _ => Err(changed()),
        }
    }

    /// Notes where everything is now, for the next restore or save.
    ///
    /// `placed` are device and inode of each declared path as it was put in place: a tree that
    /// someone else has put there meanwhile is not ours to describe.
    #[expect(
        clippy::too_many_arguments,
        reason = "all of it decides what may be trusted"
    )]
    pub(crate) fn record(
        paths: &DeclaredPaths,
        into: Option<&Path>,
        working_folder: &Path,
        workers: usize,
        stat_cache: &StatCache,
        entry: Sha256Digest,
        placed: &[Option<(u64, u64)>],
        started: (i64, u32),
        mut extra: impl FnMut(usize, &Listing) -> Option<(Listing, Vec<u8>)>,
    ) {
        // Kept files got their last change just now, when the old tree was removed.
        let before = next_tick();
        for (index, declared) in paths.as_slice().iter().enumerate() {
            let Some(place) = location(declared, into, working_folder) else {
                continue;
            };
            let Some(tree) = list(declared, &place, workers) else {
                continue;
            };
            let root = &tree.roots[0];
            if placed.get(index).copied().flatten() != Some((root.device, root.inode)) {
                continue;
            }
            if let Some(handle) = &root.handle {
                let is_ours = fstat(handle)
                    .is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (root.device, root.inode));
                if !is_ours || !has_local_clock(handle.as_fd()) {
                    continue;
                }
            }
            let Some((listing, extra)) =
                Listing::of(&tree, 0).and_then(|listing| extra(index, &listing))
            else {
                continue;
            };
            if let Some(mut record) = TreeRecord::of(&tree, 0, entry, listing, before, started) {
                record.extra = extra;
                stat_cache.store(&place, &record);
            }
        }
    }
}

#[cfg(feature = "chunked")]
impl Found {
    /// Where everything of a listing is in this tree.
    pub(crate) fn places(&self, listing: &Listing) -> Vec<Option<NodeRef>> {
        let mut places: Vec<Option<NodeRef>> = Vec::with_capacity(listing.len());
        for at in 0..listing.len() {
            places.push(if at == 0 {
                Some(NodeRef::Root(0))
            } else {
                places[listing.parent(at)]
                    .and_then(|parent| child(&self.tree, parent, listing.name(at)))
            });
        }
        places
    }
}

impl Known {
    /// Compares a record with one declared path of a tree. Files of others than the owner, if one
    /// is given, do not count as the same.
    pub(crate) fn new(record: TreeRecord, tree: &Tree, root: usize, owner: Option<u32>) -> Self {
        let listing = &record.listing;
        let mut by_node: Vec<Box<[u32]>> = tree
            .folders
            .iter()
            .map(|folder| vec![UNKNOWN; folder.children.len()].into())
            .collect();
        // Where every recorded entry is now, whether the same or not.
        let mut places: Vec<Option<NodeRef>> = Vec::with_capacity(listing.len());
        let mut same = Vec::with_capacity(listing.len());
        let mut seen = 0;
        for at in 0..listing.len() {
            let place = if at == 0 {
                Some(NodeRef::Root(root as u32))
            } else {
                places[listing.parent(at)].and_then(|parent| child(tree, parent, listing.name(at)))
            };
            let is_same = place.filter(|place| {
                let node = place.node(tree);
                owner.is_none_or(|owner| node.stamp.uid == owner) && record.is_same(at, node, tree)
            });
            if let Some(NodeRef::Child { folder, child }) = is_same {
                by_node[folder as usize][child as usize] = at as u32;
            }
            seen += usize::from(is_same.is_some());
            places.push(place);
            same.push(is_same);
        }
        let there = 1 + tree.folders.iter().map(|f| f.children.len()).sum::<usize>();
        let mut known = Self {
            is_complete: seen == listing.len() && seen == there,
            same,
            by_node,
            record,
        };
        known.check_groups(tree);
        known
    }

    /// Names of one file that are no longer names of one file are not the same.
    fn check_groups(&mut self, tree: &Tree) {
        let inode = |place: Option<NodeRef>| match place.map(|place| &place.node(tree).kind) {
            Some(NodeKind::File(facts)) => Some(facts.inode),
            _ => None,
        };
        let mut broken = Vec::new();
        for at in 0..self.same.len() {
            if let ListedKind::HardLink(first) = self.record.listing.kind(at)
                && (inode(self.same[at]).is_none()
                    || inode(self.same[at]) != inode(self.same[first as usize]))
            {
                broken.extend([at, first as usize]);
            }
        }
        for at in broken {
            self.is_complete = false;
            if let Some(NodeRef::Child { folder, child }) = self.same[at].take() {
                self.by_node[folder as usize][child as usize] = UNKNOWN;
            }
        }
    }

    fn is_same(&self, place: NodeRef) -> bool {
        self.recorded_at(place).is_some()
    }

    /// Which recorded entry something is, if it is still the same.
    pub(crate) fn recorded_at(&self, place: NodeRef) -> Option<usize> {
        match place {
            NodeRef::Root(_) => self.same.first()?.map(|_| 0),
            NodeRef::Child { folder, child } => {
                let at = self.by_node[folder as usize][child as usize];
                (at != UNKNOWN).then_some(at as usize)
            }
        }
    }
}

impl OpenFolder {
    fn enter(&mut self, tree: &Tree, candidate: Candidate) -> Option<&OwnedFd> {
        let (index, folder) = candidate.place.folder(tree)?;
        let wanted = (candidate.root, index);
        if self.0.as_ref().is_none_or(|(open, _)| *open != wanted) {
            let handle = open_below(&tree.roots[0], &folder.below).ok()?;
            self.0 = Some((wanted, handle));
        }
        self.0.as_ref().map(|(_, handle)| handle)
    }
}

fn child(tree: &Tree, parent: NodeRef, name: &[u8]) -> Option<NodeRef> {
    let NodeKind::Folder(folder) = parent.node(tree).kind else {
        return None;
    };
    let child = tree.folders[folder]
        .children
        .binary_search_by(|node| (*node.name).cmp(name))
        .ok()?;
    Some(NodeRef::Child {
        folder: folder as u32,
        child: child as u32,
    })
}

fn find(tree: &Tree, below: &[u8]) -> Option<NodeRef> {
    below
        .split(|&byte| byte == b'/')
        .filter(|part| !part.is_empty())
        .try_fold(NodeRef::Root(0), |place, part| child(tree, place, part))
}

/// Whether a file is still the one that was listed. Its change time is not compared: linking it
/// sets that.
fn is_still(node: &Node, stat: &rustix::fs::Stat) -> bool {
    let NodeKind::File(listed) = &node.kind else {
        return false;
    };
    let now = facts(stat);
    now.inode == listed.inode
        && now.device == listed.device
        && now.size == listed.size
        && stat.st_mode & 0o7777 == node.mode
        && (
            stat.st_mtime,
            u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        ) == (node.mtime, node.mtime_ns)
}
