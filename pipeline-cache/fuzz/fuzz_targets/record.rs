//! What a machine remembers of a tree.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pipeline_cache::testing::chunk_readers::read_tree_record;

fuzz_target!(|bytes: &[u8]| {
    if let Some((_, same)) = read_tree_record(bytes) {
        assert!(same);
    }
});
