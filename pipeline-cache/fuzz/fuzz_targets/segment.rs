//! A segment of chunks, its index and its blocks.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pipeline_cache::testing::chunk_readers::read_segment;

fuzz_target!(|bytes: &[u8]| {
    let _ = read_segment(bytes);
});
