//! A tree without its content: what a record of a restored tree and a chunked entry's manifest
//! have in common. Columns, because there are many entries and alike things compress.

use std::collections::{BTreeMap, HashMap};

use super::columns::{ColumnReader, ColumnWriter};
use super::walk::{Node, NodeKind, Tree};

/// Attribute names and values.
pub(crate) type Attributes = Box<[(Vec<u8>, Vec<u8>)]>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListedKind {
    Folder,
    File,
    Symlink,
    /// Another name of an earlier file of the listing.
    HardLink(u32),
}

/// Everything below one declared path, itself first, each folder before what is in it, names in
/// byte order.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Listing {
    names: Vec<u8>,
    name_ends: Vec<u32>,
    parents: Vec<u32>,
    kinds: Vec<u8>,
    modes: Vec<u16>,
    mtimes: Vec<(i64, u32)>,
    sizes: Vec<u64>,
    targets: BTreeMap<u32, Box<[u8]>>,
    hard_links: BTreeMap<u32, u32>,
    /// Names of a file that has several, by its first.
    name_counts: HashMap<u32, u32>,
    attributes: BTreeMap<u32, Attributes>,
    /// `(offset, length)` of the data of files with holes.
    regions: BTreeMap<u32, Box<[(u64, u64)]>>,
}

const FOLDER: u8 = 0;
const FILE: u8 = 1;
const SYMLINK: u8 = 2;
const HARD_LINK: u8 = 3;

/// The deepest tree, and the longest name, that any archive may have.
const MAX_DEPTH: usize = 500;
const MAX_NAME: usize = 255;

impl Listing {
    /// A listed tree of one declared path; `None` when it is beyond what can be written down.
    pub(crate) fn of(tree: &Tree, root: usize) -> Option<Self> {
        let mut listing = Self::default();
        let mut first_names: HashMap<(u64, u64), u32> = HashMap::new();
        let top = &tree.roots[root].node;
        listing.push(0, top, tree, &mut first_names)?;
        if let NodeKind::Folder(folder) = top.kind {
            // Folder in the tree, its place in the listing, and the next of its children.
            let mut path = vec![(folder, 0_u32, 0_usize)];
            while let Some((folder, parent, child)) = path.last_mut() {
                let Some(node) = tree.folders[*folder].children.get(*child) else {
                    path.pop();
                    continue;
                };
                *child += 1;
                let at = listing.push(*parent, node, tree, &mut first_names)?;
                if let NodeKind::Folder(inner) = node.kind {
                    if path.len() > MAX_DEPTH {
                        return None;
                    }
                    path.push((inner, at, 0));
                }
            }
        }
        listing.count_names();
        Some(listing)
    }

    fn push(
        &mut self,
        parent: u32,
        node: &Node,
        tree: &Tree,
        first_names: &mut HashMap<(u64, u64), u32>,
    ) -> Option<u32> {
        let at = u32::try_from(self.len()).ok()?;
        let mut size = 0;
        let kind = match &node.kind {
            NodeKind::Folder(folder) => {
                if let Some(attributes) = &tree.folders[*folder].xattrs {
                    self.attributes.insert(at, attributes.clone());
                }
                FOLDER
            }
            NodeKind::Symlink(target) => {
                self.targets.insert(at, target.clone());
                SYMLINK
            }
            NodeKind::File(facts) => {
                size = facts.size;
                let first = if facts.has_twins {
                    *first_names.entry((facts.device, facts.inode)).or_insert(at)
                } else {
                    at
                };
                if first == at {
                    FILE
                } else {
                    self.hard_links.insert(at, first);
                    HARD_LINK
                }
            }
        };
        self.names.extend_from_slice(&node.name);
        self.name_ends.push(u32::try_from(self.names.len()).ok()?);
        self.parents.push(parent);
        self.kinds.push(kind);
        self.modes.push(u16::try_from(node.mode).ok()?);
        self.mtimes.push((node.mtime, node.mtime_ns));
        self.sizes.push(size);
        Some(at)
    }

