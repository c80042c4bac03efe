//! Cuts a listed tree into blocks of tar that can be made independently of each other.

use std::collections::HashMap;

use rustix::fs::{CWD, Mode, OFlags, openat};

use super::compressor::Files;
use super::entry_reader::{MAX_DEPTH, MAX_PATH};
use super::header::{self, BLOCK};
use super::unpack::size_of_xattrs;
use super::walk::{FileFacts, Folder, Node, NodeKind, Tree, data_regions, open_below};
use super::{ArchiveError, Limits};
use crate::store::Codec;

/// A place in the tree: a child of a folder, or a declared path itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NodeRef {
    Root(u32),
    Child { folder: u32, child: u32 },
}

/// What one worker makes at a time.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BlockPlan {
    /// Whole entries: a range of [`Plan::order`].
    Entries { from: usize, to: usize },
    /// A part of one large file: `length` bytes of content from `offset`. The first part has the
    /// header, the last the padding.
    Piece {
        entry: usize,
        offset: u64,
        length: u64,
        last: bool,
    },
}

/// A file with holes as it is written: a map and the bytes between holes.
#[derive(Debug)]
pub(crate) struct SparseFile {
    /// `(offset, length)` of the data.
    pub(crate) regions: Vec<(u64, u64)>,
    /// The map in its PAX 1.0 text form, padded.
    pub(crate) map: Vec<u8>,
    /// Map and data together.
    pub(crate) stored_size: u64,
}

#[derive(Debug)]
pub(crate) struct Plan {
    /// All entries in archive order: each folder before what is in it.
    pub(crate) order: Vec<NodeRef>,
    /// Entries that are hard links, with the entry they link to.
    pub(crate) links: HashMap<usize, usize>,
    pub(crate) sparse: HashMap<usize, SparseFile>,
    pub(crate) blocks: Vec<BlockPlan>,
    /// Bytes of file content.
    pub(crate) content: u64,
}

/// Largest block of codecs other than zstd.
const PLAIN_BLOCK: u64 = 6 << 20;
/// Smallest block: below it the ratio suffers.
const MIN_BLOCK: u64 = 512 << 10;

impl Plan {
    pub(crate) fn new(tree: &Tree, codec: Codec) -> Result<Self, ArchiveError> {
        let mut plan = Self {
            order: Vec::new(),
            links: HashMap::new(),
            sparse: HashMap::new(),
            blocks: Vec::new(),
            content: 0,
        };
        plan.put_in_order(tree);
        plan.find_special_files(tree)?;
        plan.refuse_beyond(tree, &Limits::default())?;
        plan.cut(tree, codec);
        Ok(plan)
    }

    /// Fails before anything is read when there is more than a restore takes by default.
    fn refuse_beyond(&self, tree: &Tree, limits: &Limits) -> Result<(), ArchiveError> {
        let sizes = self.order.iter().map(|place| match place.node(tree).kind {
            NodeKind::File(facts) => facts.size,
            _ => 0,
        });
        let counts = [
            ("entries", self.order.len() as u64, limits.max_entries),
            ("folders", tree.folders.len() as u64, limits.max_folders),
            ("hard links", self.links.len() as u64, limits.max_hard_links),
            (
                "bytes of names and attributes",
                self.remembered(tree) as u64,
                limits.max_remembered,
            ),
            (
                "bytes in one file",
                sizes.max().unwrap_or(0),
                limits.max_file_length,
            ),
        ];
        match counts.into_iter().find(|(_, found, limit)| found > limit) {
            Some((what, _, limit)) => Err(ArchiveError::TreeTooLarge { what, limit }),
            None => Ok(()),
        }
    }

    /// What a restore remembers until the end, or a little more.
    fn remembered(&self, tree: &Tree) -> usize {
        let folder = |folder: &Folder| {
            let name = tree.archive_name(folder.root, &folder.below, b"").len();
            name + folder.xattrs.as_deref().map_or(0, size_of_xattrs)
        };
        let name = |entry: usize| self.order[entry].archive_name(tree).len();
        let folders: usize = tree.folders.iter().map(folder).sum();
        let links = self.links.iter().map(|(&link, &to)| name(link) + name(to));
        // In staging a declared path is a number.
        const NUMBER: usize = 5;
        folders + links.sum::<usize>() + NUMBER * (tree.folders.len() + 2 * self.links.len())
    }

