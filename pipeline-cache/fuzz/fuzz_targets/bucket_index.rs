//! A part of a bucket's index.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pipeline_cache::testing::chunk_readers::read_bucket_index;

fuzz_target!(|bytes: &[u8]| {
    let _ = read_bucket_index(bytes);
});
