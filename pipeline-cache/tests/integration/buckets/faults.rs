use std::io::Read as _;
use std::time::{Duration, SystemTime};

use pipeline_cache::cache::Cache;
use pipeline_cache::key::CacheKey;
use pipeline_cache::store::{
    BucketOptions, BucketStore, CacheStore as _, CacheStoreExt as _, Codec, EntryFacts, NewEntry,
    ProducePayload, PutOutcome, StoreError, StoreErrorKind, produce_with,
};
use pipeline_core::Outcome;

use super::proxy::{Fault, Proxy};
use super::server::{address, new_bucket, objects, open, s3, uploads};
use crate::steps;
use crate::trees::noise;

const PART: usize = 5 * 1024 * 1024;

/// Waits as long as a busy machine needs to answer.
fn patient() -> BucketOptions {
    let seconds = Duration::from_secs;
    BucketOptions::default()
        .with_timeouts(seconds(20), seconds(20), seconds(40))
        .with_budgets(seconds(60), seconds(100))
        .with_retries(2)
        .with_pause(Duration::ZERO)
        .with_parts(PART, 2)
}

/// Patience that a test can wait for where no answer comes.
fn hasty() -> BucketOptions {
    let seconds = Duration::from_secs;
    patient()
        .with_timeouts(seconds(1), seconds(1), seconds(3))
        .with_budgets(seconds(5), seconds(20))
}

fn key(text: &str) -> CacheKey {
    CacheKey::new(text).unwrap()
}

fn bytes(content: &[u8]) -> Box<dyn ProducePayload> {
    let content = content.to_vec();
    produce_with(move |out| {
        out.write_all(&content)?;
        Ok(EntryFacts::opaque(Codec::None))
    })
}

async fn put(store: &BucketStore, name: &str, content: &[u8]) -> Result<PutOutcome, StoreError> {
    let entry = NewEntry::new(key(name), SystemTime::now());
    store.put(entry, bytes(content)).await
}

async fn get(store: &BucketStore, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
    Ok(store.get(&key(name)).await?.map(|entry| {
        let mut content = Vec::new();
        entry.payload.reader().read_to_end(&mut content).unwrap();
        content
    }))
}

/// Small, and in several parts.
fn contents() -> [Vec<u8>; 2] {
    [noise(70_000, 1), noise(2 * PART + 1000, 2)]
}

