//! PAX extended headers: `LENGTH KEY=VALUE\n` records.

use super::Refusal;
use super::header::{self, BLOCK, HeaderFields};

/// Appends one record.
pub(crate) fn push_record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    // The length counts its own digits.
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + digits(length) {
        length = rest + digits(length);
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn digits(number: usize) -> usize {
    number.checked_ilog10().unwrap_or(0) as usize + 1
}

/// A time as PAX writes it: seconds with up to nine decimals.
pub(crate) fn time_value(seconds: i64, nanoseconds: u32) -> String {
    if nanoseconds == 0 {
        return seconds.to_string();
    }
    let (sign, seconds, nanoseconds) = if seconds < 0 {
        (
            "-",
            (i128::from(seconds) + 1).unsigned_abs(),
            1_000_000_000 - nanoseconds,
        )
    } else {
        ("", i128::from(seconds).unsigned_abs(), nanoseconds)
    };
    let text = format!("{sign}{seconds}.{nanoseconds:09}");
    text.trim_end_matches('0').to_owned()
}

/// Appends a whole extended header: its own 512 bytes, the records, padding.
pub(crate) fn push_header(out: &mut Vec<u8>, records: &[u8]) {
    let start = out.len();
    out.resize(start + BLOCK, 0);
    header::encode(
        &HeaderFields {
            kind: b'x',
            path: b"PaxHeaders/entry",
            link: b"",
            mode: 0o644,
            size: records.len() as u64,
            mtime: 0,
        },
        &mut out[start..],
    );
    out.extend_from_slice(records);
    out.resize(out.len() + header::padding(records.len() as u64), 0);
}

/// What the records of one extended header say.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct PaxFields {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) mtime: Option<(i64, u32)>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) sparse: SparseFields,
}

/// The `GNU.sparse.` records.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct SparseFields {
    pub(crate) major: Option<u64>,
    pub(crate) minor: Option<u64>,
    pub(crate) name: Option<Vec<u8>>,
    pub(crate) real_size: Option<u64>,
    pub(crate) map: Option<Vec<u8>>,
}

impl SparseFields {
    pub(crate) fn is_used(&self) -> bool {
        *self != Self::default()
    }
}

/// Reads all records; anything that is not exactly as it should be is refused.
pub(crate) fn parse(mut records: &[u8]) -> Result<PaxFields, Refusal> {
    let mut fields = PaxFields::default();
    while !records.is_empty() {
        let space = records
            .iter()
            .take(20)
            .position(|&b| b == b' ')
            .ok_or(Refusal::Pax)?;
        let length = decimal(&records[..space]).ok_or(Refusal::Pax)?;
        let length = usize::try_from(length).map_err(|_| Refusal::Pax)?;
        if records[0] == b'0' || length > records.len() || length < space + 4 {
            return Err(Refusal::Pax);
        }
        let (record, rest) = records.split_at(length);
        records = rest;
        let record = record[space + 1..]
            .strip_suffix(b"\n")
            .ok_or(Refusal::Pax)?;
        let equals = record.iter().position(|&b| b == b'=').ok_or(Refusal::Pax)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        if key.is_empty() || key.contains(&0) {
            return Err(Refusal::Pax);
        }
        fields.set(key, value)?;
    }
    // Once for all: there may be tens of thousands.
    fields.xattrs.sort_unstable();
    if fields.xattrs.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return Err(Refusal::PaxDuplicate);
    }
    Ok(fields)
}

/// Keys of a global header that change nothing we restore.
pub(crate) fn is_harmless_global(records: &[u8]) -> Result<bool, Refusal> {
    Ok(parse(records)? == PaxFields::default())
}

impl PaxFields {
    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), Refusal> {
        match key {
            b"path" => once(&mut self.path, name(value)?),
            b"linkpath" => once(&mut self.link, name(value)?),
            b"size" => once(&mut self.size, size(value)?),
            b"mtime" => once(&mut self.mtime, time(value)?),
            // Not used, but other readers stop at what is no number.
            b"uid" | b"gid" => size(value).map(|_| ()),
            b"atime" | b"ctime" => time(value).map(|_| ()),
            b"hdrcharset" => match value {
                b"BINARY" | b"ISO-IR 10646 2000 UTF-8" => Ok(()),
                _ => Err(Refusal::Pax),
            },
            b"GNU.sparse.major" => once(&mut self.sparse.major, size(value)?),
            b"GNU.sparse.minor" => once(&mut self.sparse.minor, size(value)?),
            b"GNU.sparse.name" => once(&mut self.sparse.name, name(value)?),
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => {
                once(&mut self.sparse.real_size, size(value)?)
            }
            b"GNU.sparse.map" => once(&mut self.sparse.map, value.to_vec()),
            b"GNU.sparse.numblocks" => size(value).map(|_| ()),
            // The oldest sparse form repeats its records, which nothing else may.
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => Err(Refusal::SparseMap),
            _ => match key.strip_prefix(b"SCHILY.xattr.") {
                // No others come out of an archive.
                Some(name) if name.starts_with(b"user.") => {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                    Ok(())
                }
                // Unknown keys are to be ignored, says POSIX.
                _ => Ok(()),
            },
        }
    }
}

