use std::io::Read as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use pipeline_cache::cache::{Cache, RestoreOptions, Restored, SaveOptions, Saved};
use pipeline_cache::key::CacheKey;
use pipeline_cache::store::{
    BucketOptions, CacheStore as _, CacheStoreExt as _, Codec, EntryFacts, FilesystemStore,
    NewEntry, ProducePayload, PutOutcome, Sha256Digest, TieredStore, produce_with,
};
use pipeline_cache::store_contract;

use super::proxy::Proxy;
use super::server::{new_bucket, objects, open, request, s3, uploads};
use crate::noise::noise;
use crate::trees::{describe, many};

const PART: usize = 5 * 1024 * 1024;

fn options() -> BucketOptions {
    BucketOptions::default().with_prefix("team/cache")
}

store_contract!(
    #[ignore = "needs moto server"]
    bucket,
    || (open(&new_bucket(), options()), ())
);
store_contract!(
    #[ignore = "needs moto server"]
    folder_in_front_of_bucket,
    || {
        let dir = tempfile::tempdir().unwrap();
        let near = FilesystemStore::new(dir.path().join("near"));
        (TieredStore::new(near, open(&new_bucket(), options())), dir)
    }
);

fn key(text: &str) -> CacheKey {
    CacheKey::new(text).unwrap()
}

fn entry(name: &str) -> NewEntry {
    NewEntry::new(key(name), SystemTime::now())
}

