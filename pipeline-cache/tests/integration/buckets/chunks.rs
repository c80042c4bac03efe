//! Chunked entries in a bucket: what goes over the wire.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use pipeline_cache::archive::{ExistingFiles, StatCache};
use pipeline_cache::cache::{Cache, Saved};
use pipeline_cache::store::{BucketOptions, BucketStore, Codec};

use super::proxy::Proxy;
use super::server::{address, new_bucket, s3};
use crate::incremental::{everything, pass_a_tick, restore, save};
use crate::noise::noise;
use crate::trees::{curious, many};

const FILES: usize = 24;
const LENGTH: usize = 1_000_000;

/// A tree of 24 MB that does not compress, beside many small and curious files.
fn tree(work: &Path) {
    curious(&work.join("tree"));
    many(&work.join("tree/many"), 200);
    for file in 0..FILES {
        edit(work, file, file as u64);
    }
    pass_a_tick();
}

fn edit(work: &Path, file: usize, seed: u64) {
    let path = work.join(format!("tree/large-{file}"));
    fs::write(path, noise(LENGTH, seed)).unwrap();
}

fn stored(saved: &Saved) -> u64 {
    match saved {
        Saved::Stored(report) => report.stored_bytes,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs moto server"]
async fn a_save_and_a_restore_fetch_little_more_than_what_changed() {
    let dir = tempfile::tempdir().unwrap();
    let (work, out) = (dir.path().join("work"), dir.path().join("out"));
    tree(&work);
    let proxy = Proxy::start(address()).await;
    let bucket = new_bucket();
    let open = || {
        let options = BucketOptions::default().with_prefix("ci");
        BucketStore::s3(&s3(&bucket, proxy.address()), options).unwrap()
    };
    let cache = Cache::new(open());
    let all = stored(&save(&cache, "k1", &work, Codec::Chunked).await);
    assert!(all > (FILES * LENGTH) as u64);
    proxy.take_answered();

    // A host that remembers nothing has everything already when it restores, and restores again
    // after one file changed.
    let state = StatCache::in_folder(dir.path().join("state"));
    let elsewhere = Cache::new(open()).with_stat_cache(state);
    restore(&elsewhere, "k1", &out, ExistingFiles::Reuse).await;
    assert_eq!(everything(&out), everything(&work));
    let whole = proxy.take_answered();
    assert!(
        whole > all * 9 / 10 && whole < all * 11 / 10,
        "{whole} of {all}"
    );

    let file = fs::File::options()
        .write(true)
        .open(work.join("tree/large-7"));
    file.unwrap()
        .write_all_at(&noise(10_000, 99), 500_000)
        .unwrap();
    pass_a_tick();
    let sent = stored(&save(&cache, "k2", &work, Codec::Chunked).await);
    assert!(sent < all / 50, "{sent} of {all}");
    let fetched = proxy.take_answered();
    assert!(fetched < all / 50, "a save fetched {fetched} of {all}");

    restore(&elsewhere, "k2", &out, ExistingFiles::Reuse).await;
    assert_eq!(everything(&out), everything(&work));
    let fetched = proxy.take_answered();
    assert!(fetched < all / 4, "a restore fetched {fetched} of {all}");
}
