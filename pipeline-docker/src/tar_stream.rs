//! [`TarStream`]: a tar whose bytes depend on nothing but what goes in.

use std::io::{self, Read, Write};

use tar::{EntryType, Header};

/// What an entry is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum EntryKind<'a> {
    Folder,
    /// With its size in bytes.
    File(u64),
    Symlink(&'a [u8]),
    HardLink(&'a [u8]),
}

/// Everything the header of an entry says. There are no user names and no other times.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    /// Relative, without a trailing slash.
    pub(crate) path: &'a [u8],
    pub(crate) kind: EntryKind<'a>,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    /// Seconds since 1970.
    pub(crate) mtime: u64,
}

/// Why an entry could not be written.
#[derive(Debug)]
pub(crate) enum EntryError {
    /// The sink refused.
    Write(io::Error),
    /// The content could not be read.
    Read(io::Error),
    /// The content has another length than was said.
    Changed,
}

impl From<io::Error> for EntryError {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

/// Writes POSIX ustar headers, with a pax record only where a name does not fit.
#[derive(Debug)]
pub(crate) struct TarStream<W> {
    sink: W,
    buffer: Vec<u8>,
}

const NAME: usize = 100;
const PREFIX: usize = 155;

impl<W: Write> TarStream<W> {
    pub(crate) fn new(sink: W) -> Self {
        Self {
            sink,
            buffer: vec![0; 128 * 1024],
        }
    }

    /// Writes an entry; `content` is read for files only, and must have exactly the size named.
    ///
    /// `go_on` is asked before each piece of content; `false` ends with an error of kind
    /// [`io::ErrorKind::Interrupted`].
    pub(crate) fn entry(
        &mut self,
        entry: &Entry<'_>,
        content: &mut dyn Read,
        go_on: &dyn Fn() -> bool,
    ) -> Result<(), EntryError> {
        let mut name = entry.path.to_vec();
        let mut header = Header::new_ustar();
        let mut size = 0;
        let mut target: &[u8] = &[];
        header.set_entry_type(match entry.kind {
            EntryKind::Folder => {
                name.push(b'/');
                EntryType::Directory
            }
            EntryKind::File(bytes) => {
                size = bytes;
                EntryType::Regular
            }
            EntryKind::Symlink(to) => {
                target = to;
                EntryType::Symlink
            }
            EntryKind::HardLink(to) => {
                target = to;
                EntryType::Link
            }
        });
        header.set_mode(entry.mode);
        header.set_uid(entry.uid);
        header.set_gid(entry.gid);
        header.set_mtime(entry.mtime);
        header.set_size(size);
        let mut pax = Vec::new();
        let (prefix, rest) = split_name(&name).unwrap_or_else(|| {
            pax_record(&mut pax, "path", &name);
            (&[], name.get(..NAME).unwrap_or(&name))
        });
        let link = target.get(..NAME).unwrap_or(target);
        if target.len() > NAME {
            pax_record(&mut pax, "linkpath", target);
        }
        if let Some(fields) = header.as_ustar_mut() {
            fill(&mut fields.name, rest);
            fill(&mut fields.prefix, prefix);
            fill(&mut fields.linkname, link);
        }
        header.set_cksum();
        if !pax.is_empty() {
            self.pax(&pax, entry.mtime)?;
        }
        self.sink.write_all(header.as_bytes())?;
        if matches!(entry.kind, EntryKind::File(_)) {
            self.content(size, content, go_on)?;
        }
        Ok(())
    }

    /// Writes the two empty blocks that end an archive.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.sink.write_all(&[0; 1024])?;
        Ok(self.sink)
    }

    fn pax(&mut self, records: &[u8], mtime: u64) -> io::Result<()> {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(mtime);
        header.set_size(records.len() as u64);
        if let Some(fields) = header.as_ustar_mut() {
            fill(&mut fields.name, b"pax");
        }
        header.set_cksum();
        self.sink.write_all(header.as_bytes())?;
        self.sink.write_all(records)?;
        self.pad(records.len() as u64)
    }

