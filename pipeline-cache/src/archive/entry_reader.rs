//! Reads entries from a stream of tar, strictly: what readers disagree about is refused.

use std::io::{self, BufRead};

use super::header::{self, BLOCK, Block, MAX_OCTAL};
use super::pax::{self, PaxFields, SparseFields};
use super::{ArchiveError, Limits, Refusal};

/// One entry, before its content is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Normalised: no leading, trailing or double slash, no `.`; empty for the top.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: EntryKind,
    /// Permissions, set-id and sticky bits, as found.
    pub(crate) mode: u32,
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File {
        size: u64,
        sparse: Option<SparseMap>,
    },
    Folder,
    Symlink(Vec<u8>),
    /// Normalised path of the target.
    HardLink(Vec<u8>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SparseMap {
    pub(crate) real_size: u64,
    /// `(offset, length)`, ascending, apart, inside of the file.
    pub(crate) regions: Vec<(u64, u64)>,
}

/// The longest extension header: a name longer than that is no name.
pub(crate) const MAX_EXTENSION: u64 = 1 << 20;
/// The longest path, and the deepest.
pub(crate) const MAX_PATH: usize = 32 << 10;
pub(crate) const MAX_DEPTH: usize = 500;
const MAX_COMPONENT: usize = 255;

/// Whether the stream must have an end mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndMark {
    /// The whole archive: two zero blocks, and nothing but zeros after them.
    Required,
    /// A part of one: ends between two entries.
    Absent,
}

pub(crate) struct EntryReader<'a, R> {
    source: R,
    limits: &'a Limits,
    end_mark: EndMark,
    /// Content of the current entry that was not read yet, and the padding after it.
    remaining: u64,
    padding: u64,
    entries: u64,
    /// Bytes of content that headers have announced.
    announced: u64,
    last_path: Vec<u8>,
}

impl<'a, R: BufRead> EntryReader<'a, R> {
    pub(crate) fn new(source: R, limits: &'a Limits, end_mark: EndMark) -> Self {
        Self {
            source,
            limits,
            end_mark,
            remaining: 0,
            padding: 0,
            entries: 0,
            announced: 0,
            last_path: Vec::new(),
        }
    }

    #[cfg(feature = "zstd")]
    pub(crate) fn into_source(self) -> R {
        self.source
    }

    fn refuse(&self, reason: Refusal) -> ArchiveError {
        let place = if self.last_path.is_empty() {
            &b"(first entry)"[..]
        } else {
            &self.last_path
        };
        ArchiveError::refuse(place, reason)
    }

    /// The next entry. Content of the one before that was not read is passed over.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, ArchiveError> {
        self.pass_over(self.remaining)?;
        self.remaining = 0;
        self.pass_over(self.padding)?;
        self.padding = 0;