    /// Fails before anything is read when a name is beyond what readers take.
    pub(crate) fn refuse_long_names(&self, tree: &Tree) -> Result<(), ArchiveError> {
        for folder in &tree.folders {
            let path = tree.archive_name(folder.root, &folder.below, b"");
            let depth = path.split(|&b| b == b'/').filter(|p| !p.is_empty()).count();
            for node in &folder.children {
                // A slash between the two, and one behind the name of a folder.
                if depth + 1 > MAX_DEPTH || path.len() + node.name.len() + 2 > MAX_PATH {
                    let path = tree.archive_name(folder.root, &folder.below, &node.name);
                    let error = rustix::io::Errno::NAMETOOLONG;
                    return Err(ArchiveError::read(&path, "archive it", error));
                }
            }
        }
        Ok(())
    }

    fn put_in_order(&mut self, tree: &Tree) {
        for (root, entry) in tree.roots.iter().enumerate() {
            self.order.push(NodeRef::Root(root as u32));
            let NodeKind::Folder(top) = entry.node.kind else {
                continue;
            };
            // Folder and the next of its children to visit.
            let mut path = vec![(top, 0)];
            while let Some((folder, child)) = path.last_mut() {
                let Some(node) = tree.folders[*folder].children.get(*child) else {
                    path.pop();
                    continue;
                };
                self.order.push(NodeRef::Child {
                    folder: *folder as u32,
                    child: *child as u32,
                });
                *child += 1;
                if let NodeKind::Folder(inner) = node.kind {
                    path.push((inner, 0));
                }
            }
        }
    }

    fn find_special_files(&mut self, tree: &Tree) -> Result<(), ArchiveError> {
        // Only within one declared path: each of them is restored on its own.
        let mut first_names: HashMap<(usize, u64, u64), usize> = HashMap::new();
        for (index, &place) in self.order.iter().enumerate() {
            let NodeKind::File(facts) = place.node(tree).kind else {
                continue;
            };
            if facts.has_twins {
                let first = *first_names
                    .entry((place.root(tree), facts.device, facts.inode))
                    .or_insert(index);
                if first != index {
                    self.links.insert(index, first);
                    continue;
                }
            }
            self.content += facts.size;
            if facts.has_holes
                && let Some(sparse) = find_holes(tree, place, facts)?
            {
                self.sparse.insert(index, sparse);
            }
        }
        Ok(())
    }

    /// What the tree is made of.
    pub(crate) fn files(&self) -> Files {
        Files::of(self.content, self.order.len())
    }

    fn cut(&mut self, tree: &Tree, codec: Codec) {
        // Small trees in smaller blocks, so that every worker has some. Only the tree decides:
        // the number of workers must not change the bytes.
        let total = self.content + (self.order.len() * BLOCK) as u64;
        let most = match codec {
            Codec::Zstd | Codec::Chunked => self.files().max_block(),
            // A longer window is of no use there.
            _ => PLAIN_BLOCK,
        };
        let room = (total / 16).clamp(MIN_BLOCK, most);
        let mut from = 0;
        let mut filled = 0;
        for index in 0..self.order.len() {
            let stored = self.stored_size(tree, index);
            if stored > room || self.sparse.contains_key(&index) {
                if from < index {
                    self.blocks.push(BlockPlan::Entries { from, to: index });
                }
                let mut offset = 0;
                loop {
                    let length = room.min(stored - offset);
                    let last = offset + length == stored;
                    self.blocks.push(BlockPlan::Piece {
                        entry: index,
                        offset,
                        length,
                        last,
                    });
                    offset += length;
                    if last {
                        break;
                    }
                }
                from = index + 1;
                filled = 0;
                continue;
            }
            let block = BLOCK as u64;
            let extended = self.extended_header(tree, index, codec);
            let needed = block + extended + stored.next_multiple_of(block);
            if filled > 0 && filled + needed > room + room / 4 {
                self.blocks.push(BlockPlan::Entries { from, to: index });
                from = index;
                filled = 0;
            }
            filled += needed;
            if filled >= room {
                self.blocks.push(BlockPlan::Entries {
                    from,
                    to: index + 1,
                });
                from = index + 1;
                filled = 0;
            }
        }
        if from < self.order.len() {
            self.blocks.push(BlockPlan::Entries {
                from,
                to: self.order.len(),
            });
        }
    }