    fn count_names(&mut self) {
        for &first in self.hard_links.values() {
            *self.name_counts.entry(first).or_insert(1) += 1;
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.kinds.len()
    }

    pub(crate) fn name(&self, at: usize) -> &[u8] {
        let start = at
            .checked_sub(1)
            .map_or(0, |before| self.name_ends[before] as usize);
        &self.names[start..self.name_ends[at] as usize]
    }

    pub(crate) fn parent(&self, at: usize) -> usize {
        self.parents[at] as usize
    }

    pub(crate) fn kind(&self, at: usize) -> ListedKind {
        match self.kinds[at] {
            FOLDER => ListedKind::Folder,
            SYMLINK => ListedKind::Symlink,
            HARD_LINK => self
                .hard_links
                .get(&(at as u32))
                .map_or(ListedKind::File, |&first| ListedKind::HardLink(first)),
            _ => ListedKind::File,
        }
    }

    pub(crate) fn mode(&self, at: usize) -> u32 {
        self.modes[at].into()
    }

    pub(crate) fn mtime(&self, at: usize) -> (i64, u32) {
        self.mtimes[at]
    }

    /// Length of a file; 0 for anything else.
    pub(crate) fn size(&self, at: usize) -> u64 {
        self.sizes[at]
    }

    pub(crate) fn target(&self, at: usize) -> &[u8] {
        self.targets.get(&(at as u32)).map_or(b"", |target| target)
    }

    pub(crate) fn attributes(&self, at: usize) -> Option<&Attributes> {
        self.attributes.get(&(at as u32))
    }

    /// How many names a file has.
    pub(crate) fn names_of(&self, at: usize) -> u32 {
        let first = match self.kind(at) {
            ListedKind::HardLink(first) => first,
            _ => at as u32,
        };
        self.name_counts.get(&first).copied().unwrap_or(1)
    }

    /// Path below the declared path, empty for itself.
    #[cfg(any(feature = "chunked", test))]
    pub(crate) fn below(&self, mut at: usize, path: &mut Vec<u8>) {
        let mut parts = Vec::with_capacity(16);
        while at != 0 {
            parts.push(self.name(at));
            at = self.parent(at);
        }
        for part in parts.into_iter().rev() {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(part);
        }
    }

    pub(crate) fn encode(&self, out: &mut ColumnWriter) {
        let count = self.len();
        out.number(count as u64);
        out.0.extend_from_slice(&self.kinds);
        let mut depths = Vec::with_capacity(count);
        for at in 0..count {
            let depth = if at == 0 {
                0
            } else {
                depths[self.parent(at)] + 1
            };
            depths.push(depth);
            out.number(depth);
        }
        let mut start = 0;
        for &end in &self.name_ends {
            out.number(u64::from(end - start));
            start = end;
        }
        out.bytes(&self.names);
        for &mode in &self.modes {
            out.number(mode.into());
        }
        let mut before = 0_i64;
        for &(seconds, _) in &self.mtimes {
            out.signed(seconds.wrapping_sub(before));
            before = seconds;
        }
        out.planes(&self.mtimes.iter().map(|&(_, nanoseconds)| nanoseconds));
        for at in (0..count).filter(|&at| self.kinds[at] == FILE) {
            out.number(self.sizes[at]);
        }
        for target in self.targets.values() {
            out.bytes(target);
        }
        for (&at, &first) in &self.hard_links {
            out.number(u64::from(at - first));
        }
        out.number(self.attributes.len() as u64);
        for (&at, attributes) in &self.attributes {
            out.number(at.into());
            out.number(attributes.len() as u64);
            for (name, value) in attributes {
                out.bytes(name);
                out.bytes(value);
            }
        }
        out.number(self.regions.len() as u64);
        for (&at, regions) in &self.regions {
            out.number(at.into());
            out.number(regions.len() as u64);
            for &(offset, length) in regions {
                out.number(offset);
                out.number(length);
            }
        }
    }

    /// Reads what [`encode`](Self::encode) wrote, and nothing that a tree cannot be.
    pub(crate) fn decode(from: &mut ColumnReader<'_>) -> Option<Self> {
        let count = from.count(8)?;
        if count == 0 || u32::try_from(count).is_err() {
            return None;
        }
        let mut listing = Self {
            kinds: from.take(count)?.to_vec(),
            ..Self::default()
        };
        if listing.kinds.iter().any(|&kind| kind > HARD_LINK) || listing.kinds[0] == HARD_LINK {
            return None;
        }
        // The folders that are open at this place, from the declared path down.
        let mut open: Vec<u32> = Vec::new();
        for at in 0..count {
            let depth = usize::try_from(from.number()?).ok()?;
            if depth > MAX_DEPTH || depth > open.len() || (depth == 0) != (at == 0) {
                return None;
            }
            open.truncate(depth);
            listing.parents.push(open.last().copied().unwrap_or(0));
            if listing.kinds[at] == FOLDER {
                open.push(at as u32);
            }
        }
        let mut end = 0_u32;
        for at in 0..count {
            let length = from.small()?;
            if length as usize > MAX_NAME || (length == 0) != (at == 0) {
                return None;
            }
            end = end.checked_add(length)?;
            listing.name_ends.push(end);
        }
        listing.names = from.bytes()?.to_vec();
        if listing.names.len() != end as usize {
            return None;
        }
        listing.check_names()?;
        for _ in 0..count {
            listing
                .modes
                .push(u16::try_from(from.number()?).ok().filter(|m| *m <= 0o777)?);
        }
        let mut before = 0_i64;
        for _ in 0..count {
            before = before.wrapping_add(from.signed()?);
            listing.mtimes.push((before, 0));
        }
        for (at, nanoseconds) in from.planes(count)?.enumerate() {
            if nanoseconds >= 1_000_000_000 {
                return None;
            }
            listing.mtimes[at].1 = nanoseconds;
        }
        listing.sizes = vec![0; count];
        for at in 0..count {
            if listing.kinds[at] == FILE {
                listing.sizes[at] = from.number()?;
            }
        }
        listing.decode_rare(from)?;
        listing.count_names();
        Some(listing)
    }

    fn decode_rare(&mut self, from: &mut ColumnReader<'_>) -> Option<()> {
        let count = self.len();
        for at in (0..count).filter(|&at| self.kinds[at] == SYMLINK) {
            let target = from.bytes()?;
            if target.is_empty() || target.contains(&0) {
                return None;
            }
            self.targets.insert(at as u32, target.into());
        }
        for at in (0..count).filter(|&at| self.kinds[at] == HARD_LINK) {
            let first = (at as u32).checked_sub(from.small()?)?;
            if self.kinds[first as usize] != FILE {
                return None;
            }
            self.sizes[at] = self.sizes[first as usize];
            self.hard_links.insert(at as u32, first);
        }
        for _ in 0..from.count(3)? {
            let at = from.small().filter(|&at| (at as usize) < count)?;
            let mut attributes = Vec::new();
            for _ in 0..from.count(2)? {
                attributes.push((from.bytes()?.to_vec(), from.bytes()?.to_vec()));
            }
            if self.kinds[at as usize] > FILE
                || self.attributes.insert(at, attributes.into()).is_some()
            {
                return None;
            }
        }
        for _ in 0..from.count(2)? {
            let at = from.small().filter(|&at| (at as usize) < count)?;
            let mut regions: Vec<(u64, u64)> = Vec::new();
            let mut end = 0_u64;
            for _ in 0..from.count(2)? {
                let (offset, length) = (from.number()?, from.number()?);
                if offset < end {
                    return None;
                }
                end = offset.checked_add(length)?;
                regions.push((offset, length));
            }
            if self.kinds[at as usize] != FILE
                || end > self.sizes[at as usize]
                || self.regions.insert(at, regions.into()).is_some()
            {
                return None;
            }
        }
        Some(())
    }

    /// Names that stay in their folder, each once, in order.
    fn check_names(&self) -> Option<()> {
        let mut last: HashMap<u32, usize> = HashMap::new();
        for at in 1..self.len() {
            let name = self.name(at);
            if matches!(name, b"." | b"..") || name.contains(&b'/') || name.contains(&0) {
                return None;
            }
            if let Some(before) = last.insert(self.parents[at], at)
                && self.name(before) >= name
            {
                return None;
            }
        }
        Some(())
    }
}

#[cfg(feature = "chunked")]
impl Listing {
    pub(crate) fn regions(&self, at: usize) -> Option<&[(u64, u64)]> {
        self.regions.get(&(at as u32)).map(|regions| &**regions)
    }

