//! Ends, sizes and header fields.

use super::List;
use crate::testing::tar_maker::Tar;

pub(super) fn add(list: &mut List) {
    let t = Tar::default;
    list.refused_raw("empty", "no byte at all", Vec::new());
    list.refused_raw("zeros", "only an end mark", vec![0; 10_240]);
    list.refused_raw("one-zero-block", "half an end mark", vec![0; 512]);
    list.refused_raw("text", "no archive", b"hello world\n".repeat(100));
    list.refused_raw("no-end", "without its end mark", t().file("f", b"x").0);
    list.refused_raw(
        "half-end",
        "with half an end mark",
        t().file("f", b"x").raw(&[0; 512]).0,
    );
    list.refused_raw(
        "cut-header",
        "cut in a header",
        t().file("f", b"x").raw(&[b'x'; 100]).0,
    );
    list.refused_raw(
        "cut-body",
        "cut in a file",
        t().claims(b'0', "f", 5000).raw(&[b'x'; 1000]).0,
    );
    list.refused_raw(
        "cut-padding",
        "cut in the padding",
        t().claims(b'0', "f", 5).raw(b"12345").0,
    );
    list.refused(
        "claims-too-much",
        "a size beyond the end",
        t().claims(b'0', "f", 1 << 32),
    );
    list.refused_raw(
        "trailing-entry",
        "an entry after the end mark",
        [t().file("f", b"x").end(), t().file("smuggled", b"x").end()].concat(),
    );
    list.refused_raw(
        "trailing-rubbish",
        "bytes after the end mark",
        [t().file("f", b"x").end(), b"rubbish".to_vec()].concat(),
    );
    list.refused_raw(
        "lone-zero-block",
        "one zero block, then an entry",
        t().file("f", b"x")
            .raw(&[0; 512])
            .file("smuggled", b"x")
            .end(),
    );
    list.refused(
        "bad-checksum",
        "header checksum",
        t().file("f", b"").spoil(0, b'g'),
    );
    list.refused(
        "bad-magic",
        "unknown header format",
        t().file("f", b"").patch(257, b"usbar"),
    );
    list.refused(
        "size-negative",
        "negative size loops some readers",
        t().file("f", b"").patch(124, &[255; 12]),
    );
    list.refused(
        "size-signed",
        "a sign in a number",
        t().file("f", b"").patch(124, b"-0000000001\0"),
    );
    list.refused(
        "size-plus",
        "a plus sign in a number",
        t().file("f", b"").patch(124, b"+0000000001\0"),
    );
    list.refused(
        "size-decimal",
        "not octal",
        t().file("f", b"").patch(124, b"00000000089\0"),
    );
    list.refused(
        "size-split",
        "two numbers in one field",
        t().file("f", b"").patch(124, b"0 7 0000000\0"),
    );
    list.refused(
        "size-huge",
        "a size beyond 63 bits",
        t().file("f", b"").patch(
            124,
            &[0x80, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255],
        ),
    );
    list.refused(
        "mode-rubbish",
        "no number in the mode",
        t().file("f", b"").patch(100, b"rwxr-xr-"),
    );
    list.refused(
        "mtime-rubbish",
        "no number in the time",
        t().file("f", b"").patch(136, b"yesterday..."),
    );
}