fn bytes(content: Vec<u8>) -> Box<dyn ProducePayload> {
    produce_with(move |out| {
        out.write_all(&content)?;
        Ok(EntryFacts::opaque(Codec::None))
    })
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs moto server"]
async fn large_payloads_go_in_parts_and_come_back_in_ranges() {
    let (bucket, spool) = (new_bucket(), tempfile::tempdir().unwrap());
    let options = options()
        .with_parts(PART, 2)
        .with_spool_folder(spool.path());
    let store = open(&bucket, options);
    for length in [PART, PART + 1, 4 * PART + 12_345] {
        let name = format!("k{length}");
        let content = noise(length, length as u64);
        let wanted = Sha256Digest::of(&content);
        let outcome = store.put(entry(&name), bytes(content)).await.unwrap();
        assert!(matches!(outcome, PutOutcome::Stored(_)), "{outcome:?}");
        let found = store.get(&key(&name)).await.unwrap().unwrap();
        let mut content = Vec::new();
        found.payload.reader().read_to_end(&mut content).unwrap();
        assert_eq!(content.len(), length);
        assert_eq!(Sha256Digest::of(&content), wanted);
        // Spooled without a name.
        assert_eq!(spool.path().read_dir().unwrap().count(), 0);
    }
    assert_eq!(uploads(&bucket), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs moto server"]
async fn an_upload_that_is_not_finished_is_taken_back() {
    let bucket = new_bucket();
    let store = open(&bucket, options().with_parts(PART, 2));
    let failing = produce_with(move |out| {
        out.write_all(&vec![1; 3 * PART])?;
        Err("the producer failed".into())
    });
    let error = store.put(entry("k"), failing).await.unwrap_err();
    let source = std::error::Error::source(&error).unwrap();
    assert_eq!(source.to_string(), "the producer failed");
    assert_eq!(uploads(&bucket), Vec::<String>::new());

    // Nobody waits any more, in the middle of it.
    let (started, middle) = tokio::sync::oneshot::channel();
    let endless = produce_with(move |out| {
        out.write_all(&vec![1; 4 * PART])?;
        let _ = started.send(());
        loop {
            out.write_all(&[1; 65_536])?;
        }
    });
    let putting = tokio::spawn({
        let store = store.clone();
        async move { store.put(entry("k"), endless).await.map(drop) }
    });
    middle.await.unwrap();
    assert_eq!(uploads(&bucket).len(), 1);
    putting.abort();
    assert!(putting.await.unwrap_err().is_cancelled());
    // A task takes it back; each round asks the server.
    for round in 0.. {
        if uploads(&bucket).is_empty() {
            break;
        }
        assert!(round < 2000, "the upload is still there");
        tokio::task::yield_now().await;
    }
    assert_eq!(objects(&bucket), Vec::<String>::new());
    assert!(store.list("").await.unwrap().is_empty());
}

/// Copies the files of a store folder into a bucket.
fn copy_up(folder: &Path, bucket: &str) {
    for file in folder.join("entries").read_dir().unwrap() {
        let file = file.unwrap();
        let name = file.file_name().into_string().unwrap();
        let content = std::fs::read(file.path()).unwrap();
        request(
            "PUT",
            &format!("/{bucket}/team/cache/entries/{name}"),
            &content,
        );
    }
}

fn copy_down(bucket: &str, folder: &Path) {
    std::fs::create_dir_all(folder.join("entries")).unwrap();
    for name in objects(bucket) {
        if let Some(file) = name.strip_prefix("team/cache/entries/") {
            let (_, content) = request("GET", &format!("/{bucket}/{name}"), b"");
            std::fs::write(folder.join("entries").join(file), content).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs moto server"]
async fn a_folder_copied_into_a_bucket_is_a_store_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    many(&work.join("tree"), 50);
    let wanted = describe(&work);
    let folder = FilesystemStore::new(dir.path().join("laptop"));
    let save = |cache: Cache, name: &'static str| {
        let options = SaveOptions::in_folder(&work);
        async move { cache.save(key(name), ["tree"], options).await.unwrap() }
    };
    let restore = |cache: Cache, name: &'static str| {
        let out = dir.path().join(format!("out-{name}"));
        let mut options = RestoreOptions::default();
        options.unpack = options.unpack.with_into(&out);
        async move {
            let restored = cache.restore([key(name)], options).await.unwrap();
            assert!(matches!(restored, Restored::Exact(_)), "{restored:?}");
            describe(&out)
        }
    };
    save(Cache::new(folder.clone()), "laptop").await;
    let bucket = new_bucket();
    copy_up(folder.folder(), &bucket);
    let store = open(&bucket, options());
    assert_eq!(restore(Cache::new(store.clone()), "laptop").await, wanted);
    assert!(matches!(
        save(Cache::new(store.clone()), "laptop").await,
        Saved::Exists(_)
    ));
    save(Cache::new(store), "ci").await;

    let down = FilesystemStore::new(dir.path().join("down"));
    copy_down(&bucket, down.folder());
    assert!(down.verify(None).await.unwrap().is_empty());
    let keys: Vec<String> = down
        .list("")
        .await
        .unwrap()
        .into_iter()
        .map(|entry| entry.key.into())
        .collect();
    assert_eq!(keys, ["ci", "laptop"]);
    assert_eq!(restore(Cache::new(down), "ci").await, wanted);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs moto server"]
async fn a_list_asks_for_each_description_once() {
    let bucket = new_bucket();
    let store = open(&bucket, options());
    for index in 0..40 {
        let put = store.put(entry(&format!("k{index}")), bytes(vec![7; 9]));
        put.await.unwrap();
    }
    let proxy = Proxy::start(super::server::address()).await;
    let open = || {
        let s3 = s3(&bucket, proxy.address());
        pipeline_cache::store::BucketStore::s3(&s3, options()).unwrap()
    };
    let first = open();
    assert_eq!(first.list("").await.unwrap().len(), 40);
    // The listing, no index yet, 40 descriptions, and the index is written.
    assert_eq!(proxy.take_log().len(), 43);
    assert_eq!(first.list("k1").await.unwrap().len(), 11);
    assert_eq!(proxy.take_log().len(), 1);
    // Another machine.
    assert_eq!(open().list("").await.unwrap().len(), 40);
    assert_eq!(proxy.take_log().len(), 2);

    // What changed is read anew; an index that is damaged only costs requests.
    store.delete(&key("k0")).await.unwrap();
    let put = store.put(entry("k1x"), bytes(vec![8; 3]));
    put.await.unwrap();
    let listed = open().list("k1").await.unwrap();
    assert_eq!(listed.len(), 12);
    assert_eq!(proxy.take_log().len(), 3);
    request(
        "PUT",
        &format!("/{bucket}/team/cache/index.json"),
        b"{\"for",
    );
    assert_eq!(open().list("").await.unwrap().len(), 40);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs moto server"]
async fn uses_are_noted_and_leftovers_are_swept() {
    let bucket = new_bucket();
    let store = open(&bucket, options().with_orphan_age(Duration::ZERO));
    let mut kept = store.put(entry("kept"), bytes(vec![1; 100])).await.unwrap();
    let PutOutcome::Stored(metadata) = &mut kept else {
        panic!("{kept:?}");
    };
    let before = store.list("").await.unwrap()[0].last_used;
    assert!(before.is_some());
    store.get(&key("kept")).await.unwrap().unwrap();
    assert!(store.list("").await.unwrap()[0].last_used >= before);
    assert_eq!(objects(&bucket).len(), 3);

    // What a writer leaves that is killed between payload and description, and its notes.
    let stray = |name: &str| {
        format!(
            "team/cache/entries/{}",
            metadata.payload.replace(&metadata.payload[..8], name)
        )
    };
    for name in ["0000aaaa", "0000bbbb"] {
        request("PUT", &format!("/{bucket}/{}", stray(name)), b"12345");
    }
    let patient = open(&bucket, options());
    assert_eq!(patient.sweep().await.unwrap().files, 0);
    let report = store.sweep().await.unwrap();
    assert_eq!((report.files, report.bytes), (2, 10));
    assert!(store.get(&key("kept")).await.unwrap().is_some());
    assert!(!objects(&bucket).contains(&stray("0000aaaa")));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs moto server"]
async fn damage_at_rest_is_told_and_the_next_save_replaces_it() {
    let bucket = new_bucket();
    let store = open(&bucket, options());
    let PutOutcome::Stored(metadata) = store.put(entry("k"), bytes(vec![5; 1000])).await.unwrap()
    else {
        panic!("not stored");
    };
    let object = format!("/{bucket}/team/cache/entries/{}", metadata.payload);
    for damaged in [vec![6; 1000], vec![5; 999]] {
        request("PUT", &object, &damaged);
        let error = store.get(&key("k")).await.unwrap_err();
        assert!(error.to_string().contains("damaged payload"), "{error}");
        assert!(store.head(&key("k")).await.unwrap().is_none());
    }
    let again = store.put(entry("k"), bytes(vec![5; 1000])).await.unwrap();
    assert!(matches!(again, PutOutcome::Stored(_)), "{again:?}");
    assert!(store.get(&key("k")).await.unwrap().is_some());
    assert!(
        !objects(&bucket)
            .iter()
            .any(|name| name.ends_with(&metadata.payload))
    );

    // A description that is not one.
    let description = objects(&bucket)
        .into_iter()
        .find(|name| name.ends_with(".json"))
        .unwrap();
    request("PUT", &format!("/{bucket}/{description}"), b"{}");
    assert!(store.list("").await.unwrap().is_empty());
    let error = store.get(&key("k")).await.unwrap_err();
    assert!(error.to_string().contains("damaged description"), "{error}");
    let healed = store.put(entry("k"), bytes(vec![9; 10])).await.unwrap();
    assert!(matches!(healed, PutOutcome::Stored(_)), "{healed:?}");
    assert_eq!(store.list("").await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs moto server"]
async fn a_bucket_that_does_not_exist_is_an_error_and_not_a_miss_for_ever() {
    let store = open("no-such-bucket", options());
    let error = store.list("").await.unwrap_err();
    assert!(
        pipeline_core::error_chain(&error).contains("NoSuchBucket"),
        "{error:?}"
    );
}
