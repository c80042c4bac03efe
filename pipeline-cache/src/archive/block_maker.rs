//! The tar of one block: headers and contents.

use super::archive_error::escape;
use super::entry_reader::MAX_EXTENSION;
use super::header::{self, BLOCK, HeaderFields, padding};
use super::pax;
use super::plan::{BlockPlan, Plan, SparseFile};
use super::set_id::SetIdBits;
use super::source_file::{Opener, SourceFile};
use super::walk::{NodeKind, Tree, Xattrs};
use super::{ArchiveError, PackOptions};
use crate::store::Codec;

/// A buffer that is filled anew for every block and cleared for none.
#[derive(Default)]
struct Raw {
    bytes: Vec<u8>,
    filled: usize,
}

impl Raw {
    fn filled(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    fn room(&mut self, length: usize) -> &mut [u8] {
        let end = self.filled + length;
        if self.bytes.len() < end {
            self.bytes.resize(end.max(1 << 20), 0);
        }
        let room = &mut self.bytes[self.filled..end];
        self.filled = end;
        room
    }

    fn zeros(&mut self, length: usize) {
        self.room(length).fill(0);
    }

    fn extend(&mut self, bytes: &[u8]) {
        self.room(bytes.len()).copy_from_slice(bytes);
    }
}

/// Makes blocks of tar; each worker has its own.
pub(crate) struct BlockMaker<'a> {
    tree: &'a Tree,
    plan: &'a Plan,
    pax_times: bool,
    set_id: SetIdBits,
    raw: Raw,
    opener: Opener<'a>,
    /// Nanoseconds of the entries that start in this block.
    times: Vec<u32>,
    /// The large file that was read from last.
    file: Option<(usize, SourceFile<'a>)>,
}

impl<'a> BlockMaker<'a> {
    pub(crate) fn new(tree: &'a Tree, plan: &'a Plan, options: &PackOptions) -> Self {
        Self {
            tree,
            plan,
            // zstd archives keep nanoseconds in the index, which costs 4 bytes instead of 1024.
            pax_times: options.codec != Codec::Zstd,
            set_id: options.set_id,
            raw: Raw::default(),
            opener: Opener::new(tree),
            times: Vec::new(),
            file: None,
        }
    }

    /// Makes a block, in place of the one before.
    pub(crate) fn make(&mut self, block: usize) -> Result<(), ArchiveError> {
        self.raw.filled = 0;
        self.times.clear();
        match self.plan.blocks[block] {
            BlockPlan::Entries { from, to } => {
                (from..to).try_for_each(|entry| self.entry(entry))?;
            }
            BlockPlan::Piece {
                entry,
                offset,
                length,
                last,
            } => self.piece(entry, offset, length, last)?,
        }
        if block + 1 == self.plan.blocks.len() {
            self.raw.zeros(2 * BLOCK);
        }
        Ok(())
    }

    pub(crate) fn filled(&self) -> &[u8] {
        self.raw.filled()
    }

    /// Nanoseconds of the entries that start in the block.
    pub(crate) fn take_times(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.times)
    }

    fn entry(&mut self, entry: usize) -> Result<(), ArchiveError> {
        let place = self.plan.order[entry];
        let node = place.node(self.tree);
        if let Some(&first) = self.plan.links.get(&entry) {
            let target = self.plan.order[first].archive_name(self.tree);
            return self.header(entry, b'1', &target, 0, &None);
        }
        match &node.kind {
            NodeKind::Folder(index) => {
                let xattrs = &self.tree.folders[*index].xattrs;
                self.header(entry, b'5', b"", 0, xattrs)?;
            }
            NodeKind::Symlink(target) => self.header(entry, b'2', target, 0, &None)?,
            NodeKind::File(facts) => {
                let file = self.opener.open(place)?;
                let xattrs = file.attributes()?;
                self.header(entry, b'0', b"", facts.size, &xattrs)?;
                let room = self
                    .raw
                    .room(usize::try_from(facts.size).unwrap_or(usize::MAX));
                file.read_exact(room, None)?;
                self.raw.zeros(padding(facts.size));
                file.check()?;
            }
        }
        Ok(())
    }

