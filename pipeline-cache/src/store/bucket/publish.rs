use super::bucket_store::{
    BucketStore, description_object, entry_object, names_own_payload, quarantine_object,
};
use super::objects::Written;
use crate::store::{
    EntryMetadata, IfExists, NewEntry, ProducePayload, PutOptions, PutOutcome, StoreError,
};

/// How often a description may change hands while it is being replaced.
const MAX_ROUNDS: usize = 8;

impl BucketStore {
    /// Stores an entry: payload first, description last.
    pub(super) async fn publish(
        &self,
        entry: NewEntry,
        payload: Box<dyn ProducePayload>,
        options: &PutOptions,
    ) -> Result<PutOutcome, StoreError> {
        let key = entry.key.key().clone();
        let (budget, transfer) = (self.options.budget, self.options.transfer_budget);
        if options.if_exists == IfExists::Keep {
            let look = self.servable(&key);
            if let Some(existing) = self.objects.within(key.as_str(), budget, look).await? {
                return Ok(PutOutcome::Exists(existing));
            }
        }
        let send = self.send(&key, payload);
        let sent = self.objects.within(key.as_str(), transfer, send).await?;
        let metadata = entry.complete(&sent.facts, sent.name, sent.length, sent.digest);
        // When this fails nobody knows whether the description got there. A payload too many is
        // swept later; one too few would be a loss.
        let publish = self.make_visible(metadata, options);
        self.objects.within(key.as_str(), budget, publish).await
    }

    async fn make_visible(
        &self,
        metadata: EntryMetadata,
        options: &PutOptions,
    ) -> Result<PutOutcome, StoreError> {
        let key = metadata.key.clone();
        let document = StoreError::of_metadata(&key, metadata.to_document())?;
        let name = description_object(&key);
        let mut written = self.objects.create(&name, document.clone().into()).await;
        for _ in 0..MAX_ROUNDS {
            if matches!(written, Ok(Written::Done)) {
                return Ok(PutOutcome::Stored(metadata));
            }
            // Taken, or nobody knows: an answer may have been lost and the request sent again.
            let found = self.describe(&key).await?;
            let content = found.as_ref().map(|found| &found.content);
            if let Some(Ok(now)) = content
                && now.payload == metadata.payload
            {
                return Ok(PutOutcome::Stored(metadata));
            }
            written?;
            if options.if_exists == IfExists::Keep
                && let Some(existing) = self.servable(&key).await?
            {
                // Whoever was first wins; ours was never visible.
                let _ = self.objects.remove(&entry_object(&metadata.payload)).await;
                return Ok(PutOutcome::Exists(existing));
            }
            written = match &found {
                None => self.objects.create(&name, document.clone().into()).await,
                Some(found) => {
                    let version = found.version.clone();
                    self.objects
                        .replace(&name, document.clone().into(), version)
                        .await
                }
            };
            if matches!(written, Ok(Written::Done)) {
                if let Some(Ok(before)) = found.map(|found| found.content)
                    && names_own_payload(&before)
                {
                    let _ = self.objects.remove(&entry_object(&before.payload)).await;
                }
                let _ = self.objects.remove(&quarantine_object(&key)).await;
                return Ok(PutOutcome::Stored(metadata));
            }
        }
        let _ = self.objects.remove(&entry_object(&metadata.payload)).await;
        Err(super::objects::unavailable(
            key.as_str(),
            "others kept replacing the entry",
        ))
    }
}