fn once<T>(field: &mut Option<T>, value: T) -> Result<(), Refusal> {
    match field.replace(value) {
        None => Ok(()),
        Some(_) => Err(Refusal::PaxDuplicate),
    }
}

fn name(value: &[u8]) -> Result<Vec<u8>, Refusal> {
    if value.contains(&0) {
        return Err(Refusal::Nul);
    }
    if value.is_empty() {
        return Err(Refusal::EmptyName);
    }
    Ok(value.to_vec())
}

fn size(value: &[u8]) -> Result<u64, Refusal> {
    decimal(value)
        .filter(|&size| i64::try_from(size).is_ok())
        .ok_or(Refusal::Number)
}

/// Digits only, no sign, no space, no overflow.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 20 {
        return None;
    }
    text.iter().try_fold(0_u64, |value, &digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

fn time(value: &[u8]) -> Result<(i64, u32), Refusal> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let mut parts = value.splitn(2, |&b| b == b'.');
    let whole = decimal(parts.next().unwrap_or_default()).ok_or(Refusal::Number)?;
    let whole = i64::try_from(whole).map_err(|_| Refusal::Number)?;
    let fraction = parts.next().unwrap_or_default();
    if fraction.len() > 64 || !fraction.iter().all(u8::is_ascii_digit) {
        return Err(Refusal::Number);
    }
    let nanoseconds = (0..9).fold(0_u32, |value, place| {
        value * 10
            + fraction
                .get(place)
                .map_or(0, |digit| u32::from(digit - b'0'))
    });
    Ok(match (negative, nanoseconds) {
        (false, _) => (whole, nanoseconds),
        (true, 0) => (-whole, 0),
        (true, _) => (-whole - 1, 1_000_000_000 - nanoseconds),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn malformed_records_are_refused() {
        for bad in [
            &b"5 a=b\n"[..], // too short a length
            b"7 a=b\n",      // too long a length
            b"06 a=\n",      // value may be empty, length may not lie
            b"6 a=b",        // no newline
            b"+6 a=b\n",     // sign
            b" 6 a=b\n",     // leading space
            b"5 ab\n",       // no equals
            b"5 =a\n",       // no key
            b"99999999999999999999999 a=b\n",
            b"0 a=b\n",
            b"12 size=-10\n",
            b"13 size=0x10\n",
            b"9 path=\n",
        ] {
            assert!(parse(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
        assert_eq!(parse(b"11 path=a\0\n"), Err(Refusal::Nul));
        assert_eq!(parse(b"10 path=a\n10 path=b\n"), Err(Refusal::PaxDuplicate));
    }

    #[test]
    fn times_before_1970_and_long_fractions() {
        assert_eq!(time(b"-1.25"), Ok((-2, 750_000_000)));
        assert_eq!(time(b"-3"), Ok((-3, 0)));
        assert_eq!(time(b"12.0000000019"), Ok((12, 1)));
        assert_eq!(time(b"1.5e3"), Err(Refusal::Number));
        assert_eq!(time(b"99999999999999999999"), Err(Refusal::Number));
    }

    proptest! {
        #[test]
        fn records_round_trip(values in prop::collection::vec(prop::collection::vec(1u8.., 1..300), 1..3)) {
            let mut records = Vec::new();
            push_record(&mut records, b"path", &values[0]);
            if let Some(link) = values.get(1) { push_record(&mut records, b"linkpath", link); }
            let fields = parse(&records).unwrap();
            prop_assert_eq!(fields.path.as_ref(), Some(&values[0]));
            prop_assert_eq!(fields.link.as_ref(), values.get(1));
        }

        #[test]
        fn times_round_trip(seconds in -5_000_000_000i64..50_000_000_000, nanoseconds in 0u32..1_000_000_000) {
            prop_assert_eq!(time(time_value(seconds, nanoseconds).as_bytes()), Ok((seconds, nanoseconds)));
        }

        #[test]
        fn any_bytes_parse_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
