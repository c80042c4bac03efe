//! Broken gzip and zstd, and lying frame indexes.

use super::{Expectation, List};
use crate::store::Codec;
use crate::testing::tar_maker::Tar;

impl List {
    #[cfg(feature = "gzip")]
    pub(super) fn gzip(&mut self) {
        use std::io::Write as _;

        let tar = Tar::default().file("f", &[b'x'; 5000]).end();
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        // Writing into memory does not fail.
        let good = encoder
            .write_all(&tar)
            .and_then(|()| encoder.finish())
            .unwrap_or_default();
        let mut refused = |name, reason, bytes| {
            self.add(name, reason, Codec::Gzip, bytes, Expectation::Refused);
        };
        refused("gzip-cut", "cut off", good[..good.len() - 9].to_vec());
        refused(
            "gzip-cut-trailer",
            "cut in its checksum",
            good[..good.len() - 3].to_vec(),
        );
        let mut wrong = good.clone();
        let at = wrong.len() - 6;
        wrong[at] ^= 1;
        refused("gzip-checksum", "its checksum does not fit", wrong);
        refused(
            "gzip-rubbish",
            "rubbish after it",
            [&good[..], b"rubbish"].concat(),
        );
        refused(
            "gzip-header-only",
            "nothing but a header",
            good[..10].to_vec(),
        );
        let mut flags = good;
        flags[3] = 0xe0;
        refused("gzip-flags", "reserved flags", flags);
    }

    #[cfg(feature = "zstd")]
    pub(super) fn zstd(&mut self) {
        let tar = Tar::default().file("f", &[b'x'; 5000]).end();
        let good = zstd::bulk::compress(&tar, 3).unwrap_or_default();
        let mut refused = |name, reason, bytes| {
            self.add(name, reason, Codec::Zstd, bytes, Expectation::Refused);
        };
        refused("zstd-cut", "cut off", good[..good.len() - 5].to_vec());
        refused(
            "zstd-rubbish",
            "rubbish after it",
            [&good[..], b"rubbish"].concat(),
        );
        refused(
            "zstd-header-only",
            "nothing but a header",
            good[..6].to_vec(),
        );
        // Frame descriptor without a single segment, window descriptor for 2 GiB.
        refused(
            "zstd-window",
            "a window of 2 GiB",
            [&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8][..], &[1, 0, 0]].concat(),
        );
        refused(
            "zstd-reserved",
            "reserved bits",
            [&[0x28, 0xb5, 0x2f, 0xfd, 0x08, 0x58][..], &[1, 0, 0]].concat(),
        );
        refused(
            "zstd-skippable",
            "only frames to pass over",
            [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0][..], b"skip"].concat(),
        );
        let mark = b"PCIDX\x01\r\n";
        let tail = |length: u32| [&length.to_le_bytes()[..], mark].concat();
        let index = |body: &[u8]| {
            let length = (8 + body.len() + 12) as u32;
            let head = [&[0x50, 0x2a, 0x4d, 0x18][..], &(length - 8).to_le_bytes()].concat();
            [&head[..], body, &tail(length)].concat()
        };
        refused(
            "index-empty",
            "an index of no frames",
            [&good[..], &index(&[0, 0])].concat(),
        );
        refused(
            "index-count",
            "an index that claims 2^56 frames",
            [
                &good[..],
                &index(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0]),
            ]
            .concat(),
        );
        let digest = crate::store::Sha256Digest::of(&good);
        let frame = |packed: usize, raw: u64, entries: u8| {
            let mut body = vec![1];
            for mut number in [packed as u64, raw] {
                while number >= 0x80 {
                    body.push(number as u8 | 0x80);
                    number >>= 7;
                }
                body.push(number as u8);
            }
            body.push(entries);
            body.extend_from_slice(digest.as_bytes());
            body.push(0);
            [&good[..], &index(&body)].concat()
        };
        let raw = tar.len() as u64;
        refused(
            "index-raw-less",
            "an index that says less comes out",
            frame(good.len(), raw - 512, 1),
        );
        refused(
            "index-raw-more",
            "an index that says more comes out",
            frame(good.len(), raw + 512, 1),
        );
        refused(
            "index-entries",
            "an index that counts other entries",
            frame(good.len(), raw, 2),
        );
        refused(
            "index-continues",
            "an archive that starts in the middle of a file",
            frame(good.len(), raw, 0),
        );
        refused(
            "index-frame-length",
            "frames that do not fill the archive",
            frame(good.len() - 1, raw, 1),
        );
        let mut other = frame(good.len(), raw, 1);
        other[good.len() / 2] ^= 1;
        refused(
            "index-digest",
            "a frame that is not the one in the index",
            other,
        );
    }
}
