//! Makes tar archives byte by byte, right or wrong.

use crate::archive::testing::{BLOCK, HeaderFields, encode, padding};

/// An archive under construction.
#[derive(Clone, Default)]
pub(super) struct Tar(pub(super) Vec<u8>);

impl Tar {
    /// A file with content.
    pub(super) fn file(self, path: &str, content: &[u8]) -> Self {
        self.entry(b'0', path, b"", content)
    }

    pub(super) fn folder(self, path: &str) -> Self {
        self.entry(b'5', path, b"", b"")
    }

    pub(super) fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(b'2', path, target.as_bytes(), b"")
    }

    pub(super) fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(b'1', path, target.as_bytes(), b"")
    }

    pub(super) fn entry(mut self, kind: u8, path: &str, link: &[u8], content: &[u8]) -> Self {
        self.header(kind, path, link, content.len() as u64, 0o644);
        self.content(content)
    }

    pub(super) fn with_mode(mut self, kind: u8, path: &str, mode: u32) -> Self {
        self.header(kind, path, b"", 0, mode);
        self
    }

    /// A header that claims a size, without content.
    pub(super) fn claims(mut self, kind: u8, path: &str, size: u64) -> Self {
        self.header(kind, path, b"", size, 0o644);
        self
    }

    fn header(&mut self, kind: u8, path: &str, link: &[u8], size: u64, mode: u32) {
        let start = self.0.len();
        self.0.resize(start + BLOCK, 0);
        let fields = HeaderFields {
            kind,
            path: path.as_bytes(),
            link,
            mode,
            size,
            mtime: 1_700_000_000,
        };
        encode(&fields, &mut self.0[start..]);
    }

    pub(super) fn content(mut self, content: &[u8]) -> Self {
        self.0.extend_from_slice(content);
        let padded = self.0.len() + padding(content.len() as u64);
        self.0.resize(padded, 0);
        self
    }

    /// A PAX header with these records as they are.
    pub(super) fn pax(self, records: &[u8]) -> Self {
        self.entry(b'x', "PaxHeaders/x", b"", records)
    }

    /// A PAX header with well-formed records.
    pub(super) fn records(self, records: &[(&str, &[u8])]) -> Self {
        let mut text = Vec::new();
        for (key, value) in records {
            crate::archive::testing::push_record(&mut text, key.as_bytes(), value);
        }
        self.pax(&text)
    }

    /// Overwrites bytes of the last header and mends its checksum.
    pub(super) fn patch(mut self, at: usize, bytes: &[u8]) -> Self {
        let start = self.0.len() - BLOCK;
        let block = &mut self.0[start..];
        block[at..at + bytes.len()].copy_from_slice(bytes);
        block[148..156].fill(b' ');
        let sum: u64 = block.iter().map(|&byte| u64::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self
    }

    /// Overwrites bytes of the last header and leaves the checksum wrong.
    pub(super) fn spoil(mut self, at: usize, byte: u8) -> Self {
        let start = self.0.len() - BLOCK;
        self.0[start + at] = byte;
        self
    }

    pub(super) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// The end mark.
    pub(super) fn end(self) -> Vec<u8> {
        self.raw(&[0; 2 * BLOCK]).0
    }
}
