use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::{Cache, CacheError};
use crate::archive::{
    ArchiveError, DeclaredPaths, PackOptions, PackSummary, Skipped, pack_recorded, tree_identity,
};
use crate::key::RenderedKey;
use crate::store::{
    EntryMetadata, IfExists, NewEntry, Producer, PutOptions, PutOutcome, produce_with, run_blocking,
};

/// Looks at what is about to be stored and may refuse it.
#[derive(Clone)]
pub struct Validator(pub(crate) Arc<ValidatorFn>);

pub(crate) type ValidatorFn =
    dyn Fn(&PackSummary) -> Result<(), Box<dyn Error + Send + Sync>> + Send + Sync + 'static;

impl Validator {
    /// A closure that says why something must not be stored. It runs after packing and before
    /// anything becomes visible, on a thread that may block.
    pub fn new(
        check: impl Fn(&PackSummary) -> Result<(), Box<dyn Error + Send + Sync>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(check))
    }
}

impl fmt::Debug for Validator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Validator")
    }
}

/// How to save.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SaveOptions {
    /// How to pack.
    pub pack: PackOptions,
    /// Who makes the entry.
    pub producer: Producer,
    /// When it was made. Default: the system's time at the call.
    pub created: Option<SystemTime>,
    /// What to do when the key is taken. Default: keep what is there.
    pub if_exists: IfExists,
    /// Asked before anything becomes visible. Default: none.
    pub validator: Option<Validator>,
}

impl SaveOptions {
    /// Default options, with the folder that relative paths start from.
    #[must_use]
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Self {
            pack: PackOptions::default().with_working_folder(folder),
            ..Self::default()
        }
    }

    /// Sets how to pack.
    #[must_use]
    pub fn with_pack(mut self, pack: PackOptions) -> Self {
        self.pack = pack;
        self
    }

    /// Sets the producer.
    #[must_use]
    pub fn with_producer(mut self, producer: Producer) -> Self {
        self.producer = producer;
        self
    }

    /// Sets the time.
    #[must_use]
    pub fn with_created(mut self, created: SystemTime) -> Self {
        self.created = Some(created);
        self
    }

    /// Sets what to do when the key is taken.
    #[must_use]
    pub fn with_if_exists(mut self, if_exists: IfExists) -> Self {
        self.if_exists = if_exists;
        self
    }

    /// Sets the validator.
    #[must_use]
    pub fn with_validator(mut self, validator: Validator) -> Self {
        self.validator = Some(validator);
        self
    }
}

/// What a save did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Saved {
    /// The entry is stored.
    Stored(SaveReport),
    /// The key was taken; nothing was changed. This is what is there.
    Exists(EntryMetadata),
}

/// A stored entry.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SaveReport {
    /// Its description.
    pub metadata: EntryMetadata,
    /// Bytes of file content, hard links counted once.
    pub content_bytes: u64,
    /// Bytes that were written to the store: the payload, and chunks that were new.
    pub stored_bytes: u64,
    /// What was left out: sockets, FIFOs and devices, and what may not be read if that was asked for.
    pub skipped: Vec<Skipped>,
    /// Time for everything.
    pub time: Duration,
}

impl Cache {
    /// Saves declared paths under a key. When the key is taken, no file is read.
    ///
    /// # Errors
    /// A declared path that is missing or empty, a file that cannot be read or changes meanwhile,
    /// a validator that refuses, or a store that fails. Nothing is stored then.
    ///
    /// # Cancellation
    /// Dropping the future stops packing at its next block and removes what was written.
    pub async fn save<S: AsRef<str>>(
        &self,
        key: impl Into<RenderedKey> + Send,
        paths: impl IntoIterator<Item = S>,
        options: SaveOptions,
    ) -> Result<Saved, CacheError> {
        let started = Instant::now();
        let key = key.into();
        let paths = DeclaredPaths::new(paths)?;
        if options.if_exists == IfExists::Keep
            && let Some(existing) = self.store.head(key.key()).await?
        {
            return Ok(Saved::Exists(existing));
        }
        #[cfg(feature = "chunked")]
        if options.pack.codec == crate::store::Codec::Chunked {
            return crate::chunked::save(self, key, paths, options).await;
        }
        let created = options.created.unwrap_or_else(SystemTime::now);
        let entry = NewEntry::new(key, created)
            .with_paths(paths.as_slice().iter().map(|path| path.as_str()))
            .with_producer(options.producer);
        let summary = Arc::new(Mutex::new(None));
        let report = Arc::clone(&summary);
        let (pack_options, validator) = (options.pack, options.validator);
        let payload = produce_with(move |out| {
            let (packed, tree) = pack_recorded(&paths, &pack_options, out)?;
            if let Some(Validator(check)) = validator {
                check(&packed).map_err(ArchiveError::Validator)?;
            }
            let facts = packed.facts.clone();
            *report.lock().unwrap_or_else(PoisonError::into_inner) = Some((packed, tree));
            Ok(facts)
        });
        let put = PutOptions::default().with_if_exists(options.if_exists);
        let outcome = self
            .store
            .put_opts(entry, payload, put)
            .await
            .map_err(CacheError::from_put)?;
        let packed = summary
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        Ok(match outcome {
            PutOutcome::Exists(existing) => Saved::Exists(existing),
            PutOutcome::Stored(metadata) => {
                let (content_bytes, skipped) = match packed {
                    None => (0, Vec::new()),
                    Some((packed, tree)) => {
                        if let Some(cache) = self.stat_cache.clone() {
                            let entry = tree_identity(&metadata);
                            run_blocking::<_, CacheError, _>(move |_| {
                                tree.record(&cache, entry);
                                Ok(())
                            })
                            .await?;
                        }
                        (packed.content_bytes, packed.skipped)
                    }
                };
                Saved::Stored(SaveReport {
                    stored_bytes: metadata.packed_size,
                    metadata,
                    content_bytes,
                    skipped,
                    time: started.elapsed(),
                })
            }
        })
    }
}
