use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use pipeline_core::{Input, InputRef, Step, StepContext, StepError};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Strictness;
use super::key_facts::{KeyFacts, chain, size, stamp};
use crate::archive::PackOptions;
use crate::cache::{Cache, CacheError, SaveOptions, SaveReport, Saved, Validator};
use crate::key::KeyTemplate;
use crate::store::{EntryMetadata, IfExists, Producer};

/// Saves paths of the job's folder under a key, unless the key is taken.
///
/// When the key is taken no file is read. A path that is missing or empty is refused: it would
/// be stored for ever.
///
/// # Cancellation
/// When the step is cancelled or dropped, packing stops and nothing is stored.
#[derive(Clone, Debug)]
pub struct SaveCache {
    cache: Cache,
    key: KeyTemplate,
    paths: Vec<String>,
    pack: PackOptions,
    if_exists: IfExists,
    validator: Option<Validator>,
    strictness: Strictness,
    facts: KeyFacts,
}

/// What a [`SaveCache`] did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "save", rename_all = "snake_case")]
#[non_exhaustive]
pub enum CacheSave {
    /// Stored.
    Stored {
        /// The key.
        key: String,
        /// Bytes of the payload.
        size: u64,
    },
    /// The key was taken.
    Exists {
        /// The key.
        key: String,
    },
    /// Not stored.
    Skipped {
        /// Why, in one line.
        why: String,
    },
}

impl SaveCache {
    /// Saves paths, relative to the job's folder or absolute, under a key.
    #[must_use]
    pub fn new(
        cache: Cache,
        key: KeyTemplate,
        paths: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        Self {
            cache,
            key,
            paths: paths.into_iter().map(Into::into).collect(),
            pack: PackOptions::default(),
            if_exists: IfExists::default(),
            validator: None,
            strictness: Strictness::default(),
            facts: KeyFacts::default(),
        }
    }

    /// Sets codec, level and threads. Its working folder is the job's in any case.
    #[must_use]
    pub fn with_pack(mut self, pack: PackOptions) -> Self {
        self.pack = pack;
        self
    }

    /// Sets what to do when the key is taken. Default: keep what is there.
    #[must_use]
    pub fn with_if_exists(mut self, if_exists: IfExists) -> Self {
        self.if_exists = if_exists;
        self
    }

    /// Sets who is asked before anything becomes visible. Default: nobody.
    #[must_use]
    pub fn with_validator(mut self, validator: Validator) -> Self {
        self.validator = Some(validator);
        self
    }

    /// Sets what trouble means. Default: [`Strictness::Lenient`].
    #[must_use]
    pub fn with_strictness(mut self, strictness: Strictness) -> Self {
        self.strictness = strictness;
        self
    }

    /// Sets what `~` means in the key and the paths. Default: `~` is a name like any other in
    /// paths, and an error in keys.
    #[must_use]
    pub fn with_home(mut self, folder: impl Into<PathBuf>) -> Self {
        self.facts.home = Some(folder.into());
        self
    }

    /// Adds a value for `{{ .Environment.NAME }}`, beside the plain variables of the job.
    #[must_use]
    pub fn with_environment(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.facts.environment.push((name.into(), value.into()));
        self
    }

    /// Adds a value for `{{ tool "NAME" }}`: known, or produced by a step.
    #[must_use]
    pub fn with_tool(mut self, name: impl Into<String>, version: impl Into<Input<String>>) -> Self {
        self.facts.tools.push((name.into(), version.into()));
        self
    }

