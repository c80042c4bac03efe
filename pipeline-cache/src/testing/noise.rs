/// Bytes that do not compress, the same for the same seed.
#[must_use]
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    // Seeds that are next to each other give contents that have nothing in common.
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}
