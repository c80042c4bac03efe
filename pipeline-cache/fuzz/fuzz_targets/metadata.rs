//! Descriptions of entries: what is read can be written, and reads the same. The seal keeps
//! nearly everything out, so what is sealed is also read by itself.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pipeline_cache::store::{EntryMetadata, Sha256Digest};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(metadata) = EntryMetadata::from_document(bytes) {
        same(&metadata);
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let sealed = format!("pipeline-cache entry 1\n{text}");
    let seal = Sha256Digest::of(sealed.as_bytes());
    let document = format!("{{\"entry\": {text}, \"seal\": \"{seal}\"}}");
    if let Ok(metadata) = EntryMetadata::from_document(document.as_bytes()) {
        same(&metadata);
    }
});

fn same(metadata: &EntryMetadata) {
    // What is written can be read, whatever odd but valid text it came from.
    let document = metadata.to_document().unwrap_or_default();
    let again = EntryMetadata::from_document(&document);
    assert!(again.is_ok_and(|again| again == *metadata));
}