    fn piece(
        &mut self,
        entry: usize,
        offset: u64,
        length: u64,
        last: bool,
    ) -> Result<(), ArchiveError> {
        let file = match self.file.take() {
            Some((open, file)) if open == entry => file,
            _ => self.opener.open(self.plan.order[entry])?,
        };
        let stored = self.plan.stored_size(self.tree, entry);
        if offset == 0 {
            self.header(entry, b'0', b"", stored, &file.attributes()?)?;
        }
        let room = self.raw.room(usize::try_from(length).unwrap_or(usize::MAX));
        match self.plan.sparse.get(&entry) {
            None => file.read_exact(room, Some(offset))?,
            Some(sparse) => read_sparse(&file, sparse, room, offset)?,
        }
        if last {
            self.raw.zeros(padding(stored));
        }
        file.check()?;
        self.file = Some((entry, file));
        Ok(())
    }

    fn header(
        &mut self,
        entry: usize,
        kind: u8,
        link: &[u8],
        size: u64,
        xattrs: &Xattrs,
    ) -> Result<(), ArchiveError> {
        let place = self.plan.order[entry];
        let node = place.node(self.tree);
        let mut path = place.archive_name(self.tree);
        if kind == b'5' {
            if path.is_empty() {
                path.push(b'.');
            }
            path.push(b'/');
        }
        let mut records = Vec::new();
        let sparse = if kind == b'0' {
            self.plan.sparse.get(&entry)
        } else {
            None
        };
        let mut shown = None;
        if sparse.is_some() {
            let real_size = match &node.kind {
                NodeKind::File(facts) => facts.size,
                _ => 0,
            };
            pax::push_record(&mut records, b"GNU.sparse.major", b"1");
            pax::push_record(&mut records, b"GNU.sparse.minor", b"0");
            pax::push_record(&mut records, b"GNU.sparse.name", &path);
            pax::push_record(
                &mut records,
                b"GNU.sparse.realsize",
                real_size.to_string().as_bytes(),
            );
            shown = Some(b"GNUSparseFile.0/data".to_vec());
        }
        let fields = HeaderFields {
            kind,
            path: shown.as_deref().unwrap_or(&path),
            link,
            mode: node.mode | self.set_id.apply(node.set_id).unwrap_or_default(),
            size,
            mtime: node.mtime,
        };
        let over = header::overflow(&fields);
        if over.path {
            pax::push_record(&mut records, b"path", &path);
        }
        if over.link {
            pax::push_record(&mut records, b"linkpath", link);
        }
        if over.size {
            pax::push_record(&mut records, b"size", size.to_string().as_bytes());
        }
        if over.mtime || (self.pax_times && node.mtime_ns != 0) {
            let time = pax::time_value(node.mtime, node.mtime_ns);
            pax::push_record(&mut records, b"mtime", time.as_bytes());
        }
        for (name, value) in xattrs.iter().flatten() {
            let key = [b"SCHILY.xattr.", name.as_slice()].concat();
            pax::push_record(&mut records, &key, value);
        }
        if records.len() as u64 > MAX_EXTENSION {
            return Err(ArchiveError::Attributes {
                path: escape(&path),
                limit: MAX_EXTENSION,
            });
        }
        if !records.is_empty() {
            let mut extended = Vec::new();
            pax::push_header(&mut extended, &records);
            self.raw.extend(&extended);
        }
        header::encode(&fields, self.raw.room(BLOCK));
        self.times.push(node.mtime_ns);
        Ok(())
    }
}

/// Fills a buffer from the stored form of a file with holes: its map, then its data.
fn read_sparse(
    file: &SourceFile<'_>,
    sparse: &SparseFile,
    mut room: &mut [u8],
    offset: u64,
) -> Result<(), ArchiveError> {
    let from = usize::try_from(offset).map_or(sparse.map.len(), |from| from.min(sparse.map.len()));
    let count = room.len().min(sparse.map.len() - from);
    let (now, later) = room.split_at_mut(count);
    now.copy_from_slice(&sparse.map[from..from + count]);
    room = later;
    let offset = (offset + count as u64).saturating_sub(sparse.map.len() as u64);
    file.read_regions(&sparse.regions, room, offset)
}
