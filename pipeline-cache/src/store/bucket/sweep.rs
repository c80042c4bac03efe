use std::collections::HashSet;
use std::time::SystemTime;

use bytes::Bytes;

use super::bucket_store::{BucketStore, entry_object};
use super::listing::Inventory;
use crate::store::filesystem::layout::{FileKind, classify, stem};
use crate::store::{StoreError, SweepReport};

/// Written to learn what time it is at the service, whose clock stamps the objects.
const CLOCK: &str = "clock/now";

impl BucketStore {
    /// Removes payloads and notes that belong to no entry and are older than
    /// [`BucketOptions::orphan_age`](super::BucketOptions::orphan_age): what killed writers left.
    /// Ages are by the service's clock.
    ///
    /// # Errors
    /// The service is unavailable or refuses.
    ///
    /// # Cancellation
    /// What was removed stays removed.
    pub async fn sweep(&self) -> Result<SweepReport, StoreError> {
        let budget = self.options.transfer_budget;
        let look = async {
            self.objects.write(CLOCK, Bytes::new()).await?;
            let clock = self.objects.list("clock").await?;
            let now = clock.iter().map(|object| object.modified).max();
            // What appears from here on is younger than the clock.
            Ok((now, self.inventory(budget / 2).await?))
        };
        let (now, inventory) = self.objects.within("sweep", budget, look).await?;
        let inventory = self.complete(inventory).await?;
        let Some(now) = now else {
            return Ok(SweepReport::default());
        };
        let sweep = self.sweep_of(&inventory, now);
        self.objects.within("sweep", budget, sweep).await
    }

    async fn sweep_of(
        &self,
        inventory: &Inventory,
        now: SystemTime,
    ) -> Result<SweepReport, StoreError> {
        let mut report = SweepReport::default();
        let named: HashSet<&str> = inventory
            .entries
            .iter()
            .map(|entry| entry.payload.as_str())
            .collect();
        let mut described: HashSet<String> = inventory
            .entries
            .iter()
            .map(|entry| stem(&entry.key))
            .collect();
        // A damaged description still owns whatever it named; saving replaces it.
        let damaged: HashSet<&str> = inventory.damaged.iter().map(String::as_str).collect();
        described.extend(inventory.damaged.iter().cloned());
        for object in &inventory.objects {
            let left_over = match classify(&object.name) {
                FileKind::Payload { stem } => {
                    !named.contains(object.name.as_str()) && !damaged.contains(stem)
                }
                FileKind::Quarantine { stem } => !described.contains(stem),
                FileKind::Description { .. } => false,
                FileKind::Foreign => object
                    .name
                    .strip_suffix(".used")
                    .is_some_and(|stem| !described.contains(stem)),
            };
            let old = now
                .duration_since(object.modified)
                .is_ok_and(|age| age >= self.options.orphan_age);
            if left_over && old {
                self.objects.remove(&entry_object(&object.name)).await?;
                report.files += 1;
                report.bytes += object.size;
            }
        }
        Ok(report)
    }
}
