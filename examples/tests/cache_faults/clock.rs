//! Clocks that jump: entries made and used in other times than now.

use std::fs::{self, File, FileTimes};
use std::time::{Duration, SystemTime};

use pipeline_cache::cache::{Cache, SaveOptions, Saved};
use pipeline_cache::key::CacheKey;
use pipeline_cache::store::FilesystemStore;

use crate::place::{Place, STORE, restoring, saving, tree_of};

const DAY: u64 = 24 * 60 * 60;

/// By age: 1902, 1970, an hour ago, in an hour, 2037, 2107, 2300.
fn times() -> [SystemTime; 7] {
    let (epoch, now) = (SystemTime::UNIX_EPOCH, SystemTime::now());
    let years = |count: u64| Duration::from_secs(count * 365 * DAY);
    [
        epoch - years(68),
        epoch,
        now - Duration::from_secs(3600),
        now + Duration::from_secs(3600),
        epoch + years(67),
        epoch + years(137),
        epoch + years(331),
    ]
}

#[tokio::test]
async fn clocks_that_jump_lose_nothing_and_serve_nothing_wrong() {
    let place = Place::bare(20);
    let wanted = tree_of(&place.path("work/tree"));
    let store = FilesystemStore::new(place.path("store"));
    let cache = Cache::new(store.clone());
    for (number, time) in times().into_iter().enumerate() {
        let options = SaveOptions::in_folder(place.path("work")).with_created(time);
        let key = CacheKey::new(format!("k{number}")).unwrap();
        let saved = cache.save(key, ["tree"], options).await.unwrap();
        assert!(matches!(saved, Saved::Stored(_)));
    }
    let keys = || -> Vec<String> {
        let output = place.run(&["list", "--store", "../store"]);
        let text = String::from_utf8(output.stdout).unwrap();
        let names = text.lines().filter_map(|line| line.split('\t').next());
        names.map(str::to_owned).collect()
    };
    // Every clock that a use may have been noted by.
    for time in times() {
        for entry in fs::read_dir(place.path("store/entries")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|kind| kind == "json") {
                let times = FileTimes::new().set_modified(time).set_accessed(time);
                File::open(path).unwrap().set_times(times).unwrap();
            }
        }
        place.expect(0, &["verify", "--store", "../store"]);
        for number in 0..times().len() {
            let key = format!("k{number}");
            let save = place.run(&saving(STORE, &key));
            assert!(save.stdout.starts_with(b"already present"), "{save:?}");
            place.expect(0, &restoring(STORE, &key, "../out"));
            assert!(
                tree_of(&place.path("out/tree")) == wanted,
                "{key}: {time:?}"
            );
        }
    }
    // The newest of a prefix is the one whose clock said so.
    let newest = place.run(&["explain", "--store", "../store", "--key", "k"]);
    assert_eq!(newest.stdout, b"k finds k6\n");
    // Age and idleness: what a clock put into the future counts as new.
    let collect = |limit| place.expect(0, &["gc", "--store", "../store", limit, "2"]);
    collect("--max-idle");
    assert_eq!(keys().len(), 7, "all were used just now");
    collect("--max-age");
    assert_eq!(keys(), ["k2", "k3", "k4", "k5", "k6"]);
    place.no_debris(STORE);
}