        let mut pax: Option<PaxFields> = None;
        let mut long_path: Option<Vec<u8>> = None;
        let mut long_link: Option<Vec<u8>> = None;
        let mut global = false;
        loop {
            let mut block: Block = [0; BLOCK];
            if !self.fill(&mut block)? {
                if pax.is_some() || long_path.is_some() || long_link.is_some() {
                    return Err(self.refuse(Refusal::Dangling));
                }
                return match self.end_mark {
                    EndMark::Absent => Ok(None),
                    EndMark::Required if self.entries == 0 => {
                        Err(self.refuse(Refusal::EmptyArchive))
                    }
                    EndMark::Required => Err(self.refuse(Refusal::Truncated)),
                };
            }
            if block.iter().all(|&byte| byte == 0) {
                if pax.is_some() || long_path.is_some() || long_link.is_some() || global {
                    return Err(self.refuse(Refusal::Dangling));
                }
                if self.end_mark == EndMark::Absent {
                    return Err(self.refuse(Refusal::Index));
                }
                self.end()?;
                return Ok(None);
            }
            let raw = header::decode(&block).map_err(|reason| self.refuse(reason))?;
            match raw.kind {
                b'x' => {
                    let records = self.extension(raw.size)?;
                    let fields = pax::parse(&records).map_err(|reason| self.refuse(reason))?;
                    if pax.replace(fields).is_some() {
                        return Err(self.refuse(Refusal::Dangling));
                    }
                }
                b'g' => {
                    if pax.is_some() || long_path.is_some() || long_link.is_some() {
                        return Err(self.refuse(Refusal::Dangling));
                    }
                    if raw.size == 0 {
                        // Other readers stop here.
                        return Err(self.refuse(Refusal::Pax));
                    }
                    let records = self.extension(raw.size)?;
                    let harmless =
                        pax::is_harmless_global(&records).map_err(|reason| self.refuse(reason))?;
                    if !harmless {
                        return Err(self.refuse(Refusal::PaxGlobal));
                    }
                    global = true;
                }
                b'L' | b'K' => {
                    let text = self.extension(raw.size)?;
                    let name = text
                        .strip_suffix(b"\0")
                        .ok_or_else(|| self.refuse(Refusal::UnendedName))?;
                    if name.contains(&0) {
                        return Err(self.refuse(Refusal::Nul));
                    }
                    if name.is_empty() {
                        return Err(self.refuse(Refusal::EmptyName));
                    }
                    let slot = if raw.kind == b'L' {
                        &mut long_path
                    } else {
                        &mut long_link
                    };
                    if slot.replace(name.to_vec()).is_some() {
                        return Err(self.refuse(Refusal::Dangling));
                    }
                }
                _ => {
                    let pax = pax.take().unwrap_or_default();
                    self.entries += 1;
                    if self.entries > self.limits.max_entries {
                        return Err(ArchiveError::TooLarge {
                            what: "entries",
                            limit: self.limits.max_entries,
                        });
                    }
                    return self.entry(raw, pax, long_path, long_link, &block).map(Some);
                }
            }
        }
    }

    fn entry(
        &mut self,
        raw: header::RawHeader,
        pax: PaxFields,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
        block: &Block,
    ) -> Result<Entry, ArchiveError> {
        if (long_path.is_some() && (pax.path.is_some() || pax.sparse.name.is_some()))
            || (long_link.is_some() && pax.link.is_some())
        {
            return Err(self.refuse(Refusal::Disagreement));
        }
        let size = match pax.size {
            None => raw.size,
            // Writers put 0, the largest number that fits, or the same number into the header.
            Some(size) if raw.size == size || raw.size == 0 || raw.size == MAX_OCTAL => size,
            Some(_) => return Err(self.refuse(Refusal::Disagreement)),
        };
        let path = pax
            .sparse
            .name
            .clone()
            .or(pax.path)
            .or(long_path)
            .unwrap_or(raw.path);
        self.last_path.clear();
        self.last_path
            .extend_from_slice(&path[..path.len().min(512)]);
        let trailing_slash = path.ends_with(b"/");
        let path = normalise(&path).map_err(|reason| self.refuse(reason))?;
        let link = pax.link.or(long_link).unwrap_or(raw.link);

        // Readers differ in what they make of holes in what is no file.
        let is_plain_file = matches!(raw.kind, b'0' | 0 | b'7') && !trailing_slash;
        if pax.sparse.is_used() && !is_plain_file {
            return Err(self.refuse(Refusal::SparseMap));
        }
        let kind = match raw.kind {
            b'0' | 0 | b'7' if trailing_slash && size == 0 => EntryKind::Folder,
            b'0' | 0 | b'7' if trailing_slash => return Err(self.refuse(Refusal::Disagreement)),
            b'0' | 0 | b'7' => self.file(size, pax.sparse)?,
            b'S' if trailing_slash => return Err(self.refuse(Refusal::Disagreement)),
            b'S' => self.old_sparse_file(size, block)?,
            _ if size != 0 => return Err(self.refuse(Refusal::UnexpectedContent)),
            b'5' => EntryKind::Folder,
            b'2' if link.is_empty() => return Err(self.refuse(Refusal::EmptyName)),
            b'2' => EntryKind::Symlink(link),
            b'1' => EntryKind::HardLink(normalise(&link).map_err(|reason| self.refuse(reason))?),
            b'3' | b'4' | b'6' => return Err(self.refuse(Refusal::SpecialFile)),
            _ => return Err(self.refuse(Refusal::EntryType)),
        };
        if path.is_empty() && kind != EntryKind::Folder {
            return Err(self.refuse(Refusal::EmptyName));
        }
        Ok(Entry {
            path,
            kind,
            mode: raw.mode,
            mtime: pax.mtime.unwrap_or((raw.mtime, 0)),
            xattrs: pax.xattrs,
        })
    }

    fn file(&mut self, size: u64, sparse: SparseFields) -> Result<EntryKind, ArchiveError> {
        self.announce(size)?;
        self.remaining = size;
        self.padding = header::padding(size) as u64;
        if !sparse.is_used() {
            self.check_length(size)?;
            return Ok(EntryKind::File { size, sparse: None });
        }
        let real_size = sparse
            .real_size
            .ok_or_else(|| self.refuse(Refusal::SparseMap))?;
        let regions = match (sparse.major, sparse.minor, sparse.map) {
            (Some(1), Some(0), None) => self.map_from_content()?,
            (None | Some(0), None | Some(1), Some(map)) => {
                let numbers = map
                    .split(|&b| b == b',')
                    .map(pax::decimal)
                    .collect::<Option<Vec<u64>>>()
                    .ok_or_else(|| self.refuse(Refusal::SparseMap))?;
                pairs(&numbers).ok_or_else(|| self.refuse(Refusal::SparseMap))?
            }
            _ => return Err(self.refuse(Refusal::SparseMap)),
        };
        self.sparse_file(real_size, regions)
    }

    fn sparse_file(
        &mut self,
        real_size: u64,
        regions: Vec<(u64, u64)>,
    ) -> Result<EntryKind, ArchiveError> {
        self.check_length(real_size)?;
        let mut at = 0_u64;
        let mut stored = 0_u64;
        for &(start, length) in &regions {
            let end = start.checked_add(length).filter(|&end| end <= real_size);
            let (true, Some(end)) = (start >= at, end) else {
                return Err(self.refuse(Refusal::SparseMap));
            };
            at = end;
            stored += length;
        }
        if stored != self.remaining {
            return Err(self.refuse(Refusal::SparseMap));
        }
        Ok(EntryKind::File {
            size: stored,
            sparse: Some(SparseMap { real_size, regions }),
        })
    }

    /// The map of PAX 1.0: decimal lines at the start of the content, padded to a block.
    fn map_from_content(&mut self) -> Result<Vec<(u64, u64)>, ArchiveError> {
        let mut numbers = Vec::new();
        let mut wanted: Option<u64> = None;
        let mut digits = Vec::new();
        let mut taken = 0_u64;
        loop {
            let mut block: Block = [0; BLOCK];
            if self.remaining < BLOCK as u64 || taken >= MAX_EXTENSION || !self.fill(&mut block)? {
                return Err(self.refuse(Refusal::SparseMap));
            }
            taken += BLOCK as u64;
            self.remaining -= BLOCK as u64;
            for byte in block {
                if wanted.is_some_and(|wanted| numbers.len() as u64 == wanted) {
                    break;
                }
                if byte != b'\n' {
                    if digits.len() == 20 {
                        return Err(self.refuse(Refusal::SparseMap));
                    }
                    digits.push(byte);
                    continue;
                }
                let number =
                    pax::decimal(&digits).ok_or_else(|| self.refuse(Refusal::SparseMap))?;
                digits.clear();
                match wanted {
                    None => {
                        let count = number
                            .checked_mul(2)
                            .ok_or_else(|| self.refuse(Refusal::SparseMap))?;
                        wanted = Some(count);
                    }
                    Some(_) => numbers.push(number),
                }
            }
            if wanted.is_some_and(|wanted| numbers.len() as u64 == wanted) {
                return pairs(&numbers).ok_or_else(|| self.refuse(Refusal::SparseMap));
            }
        }
    }

    /// GNU's old form: four regions in the header, more in blocks after it.
    fn old_sparse_file(&mut self, size: u64, block: &Block) -> Result<EntryKind, ArchiveError> {
        let bad = |reader: &Self| reader.refuse(Refusal::SparseMap);
        let field = |bytes: &[u8]| {
            header::number(bytes)
                .ok()
                .and_then(|number| u64::try_from(number).ok())
        };
        let mut regions = Vec::new();
        let mut take = |bytes: &[u8]| -> Option<()> {
            for slot in bytes.chunks_exact(24) {
                if slot.iter().any(|&b| b != 0) {
                    regions.push((field(&slot[..12])?, field(&slot[12..])?));
                }
            }
            Some(())
        };
        take(&block[386..482]).ok_or_else(|| bad(self))?;
        let mut more = block[482] != 0;
        let real_size = field(&block[483..495]).ok_or_else(|| bad(self))?;
        let mut taken = 0;
        while more {
            let mut extension: Block = [0; BLOCK];
            taken += BLOCK as u64;
            if taken > MAX_EXTENSION || !self.fill(&mut extension)? {
                return Err(bad(self));
            }
            take(&extension[..504]).ok_or_else(|| bad(self))?;
            more = extension[504] != 0;
        }
        self.announce(size)?;
        self.remaining = size;
        self.padding = header::padding(size) as u64;
        self.sparse_file(real_size, regions)
    }

    /// Refuses content that cannot fit any more before it is decoded.
    fn announce(&mut self, size: u64) -> Result<(), ArchiveError> {
        self.announced = self.announced.saturating_add(size);
        match self.limits.max_bytes {
            Some(limit) if self.announced > limit => Err(ArchiveError::TooLarge {
                what: "bytes",
                limit,
            }),
            _ => Ok(()),
        }
    }

    fn check_length(&self, length: u64) -> Result<(), ArchiveError> {
        if length > self.limits.max_file_length {
            return Err(ArchiveError::TooLarge {
                what: "bytes in one file",
                limit: self.limits.max_file_length,
            });
        }
        Ok(())
    }

    /// Some of the current entry's content; empty at its end.
    pub(crate) fn content(&mut self) -> Result<&[u8], ArchiveError> {
        if self.remaining == 0 {
            return Ok(&[]);
        }
        let limit = usize::try_from(self.remaining).unwrap_or(usize::MAX);
        // Asked twice because the borrow of an early return would last too long.
        let length = match self.source.fill_buf() {
            Ok(buffer) => buffer.len(),
            Err(error) => return Err(self.source_error(&error)),
        };
        if length == 0 {
            return Err(self.refuse(Refusal::Truncated));
        }
        match self.source.fill_buf() {
            Ok(buffer) => Ok(&buffer[..buffer.len().min(limit)]),
            Err(error) => Err(ArchiveError::Payload(error)),
        }
    }

    /// Says how much of [`content`](Self::content) was used.
    pub(crate) fn consume(&mut self, length: usize) {
        self.source.consume(length);
        self.remaining -= length as u64;
    }

    fn source_error(&self, error: &io::Error) -> ArchiveError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => self.refuse(Refusal::Truncated),
            io::ErrorKind::FileTooLarge => {
                let limit = self.limits.max_bytes.unwrap_or_default();
                ArchiveError::TooLarge {
                    what: "bytes",
                    limit,
                }
            }
            _ if error.to_string().contains("requires too much memory") => ArchiveError::TooLarge {
                what: "bytes of zstd window",
                limit: self.limits.max_window,
            },
            _ => self.refuse(Refusal::Compression),
        }
    }

    /// The content of an extension header, which is small.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, ArchiveError> {
        if size > MAX_EXTENSION {
            return Err(ArchiveError::TooLarge {
                what: "bytes in one extension header",
                limit: MAX_EXTENSION,
            });
        }
        let size = usize::try_from(size).unwrap_or(0);
        let mut bytes = vec![0; size.next_multiple_of(BLOCK)];
        if !bytes.is_empty() && !self.fill(&mut bytes)? {
            return Err(self.refuse(Refusal::Truncated));
        }
        bytes.truncate(size);
        Ok(bytes)
    }

    /// Fills a buffer; `false` when the stream ends before its first byte.
    fn fill(&mut self, mut buffer: &mut [u8]) -> Result<bool, ArchiveError> {
        let wanted = buffer.len();
        while !buffer.is_empty() {
            let available = match self.source.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.source_error(&error)),
            };
            if available.is_empty() {
                if buffer.len() == wanted {
                    return Ok(false);
                }
                return Err(self.refuse(Refusal::Truncated));
            }
            let count = available.len().min(buffer.len());
            buffer[..count].copy_from_slice(&available[..count]);
            self.source.consume(count);
            buffer = &mut buffer[count..];
        }
        Ok(true)
    }

    fn pass_over(&mut self, mut length: u64) -> Result<(), ArchiveError> {
        while length > 0 {
            let available = match self.source.fill_buf() {
                Ok(available) => available.len(),
                Err(error) => return Err(self.source_error(&error)),
            };
            if available == 0 {
                return Err(self.refuse(Refusal::Truncated));
            }
            let count = usize::try_from(length).map_or(available, |left| left.min(available));
            self.source.consume(count);
            length -= count as u64;
        }
        Ok(())
    }

    /// After one zero block: another one, then nothing but zeros.
    fn end(&mut self) -> Result<(), ArchiveError> {
        if self.entries == 0 {
            return Err(self.refuse(Refusal::EmptyArchive));
        }
        let mut block: Block = [0; BLOCK];
        if !self.fill(&mut block)? {
            return Err(self.refuse(Refusal::Truncated));
        }
        if block.iter().any(|&byte| byte != 0) {
            return Err(self.refuse(Refusal::TrailingData));
        }
        loop {
            let (length, zero) = match self.source.fill_buf() {
                Ok(available) => (available.len(), available.iter().all(|&byte| byte == 0)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.source_error(&error)),
            };
            if length == 0 {
                return Ok(());
            }
            if !zero {
                return Err(self.refuse(Refusal::TrailingData));
            }
            self.source.consume(length);
        }
    }
}

fn pairs(numbers: &[u64]) -> Option<Vec<(u64, u64)>> {
    numbers.len().is_multiple_of(2).then(|| {
        numbers
            .chunks_exact(2)
            .map(|pair| (pair[0], pair[1]))
            .collect()
    })
}

/// A name as its components joined by single slashes.
fn normalise(path: &[u8]) -> Result<Vec<u8>, Refusal> {
    if path.is_empty() {
        return Err(Refusal::EmptyName);
    }
    if path[0] == b'/' {
        return Err(Refusal::Absolute);
    }
    if path.len() > MAX_PATH {
        return Err(Refusal::NameTooLong);
    }
    let mut normal = Vec::with_capacity(path.len());
    let mut depth = 0;
    for part in path.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => continue,
            b".." => return Err(Refusal::Parent),
            _ if part.contains(&0) => return Err(Refusal::Nul),
            _ if part.len() > MAX_COMPONENT => return Err(Refusal::NameTooLong),
            _ => {}
        }
        depth += 1;
        if depth > MAX_DEPTH {
            return Err(Refusal::NameTooLong);
        }
        if !normal.is_empty() {
            normal.push(b'/');
        }
        normal.extend_from_slice(part);
    }
    Ok(normal)
}
