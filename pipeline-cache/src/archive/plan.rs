//! Cuts a listed tree into blocks of tar that can be made independently of each other.

use std::collections::HashMap;

use rustix::fs::{CWD, Mode, OFlags, openat};

use super::ArchiveError;
use super::header::BLOCK;
use super::walk::{FileFacts, Folder, Node, NodeKind, Tree, data_regions, open_below};

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

/// Largest block: beyond it zstd gains next to nothing.
const MAX_BLOCK: u64 = 4 << 20;
/// Smallest: below it the ratio suffers.
const MIN_BLOCK: u64 = 512 << 10;

impl Plan {
    pub(crate) fn new(tree: &Tree) -> Result<Self, ArchiveError> {
        let mut plan = Self {
            order: Vec::new(),
            links: HashMap::new(),
            sparse: HashMap::new(),
            blocks: Vec::new(),
            content: 0,
        };
        plan.put_in_order(tree);
        plan.find_special_files(tree)?;
        plan.cut(tree);
        Ok(plan)
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

    fn cut(&mut self, tree: &Tree) {
        // Small trees in smaller blocks, so that every worker has some. Only the tree decides:
        // the number of workers must not change the bytes.
        let total = self.content + (self.order.len() * BLOCK) as u64;
        let room = (total / 16).clamp(MIN_BLOCK, MAX_BLOCK);
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
            let needed = block + stored.next_multiple_of(block);
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
    fn root(self, tree: &Tree) -> usize {
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
    Ok(regions.map(|regions| sparse_file(regions, facts.size)))
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
