//! The frame index: the length of the archive, then the index.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pipeline_cache::testing::readers::read_frame_index;

fuzz_target!(|bytes: &[u8]| {
    let Some((length, index)) = bytes.split_first_chunk() else {
        return;
    };
    if let Ok((frames, same)) = read_frame_index(index, u64::from_le_bytes(*length)) {
        assert!(frames > 0 && frames * 32 < index.len());
        assert!(same);
    }
});
