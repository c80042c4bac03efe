//! What happens behind the calls: entries on their way to the far store.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::report::{DrainReport, Tier, TierProblem};
use super::tiered_store::TieredStore;
use crate::key::CacheKey;
use crate::store::copy::copy_of;
use crate::store::{
    GetOptions, IfExists, PutOptions, PutOutcome, RecordUse, StoreError, StoredEntry,
};

/// How many entries are on their way to the far store at once.
const WRITERS: usize = 2;

#[derive(Debug)]
pub(super) struct Behind {
    report: Mutex<DrainReport>,
    running: Mutex<Vec<(CacheKey, JoinHandle<()>)>>,
    turns: Semaphore,
}

impl Default for Behind {
    fn default() -> Self {
        Self {
            report: Mutex::default(),
            running: Mutex::default(),
            turns: Semaphore::new(WRITERS),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change under these locks is one push or take, so a panic leaves nothing half-done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TieredStore {
    /// Waits until everything that was saved is in the far store, or could not be brought there,
    /// and says what happened since the last drain.
    ///
    /// # Cancellation
    /// Dropping the future stops nothing, but the tasks it was waiting for are not waited for
    /// again; what they do is in the next report.
    pub async fn drain(&self) -> DrainReport {
        loop {
            let running = std::mem::take(&mut *lock(&self.behind.running));
            if running.is_empty() {
                return std::mem::take(&mut *lock(&self.behind.report));
            }
            for (_, task) in running {
                wait(task).await;
            }
        }
    }

    pub(super) fn note_stored(&self, key: CacheKey) {
        lock(&self.behind.report).stored.push(key);
    }

    pub(super) fn problem(&self, tier: Tier, action: &'static str, key: &str, error: StoreError) {
        let key = key.to_owned();
        lock(&self.behind.report).problems.push(TierProblem {
            tier,
            action,
            key,
            error,
        });
    }

    /// Starts bringing an entry from the near store to the far one.
    pub(super) fn send_behind(&self, key: &CacheKey, if_exists: IfExists) {
        let (store, moved) = (self.clone(), key.clone());
        let task = tokio::spawn(async move {
            // Never closed.
            let _turn = store.behind.turns.acquire().await;
            match store.send(&moved, if_exists).await {
                Ok(None) => {}
                Ok(Some(PutOutcome::Stored(_))) => store.note_stored(moved),
                Ok(Some(PutOutcome::Exists(_))) => lock(&store.behind.report).kept.push(moved),
                Err(error) => store.problem(Tier::Far, "store", moved.as_str(), error),
            }
        });
        let mut running = lock(&self.behind.running);
        running.retain(|(_, task)| !task.is_finished());
        running.push((key.clone(), task));
    }

    /// What became of bringing an entry to the far store; `None` when it is not near any more.
    async fn send(
        &self,
        key: &CacheKey,
        if_exists: IfExists,
    ) -> Result<Option<PutOutcome>, StoreError> {
        let look = GetOptions::default().with_record_use(RecordUse::No);
        let Some(entry) = self.near.get_opts(key, look).await? else {
            // Evicted or replaced meanwhile: whoever did that decides.
            return Ok(None);
        };
        #[cfg(feature = "chunked")]
        if entry.metadata.codec == crate::store::Codec::Chunked {
            return self.send_with_parts(entry, if_exists).await.map(Some);
        }
        self.copy_far(entry, if_exists).await.map(Some)
    }

    pub(super) async fn copy_far(
        &self,
        entry: StoredEntry,
        if_exists: IfExists,
    ) -> Result<PutOutcome, StoreError> {
        let (new, payload) = copy_of(entry);
        let options = PutOptions::default().with_if_exists(if_exists);
        self.far.put_opts(new, payload, options).await
    }

    /// Waits for what is under way for one key, so that it cannot come back afterwards.
    pub(super) async fn settle(&self, key: &CacheKey) {
        let waiting: Vec<_> = lock(&self.behind.running)
            .extract_if(.., |(moved, _)| moved == key)
            .collect();
        for (_, task) in waiting {
            wait(task).await;
        }
    }
}

async fn wait(task: JoinHandle<()>) {
    if let Err(error) = task.await
        && let Ok(panic) = error.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }
}
