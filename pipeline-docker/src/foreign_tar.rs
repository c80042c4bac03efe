//! [`ForeignTar`]: archives that others wrote, read in bounded memory.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

/// What all header records of one entry may have together: names, links, attributes. Linux allows
/// paths of 4 KiB and attributes of 64 KiB each.
const MAX_HEADER: u64 = 1024 * 1024;

/// How many entries one archive may have. Twice as many as the largest images that people make.
const MAX_ENTRIES: u64 = 4_000_000;

/// What all names and link targets of an archive may have together.
const MAX_NAMES: u64 = 256 * 1024 * 1024;

const BLOCK: u64 = 512;

/// A tar whose writer is not trusted.
///
/// The parser reads long names and PAX records whole, however long they say they are. Here the bytes
/// run out first, with an error that says so.
pub(crate) struct ForeignTar<R: Read> {
    archive: tar::Archive<Metered<R>>,
    meter: Rc<Meter>,
}

/// How far was read, and how far may be read before the next entry is understood.
#[derive(Debug, Default)]
struct Meter {
    place: Cell<u64>,
    limit: Cell<u64>,
}

pub(crate) struct Metered<R> {
    inner: R,
    meter: Rc<Meter>,
}

/// The entries of a [`ForeignTar`], in its order.
pub(crate) struct ForeignEntries<'a, R: Read> {
    entries: tar::Entries<'a, Metered<R>>,
    meter: Rc<Meter>,
    count: u64,
    names: u64,
}

impl<R: Read> ForeignTar<R> {
    pub(crate) fn new(inner: R) -> Self {
        let meter = Rc::new(Meter::default());
        meter.limit.set(MAX_HEADER);
        let metered = Metered {
            inner,
            meter: Rc::clone(&meter),
        };
        Self {
            archive: tar::Archive::new(metered),
            meter,
        }
    }

    /// Lets entries be unpacked with their modes, without set-id and sticky bits, and with their
    /// times, and never with their owners.
    #[cfg(feature = "engine")]
    pub(crate) fn preserve_modes_and_times(&mut self) {
        self.archive.set_preserve_permissions(true);
        self.archive.set_mask(0o7000);
        self.archive.set_preserve_mtime(true);
        self.archive.set_preserve_ownerships(false);
    }

    pub(crate) fn entries(&mut self) -> io::Result<ForeignEntries<'_, R>> {
        Ok(ForeignEntries {
            entries: self.archive.entries()?,
            meter: Rc::clone(&self.meter),
            count: 0,
            names: 0,
        })
    }

    /// What follows the archive.
    pub(crate) fn into_inner(self) -> R {
        self.archive.into_inner().inner
    }
}

impl<'a, R: Read> Iterator for ForeignEntries<'a, R> {
    type Item = io::Result<tar::Entry<'a, Metered<R>>>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.entries.next()?;
        Some(entry.and_then(|entry| self.admit(&entry).map(|()| entry)))
    }
}

impl<R: Read> ForeignEntries<'_, R> {
    fn admit(&mut self, entry: &tar::Entry<'_, Metered<R>>) -> io::Result<()> {
        // The size of a sparse file counts its holes, which are not in the archive.
        let size = if entry.header().entry_type().is_gnu_sparse() {
            entry.header().entry_size()?
        } else {
            entry.size()
        };
        // Its content is read in pieces; what has to fit is the header behind it.
        let content = size.saturating_add(BLOCK);
        let end = self.meter.place.get().saturating_add(content);
        self.meter.limit.set(end.saturating_add(MAX_HEADER));
        self.count += 1;
        if self.count > MAX_ENTRIES {
            return Err(refused(&format!("it has more than {MAX_ENTRIES} entries")));
        }
        let link = entry.link_name_bytes().map_or(0, |name| name.len());
        self.names += (entry.path_bytes().len() + link) as u64;
        if self.names > MAX_NAMES {
            return Err(refused(&format!(
                "its names have more than {MAX_NAMES} bytes together"
            )));
        }
        Ok(())
    }
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (place, limit) = (self.meter.place.get(), self.meter.limit.get());
        let room = usize::try_from(limit.saturating_sub(place)).unwrap_or(usize::MAX);
        if room == 0 && !buffer.is_empty() {
            return Err(refused(&format!(
                "the name or the attributes of an entry have more than {MAX_HEADER} bytes"
            )));
        }
        let length = room.min(buffer.len());
        let count = self
            .inner
            .read(buffer.get_mut(..length).unwrap_or_default())?;
        self.meter.place.set(place.saturating_add(count as u64));
        Ok(count)
    }
}

fn refused(why: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the archive is damaged or hostile: {why}; make it anew or take another one"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: tar::EntryType, size: u64) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_cksum();
        header.as_bytes().to_vec()
    }

    fn read(archive: impl Read) -> io::Result<Vec<(Vec<u8>, u64)>> {
        ForeignTar::new(archive)
            .entries()?
            .map(|entry| entry.map(|entry| (entry.path_bytes().into_owned(), entry.size())))
            .collect()
    }

    #[test]
    fn records_that_no_memory_could_hold_are_refused() {
        for kind in [
            tar::EntryType::GNULongName,
            tar::EntryType::GNULongLink,
            tar::EntryType::XHeader,
        ] {
            // It is as long as it says: nothing but the limit ends the reading.
            let size = 1 << 50;
            let hostile = io::Cursor::new(header(kind, size)).chain(io::repeat(b'a').take(size));
            let error = read(hostile).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(error.to_string().contains("1048576 bytes"), "{error}");
        }
    }

    #[test]
    fn long_names_and_large_files_are_none_of_that() {
        let mut archive = tar::Builder::new(Vec::new());
        let long = "deep/".repeat(800) + "name";
        let content = vec![7; 3 << 20];
        for (name, size) in [("a", 3 << 20), (long.as_str(), 5), ("b", 2 << 20), ("c", 0)] {
            let mut header = tar::Header::new_gnu();
            header.set_size(size as u64);
            let content = content.get(..size).unwrap();
            archive.append_data(&mut header, name, content).unwrap();
        }
        let found = read(&archive.into_inner().unwrap()[..]).unwrap();
        let names: Vec<_> = found.iter().map(|(name, _)| name.as_slice()).collect();
        assert_eq!(names, [b"a", long.as_bytes(), b"b", b"c"]);
    }

    #[test]
    fn the_holes_of_a_sparse_file_leave_no_room_for_a_long_name() {
        let mut sparse = tar::Header::new_gnu();
        sparse.set_entry_type(tar::EntryType::GNUSparse);
        sparse.set_size(0);
        let gnu = sparse.as_gnu_mut().unwrap();
        gnu.realsize = *b"77777777777\0";
        gnu.sparse[0].offset = *b"77777777777\0";
        gnu.sparse[0].numbytes = *b"00000000000\0";
        sparse.set_cksum();
        let name = header(tar::EntryType::GNULongName, 1 << 40);
        let hostile = io::Cursor::new([sparse.as_bytes().to_vec(), name].concat());
        let error = read(hostile.chain(io::repeat(b'a'))).unwrap_err();
        assert!(error.to_string().contains("1048576 bytes"), "{error}");
    }
}
