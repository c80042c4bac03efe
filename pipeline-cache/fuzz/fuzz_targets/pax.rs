//! A header, and the records of a PAX header.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pipeline_cache::testing::readers::{read_header, read_pax};

fuzz_target!(|bytes: &[u8]| {
    if let Ok((size, padding)) = read_header(bytes) {
        assert!(i64::try_from(size).is_ok());
        assert_eq!((u128::from(size) + padding as u128) % 512, 0);
    }
    if let Ok((path, size)) = read_pax(bytes) {
        assert!(path.is_none_or(|path| !path.is_empty() && !path.contains(&0)));
        assert!(size.is_none_or(|size| i64::try_from(size).is_ok()));
        // Said twice is said too often, unless there was nothing to say.
        let twice = read_pax(&[bytes, bytes].concat());
        if let Ok(twice) = twice {
            assert_eq!(twice, (None, None));
        }
    }
});
