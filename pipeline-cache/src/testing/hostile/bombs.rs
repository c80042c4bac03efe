//! Little that becomes a lot.

use super::{Expectation, HostileArchive};
use crate::archive::testing::BLOCK;
use crate::store::Codec;
use crate::testing::tar_maker::Tar;

/// Zeros in each of the two files of a bomb.
const EACH: u64 = 5 << 30;

/// Archives of 10 GiB of zeros in less than 11 MB, one for each compression there is. All must be
/// refused, at default limits, and leave nothing behind.
///
/// They are not part of [`hostile_archives`](super::hostile_archives) because each takes seconds.
#[must_use]
pub fn hostile_bombs() -> Vec<HostileArchive> {
    let mut bombs = Vec::new();
    let mut add = |name, codec, bytes| {
        bombs.push(HostileArchive {
            name,
            reason: "10 GiB of zeros",
            codec,
            bytes,
            expectation: Expectation::Refused,
        });
    };
    #[cfg(feature = "gzip")]
    add("gzip-bomb", Codec::Gzip, gzip());
    #[cfg(feature = "zstd")]
    // A window of 8 MiB.
    add("zstd-bomb", Codec::Zstd, zstd_zeros(0x68, EACH));
    bombs
}

fn header(name: &str, size: u64) -> Vec<u8> {
    Tar::default().claims(b'0', name, size).0
}

/// Members of 16 MiB, one after another.
#[cfg(feature = "gzip")]
fn gzip() -> Vec<u8> {
    use std::io::Write as _;

    const MEMBER: usize = 16 << 20;
    let member = |content: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        // Writing into memory does not fail.
        encoder
            .write_all(content)
            .and_then(|()| encoder.finish())
            .unwrap_or_default()
    };
    let zeros = member(&vec![0; MEMBER]);
    let mut bytes = Vec::new();
    for name in ["a", "b"] {
        bytes.extend(member(&header(name, EACH)));
        bytes.extend(zeros.repeat((EACH / MEMBER as u64) as usize));
    }
    bytes.extend(member(&[0; 2 * BLOCK]));
    bytes
}

/// Two files of zeros in one frame, four bytes for every 128 KiB.
#[cfg(feature = "zstd")]
pub(super) fn zstd_zeros(window: u8, each: u64) -> Vec<u8> {
    const RUN: u32 = 128 << 10;
    let block = |kind: u32, size: u32, last: bool| {
        let head = u32::from(last) | kind << 1 | size << 3;
        head.to_le_bytes()[..3].to_vec()
    };
    // Magic number, no content size, window.
    let mut bytes = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, window];
    for name in ["a", "b"] {
        bytes.extend(block(0, BLOCK as u32, false));
        bytes.extend(header(name, each));
        let run = [block(1, RUN, false), vec![0]].concat();
        bytes.extend(run.repeat((each / u64::from(RUN)) as usize));
    }
    bytes.extend(block(0, 2 * BLOCK as u32, true));
    bytes.extend([0; 2 * BLOCK]);
    bytes
}