    /// Bytes that an entry takes for what its header has no room for. Attributes of files are not
    /// counted: they are read later, and rare.
    fn extended_header(&self, tree: &Tree, index: usize, codec: Codec) -> u64 {
        // What a record takes beside its value, at most.
        const FRAME: usize = 32;
        let place = self.order[index];
        let (mut link, mut attributes) = (0, 0);
        match (self.links.get(&index), &place.node(tree).kind) {
            (Some(&first), _) => link = self.order[first].archive_name(tree).len(),
            (None, NodeKind::Symlink(target)) => link = target.len(),
            (None, NodeKind::Folder(folder)) => {
                let xattrs = tree.folders[*folder].xattrs.as_deref();
                attributes = xattrs.map_or(0, size_of_xattrs);
            }
            (None, NodeKind::File(_)) => {}
        }
        let mut records = attributes;
        // With the slashes between and behind.
        let length = tree.roots[place.root(tree)].declared.archived().len()
            + place.folder(tree).map_or(0, |(_, it)| it.below.len())
            + place.node(tree).name.len()
            + 3;
        if length > header::MAX_NAME {
            let mut path = place.archive_name(tree);
            path.push(b'/');
            if !header::has_room_for(&path) {
                records += FRAME + path.len();
            }
        }
        if link > header::MAX_LINK {
            records += FRAME + link;
        }
        // Only zstd archives keep nanoseconds elsewhere.
        if !matches!(codec, Codec::Zstd | Codec::Chunked) {
            records += 2 * FRAME;
        }
        match records {
            0 => 0,
            records => (BLOCK + records.next_multiple_of(BLOCK)) as u64,
        }
    }

    /// Bytes of content of an entry in the archive.
    pub(crate) fn stored_size(&self, tree: &Tree, index: usize) -> u64 {
        if self.links.contains_key(&index) {
            return 0;
        }
        match (self.sparse.get(&index), &self.order[index].node(tree).kind) {
            (Some(sparse), _) => sparse.stored_size,
            (None, NodeKind::File(facts)) => facts.size,
            (None, _) => 0,
        }
    }
}

impl NodeRef {
    pub(crate) fn node(self, tree: &Tree) -> &Node {
        match self {
            Self::Root(root) => &tree.roots[root as usize].node,
            Self::Child { folder, child } => {
                &tree.folders[folder as usize].children[child as usize]
            }
        }
    }

    /// Which declared path it belongs to.
    pub(crate) fn root(self, tree: &Tree) -> usize {
        match self {
            Self::Root(root) => root as usize,
            Self::Child { folder, .. } => tree.folders[folder as usize].root,
        }
    }

    /// The folder it is in, which a declared path itself does not have.
    pub(crate) fn folder(self, tree: &Tree) -> Option<(usize, &Folder)> {
        match self {
            Self::Root(_) => None,
            Self::Child { folder, .. } => Some((folder as usize, &tree.folders[folder as usize])),
        }
    }

    /// Name in the archive, without a trailing slash.
    pub(crate) fn archive_name(self, tree: &Tree) -> Vec<u8> {
        match self {
            Self::Root(root) => tree.archive_name(root as usize, b"", b""),
            Self::Child { folder, .. } => {
                let folder = &tree.folders[folder as usize];
                tree.archive_name(folder.root, &folder.below, &self.node(tree).name)
            }
        }
    }
}

fn find_holes(
    tree: &Tree,
    place: NodeRef,
    facts: FileFacts,
) -> Result<Option<SparseFile>, ArchiveError> {
    let name = place.archive_name(tree);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let opened = match place {
        NodeRef::Root(root) => openat(
            CWD,
            &tree.roots[root as usize].on_disk,
            flags,
            Mode::empty(),
        ),
        NodeRef::Child { folder, .. } => {
            let folder = &tree.folders[folder as usize];
            open_below(&tree.roots[folder.root], &folder.below)
                .and_then(|handle| openat(&handle, &*place.node(tree).name, flags, Mode::empty()))
        }
    };
    let file = opened.map_err(|error| ArchiveError::read(&name, "open it", error))?;
    let regions = data_regions(&file.into(), facts.size)
        .map_err(|error| ArchiveError::read(&name, "find its holes", error))?;
    Ok(regions.map(|regions| sparse_file(join_regions(regions, MAX_REGIONS), facts.size)))
}

