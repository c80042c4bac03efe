//! Sparse maps.

use super::List;
use crate::testing::tar_maker::Tar;

pub(super) fn add(list: &mut List) {
    let t = Tar::default;
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
        "sparse-folder",
        "a folder with holes: readers differ in its name",
        t().records(&[("GNU.sparse.name", b"one"), ("path", b"other")])
            .folder("d"),
    );
    list.refused(
        "sparse-slash",
        "an old sparse file with the name of a folder",
        t().claims(b'S', "d/", 0),
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
}
