//! The manifest of a chunked entry.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pipeline_cache::testing::chunk_readers::read_chunk_manifest;

fuzz_target!(|bytes: &[u8]| {
    let _ = read_chunk_manifest(bytes);
});