    fn content(
        &mut self,
        size: u64,
        content: &mut dyn Read,
        go_on: &dyn Fn() -> bool,
    ) -> Result<(), EntryError> {
        let mut left = size;
        while left > 0 {
            if !go_on() {
                return Err(EntryError::Write(io::ErrorKind::Interrupted.into()));
            }
            let wanted = self
                .buffer
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            let space = self.buffer.get_mut(..wanted).unwrap_or_default();
            let count = read(content, space)?;
            if count == 0 {
                return Err(EntryError::Changed);
            }
            self.sink
                .write_all(self.buffer.get(..count).unwrap_or_default())?;
            left -= count as u64;
        }
        // A file that grew would otherwise be cut without a word.
        if read(content, &mut [0])? != 0 {
            return Err(EntryError::Changed);
        }
        Ok(self.pad(size)?)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let over = usize::try_from(size % 512).unwrap_or_default();
        if over != 0 {
            self.sink
                .write_all([0; 512].get(over..).unwrap_or_default())?;
        }
        Ok(())
    }
}

fn read(content: &mut dyn Read, space: &mut [u8]) -> Result<usize, EntryError> {
    loop {
        match content.read(space) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map_err(EntryError::Read),
        }
    }
}

/// Prefix and name for the header's two fields, or `None` when the name fits nowhere.
fn split_name(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= NAME {
        return Some((&[], name));
    }
    // The slash of a folder belongs to its name, so it is no place to cut.
    let last = name.len() - 1;
    let cut = (name.len().saturating_sub(NAME + 1)..=PREFIX.min(last))
        .find(|&place| place > 0 && place < last && name.get(place) == Some(&b'/'))?;
    Some((name.get(..cut)?, name.get(cut + 1..)?))
}

fn fill(field: &mut [u8], value: &[u8]) {
    field.fill(0);
    if let (Some(space), Some(value)) = (field.get_mut(..value.len()), value.get(..value.len())) {
        space.copy_from_slice(value);
    }
}

/// Appends `length key=value\n`, where the length counts itself.
fn pax_record(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length.to_string().len() + rest != length {
        length = length.to_string().len() + rest;
    }
    records.extend_from_slice(format!("{length} {key}=").as_bytes());
    records.extend_from_slice(value);
    records.push(b'\n');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file<'a>(path: &'a [u8], size: u64) -> Entry<'a> {
        Entry {
            path,
            kind: EntryKind::File(size),
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: 0,
        }
    }

    fn go_on() -> bool {
        true
    }

    fn one(path: &[u8], target: Option<&[u8]>) -> (Vec<u8>, Option<Vec<u8>>, usize) {
        let mut stream = TarStream::new(Vec::new());
        let mut entry = file(path, 3);
        if let Some(target) = target {
            entry.kind = EntryKind::Symlink(target);
        }
        stream.entry(&entry, &mut &b"abc"[..], &go_on).unwrap();
        let bytes = stream.finish().unwrap();
        let mut archive = tar::Archive::new(&bytes[..]);
        let entry = archive.entries().unwrap().next().unwrap().unwrap();
        let read = entry.path_bytes().into_owned();
        let link = entry.link_name_bytes().map(|link| link.into_owned());
        drop(entry);
        (read, link, bytes.len())
    }

    proptest! {
        #[test]
        fn any_name_comes_back(parts in prop::collection::vec("[a-zé]{1,120}", 1..5), target in "[a-z/]{1,300}") {
            let path = parts.join("/");
            let (read, link, _) = one(path.as_bytes(), Some(target.as_bytes()));
            prop_assert_eq!(read, path.as_bytes());
            prop_assert_eq!(link.unwrap(), target.as_bytes());
        }
    }

    #[test]
    fn pax_only_where_needed() {
        let plain = one(b"a", None).2;
        assert_eq!(plain, 512 + 512 + 1024);
        assert_eq!(one(&[b'a'; 100], None).2, plain);
        let split = [&[b'd'; 155][..], b"/", &[b'f'; 100]].concat();
        assert_eq!(one(&split, None).2, plain);
        assert_eq!(one(&[b'a'; 101], None).2, plain + 1024);
        // 99 and 100 digits are where the length of the length changes.
        for length in 80..110 {
            assert_eq!(one(&vec![b'a'; length], None).0.len(), length);
        }
    }

    #[test]
    fn content_of_another_length_is_an_error() {
        for size in [2, 4] {
            let mut stream = TarStream::new(Vec::new());
            let result = stream.entry(&file(b"a", size), &mut &b"abc"[..], &go_on);
            assert!(matches!(result, Err(EntryError::Changed)), "{size}");
        }
    }
}