/// A test that waits for ever says nothing.
async fn at_last<T>(work: impl Future<Output = T>) -> T {
    let result = tokio::time::timeout(Duration::from_secs(120), work).await;
    result.unwrap_or_else(|_| panic!("the budget was not kept"))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs moto server"]
async fn what_passes_is_mended_by_sending_again() {
    let proxy = Proxy::start(address()).await;
    for fault in [
        Fault::Late(Duration::from_millis(300)),
        Fault::Status(500),
        Fault::Status(503),
        Fault::CutRequest(0),
        Fault::LoseAnswer,
        Fault::CutAnswer(0),
        Fault::CutAnswer(500),
        Fault::FlipBit,
    ] {
        for (index, content) in contents().into_iter().enumerate() {
            let bucket = new_bucket();
            let store = BucketStore::s3(&s3(&bucket, proxy.address()), patient()).unwrap();
            // An upload: not the requests whose repetition the client refuses.
            if matches!(fault, Fault::Late(_) | Fault::Status(_)) {
                proxy.fault("PUT", "entries/", 2, fault);
            }
            let stored = at_last(put(&store, "k", &content)).await;
            assert!(
                matches!(stored, Ok(PutOutcome::Stored(_))),
                "{fault:?} {index}: {stored:?}"
            );
            proxy.heal();
            proxy.fault("GET", ".tar", 1, fault);
            let got = at_last(get(&store, "k")).await;
            assert!(
                got.as_ref().is_ok_and(|got| got.as_ref() == Some(&content)),
                "{fault:?} {index}: {:?}",
                got.map(|got| got.map(|got| got.len()))
            );
            proxy.heal();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs moto server"]
async fn a_description_whose_answer_was_lost_is_ours() {
    let bucket = new_bucket();
    let proxy = Proxy::start(address()).await;
    let store = BucketStore::s3(&s3(&bucket, proxy.address()), patient()).unwrap();
    for (name, times) in [("once", 1), ("always", 3)] {
        proxy.fault("PUT", ".json", times, Fault::LoseAnswer);
        let stored = at_last(put(&store, name, b"content")).await;
        assert!(matches!(stored, Ok(PutOutcome::Stored(_))), "{stored:?}");
        proxy.heal();
        assert_eq!(get(&store, name).await.unwrap().unwrap(), b"content");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs moto server"]
async fn what_lasts_is_unavailable_within_the_budget_and_leaves_nothing() {
    let proxy = Proxy::start(address()).await;
    let all = usize::MAX;
    for fault in [
        Fault::Status(500),
        Fault::Status(503),
        Fault::CutRequest(0),
        Fault::CutRequest(1000),
        Fault::LoseAnswer,
        Fault::CutAnswer(0),
        Fault::CutAnswer(10),
        Fault::Drip(Duration::from_millis(200)),
        Fault::Stall,
    ] {
        let bucket = new_bucket();
        let direct = open(&bucket, patient());
        let content = noise(2 * PART + 1000, 3);
        put(&direct, "there", &content).await.unwrap();
        let options = match fault {
            Fault::Drip(_) | Fault::Stall => hasty(),
            _ => patient(),
        };
        let store = BucketStore::s3(&s3(&bucket, proxy.address()), options).unwrap();

        // Everything.
        proxy.fault("", "", all, fault);
        for (what, error) in [
            ("get", at_last(get(&store, "there")).await.map(drop)),
            ("head", at_last(store.head(&key("there"))).await.map(drop)),
            ("list", at_last(store.list("")).await.map(drop)),
            ("put", at_last(put(&store, "new", b"x")).await.map(drop)),
            (
                "delete",
                at_last(store.delete(&key("there"))).await.map(drop),
            ),
        ] {
            // A slow list, or one answer after the other, may be in time.
            if let Err(error) = error {
                assert_eq!(
                    error.kind(),
                    StoreErrorKind::Unavailable,
                    "{what} {fault:?}"
                );
            } else {
                assert!(
                    matches!(fault, Fault::Drip(_) | Fault::CutRequest(_)),
                    "{what} {fault:?}"
                );
            }
        }
        proxy.heal();

        // Only payloads, in the middle of them.
        let before = objects(&bucket);
        proxy.fault("GET", ".tar", all, fault);
        let got = at_last(get(&store, "there")).await;
        match got {
            Ok(got) => assert!(got.is_none_or(|got| got == content), "{fault:?}"),
            Err(error) => assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{fault:?}"),
        }
        proxy.fault("PUT", "partNumber=2", all, fault);
        let stored = at_last(put(&store, "new", &content)).await;
        proxy.heal();
        if let Err(error) = &stored {
            assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{fault:?}");
            assert!(direct.head(&key("new")).await.unwrap().is_none());
            assert_eq!(objects(&bucket), before, "{fault:?}");
        }
        assert_eq!(uploads(&bucket), Vec::<String>::new(), "{fault:?}");
        assert!(direct.get(&key("there")).await.is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs moto server"]
async fn bits_that_flip_on_the_way_are_never_handed_out() {
    let bucket = new_bucket();
    let proxy = Proxy::start(address()).await;
    let store = BucketStore::s3(&s3(&bucket, proxy.address()), patient()).unwrap();
    for (index, content) in contents().into_iter().enumerate() {
        let name = format!("k{index}");
        put(&store, &name, &content).await.unwrap();
        proxy.fault("GET", ".tar", usize::MAX, Fault::FlipBit);
        let error = at_last(get(&store, &name)).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Damaged);
        proxy.heal();
        assert_eq!(get(&store, &name).await.unwrap().unwrap(), content);
    }
    // Descriptions have a seal.
    proxy.fault("GET", ".json", usize::MAX, Fault::FlipBit);
    let error = at_last(get(&store, "k0")).await;
    assert!(
        !matches!(&error, Ok(Some(got)) if *got != contents()[0]),
        "wrong bytes"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_not_there_costs_little_and_fails_no_run() {
    // A port that nobody listens on, as far as one can know.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = listener.local_addr().unwrap().to_string();
    drop(listener);
    let options = BucketOptions::default();
    let store = BucketStore::s3(&s3("bucket", &closed), options.clone()).unwrap();
    let error = at_last(store.get(&key("k"))).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(error.is_retryable());
    // Having waited once is enough.
    let error = store.list("k").await.unwrap_err();
    let chain = pipeline_core::error_chain(&error);
    assert!(chain.contains("it was unavailable"), "{chain}");

    let dir = tempfile::tempdir().unwrap();
    let store = BucketStore::s3(&s3("bucket", &closed), options).unwrap();
    let pipeline = steps::pipeline(&Cache::new(store), "Django==3.0", &["venv"]);
    let (report, events) = at_last(steps::run(dir.path(), &pipeline)).await;
    assert_eq!(report.outcome, Outcome::Succeeded, "{report:#?}");
    assert!(
        report
            .warnings
            .iter()
            .any(|warning| warning.contains("cache unavailable, going on without")),
        "{:?}",
        report.warnings
    );
    assert_eq!(events.fact("cache.skipped").unwrap()["reason"], "failed");
}