    async fn stored(&self, cx: &StepContext, report: SaveReport) -> CacheSave {
        let metadata = report.metadata;
        for path in &report.skipped {
            cx.warn(format!(
                "{path}: neither a file nor a folder nor a link, left out of the cache"
            ))
            .await;
        }
        cx.log(format!("Stored Cache to {}", metadata.key)).await;
        for path in &metadata.paths {
            cx.log(format!("  * {path}")).await;
        }
        cx.log(format!("Size: {}", size(metadata.packed_size)))
            .await;
        cx.fact(
            "cache.saved",
            json!({
                "key": metadata.key,
                "size": metadata.packed_size,
                "raw_size": metadata.raw_size,
                "content": report.content_bytes,
                "files": metadata.file_count,
                "paths": metadata.paths,
                "created": stamp(metadata.created),
                "digest": metadata.digest,
                "left_out": report.skipped,
                "time_ms": millis(report.time),
            }),
        )
        .await;
        cx.summary(format!(
            "cache saved: {} ({})",
            metadata.key,
            size(metadata.packed_size)
        ));
        CacheSave::Stored {
            key: metadata.key.to_string(),
            size: metadata.packed_size,
        }
    }

    async fn exists(&self, cx: &StepContext, found: EntryMetadata) -> CacheSave {
        let why = format!(
            "Skipping cache generation, cache already exists for key: {}",
            found.key
        );
        cx.log(&why).await;
        let created = stamp(found.created);
        cx.log(format!("Found one created at {created}")).await;
        cx.fact(
            "cache.skipped",
            json!({
                "key": found.key,
                "reason": "exists",
                "why": why,
                "created": created,
                "size": found.packed_size,
                "producer": found.producer,
            }),
        )
        .await;
        cx.summary(format!("cache kept: {} exists", found.key));
        CacheSave::Exists {
            key: found.key.to_string(),
        }
    }

    async fn skipped(
        &self,
        cx: &StepContext,
        key: Option<&str>,
        reason: &str,
        error: &(dyn std::error::Error + Send + Sync),
    ) -> CacheSave {
        let why = chain(error);
        cx.warn(format!("nothing was cached: {why}")).await;
        cx.fact(
            "cache.skipped",
            json!({ "key": key, "reason": reason, "why": why }),
        )
        .await;
        cx.summary(format!("cache not saved: {why}"));
        CacheSave::Skipped { why }
    }
}

#[async_trait]
impl Step for SaveCache {
    type Output = CacheSave;

    fn inputs(&self) -> Vec<InputRef> {
        self.facts.inputs()
    }

    async fn run(&self, cx: &StepContext) -> Result<CacheSave, StepError> {
        let context = self.facts.context(cx)?;
        let strict = self.strictness == Strictness::Strict;
        let key = match self.key.render(&context) {
            Ok(key) => key,
            Err(error) if strict => {
                return Err(StepError::errored("rendering the cache key", error));
            }
            Err(error) => return Ok(self.skipped(cx, None, "refused", &error).await),
        };
        let facts = cx.facts();
        let mut producer = Producer::default();
        producer.pipeline.clone_from(&facts.project);
        producer.branch.clone_from(&facts.branch);
        producer.revision.clone_from(&facts.revision);
        producer.build_number = (facts.build_number != 0).then_some(facts.build_number);
        let mut options = SaveOptions::default()
            .with_pack(self.pack.clone().with_working_folder(cx.job_dir()))
            .with_producer(producer)
            .with_created(SystemTime::now())
            .with_if_exists(self.if_exists);
        options.validator.clone_from(&self.validator);
        let paths: Vec<String> = self.paths.iter().map(|p| self.facts.expand(p)).collect();
        let result = tokio::select! {
            result = self.cache.save(key.clone(), paths, options) => result,
            () = cx.cancel().cancelled() => return Err(StepError::Cancelled),
        };
        match result {
            Ok(Saved::Stored(report)) => Ok(self.stored(cx, report).await),
            Ok(Saved::Exists(found)) => Ok(self.exists(cx, found).await),
            Err(error) if strict => Err(StepError::errored("saving the cache", error)),
            Err(error) => {
                let reason = match &error {
                    CacheError::Archive(_) => "refused",
                    _ => "failed",
                };
                Ok(self
                    .skipped(cx, Some(key.key().as_str()), reason, &error)
                    .await)
            }
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