    /// Bytes of a file that are stored: all but its holes.
    pub(crate) fn stored(&self, at: usize) -> u64 {
        match (self.kind(at), self.regions(at)) {
            (ListedKind::File, Some(regions)) => regions.iter().map(|&(_, length)| length).sum(),
            (ListedKind::File, None) => self.size(at),
            _ => 0,
        }
    }

    /// Whether a listed tree is this one, as far as listing tells.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.names == other.names
            && self.name_ends == other.name_ends
            && self.parents == other.parents
            && self.kinds == other.kinds
            && self.modes == other.modes
            && self.mtimes == other.mtimes
            && self.sizes == other.sizes
            && self.targets == other.targets
            && self.hard_links == other.hard_links
    }

    /// Whether two files are the same but for their content.
    pub(crate) fn is_same_file(&self, at: usize, other: &Self, other_at: usize) -> bool {
        self.kind(at) == ListedKind::File
            && self.mode(at) == other.mode(other_at)
            && self.mtime(at) == other.mtime(other_at)
            && self.size(at) == other.size(other_at)
            && self.names_of(at) == other.names_of(other_at)
            && self.attributes(at) == other.attributes(other_at)
            && self.regions(at) == other.regions(other_at)
    }

    pub(crate) fn set_regions(&mut self, at: usize, regions: &[(u64, u64)]) {
        self.regions.insert(at as u32, regions.into());
    }

