use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use pipeline_core::{InputRef, Step, StepContext, StepError, error_chain};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Strictness;
use super::key_facts::{
    KeyFacts, duration, producer, render, settings_of_both_steps, size, stamp, warn_unset,
};
use crate::archive::PackOptions;
use crate::cache::{Cache, CacheError, SaveOptions, SaveReport, Saved, Validator};
use crate::key::KeyTemplate;
use crate::store::{EntryMetadata, IfExists};

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
    optional: Vec<String>,
    folder: Option<PathBuf>,
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

settings_of_both_steps!(SaveCache);

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
            optional: Vec::new(),
            folder: None,
            pack: PackOptions::default(),
            if_exists: IfExists::default(),
            validator: None,
            strictness: Strictness::default(),
            facts: KeyFacts::default(),
        }
    }

    /// Adds paths that are left out when they are missing or empty. Nothing at all is refused all
    /// the same.
    #[must_use]
    pub fn with_optional_paths(
        mut self,
        paths: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        self.optional.extend(paths.into_iter().map(Into::into));
        self
    }

    /// Sets the folder that relative declared paths start from, in place of the job's. Files of `checksum` are in the job's folder all the same.
    #[must_use]
    pub fn with_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
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

    /// Sets what `~` means in the key and the paths. Default: `~` is a name like any other in
    /// paths, and an error in keys.
    #[must_use]
    pub fn with_home(mut self, folder: impl Into<PathBuf>) -> Self {
        self.facts.home = Some(folder.into());
        self
    }

    async fn stored(&self, cx: &StepContext, report: SaveReport) -> CacheSave {
        let metadata = report.metadata;
        for skipped in &report.skipped {
            cx.warn(format!("{skipped} of the cache")).await;
        }
        // Both at once: what is packed goes to the store at once.
        cx.log("Creating cache archive...").await;
        cx.log("Uploading cache archive...").await;
        cx.log(format!("Stored Cache to {}", metadata.key)).await;
        for path in &metadata.paths {
            cx.log(format!("  * {path}")).await;
        }
        cx.log(format!("Size: {}", size(metadata.packed_size)))
            .await;
        cx.log(format!("Duration: {}", duration(report.time))).await;
        let left_out: Vec<&str> = report.skipped.iter().map(|s| s.path.as_str()).collect();
        cx.fact(
            "cache.saved",
            json!({
                "key": metadata.key,
                "size": metadata.packed_size,
                "raw_size": metadata.raw_size,
                "content": report.content_bytes,
                "stored": report.stored_bytes,
                "files": metadata.file_count,
                "paths": metadata.paths,
                "created": stamp(metadata.created),
                "digest": metadata.digest,
                "left_out": left_out,
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
        error: &(dyn std::error::Error + Send + Sync + 'static),
    ) -> CacheSave {
        let why = error_chain(error);
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
        cx.pull_job_dir().await?;
        let context = self.facts.context(cx)?;
        let strict = self.strictness == Strictness::Strict;
        let mut rendered = render(cx, context, vec![self.key.clone()]).await?;
        let key = match rendered.remove(0) {
            Ok(key) => {
                warn_unset(cx, &key).await;
                key
            }
            Err(error) if strict => {
                return Err(StepError::errored("rendering the cache key", error));
            }
            Err(error) => return Ok(self.skipped(cx, None, "refused", &error).await),
        };
        let folder = self.folder.as_deref().unwrap_or(cx.job_dir());
        let mut options = SaveOptions::default()
            .with_pack(self.pack.clone().with_working_folder(folder))
            .with_producer(producer(cx))
            .with_created(SystemTime::now())
            .with_if_exists(self.if_exists);
        options.validator.clone_from(&self.validator);
        let mut paths: Vec<String> = self.paths.iter().map(|p| self.facts.expand(p)).collect();
        let optional = self.optional.iter().map(|path| self.facts.expand(path));
        let there: Vec<String> = optional
            .clone()
            .filter(|path| holds_something(&folder.join(path)))
            .collect();
        if paths.is_empty() && there.is_empty() {
            // The refusal names them.
            paths.extend(optional);
        }
        paths.extend(there);
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

/// Archives of nothing are refused.
fn holds_something(path: &Path) -> bool {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some())
        }
        Ok(metadata) => metadata.is_symlink() || metadata.len() > 0,
        Err(_) => false,
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