/// Readers take a mebibyte of map; these and their 42 bytes each are less.
const MAX_REGIONS: usize = 20_000;

/// Leaves at most so many regions: the smallest holes become data.
fn join_regions(mut regions: Vec<(u64, u64)>, most: usize) -> Vec<(u64, u64)> {
    let mut hole: u64 = 64 << 10;
    while regions.len() > most {
        regions.dedup_by(|next, before| {
            let end = before.0 + before.1;
            let is_small = next.0 - end <= hole;
            if is_small {
                before.1 = next.0 + next.1 - before.0;
            }
            is_small
        });
        hole = hole.saturating_mul(2);
    }
    regions
}

fn sparse_file(mut regions: Vec<(u64, u64)>, size: u64) -> SparseFile {
    // A region of length 0 at the end tells readers the size, as GNU tar writes it.
    if regions
        .last()
        .is_none_or(|(start, length)| start + length < size)
    {
        regions.push((size, 0));
    }
    let mut map = format!("{}\n", regions.len()).into_bytes();
    for (start, length) in &regions {
        map.extend_from_slice(format!("{start}\n{length}\n").as_bytes());
    }
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    let data: u64 = regions.iter().map(|(_, length)| length).sum();
    SparseFile {
        stored_size: map.len() as u64 + data,
        regions,
        map,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{DeclaredPaths, Unreadable};

    #[test]
    fn what_no_restore_takes_is_not_stored() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("tree/a/b")).unwrap();
        std::fs::write(dir.path().join("tree/file"), "twelve bytes").unwrap();
        for name in ["one", "two"] {
            let (file, link) = (dir.path().join("tree/file"), dir.path().join("tree/a"));
            std::fs::hard_link(file, link.join(name)).unwrap();
        }
        let paths = DeclaredPaths::new(["tree"]).unwrap();
        let tree = Tree::list(&paths, dir.path(), 1, Unreadable::default()).unwrap();
        let plan = Plan::new(&tree, Codec::Zstd).unwrap();
        // "tree", "tree/a", "tree/a/b", and "tree/a/two" and "tree/file" with "tree/a/one", which
        // they are linked to: seven names, each with a number.
        let remembered = 4 + 6 + 8 + (10 + 10) + (9 + 10) + 7 * 5;
        let least = Limits::default()
            .with_max_remembered(remembered)
            .with_max_entries(6)
            .with_max_folders(3)
            .with_max_hard_links(2)
            .with_max_file_length(12);
        plan.refuse_beyond(&tree, &least).unwrap();
        for (less, wanted) in [
            (least.clone().with_max_entries(5), ("entries", 5)),
            (least.clone().with_max_folders(2), ("folders", 2)),
            (least.clone().with_max_hard_links(1), ("hard links", 1)),
            (
                least.clone().with_max_remembered(remembered - 1),
                ("bytes of names and attributes", remembered - 1),
            ),
            (
                least.clone().with_max_file_length(11),
                ("bytes in one file", 11),
            ),
        ] {
            match plan.refuse_beyond(&tree, &less) {
                Err(ArchiveError::TreeTooLarge { what, limit }) => {
                    assert_eq!((what, limit), wanted);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_map_is_never_longer_than_readers_take() {
        let regions: Vec<(u64, u64)> = (0..100_000).map(|n| (n * 200_000, 4096)).collect();
        let size = u64::MAX >> 1;
        let last = *regions.last().unwrap();
        let joined = join_regions(regions.clone(), MAX_REGIONS);
        assert!(!joined.is_empty() && joined.len() <= MAX_REGIONS);
        assert!(joined.windows(2).all(|two| two[0].0 + two[0].1 < two[1].0));
        let covers = |&(start, length): &(u64, u64)| {
            joined
                .iter()
                .any(|&(from, long)| from <= start && start + length <= from + long)
        };
        assert!(regions.iter().step_by(997).all(covers) && covers(&last));
        assert!(sparse_file(joined, size).map.len() <= 1 << 20);
        // Few regions stay as they are.
        assert_eq!(
            join_regions(regions[..9].to_vec(), MAX_REGIONS),
            regions[..9]
        );
    }
}
