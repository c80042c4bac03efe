//! Entries that somebody vouches for.

use std::sync::Arc;
use std::time::SystemTime;

use pipeline_cache::cache::{Cache, RestoreOptions, Restored, SaveOptions, Saved};
use pipeline_cache::store::{
    CacheStore, CacheStoreExt as _, Codec, EntryMetadata, FilesystemStore, MemoryStore, NewEntry,
    PublicKey, PutOutcome, ReadOnlyStore, SignatureError, SignedStore, SigningKey, StoreError,
    StoreErrorKind, TieredStore,
};
use pipeline_cache::store_contract;
use pipeline_cache::testing::{Lie, LyingStore};
use pipeline_core::{Secret, error_chain};

use crate::trees::{describe, many};
use crate::wrappers::{bytes, content, key, put};

/// Another key for each letter.
pub(crate) fn signing(letter: char) -> SigningKey {
    let text = format!("{}=", letter.to_string().repeat(43));
    // The last character holds two bits that must be zero.
    let text = format!("{}A=", &text[..42]);
    SigningKey::from_secret(&Secret::new(text)).unwrap()
}

fn reader(inner: &MemoryStore, trusted: &[PublicKey]) -> SignedStore {
    SignedStore::new(inner.clone(), trusted.iter().copied())
}

fn writer(inner: &MemoryStore, letter: char) -> SignedStore {
    reader(inner, &[]).with_signing_key(signing(letter))
}

store_contract!(signed_memory, || (writer(&MemoryStore::new(), 'a'), ()));
store_contract!(signed_folder_in_front_of_memory, || {
    let dir = tempfile::tempdir().unwrap();
    let near = FilesystemStore::new(dir.path().join("near"));
    let tiered = TieredStore::new(near, MemoryStore::new());
    let store = SignedStore::new(tiered, []).with_signing_key(signing('a'));
    (store, dir)
});

async fn why_not(store: &SignedStore, name: &str) -> SignatureError {
    match store.get(&key(name)).await {
        Err(StoreError::Untrusted { source, .. }) => {
            source.downcast_ref::<SignatureError>().unwrap().clone()
        }
        other => panic!("{name}: {other:?}"),
    }
}

#[tokio::test]
async fn only_entries_of_trusted_signers_are_used() {
    let inner = MemoryStore::new();
    put(&inner, "unsigned", b"x").await;
    put(&writer(&inner, 'a'), "by-a", b"x").await;
    put(&writer(&inner, 'b'), "by-b", b"x").await;
    let (a, b) = (signing('a').public_key(), signing('b').public_key());

    let store = reader(&inner, &[a]);
    assert_eq!(store.to_string(), "signed(memory)");
    assert!(store.get(&key("by-a")).await.unwrap().is_some());
    assert_eq!(why_not(&store, "unsigned").await, SignatureError::Missing);
    let public_key = b.to_string();
    assert_eq!(
        why_not(&store, "by-b").await,
        SignatureError::UnknownSigner { public_key }
    );
    assert!(store.head(&key("by-b")).await.unwrap().is_none());

    // While keys change, both are trusted.
    let both = reader(&inner, &[a, b]);
    assert!(both.get(&key("by-a")).await.unwrap().is_some());
    assert!(both.get(&key("by-b")).await.unwrap().is_some());

    // Without a key nothing is stored; with one the untrusted is replaced.
    let entry = NewEntry::new(key("unsigned"), SystemTime::now());
    let error = store.put(entry, bytes(b"y")).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Permission);
    assert!(matches!(
        put(&writer(&inner, 'a'), "unsigned", b"signed").await,
        PutOutcome::Stored(_)
    ));
    let entry = store.get(&key("unsigned")).await.unwrap().unwrap();
    assert_eq!(content(&entry), b"signed");
}

/// Hands out entries with something in their descriptions changed.
fn forger(inner: &MemoryStore, change: fn(&mut EntryMetadata)) -> LyingStore {
    LyingStore::changing(Arc::new(inner.clone()), move |mut entry| {
        change(&mut entry.metadata);
        entry
    })
}

#[tokio::test]
async fn nothing_that_a_description_says_can_be_changed() {
    use pipeline_cache::store::Sha256Digest;
    let inner = MemoryStore::new();
    put(&writer(&inner, 'a'), "k", b"x").await;
    let trusted = signing('a').public_key();
    let changes: [fn(&mut EntryMetadata); 12] = [
        |entry| entry.key = key("other"),
        |entry| entry.template.push('x'),
        |entry| entry.paths.push("/etc".to_owned()),
        |entry| entry.codec = Codec::Zstd,
        |entry| entry.raw_size += 1,
        |entry| entry.packed_size += 1,
        |entry| entry.file_count += 1,
        |entry| entry.digest = Sha256Digest::of(b"y"),
        |entry| entry.index_digest = Some(Sha256Digest::of(b"y")),
        |entry| entry.producer.build_number = Some(9),
        |entry| entry.created += std::time::Duration::from_nanos(1),
        |entry| {
            let signature = entry.signature.as_mut().unwrap();
            let first = if signature.signature.starts_with('A') {
                "B"
            } else {
                "A"
            };
            signature.signature.replace_range(0..1, first);
        },
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let store = SignedStore::new(forger(&inner, change), [trusted]);
        let why = why_not(&store, "k").await;
        assert!(
            matches!(why, SignatureError::Wrong { .. }),
            "change {index}: {why:?}"
        );
    }
    let harmless: [fn(&mut EntryMetadata); 2] = [
        |entry| entry.payload.push('x'),
        |entry| entry.last_used = Some(SystemTime::now()),
    ];
    for change in harmless {
        let store = SignedStore::new(forger(&inner, change), [trusted]);
        assert!(store.get(&key("k")).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn an_untrusted_entry_is_a_miss_that_says_why_and_lies_are_found_below() {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    many(&work.join("tree"), 5);
    let inner = MemoryStore::new();
    let save = |cache: Cache| {
        let options = SaveOptions::in_folder(&work);
        async move { cache.save(key("k"), ["tree"], options).await.unwrap() }
    };
    let restore = |store: SignedStore| {
        let mut options = RestoreOptions::default();
        options.unpack = options.unpack.with_into(dir.path().join("out"));
        async move {
            Cache::new(store)
                .restore([key("k")], options)
                .await
                .unwrap()
        }
    };
    save(Cache::new(inner.clone())).await;
    let Restored::Miss(miss) = restore(writer(&inner, 'a')).await else {
        panic!("restored what nobody signed");
    };
    let why = error_chain(&miss.rejected[0].error);
    assert!(why.contains("k: not trusted"), "{why}");
    assert!(why.contains("is not signed"), "{why}");
    assert!(!dir.path().join("out").exists());

    // The next save mends it.
    let saved = save(Cache::new(writer(&inner, 'a'))).await;
    assert!(matches!(saved, Saved::Stored(_)));
    let lying: Arc<dyn CacheStore> = Arc::new(inner.clone());
    for lie in [Lie::WrongByte(100), Lie::TooShort(1)] {
        let lying = ReadOnlyStore::new(LyingStore::new(Arc::clone(&lying), lie));
        let store = SignedStore::new(lying, [signing('a').public_key()]);
        assert!(matches!(restore(store).await, Restored::Miss(_)), "{lie:?}");
        assert!(!dir.path().join("out").exists());
    }
    assert!(matches!(
        restore(writer(&inner, 'a')).await,
        Restored::Exact(_)
    ));
    assert_eq!(describe(&dir.path().join("out")), describe(&work));
}
