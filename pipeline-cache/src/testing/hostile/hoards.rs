//! Archives that make a careless reader remember a lot.

use std::io::Write as _;

use super::bombs::zstd_zeros;
use super::{Expectation, HostileArchive};
use crate::archive::testing::{BLOCK, frame_index};
use crate::store::Codec;
use crate::testing::tar_maker::Tar;

/// A little less than an extension header may have.
const MIB: usize = (1 << 20) - 4096;

/// Archives of a few megabytes that take hundreds in a reader that counts what it remembers, but
/// not how long that is.
///
/// They are not part of [`hostile_archives`](super::hostile_archives) because each takes time.
#[must_use]
pub fn hostile_hoards() -> Vec<HostileArchive> {
    let mut hoards = Vec::new();
    let mut add = |name, reason, expectation, bytes| {
        hoards.push(HostileArchive {
            name,
            reason,
            codec: Codec::Zstd,
            bytes,
            expectation,
        });
    };
    // First, because it is the largest: who restores one after another is rid of it.
    add(
        "many-frames",
        "an index of half a million frames",
        Expectation::Refused,
        many_frames(),
    );
    add(
        "fat-folders",
        "300 entries of one folder, each with an attribute of 1 MiB",
        Expectation::Refused,
        stream((0..300).map(|_| fat_folder("SCHILY.xattr.user.a"))),
    );
    add(
        "fat-foreign-folders",
        "the same with attributes that are never restored",
        Expectation::Harmless,
        stream((0..300).map(|_| fat_folder("SCHILY.xattr.trusted.a"))),
    );
    add(
        "fat-files",
        "300 small files, each with an attribute of 1 MiB",
        Expectation::Harmless,
        stream((0..300).map(|number| {
            Tar::default()
                .records(&[("SCHILY.xattr.trusted.a", &vec![b'x'; MIB])])
                .file(&format!("f{number}"), b"content")
        })),
    );
    add(
        "long-names",
        "5,000 files with names of 30 KiB, and then something to refuse",
        Expectation::Refused,
        stream(
            (0..5000)
                .map(long_name)
                .chain([Tar::default().hard_link("l", "nowhere")]),
        ),
    );
    add(
        "long-hard-links",
        "3,000 hard links with names of 30 KiB to a name of 30 KiB",
        Expectation::Refused,
        long_hard_links(),
    );
    add(
        "wide-window",
        "one frame with a window of 128 MiB, and as much in it",
        Expectation::Refused,
        // Exponent 17 stands for 2^27 bytes.
        zstd_zeros(17 << 3, 160 << 20),
    );
    hoards
}

fn fat_folder(attribute: &str) -> Tar {
    Tar::default()
        .records(&[(attribute, &vec![b'x'; MIB])])
        .folder("d")
}

/// Folders of 250 bytes each, down to a name of 30 KiB.
fn deep(last: &str) -> String {
    let folder = "n".repeat(250) + "/";
    folder.repeat(120) + last
}

fn long_name(number: usize) -> Tar {
    let path = deep(&number.to_string());
    Tar::default()
        .records(&[("path", path.as_bytes())])
        .file("f", b"")
}

/// One zstd frame.
fn stream(parts: impl IntoIterator<Item = Tar>) -> Vec<u8> {
    let compress = || {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1)?;
        for part in parts {
            encoder.write_all(&part.0)?;
        }
        encoder.write_all(&[0; 2 * BLOCK])?;
        encoder.finish()
    };
    // Writing into memory does not fail.
    compress().unwrap_or_default()
}

/// Frames and an index, as we write them: links are made when everything else is there.
fn long_hard_links() -> Vec<u8> {
    let mut frames = Vec::new();
    let mut bytes = Vec::new();
    let mut frame = |tar: &[u8], entries| {
        let packed = zstd::bulk::compress(tar, 1).unwrap_or_default();
        frames.push((packed.clone(), tar.len() as u64, entries));
        bytes.extend(packed);
    };
    frame(&long_name(0).0, 1);
    for from in (0..3000).step_by(50) {
        let mut tar = Tar::default();
        for number in from..from + 50 {
            let (path, target) = (deep(&format!("l{number}")), deep("0"));
            tar = tar
                .records(&[("path", path.as_bytes()), ("linkpath", target.as_bytes())])
                .hard_link("l", "t");
        }
        let end: &[u8] = if from == 2950 { &[0; 2 * BLOCK] } else { &[] };
        frame(&tar.raw(end).0, 50);
    }
    bytes.extend(frame_index(&frames));
    bytes
}

fn many_frames() -> Vec<u8> {
    let frame = (vec![0], BLOCK as u64, 1);
    let frames = vec![frame; 500_000];
    let index = frame_index(&frames);
    let mut bytes = vec![0; frames.len()];
    bytes.extend(index);
    bytes
}
