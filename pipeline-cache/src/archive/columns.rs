//! Numbers and bytes one after another: what listings, records and manifests are written with.

/// Writes columns.
#[derive(Default)]
pub(crate) struct ColumnWriter(pub(crate) Vec<u8>);

impl ColumnWriter {
    pub(crate) fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    pub(crate) fn signed(&mut self, value: i64) {
        self.number((value.wrapping_shl(1) ^ (value >> 63)).cast_unsigned());
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// A column of 32 bit numbers in byte planes, where the high bytes compress.
    pub(crate) fn planes(&mut self, values: &(impl Iterator<Item = u32> + Clone)) {
        for plane in 0..4 {
            self.0
                .extend(values.clone().map(|value| value.to_le_bytes()[plane]));
        }
    }
}

/// Reads columns; `None` at the first thing that cannot be.
pub(crate) struct ColumnReader<'a>(pub(crate) &'a [u8]);

impl<'a> ColumnReader<'a> {
    pub(crate) fn number(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            let part = u64::from(byte & 0x7f);
            if part << shift >> shift != part {
                return None;
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    pub(crate) fn small(&mut self) -> Option<u32> {
        u32::try_from(self.number()?).ok()
    }

    pub(crate) fn signed(&mut self) -> Option<i64> {
        let value = self.number()?;
        Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    pub(crate) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        self.take(length)
    }

    /// How many of something follow, each of which takes at least this many bytes: a lying count
    /// allocates nothing.
    pub(crate) fn count(&mut self, each: usize) -> Option<usize> {
        let count = usize::try_from(self.number()?).ok()?;
        (count.checked_mul(each)? <= self.0.len()).then_some(count)
    }

    pub(crate) fn planes(&mut self, count: usize) -> Option<impl Iterator<Item = u32> + 'a> {
        let planes = self.take(count.checked_mul(4)?)?;
        Some((0..count).map(move |at| {
            let byte = |plane: usize| planes[plane * count + at];
            u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)])
        }))
    }

    pub(crate) fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_round_trip(signed in any::<i64>(), number in any::<u64>(), values in prop::collection::vec(any::<u32>(), 0..9)) {
            let mut out = ColumnWriter::default();
            out.signed(signed);
            out.number(number);
            out.planes(&values.iter().copied());
            out.bytes(b"end");
            let mut back = ColumnReader(&out.0);
            prop_assert_eq!(back.signed(), Some(signed));
            prop_assert_eq!(back.number(), Some(number));
            prop_assert_eq!(back.planes(values.len()).unwrap().collect::<Vec<_>>(), values);
            prop_assert_eq!(back.bytes(), Some(&b"end"[..]));
            prop_assert!(back.is_at_end());
        }
    }
}
