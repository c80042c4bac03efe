//! What compresses better than readers allow is made as long as they want it.

/// Adds a frame of at least so many bytes that readers of zstd pass over; none for 0.
pub(crate) fn skippable(out: &mut Vec<u8>, length: u64) {
    const MARK: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];
    if length > 0 {
        // Blocks and manifests are far below 4 GiB.
        let length = length as u32;
        out.extend_from_slice(&MARK);
        out.extend_from_slice(&length.to_le_bytes());
        out.resize(out.len() + length as usize, 0);
    }
}
