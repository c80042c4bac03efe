use std::path::Path;

use super::tar_maker::Tar;
use crate::store::Codec;

/// What must happen when an archive is restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expectation {
    /// It is refused, and the destination stays as it was.
    Refused,
    /// It may be restored, because nothing bad comes of it: no set-id bit, no device, nothing
    /// outside.
    Harmless,
}

/// One archive that tries something.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HostileArchive {
    /// A name for messages.
    pub name: &'static str,
    /// What it tries, or what is wrong with it.
    pub reason: &'static str,
    /// How its bytes are compressed.
    pub codec: Codec,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What must happen.
    pub expectation: Expectation,
}

/// Archives that must be refused or do no harm. `outside` is a folder beside the destination
/// that absolute names and links point to; `../outside` from the destination must be the same.
/// It should hold a file `canary`, and so should the destination.
#[must_use]
#[expect(clippy::too_many_lines, reason = "a list")]
pub fn hostile_archives(outside: &Path) -> Vec<HostileArchive> {
    let out = outside.to_string_lossy().into_owned();
    let abs = format!("{out}/evil");
    let canary = format!("{out}/canary");
    let t = Tar::default;
    let mut list = List(Vec::new());

    // Names.
    list.refused(
        "parent-first",
        "name starts with ..",
        t().file("../outside/evil", b"x"),
    );
    list.refused(
        "parent-middle",
        ".. in the middle leaves the destination",
        t().file("a/../../outside/evil", b"x"),
    );
    list.refused(
        "parent-inside",
        ".. that stays inside is refused as well: readers differ",
        t().file("a/../b", b"x"),
    );
    list.refused("parent-folder", "a folder named a/..", t().folder("a/../"));
    list.refused(
        "parent-pax",
        ".. in a PAX path",
        t().records(&[("path", b"../outside/evil")]).file("a", b"x"),
    );
    list.refused(
        "parent-gnu",
        ".. in a GNU long name",
        t().entry(b'L', "@", b"", b"../outside/evil\0")
            .file("a", b"x"),
    );
    list.refused(
        "parent-prefix",
        ".. in the prefix field",
        t().file("a", b"").patch(345, b"../outside"),
    );
    list.refused(
        "parent-after-good",
        "a good entry first",
        t().file("good", b"x").file("../outside/evil", b"x"),
    );
    list.refused("absolute", "absolute name", t().file(&abs, b"x"));
    list.refused(
        "absolute-pax",
        "absolute name in PAX",
        t().records(&[("path", abs.as_bytes())]).file("a", b"x"),
    );
    list.refused(
        "absolute-gnu",
        "absolute name in a GNU long name",
        t().entry(b'L', "@", b"", format!("{abs}\0").as_bytes())
            .file("a", b"x"),
    );
    list.refused(
        "absolute-double",
        "two leading slashes",
        t().file(&format!("/{abs}"), b"x"),
    );
    list.refused(
        "absolute-folder",
        "absolute folder, to change its mode",
        t().with_mode(b'5', &format!("{out}/"), 0o777),
    );
    list.refused("empty-name", "no name", t().file("", b"x"));
    list.refused("dot-file", "a file named .", t().file(".", b"x"));
    list.refused("slash-only", "a folder named /", t().folder("/"));
    list.refused(
        "nul-pax",
        "NUL in a PAX path cuts the name for some readers",
        t().records(&[("path", b"good\0/../evil")]).file("a", b"x"),
    );
    list.refused(
        "nul-gnu",
        "NUL in a GNU long name",
        t().entry(b'L', "@", b"", b"a\0b\0").file("a", b"x"),
    );
    list.refused(
        "component-256",
        "a component that no file system takes",
        t().records(&[("path", &[b'x'; 256])]).file("a", b"x"),
    );
    list.refused(
        "deep-30000",
        "30,000 components",
        t().records(&[("path", &b"a/".repeat(30_000))]).folder("a/"),
    );
    list.refused(
        "long-path",
        "a path of 200 kB",
        t().records(&[("path", &[&b"x".repeat(200)[..], b"/"].concat().repeat(1000))])
            .folder("a/"),
    );
    list.harmless(
        "backslash",
        "a backslash is no separator",
        t().file("..\\evil", b"x"),
    );
    list.harmless(
        "control",
        "control characters must not reach a terminal",
        t().file("a\x1b[2J\nb", b"x"),
    );
    list.harmless(
        "dots",
        "names that only look like parents",
        t().file("...", b"x").file("..a", b"x"),
    );

    // Links.
    list.refused(
        "through-absolute-link",
        "writes through an absolute link",
        t().symlink("d", &out).file("d/evil", b"x"),
    );
    list.refused(
        "through-relative-link",
        "writes through a relative link",
        t().symlink("d", "../outside").file("d/evil", b"x"),
    );
    list.refused(
        "through-chain",
        "writes through two links",
        t().symlink("a", "..")
            .symlink("b", "a/outside")
            .file("b/evil", b"x"),
    );
    list.refused(
        "through-dot-link",
        "a link to . and then ..",
        t().symlink("x", ".")
            .symlink("x/y", "../outside")
            .file("x/y/evil", b"x"),
    );
    list.refused(
        "folder-through-link",
        "makes a folder through a link",
        t().symlink("d", &out).folder("d/evil/"),
    );
    list.refused(
        "link-through-link",
        "makes a link through a link",
        t().symlink("d", &out).symlink("d/evil", "x"),
    );
    list.refused(
        "chmod-through-link",
        "folder entry over a link, to change the target's mode",
        t().symlink("d", &out).with_mode(b'5', "d/", 0o777),
    );
    list.refused(
        "chmod-through-link-slash",
        "the same without a slash",
        t().symlink("d", &out).with_mode(b'5', "d", 0o777),
    );
    list.refused(
        "file-over-link",
        "file over a link to a file outside",
        t().symlink("f", &canary).file("f", b"overwritten"),
    );
    list.refused(
        "link-over-file",
        "link over a file",
        t().file("f", b"x").symlink("f", &canary),
    );
    list.refused(
        "link-over-folder",
        "link over a folder, then into it",
        t().folder("d/").symlink("d", &out).file("d/evil", b"x"),
    );
    list.refused(
        "folder-over-file",
        "folder over a file",
        t().file("f", b"x").folder("f/"),
    );
    list.refused(
        "file-over-folder",
        "file over a folder",
        t().folder("d/").file("d", b"x"),
    );
    list.refused(
        "file-below-file",
        "file below a file",
        t().file("f", b"x").file("f/g", b"x"),
    );
    list.refused(
        "hard-absolute",
        "hard link to an absolute target",
        t().hard_link("h", &canary),
    );
    list.refused(
        "hard-parent",
        "hard link to a parent",
        t().hard_link("h", "../outside/canary"),
    );
    list.refused(
        "hard-parent-write",
        "hard link outside, then writing to it",
        t().hard_link("h", "../outside/canary")
            .file("h", b"overwritten"),
    );
    list.refused(
        "hard-through-link",
        "hard link through a link",
        t().symlink("d", &out).hard_link("h", "d/canary"),
    );
    list.refused(
        "hard-to-link",
        "hard link to a link",
        t().symlink("l", &canary)
            .hard_link("h", "l")
            .file("h", b"overwritten"),
    );
    list.refused(
        "hard-missing",
        "hard link to what is not there",
        t().hard_link("h", "nothing"),
    );
    list.refused(
        "hard-later",
        "hard link to what comes later",
        t().hard_link("h", "f").file("f", b"x"),
    );
    list.refused(
        "hard-existing",
        "hard link to a file of the destination that is not in the archive",
        t().hard_link("h", "canary"),
    );
    list.refused(
        "hard-self",
        "hard link to itself",
        t().file("f", b"x").hard_link("f", "f"),
    );
    list.refused(
        "hard-folder",
        "hard link to a folder",
        t().folder("d/").hard_link("h", "d"),
    );
    list.refused(
        "hard-empty",
        "hard link without a target",
        t().hard_link("h", ""),
    );
    list.refused(
        "hard-content",
        "hard link with content: smuggles an entry past some readers",
        t().file("f", b"x")
            .entry(b'1', "h", b"f", &t().file("smuggled", b"x").end()),
    );
    list.refused(
        "link-content",
        "link with content",
        t().entry(b'2', "l", b"x", &t().file("smuggled", b"x").end()),
    );
    list.refused("link-empty", "link without a target", t().symlink("l", ""));
    list.refused(
        "link-nul",
        "NUL in a PAX link target",
        t().records(&[("linkpath", b"a\0b")]).symlink("l", "x"),
    );
    list.harmless(
        "dangling-links",
        "links are data: venvs have absolute and dangling ones",
        t().symlink("a", &canary)
            .symlink("b", "../../../../etc/passwd")
            .symlink("c", "nothing"),
    );

    // Types and rights.
    list.refused(
        "character-device",
        "makes a device when root",
        t().entry(b'3', "null", b"", b"")
            .patch(329, b"0000001\x000000003\0"),
    );
    list.refused(
        "block-device",
        "makes a device when root",
        t().entry(b'4', "disk", b"", b"")
            .patch(329, b"0000010\x000000000\0"),
    );
    list.refused(
        "fifo",
        "a reader of it would wait for ever",
        t().entry(b'6', "pipe", b"", b""),
    );
    list.refused(
        "folder-content",
        "folder with content",
        t().entry(b'5', "d/", b"", &t().file("smuggled", b"x").end()),
    );
    list.refused(
        "file-with-slash",
        "a file named as a folder, with content",
        t().file("d/", b"content"),
    );
    for (name, kind) in [
        ("type-Z", b'Z'),
        ("volume", b'V'),
        ("multi-volume", b'M'),
        ("dump-folder", b'D'),
        ("old-long-name", b'N'),
        ("type-255", 255),
    ] {
        list.refused(
            name,
            "an entry type that makes no sense in a cache",
            t().entry(kind, "x", b"", b""),
        );
    }
    list.harmless(
        "setuid",
        "set-user-id program",
        t().with_mode(b'0', "su", 0o4755),
    );
    list.harmless(
        "setgid",
        "set-group-id program",
        t().with_mode(b'0', "sg", 0o2755),
    );
    list.harmless(
        "sticky",
        "sticky and set-group-id folder",
        t().with_mode(b'5', "tmp/", 0o3777),
    );
    list.harmless(
        "capability",
        "file capability",
        t().records(&[(
            "SCHILY.xattr.security.capability",
            b"\x01\0\0\x02\0 \0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        )])
        .file("ping", b"x"),
    );
    list.harmless(
        "trusted-attribute",
        "attributes that only root may set",
        t().records(&[("SCHILY.xattr.trusted.overlay.opaque", b"y")])
            .file("f", b"x"),
    );
    list.harmless(
        "foreign-owner",
        "an owner that is not ours",
        t().file("f", b"").patch(108, b"0001750\x000001750\0"),
    );

    // Framing.
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

    // PAX.
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

    // Sparse files.
    let sparse = |records: &[(&str, &[u8])], content: &[u8]| {
        let first: [(&str, &[u8]); 3] = [
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"s"),
        ];
        t().records(&[&first, records].concat())
            .file("GNUSparseFile.0/s", content)
    };
    let map = |text: &str, data: &[u8]| {
        let mut content = text.as_bytes().to_vec();
        content.resize(512, 0);
        content.extend_from_slice(data);
        content
    };
    list.refused(
        "sparse-beyond",
        "region beyond the file",
        sparse(
            &[("GNU.sparse.realsize", b"10")],
            &map("1\n8\n4\n", b"data"),
        ),
    );
    list.refused(
        "sparse-overlap",
        "regions overlap",
        sparse(
            &[("GNU.sparse.realsize", b"10")],
            &map("2\n0\n4\n2\n4\n", b"datadata"),
        ),
    );
    list.refused(
        "sparse-order",
        "regions out of order",
        sparse(
            &[("GNU.sparse.realsize", b"10")],
            &map("2\n6\n4\n0\n4\n", b"datadata"),
        ),
    );
    list.refused(
        "sparse-less",
        "less data than the map says",
        sparse(
            &[("GNU.sparse.realsize", b"10")],
            &map("1\n0\n8\n", b"data"),
        ),
    );
    list.refused(
        "sparse-more",
        "more data than the map says",
        sparse(
            &[("GNU.sparse.realsize", b"10")],
            &map("1\n0\n2\n", b"data"),
        ),
    );
    list.refused(
        "sparse-count",
        "a map of 2^60 regions",
        sparse(
            &[("GNU.sparse.realsize", b"10")],
            &map("1152921504606846976\n0\n4\n", b"data"),
        ),
    );
    list.refused(
        "sparse-count-overflow",
        "twice the count overflows",
        sparse(
            &[("GNU.sparse.realsize", b"10")],
            &map("9223372036854775808\n", b""),
        ),
    );
    list.refused(
        "sparse-number",
        "no number in the map",
        sparse(
            &[("GNU.sparse.realsize", b"10")],
            &map("1\n-1\n4\n", b"data"),
        ),
    );
    list.refused(
        "sparse-no-size",
        "no real size",
        sparse(&[], &map("1\n0\n4\n", b"data")),
    );
    list.refused(
        "sparse-overflow",
        "offset and length overflow",
        sparse(
            &[("GNU.sparse.realsize", b"10")],
            &map("1\n18446744073709551615\n2\n", b"da"),
        ),
    );
    list.refused(
        "sparse-huge",
        "a file of 4 EiB",
        sparse(
            &[("GNU.sparse.realsize", b"4611686018427387904")],
            &map("1\n0\n4\n", b"data"),
        ),
    );
    list.refused(
        "sparse-parent",
        "the real name leaves the destination",
        t().records(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"../outside/evil"),
            ("GNU.sparse.realsize", b"4"),
        ])
        .file("s", &map("1\n0\n4\n", b"data")),
    );
    list.refused(
        "sparse-version",
        "unknown sparse version",
        t().records(&[
            ("GNU.sparse.major", b"2"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", b"4"),
        ])
        .file("s", b"data"),
    );
    list.refused(
        "sparse-oldest",
        "records that repeat",
        t().pax(b"23 GNU.sparse.offset=0\n25 GNU.sparse.numbytes=4\n")
            .file("s", b"data"),
    );
    list.refused(
        "old-sparse-negative",
        "negative region in the old form",
        t().entry(b'S', "s", b"", b"").patch(386, &[255; 24]),
    );
    list.refused_raw(
        "old-sparse-cut",
        "the old form, cut in its map",
        t().entry(b'S', "s", b"", b"").patch(482, b"\x01").0,
    );

    // Compression.
    #[cfg(feature = "gzip")]
    list.gzip();
    #[cfg(feature = "zstd")]
    list.zstd();
    list.0
}

struct List(Vec<HostileArchive>);

impl List {
    fn add(
        &mut self,
        name: &'static str,
        reason: &'static str,
        codec: Codec,
        bytes: Vec<u8>,
        expectation: Expectation,
    ) {
        self.0.push(HostileArchive {
            name,
            reason,
            codec,
            bytes,
            expectation,
        });
    }

    fn refused(&mut self, name: &'static str, reason: &'static str, tar: Tar) {
        self.refused_raw(name, reason, tar.end());
    }

    fn refused_raw(&mut self, name: &'static str, reason: &'static str, bytes: Vec<u8>) {
        self.add(name, reason, Codec::None, bytes, Expectation::Refused);
    }

    fn harmless(&mut self, name: &'static str, reason: &'static str, tar: Tar) {
        self.add(name, reason, Codec::None, tar.end(), Expectation::Harmless);
    }

    #[cfg(feature = "gzip")]
    fn gzip(&mut self) {
        use std::io::Write as _;

        let tar = Tar::default().file("f", &[b'x'; 5000]).end();
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        // Writing into memory does not fail.
        let good = match encoder.write_all(&tar).and_then(|()| encoder.finish()) {
            Ok(good) => good,
            Err(_) => Vec::new(),
        };
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
    fn zstd(&mut self) {
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
