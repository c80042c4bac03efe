//! The contract over the client's own memory: what needs no service.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use object_store::memory::InMemory;
use object_store::throttle::{ThrottleConfig, ThrottledStore};

use super::{BucketOptions, BucketStore};
use crate::key::CacheKey;
use crate::store::{
    CacheStore as _, CacheStoreExt as _, Codec, EntryFacts, NewEntry, StoreErrorKind, produce_with,
};
use crate::store_contract;

store_contract!(bucket_in_memory, || {
    let options = BucketOptions::default().with_prefix("team/cache");
    let store = BucketStore::over(Arc::new(InMemory::new()), "memory://", options);
    (store.unwrap(), ())
});

/// Each process is a new one and has less time than reading all descriptions takes.
#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_does_not_end_in_time_gets_further_each_time() {
    let inner = Arc::new(InMemory::new());
    let quick = BucketStore::over(inner.clone(), "memory://", BucketOptions::default()).unwrap();
    for number in 0..300 {
        let key = CacheKey::new(format!("k{number}")).unwrap();
        let payload = produce_with(|_| Ok(EntryFacts::opaque(Codec::None)));
        let entry = NewEntry::new(key, SystemTime::now());
        quick.put(entry, payload).await.unwrap();
    }
    let slow = ThrottleConfig {
        wait_get_per_call: Duration::from_millis(200),
        ..ThrottleConfig::default()
    };
    let slow = Arc::new(ThrottledStore::new(inner, slow));
    let budget = Duration::from_secs(2);
    let options = BucketOptions::default().with_budgets(budget, budget);
    let first = CacheKey::new("k0").unwrap();
    let mut failures = 0;
    let found = loop {
        let process = BucketStore::over(slow.clone(), "memory://", options.clone()).unwrap();
        match process.list("").await {
            Ok(found) => break found,
            Err(error) => assert_eq!(error.kind(), StoreErrorKind::Unavailable),
        }
        // The service answered, so nobody stays away from it.
        assert!(process.head(&first).await.unwrap().is_some());
        failures += 1;
        assert!(failures < 100, "no listing ever ended");
    };
    assert_eq!(found.len(), 300);
    assert!(failures > 0, "there was time for all of it");
}