    pub(crate) fn set_attributes(&mut self, at: usize, attributes: &Attributes) {
        self.attributes.insert(at as u32, attributes.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;
    use crate::archive::{DeclaredPaths, Unreadable};

    #[test]
    fn a_tree_round_trips() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("tree");
        fs::create_dir_all(top.join("a/b/c")).unwrap();
        fs::create_dir_all(top.join("a-b")).unwrap();
        fs::write(top.join("a/b/file"), "x").unwrap();
        fs::write(top.join("a/z"), "content").unwrap();
        fs::hard_link(top.join("a/z"), top.join("twin")).unwrap();
        symlink("a/z", top.join("link")).unwrap();
        let paths = DeclaredPaths::new(["tree"]).unwrap();
        let tree = Tree::list(&paths, dir.path(), 1, Unreadable::Refuse).unwrap();
        let listing = Listing::of(&tree, 0).unwrap();
        let mut out = ColumnWriter::default();
        listing.encode(&mut out);
        let mut from = ColumnReader(&out.0);
        let back = Listing::decode(&mut from).unwrap();
        assert!(from.is_at_end());
        assert_eq!(back, listing);
        let mut paths = Vec::new();
        for at in 0..back.len() {
            let mut path = Vec::new();
            back.below(at, &mut path);
            paths.push(String::from_utf8(path).unwrap());
        }
        let wanted = [
            "", "a", "a/b", "a/b/c", "a/b/file", "a/z", "a-b", "link", "twin",
        ];
        assert_eq!(paths, wanted);
        assert_eq!(back.kind(8), ListedKind::HardLink(5));
        assert_eq!((back.names_of(5), back.names_of(8)), (2, 2));
        for length in 0..out.0.len() {
            let mut cut = ColumnReader(&out.0[..length]);
            assert!(Listing::decode(&mut cut).is_none() || !cut.is_at_end());
        }
    }

    #[test]
    fn names_that_leave_their_folder_are_refused() {
        let listing = |names: &[&[u8]]| {
            let mut listing = Listing {
                kinds: vec![FOLDER],
                parents: vec![0],
                name_ends: vec![0],
                modes: vec![0o700],
                mtimes: vec![(0, 0)],
                sizes: vec![0],
                ..Listing::default()
            };
            for name in names {
                listing.names.extend_from_slice(name);
                listing.name_ends.push(listing.names.len() as u32);
                listing.kinds.push(FILE);
                listing.parents.push(0);
                listing.modes.push(0o600);
                listing.mtimes.push((0, 0));
                listing.sizes.push(0);
            }
            let mut out = ColumnWriter::default();
            listing.encode(&mut out);
            Listing::decode(&mut ColumnReader(&out.0)).is_some()
        };
        assert!(listing(&[b"a", b"b"]));
        for bad in [
            &[&b".."[..]][..],
            &[b"."],
            &[b"a/b"],
            &[b"a\0"],
            &[b"b", b"a"],
            &[b"a", b"a"],
        ] {
            assert!(!listing(bad), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = Listing::decode(&mut ColumnReader(&bytes));
        }
    }
}
