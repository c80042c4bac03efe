//! The promises of [`CacheStore`], one function each. They panic where a store breaks one.
//!
//! [`store_contract!`](crate::store_contract) makes tests of them.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "these are the bodies of tests"
)]

use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use crate::key::{CacheKey, KeyContext, KeyTemplate, RenderedKey};
use crate::store::{
    CacheStore, CacheStoreExt as _, Codec, DeleteOutcome, EntryFacts, EntryMetadata, GetOptions,
    IfExists, NewEntry, ProducePayload, Producer, PutOptions, PutOutcome, RecordUse, Sha256Digest,
    produce_with,
};

/// Makes one named test for each promise of [`CacheStore`].
///
/// The second argument makes an empty store, together with anything that must live as long.
/// The calling crate needs `tokio` with `macros` and `rt-multi-thread`.
///
/// ```
/// pipeline_cache::store_contract!(memory, || (pipeline_cache::store::MemoryStore::new(), ()));
/// ```
///
/// Attributes before the name are those of each test: `#[ignore = "needs a server"] bucket, ...`.
#[macro_export]
macro_rules! store_contract {
    ($(#[$attribute:meta])* $name:ident, $make:expr) => {
        #[cfg(test)]
        mod $name {
            use super::*;

            $crate::store_contract!(@tests [$(#[$attribute])*] $make,
                a_missing_key_is_an_answer,
                bytes_and_description_come_back,
                payloads_are_read_by_position,
                the_first_writer_wins_and_the_second_produces_nothing,
                a_failing_producer_stores_nothing,
                replacing_happens_only_on_request,
                readers_of_a_replaced_entry_finish,
                lists_are_by_prefix_and_sorted,
                keys_hold_anything,
                a_deleted_key_is_free,
                a_later_entry_is_not_deleted_for_an_earlier,
                a_held_entry_is_kept_or_read_to_its_end,
                a_quarantined_entry_frees_its_key,
                a_later_entry_is_not_quarantined_for_an_earlier,
                of_many_writers_one_wins,
                empty_and_large_payloads,
                it_says_what_it_is
            );
        }
    };
    (@tests $attributes:tt $make:expr, $($test:ident),+) => {
        $( $crate::store_contract!(@test $attributes $make, $test); )+
    };
    (@test [$(#[$attribute:meta])*] $make:expr, $test:ident) => {
        $(#[$attribute])*
        #[tokio::test(flavor = "multi_thread")]
        async fn $test() {
            let (store, _keep) = ($make)();
            $crate::testing::contract::$test(std::sync::Arc::new(store)).await;
        }
    };
}

type Store = Arc<dyn CacheStore>;

fn key(text: &str) -> CacheKey {
    CacheKey::new(text).unwrap()
}

fn bytes(content: &[u8]) -> Box<dyn ProducePayload> {
    let content = content.to_vec();
    produce_with(move |out| {
        // In uneven pieces, as packing does.
        for piece in content.chunks(70_001) {
            out.write_all(piece)?;
        }
        Ok(EntryFacts::opaque(Codec::Gzip).with_sizes(content.len() as u64, 3))
    })
}

fn entry(name: &str) -> NewEntry {
    NewEntry::new(key(name), SystemTime::now())
}

async fn put(store: &Store, name: &str, content: &[u8]) -> EntryMetadata {
    match store.put(entry(name), bytes(content)).await.unwrap() {
        PutOutcome::Stored(metadata) => metadata,
        other => panic!("{name}: {other:?}"),
    }
}

async fn content(store: &Store, name: &str) -> Vec<u8> {
    let entry = store.get(&key(name)).await.unwrap().unwrap();
    let mut content = Vec::new();
    entry.payload.reader().read_to_end(&mut content).unwrap();
    content
}

/// Nothing there is never an error.
pub async fn a_missing_key_is_an_answer(store: Store) {
    assert!(store.get(&key("k")).await.unwrap().is_none());
    assert!(store.head(&key("k")).await.unwrap().is_none());
    assert!(store.list("").await.unwrap().is_empty());
    assert_eq!(
        store.delete(&key("k")).await.unwrap(),
        DeleteOutcome::Absent
    );
}

/// What was put is what is got, nanoseconds of its time included.
pub async fn bytes_and_description_come_back(store: Store) {
    let context = KeyContext::new("/").with_branch("pull/7");
    let rendered: RenderedKey = KeyTemplate::parse("deps-{{ .Branch }}")
        .unwrap()
        .render(&context)
        .unwrap();
    let created = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
    let new = NewEntry::new(rendered, created)
        .with_paths(["venv", "/home/u/.cache"])
        .with_producer(Producer::default().with_build_number(7).with_job("test"));
    let PutOutcome::Stored(stored) = store.put(new, bytes(b"hello")).await.unwrap() else {
        panic!("not stored");
    };
    assert_eq!(stored.digest, Sha256Digest::of(b"hello"));
    assert_eq!(
        (stored.packed_size, stored.raw_size, stored.file_count),
        (5, 5, 3)
    );
    assert_eq!(content(&store, "deps-pull/7").await, b"hello");
    let got = store
        .get(&key("deps-pull/7"))
        .await
        .unwrap()
        .unwrap()
        .metadata;
    let head = store.head(&key("deps-pull/7")).await.unwrap().unwrap();
    let listed = store.list("deps").await.unwrap().remove(0);
    for mut found in [got, head, listed] {
        // Kept or not, as the store can.
        found.last_used = None;
        assert_eq!(
            found,
            EntryMetadata {
                last_used: None,
                ..stored.clone()
            }
        );
    }
    assert_eq!(stored.created, created);
    assert_eq!(stored.inputs[0].value, "pull/7");
}

/// Several threads may read one payload anywhere.
pub async fn payloads_are_read_by_position(store: Store) {
    let wanted: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    put(&store, "k", &wanted).await;
    let payload = store.get(&key("k")).await.unwrap().unwrap().payload;
    assert_eq!(payload.len(), wanted.len() as u64);
    std::thread::scope(|scope| {
        for at in [0, 1, 65_535, 131_072, 299_990] {
            let (payload, wanted) = (payload.clone(), &wanted);
            scope.spawn(move || {
                let mut piece = [0; 10];
                payload.read_exact_at(&mut piece, at as u64).unwrap();
                assert_eq!(piece, wanted[at..at + 10]);
            });
        }
    });
    assert!(
        payload
            .read_exact_at(&mut [0; 2], payload.len() - 1)
            .is_err()
    );
    assert_eq!(payload.read_at(&mut [0; 2], payload.len()).unwrap(), 0);
}

/// A key is written once.
pub async fn the_first_writer_wins_and_the_second_produces_nothing(store: Store) {
    let first = put(&store, "k", b"first").await;
    let called = Arc::new(AtomicBool::new(false));
    let note = Arc::clone(&called);
    let second = produce_with(move |_| {
        note.store(true, Ordering::Relaxed);
        Ok(EntryFacts::opaque(Codec::None))
    });
    match store.put(entry("k"), second).await.unwrap() {
        PutOutcome::Exists(existing) => assert_eq!(existing.digest, first.digest),
        other => panic!("{other:?}"),
    }
    assert!(!called.load(Ordering::Relaxed));
    assert_eq!(content(&store, "k").await, b"first");
}

/// An error of the producer comes back as it is, and the key stays free.
pub async fn a_failing_producer_stores_nothing(store: Store) {
    let failing = produce_with(|out| {
        out.write_all(&[7; 100_000])?;
        Err("the reason".into())
    });
    let error = store.put(entry("k"), failing).await.unwrap_err();
    let source = std::error::Error::source(&error).unwrap();
    assert_eq!(source.to_string(), "the reason");
    assert!(store.head(&key("k")).await.unwrap().is_none());
    assert!(store.list("").await.unwrap().is_empty());
    put(&store, "k", b"fine").await;
}

/// [`IfExists::Replace`] replaces.
pub async fn replacing_happens_only_on_request(store: Store) {
    put(&store, "k", b"old").await;
    let options = PutOptions::default().with_if_exists(IfExists::Replace);
    let outcome = store
        .put_opts(entry("k"), bytes(b"new"), options)
        .await
        .unwrap();
    assert!(matches!(outcome, PutOutcome::Stored(_)));
    assert_eq!(content(&store, "k").await, b"new");
    assert_eq!(store.list("").await.unwrap().len(), 1);
}

/// Whoever opened the old entry reads the old bytes.
pub async fn readers_of_a_replaced_entry_finish(store: Store) {
    put(&store, "k", &[1; 200_000]).await;
    let before = store.get(&key("k")).await.unwrap().unwrap();
    let options = PutOptions::default().with_if_exists(IfExists::Replace);
    store
        .put_opts(entry("k"), bytes(&[2; 10]), options)
        .await
        .unwrap();
    let mut old = Vec::new();
    before.payload.reader().read_to_end(&mut old).unwrap();
    assert!(old == vec![1; 200_000]);
}

/// A prefix is a text, not a folder.
pub async fn lists_are_by_prefix_and_sorted(store: Store) {
    for name in ["b/2", "a", "b/1", "b", "bb"] {
        put(&store, name, name.as_bytes()).await;
    }
    let names = async |prefix: &str| -> Vec<String> {
        let listed = store.list(prefix).await.unwrap();
        listed.into_iter().map(|entry| entry.key.into()).collect()
    };
    assert_eq!(names("").await, ["a", "b", "b/1", "b/2", "bb"]);
    assert_eq!(names("b").await, ["b", "b/1", "b/2", "bb"]);
    assert_eq!(names("b/").await, ["b/1", "b/2"]);
    assert!(names("c").await.is_empty());
}

/// Slashes, dots, spaces, any script, the full length; and keys that differ by one character.
pub async fn keys_hold_anything(store: Store) {
    let long = "é".repeat(900);
    let other = format!("{}f", "é".repeat(899));
    let names = [
        "../../etc/passwd",
        "/abs",
        ".",
        "a b",
        "A",
        "a",
        "ключ-🔑",
        "x\\y:*?",
        &long,
        &other,
    ];
    for name in names {
        put(&store, name, name.as_bytes()).await;
    }
    for name in names {
        assert_eq!(content(&store, name).await, name.as_bytes());
    }
    assert_eq!(store.list("").await.unwrap().len(), names.len());
}

/// Deleting makes room for another.
pub async fn a_deleted_key_is_free(store: Store) {
    put(&store, "k", b"old").await;
    assert_eq!(
        store.delete(&key("k")).await.unwrap(),
        DeleteOutcome::Deleted
    );
    assert!(store.get(&key("k")).await.unwrap().is_none());
    assert!(store.list("").await.unwrap().is_empty());
    put(&store, "k", b"new").await;
    assert_eq!(content(&store, "k").await, b"new");
}

/// An eviction takes what it planned to take, and nothing that was stored since.
pub async fn a_later_entry_is_not_deleted_for_an_earlier(store: Store) {
    let old = put(&store, "k", b"old").await;
    store.delete(&key("k")).await.unwrap();
    let new = put(&store, "k", b"new").await;
    assert_eq!(
        store.delete_entry(&old).await.unwrap(),
        DeleteOutcome::Absent
    );
    assert_eq!(content(&store, "k").await, b"new");
    assert_eq!(store.list_everything().await.unwrap().len(), 1);
    assert_eq!(
        store.delete_entry(&new).await.unwrap(),
        DeleteOutcome::Deleted
    );
    assert!(store.list_everything().await.unwrap().is_empty());
    assert_eq!(
        store.delete_entry(&new).await.unwrap(),
        DeleteOutcome::Absent
    );
}

/// A lease keeps the entry, or at least the reader undisturbed.
pub async fn a_held_entry_is_kept_or_read_to_its_end(store: Store) {
    put(&store, "k", &[9; 500_000]).await;
    let held = store.get(&key("k")).await.unwrap().unwrap();
    let outcome = store.delete(&key("k")).await.unwrap();
    assert!(matches!(
        outcome,
        DeleteOutcome::Leased | DeleteOutcome::Deleted
    ));
    let mut content = Vec::new();
    held.payload.reader().read_to_end(&mut content).unwrap();
    assert!(content == vec![9; 500_000]);
    drop(held);
    store.delete(&key("k")).await.unwrap();
    assert!(store.get(&key("k")).await.unwrap().is_none());
}

/// Damage never blocks a key.
pub async fn a_quarantined_entry_frees_its_key(store: Store) {
    let bad = put(&store, "k", b"bad").await;
    store
        .quarantine(&bad, "its digest does not fit")
        .await
        .unwrap();
    assert!(store.head(&key("k")).await.unwrap().is_none());
    put(&store, "k", b"good").await;
    assert_eq!(content(&store, "k").await, b"good");
    assert!(store.head(&key("k")).await.unwrap().is_some());
}

/// A slow reader's verdict must not hit what was stored meanwhile.
pub async fn a_later_entry_is_not_quarantined_for_an_earlier(store: Store) {
    let old = put(&store, "k", b"old").await;
    assert_eq!(
        store.delete(&key("k")).await.unwrap(),
        DeleteOutcome::Deleted
    );
    put(&store, "k", b"new").await;
    store.quarantine(&old, "too late").await.unwrap();
    assert!(store.head(&key("k")).await.unwrap().is_some());
    let options = GetOptions::default().with_record_use(RecordUse::No);
    assert!(store.get_opts(&key("k"), options).await.unwrap().is_some());
}

/// Readers of a key see one content.
pub async fn of_many_writers_one_wins(store: Store) {
    for round in 0..8 {
        let name = format!("k{round}");
        let writers: Vec<_> = (0..6_u8)
            .map(|writer| {
                let (store, name) = (Arc::clone(&store), name.clone());
                tokio::spawn(async move {
                    let content = vec![writer; 50_000];
                    store.put(entry(&name), bytes(&content)).await.unwrap()
                })
            })
            .collect();
        let (mut stored, mut seen) = (Vec::new(), Vec::new());
        for writer in writers {
            match writer.await.unwrap() {
                PutOutcome::Stored(metadata) => stored.push(metadata.digest),
                PutOutcome::Exists(metadata) => seen.push(metadata.digest),
            }
        }
        assert_eq!(stored.len(), 1);
        assert!(seen.iter().all(|digest| *digest == stored[0]));
        assert_eq!(Sha256Digest::of(&content(&store, &name).await), stored[0]);
    }
}

/// No length is special.
pub async fn empty_and_large_payloads(store: Store) {
    for (name, length) in [("empty", 0), ("one", 1), ("large", 3_000_001)] {
        let wanted: Vec<u8> = (0..length).map(|n: u32| (n >> 3) as u8).collect();
        put(&store, name, &wanted).await;
        assert!(content(&store, name).await == wanted, "{name}");
    }
}

/// Messages name the store.
pub async fn it_says_what_it_is(store: Store) {
    assert!(!store.to_string().is_empty());
    assert!(!format!("{store:?}").is_empty());
}
