//! The 512 bytes of a tar header: written in the POSIX form, read strictly.

use super::Refusal;

pub(crate) const BLOCK: usize = 512;
pub(crate) type Block = [u8; BLOCK];

/// Largest size that fits in eleven octal digits.
pub(crate) const MAX_OCTAL: u64 = 0o77_777_777_777;

/// Longest path that a header can hold whatever is in it, and longest link target.
pub(crate) const MAX_NAME: usize = NAME.end - NAME.start;
pub(crate) const MAX_LINK: usize = LINK.end - LINK.start;

const NAME: std::ops::Range<usize> = 0..100;
const MODE: std::ops::Range<usize> = 100..108;
const UID: std::ops::Range<usize> = 108..116;
const GID: std::ops::Range<usize> = 116..124;
const SIZE: std::ops::Range<usize> = 124..136;
const MTIME: std::ops::Range<usize> = 136..148;
const CHECKSUM: std::ops::Range<usize> = 148..156;
const TYPE: usize = 156;
const LINK: std::ops::Range<usize> = 157..257;
const MAGIC: std::ops::Range<usize> = 257..265;
const PREFIX: std::ops::Range<usize> = 345..500;

/// How many bytes of padding follow content of this size.
pub(crate) fn padding(size: u64) -> usize {
    ((BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64) as usize
}

/// What is written into one header.
#[derive(Debug)]
pub(crate) struct HeaderFields<'a> {
    pub(crate) kind: u8,
    pub(crate) path: &'a [u8],
    pub(crate) link: &'a [u8],
    pub(crate) mode: u32,
    pub(crate) size: u64,
    pub(crate) mtime: i64,
}

/// Which fields did not fit and need a PAX record.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Overflow {
    pub(crate) path: bool,
    pub(crate) link: bool,
    pub(crate) size: bool,
    pub(crate) mtime: bool,
}

/// Whether a header can hold a path.
pub(crate) fn has_room_for(path: &[u8]) -> bool {
    split(path).is_some()
}

/// What [`encode`] will not be able to write.
pub(crate) fn overflow(fields: &HeaderFields<'_>) -> Overflow {
    Overflow {
        path: !has_room_for(fields.path),
        link: fields.link.len() > MAX_LINK,
        size: fields.size > MAX_OCTAL,
        mtime: u64::try_from(fields.mtime).map_or(true, |mtime| mtime > MAX_OCTAL),
    }
}

/// Writes a header. Fields that do not fit are cut, see [`overflow`]. Owner and group are left
/// at 0: a cache restores as whoever runs it.
pub(crate) fn encode(fields: &HeaderFields<'_>, block: &mut [u8]) {
    block.fill(0);
    match split(fields.path) {
        Some((prefix, name)) => {
            block[PREFIX][..prefix.len()].copy_from_slice(prefix);
            block[NAME][..name.len()].copy_from_slice(name);
        }
        None => block[NAME].copy_from_slice(&fields.path[..NAME.len()]),
    }
    let link = &fields.link[..fields.link.len().min(LINK.len())];
    block[LINK][..link.len()].copy_from_slice(link);
    octal(&mut block[MODE], u64::from(fields.mode));
    octal(&mut block[UID], 0);
    octal(&mut block[GID], 0);
    let size = if fields.size > MAX_OCTAL {
        0
    } else {
        fields.size
    };
    octal(&mut block[SIZE], size);
    let mtime = u64::try_from(fields.mtime).unwrap_or(0);
    octal(&mut block[MTIME], mtime.min(MAX_OCTAL));
    block[TYPE] = fields.kind;
    block[MAGIC].copy_from_slice(b"ustar\x0000");
    block[CHECKSUM].fill(b' ');
    let sum = checksum(block);
    octal(&mut block[CHECKSUM.start..CHECKSUM.end - 1], sum);
}

/// A path as prefix and name of a header.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= NAME.len() {
        return Some((b"", path));
    }
    // The slash between the two is not stored, and neither part may be empty.
    let from = path.len().saturating_sub(NAME.len() + 1);
    let to = PREFIX.len().min(path.len() - 2);
    (from.max(1)..=to)
        .find(|&at| path[at] == b'/')
        .map(|at| (&path[..at], &path[at + 1..]))
}

fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let mut rest = value;
    for digit in field[..digits].iter_mut().rev() {
        *digit = b'0' + (rest & 7) as u8;
        rest >>= 3;
    }
    field[digits] = 0;
}

fn checksum(block: &[u8]) -> u64 {
    block.iter().map(|&byte| u64::from(byte)).sum()
}

/// A header as found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawHeader {
    pub(crate) kind: u8,
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) size: u64,
    pub(crate) mtime: i64,
}

