//! PAX headers and GNU long names.

use super::List;
use crate::testing::tar_maker::Tar;

pub(super) fn add(list: &mut List) {
    let t = Tar::default;
    for (name, reason, records) in [
        (
            "pax-short",
            "record length too short",
            &b"8 path=evil\n"[..],
        ),
        ("pax-long", "record length too long", b"99 path=evil\n"),
        (
            "pax-no-newline",
            "record without a newline",
            b"12 path=evil",
        ),
        ("pax-no-equals", "record without =", b"8 patha\n"),
        ("pax-negative", "negative record length", b"-13 path=evil\n"),
        (
            "pax-leading-zero",
            "record length with a leading zero",
            b"013 path=evil\n",
        ),
        (
            "pax-space",
            "record length after a space",
            b" 13 path=evil\n",
        ),
        ("pax-no-key", "record without a key", b"5 =a\n"),
        (
            "pax-nul-record",
            "NULs instead of records",
            b"\0\0\0\0\0\0\0\0",
        ),
        (
            "pax-overflow",
            "record length beyond 64 bits",
            b"99999999999999999999999 path=a\n",
        ),
        ("pax-empty-path", "empty path", b"8 path=\n"),
        (
            "pax-charset",
            "unknown character set",
            b"22 hdrcharset=EBCDIC!\n",
        ),
        ("pax-mtime", "time that is none", b"16 mtime=sunset\n"),
        ("pax-size-sign", "negative size", b"11 size=-1\n"),
        ("pax-size-hex", "hexadecimal size", b"13 size=0x10\n"),
        (
            "pax-size-huge",
            "size beyond 63 bits",
            b"29 size=18446744073709551615\n",
        ),
    ] {
        list.refused(name, reason, t().pax(records).file("f", b"x"));
    }
    list.refused(
        "pax-path-twice",
        "two paths: first or last?",
        t().records(&[("path", b"a"), ("path", b"b")])
            .file("f", b"x"),
    );
    list.refused(
        "pax-size-twice",
        "two sizes",
        t().records(&[("size", b"1"), ("size", b"512")])
            .file("f", b"x"),
    );
    list.refused(
        "pax-size-disagrees",
        "PAX and header sizes differ: one reader's content is another's header",
        t().records(&[("size", b"0")])
            .entry(b'0', "f", b"", &t().file("smuggled", b"x").0),
    );
    list.refused(
        "pax-size-larger",
        "PAX size larger than the header's",
        t().records(&[("size", b"1024")])
            .file("f", b"x")
            .file("g", b"x"),
    );
    list.refused(
        "pax-dangling",
        "PAX header at the end",
        t().file("f", b"x").records(&[("path", b"a")]),
    );
    list.refused(
        "pax-pax",
        "two PAX headers for one entry",
        t().records(&[("path", b"a")])
            .records(&[("path", b"b")])
            .file("f", b"x"),
    );
    list.refused(
        "gnu-dangling",
        "GNU long name at the end",
        t().file("f", b"x").entry(b'L', "@", b"", b"a\0"),
    );
    list.refused(
        "gnu-gnu",
        "two GNU long names for one entry",
        t().entry(b'L', "@", b"", b"a\0")
            .entry(b'L', "@", b"", b"b\0")
            .file("f", b"x"),
    );
    list.refused(
        "gnu-and-pax",
        "GNU and PAX name for one entry",
        t().entry(b'L', "@", b"", b"a\0")
            .records(&[("path", b"b")])
            .file("f", b"x"),
    );
    list.refused(
        "gnu-empty",
        "empty GNU long name",
        t().entry(b'L', "@", b"", b"\0").file("f", b"x"),
    );
    list.refused(
        "gnu-unended",
        "GNU long name without its NUL: some readers take the padding as well",
        t().entry(b'L', "@", b"", b"long").file("f", b"x"),
    );
    list.refused(
        "global-dangling",
        "a global header with no entry after it",
        t().file("f", b"x").entry(b'g', "g", b"", b"13 comment=x\n"),
    );
    list.refused(
        "pax-owner",
        "an owner that is no number: some readers stop there",
        t().records(&[("uid", b"0,5")]).file("f", b"x"),
    );
    list.refused(
        "global-path",
        "a global header names every entry",
        t().entry(b'g', "g", b"", b"13 path=evil\n").file("f", b"x"),
    );
    list.refused(
        "global-size",
        "a global header sizes every entry",
        t().entry(b'g', "g", b"", b"10 size=0\n").file("f", b"x"),
    );
    list.refused(
        "pax-1-gib",
        "a PAX header of 1 GiB must not be taken into memory",
        t().claims(b'x', "x", 1 << 30),
    );
    list.refused(
        "gnu-1-gib",
        "a long name of 1 GiB",
        t().claims(b'L', "@", 1 << 30),
    );
    list.refused(
        "global-1-gib",
        "a global header of 1 GiB",
        t().claims(b'g', "g", 1 << 30),
    );
    list.harmless(
        "pax-comment",
        "records that say nothing about files",
        t().entry(b'g', "g", b"", b"13 comment=x\n")
            .records(&[("comment", b"x"), ("vendor.key", b"\0\x01")])
            .file("f", b"x"),
    );
}
