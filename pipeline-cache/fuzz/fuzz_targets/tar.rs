//! Whatever the tar reader accepts is safe, and reads the same in pieces.

#![no_main]

use std::io::BufReader;

use libfuzzer_sys::fuzz_target;
use pipeline_cache::testing::readers::{TarKind, read_tar};

fuzz_target!(|bytes: &[u8]| {
    let Ok(entries) = read_tar(bytes) else {
        assert!(read_tar(BufReader::with_capacity(7, bytes)).is_err());
        return;
    };
    for entry in &entries {
        let mut names = vec![&entry.path];
        if let TarKind::HardLink(target) = &entry.kind {
            names.push(target);
        }
        for name in names {
            let parts = || name.split(|&byte| byte == b'/');
            assert!(!name.contains(&0) && !name.starts_with(b"/"));
            assert!(parts().all(|part| part != b".." && part != b"."));
            assert!(name.is_empty() || parts().all(|part| !part.is_empty()));
        }
        assert!(entry.mode <= 0o7777 && entry.mtime.1 < 1_000_000_000);
    }
    let pieces = read_tar(BufReader::with_capacity(7, bytes));
    assert!(pieces.is_ok_and(|pieces| pieces == entries));
});
