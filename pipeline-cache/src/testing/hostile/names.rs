//! Names that leave the destination, or that no file system takes.

use super::List;
use crate::testing::tar_maker::Tar;

pub(super) fn add(list: &mut List, out: &str) {
    let t = Tar::default;
    let abs = format!("{out}/evil");
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
}