/// Reads a header that is not all zero.
pub(crate) fn decode(block: &Block) -> Result<RawHeader, Refusal> {
    let mut blanked = *block;
    blanked[CHECKSUM].fill(b' ');
    if number(&block[CHECKSUM])? != i128::from(checksum(&blanked)) {
        return Err(Refusal::HeaderChecksum);
    }
    let has_prefix = match &block[MAGIC] {
        b"ustar\x0000" => true,
        b"ustar  \x00" | [0, 0, 0, 0, 0, 0, 0, 0] => false,
        _ => return Err(Refusal::HeaderFormat),
    };
    let mut path = Vec::new();
    let prefix = until_nul(&block[PREFIX]);
    if has_prefix && !prefix.is_empty() {
        path.extend_from_slice(prefix);
        path.push(b'/');
    }
    path.extend_from_slice(until_nul(&block[NAME]));
    let size = u64::try_from(number(&block[SIZE])?).map_err(|_| Refusal::Number)?;
    if i64::try_from(size).is_err() {
        return Err(Refusal::Number);
    }
    let mode = u64::try_from(number(&block[MODE])?).map_err(|_| Refusal::Number)?;
    number(&block[UID])?;
    number(&block[GID])?;
    Ok(RawHeader {
        kind: block[TYPE],
        path,
        link: until_nul(&block[LINK]).to_vec(),
        mode: (mode & 0o7777) as u32,
        size,
        mtime: i64::try_from(number(&block[MTIME])?).map_err(|_| Refusal::Number)?,
    })
}

pub(crate) fn until_nul(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    &field[..end]
}

/// Octal digits between spaces and NULs, or GNU's binary form. Signs and anything else are
/// refused.
pub(crate) fn number(field: &[u8]) -> Result<i128, Refusal> {
    if field[0] & 0x80 != 0 {
        // 0x80 announces a positive number, 0xff a negative one in two's complement.
        let negative = match field[0] {
            0x80 => false,
            0xff => true,
            _ => return Err(Refusal::Number),
        };
        let start: i128 = if negative { -1 } else { 0 };
        let value = field[1..]
            .iter()
            .fold(start, |value, &byte| (value << 8) | i128::from(byte));
        return Ok(value);
    }
    let blank = |b: &u8| matches!(b, b' ' | 0);
    let first = field.iter().position(|b| *b != b' ').unwrap_or(field.len());
    let digits = &field[first..];
    let length = digits
        .iter()
        .position(|b| !matches!(b, b'0'..=b'7'))
        .unwrap_or(digits.len());
    if !digits[length..].iter().all(blank) {
        return Err(Refusal::Number);
    }
    Ok(digits[..length]
        .iter()
        .fold(0, |value, &digit| value * 8 + i128::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields<'a>(path: &'a [u8], link: &'a [u8]) -> HeaderFields<'a> {
        HeaderFields {
            kind: b'0',
            path,
            link,
            mode: 0o644,
            size: 5,
            mtime: 1_700_000_000,
        }
    }

    #[test]
    fn numbers_with_signs_or_rubbish_are_refused() {
        assert_eq!(number(b"0000644\0"), Ok(0o644));
        assert_eq!(number(b"   644 \0"), Ok(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Ok(0));
        assert_eq!(number(b"\x80\0\0\0\0\0\x01\x02"), Ok(258));
        assert_eq!(number(b"\xff\xff\xff\xff\xff\xff\xff\xfe"), Ok(-2));
        for bad in [
            b"-000001\0",
            b"+000001\0",
            b"0000008\0",
            b"12 34 \0\0",
            b"\xc0\0\0\0\0\0\0\0",
        ] {
            assert_eq!(number(bad), Err(Refusal::Number), "{bad:?}");
        }
    }

    #[test]
    fn every_flipped_byte_fails_the_checksum_or_the_numbers() {
        let mut block = [0; BLOCK];
        encode(&fields(b"a/b", b""), &mut block);
        assert!(decode(&block).is_ok());
        for index in 0..BLOCK {
            let mut flipped = block;
            flipped[index] ^= 1;
            assert!(decode(&flipped).is_err(), "byte {index}");
        }
    }

    proptest! {
        #[test]
        fn what_fits_comes_back(path in "[a-z/]{1,260}", link in "[a-z/]{0,120}", mtime in -5i64..1 << 40, size in 0u64..1 << 40) {
            let mut wanted = fields(path.as_bytes(), link.as_bytes());
            wanted.mtime = mtime;
            wanted.size = size;
            let mut block = [0; BLOCK];
            encode(&wanted, &mut block);
            let found = decode(&block).unwrap();
            let over = overflow(&wanted);
            if !over.path { prop_assert_eq!(&found.path, path.as_bytes()); }
            if !over.link { prop_assert_eq!(&found.link, link.as_bytes()); }
            if !over.size { prop_assert_eq!(found.size, size); }
            if !over.mtime { prop_assert_eq!(found.mtime, mtime); }
            prop_assert_eq!(over.path, path.len() > 100 && !over_splits(path.as_bytes()));
        }

        #[test]
        fn any_block_decodes_or_is_refused(bytes in prop::collection::vec(any::<u8>(), BLOCK)) {
            let block: Block = bytes.try_into().unwrap();
            let _ = decode(&block);
        }
    }

    /// The definition, without the arithmetic.
    fn over_splits(path: &[u8]) -> bool {
        (1..path.len())
            .any(|at| path[at] == b'/' && at <= 155 && (1..=100).contains(&(path.len() - at - 1)))
    }
}
