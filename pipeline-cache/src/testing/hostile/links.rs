//! Links that lead outside, and what is written through them.

use super::List;
use crate::testing::tar_maker::Tar;

pub(super) fn add(list: &mut List, out: &str) {
    let t = Tar::default;
    let canary = format!("{out}/canary");
    list.refused(
        "through-absolute-link",
        "writes through an absolute link",
        t().symlink("d", out).file("d/evil", b"x"),
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
        t().symlink("d", out).folder("d/evil/"),
    );
    list.refused(
        "link-through-link",
        "makes a link through a link",
        t().symlink("d", out).symlink("d/evil", "x"),
    );
    list.refused(
        "chmod-through-link",
        "folder entry over a link, to change the target's mode",
        t().symlink("d", out).with_mode(b'5', "d/", 0o777),
    );
    list.refused(
        "chmod-through-link-slash",
        "the same without a slash",
        t().symlink("d", out).with_mode(b'5', "d", 0o777),
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
        t().folder("d/").symlink("d", out).file("d/evil", b"x"),
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
        t().symlink("d", out).hard_link("h", "d/canary"),
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
}
