//! Devices, rights and entries that make no sense.

use super::List;
use crate::testing::tar_maker::Tar;

pub(super) fn add(list: &mut List) {
    let t = Tar::default;
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
    list.refused(
        "setuid",
        "set-user-id program",
        t().with_mode(b'0', "su", 0o4755),
    );
    list.refused(
        "setgid",
        "set-group-id program",
        t().with_mode(b'0', "sg", 0o2755),
    );
    list.refused(
        "setgid-folder",
        "sticky and set-group-id folder",
        t().with_mode(b'5', "tmp/", 0o3777),
    );
    list.refused(
        "setuid-link",
        "set-user-id bit on another name of a file",
        t().file("f", b"x")
            .entry(b'1', "su", b"f", b"")
            .patch(100, b"0004755\0"),
    );
    list.harmless(
        "sticky",
        "sticky folder",
        t().with_mode(b'5', "tmp/", 0o1777),
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
}
