use std::path::PathBuf;

use async_trait::async_trait;
use pipeline_core::{InputRef, Step, StepContext, StepError, error_chain};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Strictness;
use super::key_facts::{
    KeyFacts, duration, render, settings_of_both_steps, size, stamp, warn_unset,
};
use crate::archive::{ExistingFiles, Limits, UnpackOptions};
use crate::cache::{Cache, MatchPolicy, Miss, Rejected, RestoreOptions, Restored, RestoredEntry};
use crate::key::{KeyError, KeyErrorKind, KeyTemplate, RenderedKey};

/// Brings back what an earlier build saved, into the job's folder.
///
/// Keys are tried in order. A miss is no failure: the value is [`CacheHit::Miss`].
///
/// # Cancellation
/// When the step is cancelled or dropped, unpacking stops, its staging folder is removed and the
/// job's folder is left as it was.
#[derive(Clone, Debug)]
pub struct RestoreCache {
    cache: Cache,
    keys: Vec<KeyTemplate>,
    policy: MatchPolicy,
    strictness: Strictness,
    unpack: UnpackOptions,
    folder: Option<PathBuf>,
    facts: KeyFacts,
}

/// What a [`RestoreCache`] found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "hit", rename_all = "snake_case")]
#[non_exhaustive]
pub enum CacheHit {
    /// The entry of exactly the first key that was asked for.
    Exact {
        /// Its key.
        key: String,
    },
    /// An entry whose key starts with one that was asked for, or the entry of a later key.
    Prefix {
        /// The key asked for.
        candidate: String,
        /// The entry's key.
        key: String,
    },
    /// Nothing.
    Miss {
        /// Why, in one line.
        why: String,
    },
}

impl CacheHit {
    /// Whether exactly the first key was found, so that nothing need be done. A later key is a
    /// fallback, also when it is found exactly.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        matches!(self, Self::Exact { .. })
    }
}

/// A key that was left out, as facts tell it.
#[derive(Debug, Serialize)]
struct Problem {
    template: String,
    kind: KeyErrorKind,
    path: Option<String>,
    located: Option<PathBuf>,
    why: String,
}

impl Problem {
    fn new(template: &KeyTemplate, error: &KeyError) -> Self {
        let located = match error {
            KeyError::ChecksumMissing { located, .. } => Some(located.clone()),
            _ => None,
        };
        Self {
            template: template.to_string(),
            kind: error.kind(),
            path: error.path().map(str::to_owned),
            located,
            why: error_chain(error),
        }
    }
}

settings_of_both_steps!(RestoreCache);

impl RestoreCache {
    /// Restores from a cache by the first of these keys that finds something.
    #[must_use]
    pub fn new(cache: Cache, keys: impl IntoIterator<Item = KeyTemplate>) -> Self {
        Self {
            cache,
            keys: keys.into_iter().collect(),
            policy: MatchPolicy::default(),
            strictness: Strictness::default(),
            unpack: UnpackOptions::default(),
            folder: None,
            facts: KeyFacts::default(),
        }
    }

    /// Sets which entry a key finds. Default: exact, then newest prefix.
    #[must_use]
    pub fn with_policy(mut self, policy: MatchPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Sets how to unpack: where to, threads, bounds, set-id bits. Its working folder is the job's
    /// in any case, see [`with_folder`](Self::with_folder).
    #[must_use]
    pub fn with_unpack(mut self, unpack: UnpackOptions) -> Self {
        self.unpack = unpack;
        self
    }

    /// Sets the bounds for archives. An entry beyond them is not used, and stays for others.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.unpack.limits = limits;
        self
    }

    /// Sets the folder that relative declared paths start from, in place of the job's; it is made
    /// if it is missing. Files of `checksum` are in the job's folder all the same.
    #[must_use]
    pub fn with_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Sets what to do with files that are there already. Default: those that are what the cache
    /// holds are kept, only what differs is written.
    #[must_use]
    pub fn with_existing(mut self, existing: ExistingFiles) -> Self {
        self.unpack.existing = existing;
        self
    }

    /// Sets what `~` means in keys. Default: `~` is an error.
    #[must_use]
    pub fn with_home(mut self, folder: impl Into<PathBuf>) -> Self {
        self.facts.home = Some(folder.into());
        self
    }

    async fn missed(&self, cx: &StepContext, miss: &Miss, problems: &[Problem]) -> CacheHit {
        for candidate in &miss.candidates {
            cx.log(format!("No cache is found for key: {}", candidate.key))
                .await;
        }
        warn_rejected(cx, &miss.rejected).await;
        let why = miss.to_string();
        cx.log(&why).await;
        let nearest = miss
            .nearest
            .as_ref()
            .map(|nearest| json!({ "key": nearest.entry.key, "changes": nearest.changes }));
        let keys: Vec<_> = miss.candidates.iter().map(|c| c.key.as_str()).collect();
        cx.fact(
            "cache.missed",
            json!({
                "keys": keys,
                "reason": if miss.rejected.is_empty() { "absent" } else { "rejected" },
                "why": why,
                "nearest": nearest,
                "rejected": miss.rejected,
                "problems": problems,
            }),
        )
        .await;
        cx.summary(format!("cache miss: {why}"));
        CacheHit::Miss { why }
    }

    async fn restored(
        &self,
        cx: &StepContext,
        entry: RestoredEntry,
        exact: bool,
        problems: &[Problem],
    ) -> CacheHit {
        let metadata = &entry.metadata;
        warn_rejected(cx, &entry.rejected).await;
        let build = match metadata.producer.build_number {
            Some(number) => format!(" from build {number}"),
            None => String::new(),
        };
        cx.log(format!("Found a cache{build} at {}", metadata.key))
            .await;
        cx.log(format!("Size: {}", size(metadata.packed_size)))
            .await;
        cx.log("Cached paths:").await;
        for path in &metadata.paths {
            cx.log(format!("  * {path}")).await;
        }
        let unpacked = entry.unpacked.unpack_time + entry.unpacked.place_time;
        cx.log("Downloading cache archive...").await;
        cx.log(format!(
            "Download duration for cache file: {}",
            duration(entry.fetch_time)
        ))
        .await;
        // Both at once: every frame is checked before it is unpacked.
        cx.log("Validating cache...").await;
        cx.log("Unarchiving cache...").await;
        cx.log(format!("Extraction duration: {}", duration(unpacked)))
            .await;
        if entry.unpacked.kept > 0 {
            let (kept, written) = (entry.unpacked.kept, entry.unpacked.written);
            cx.log(format!("Kept {kept} files, wrote {written}")).await;
        }
        let millis =
            |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        cx.fact(
            "cache.restored",
            json!({
                "key": entry.candidate,
                "matched": metadata.key,
                "exact": exact,
                "position": entry.position,
                "size": metadata.packed_size,
                "raw_size": metadata.raw_size,
                "files": entry.unpacked.entries,
                "kept": entry.unpacked.kept,
                "written": entry.unpacked.written,
                "paths": metadata.paths,
                "created": stamp(metadata.created),
                "digest": metadata.digest,
                "producer": metadata.producer,
                "fetch_ms": millis(entry.fetch_time),
                "unpack_ms": millis(entry.unpacked.unpack_time),
                "place_ms": millis(entry.unpacked.place_time),
                "rejected": entry.rejected,
                "problems": problems,
            }),
        )
        .await;
        cx.summary(format!(
            "cache hit{}: {} ({})",
            match (exact, entry.position) {
                (true, _) => "",
                (_, 0) => " by prefix",
                _ => " by a later key",
            },
            metadata.key,
            size(metadata.packed_size)
        ));
        let key = metadata.key.to_string();
        if exact {
            CacheHit::Exact { key }
        } else {
            CacheHit::Prefix {
                candidate: entry.candidate.to_string(),
                key,
            }
        }
    }

    async fn unavailable(
        &self,
        cx: &StepContext,
        reason: &str,
        why: String,
        keys: &[RenderedKey],
        problems: &[Problem],
    ) -> CacheHit {
        let keys: Vec<_> = keys.iter().map(|key| key.key().as_str()).collect();
        cx.fact(
            "cache.missed",
            json!({
                "keys": keys,
                "reason": reason,
                "why": why,
                "nearest": null,
                "rejected": [],
                "problems": problems,
            }),
        )
        .await;
        cx.summary(format!("cache miss: {why}"));
        CacheHit::Miss { why }
    }
}

#[async_trait]
impl Step for RestoreCache {
    type Output = CacheHit;

    fn inputs(&self) -> Vec<InputRef> {
        self.facts.inputs()
    }

    async fn run(&self, cx: &StepContext) -> Result<CacheHit, StepError> {
        cx.pull_job_dir().await?;
        let context = self.facts.context(cx)?;
        let mut keys: Vec<RenderedKey> = Vec::new();
        let mut problems = Vec::new();
        let rendered = render(cx, context, self.keys.clone()).await?;
        for (template, rendered) in self.keys.iter().zip(rendered) {
            match rendered {
                Ok(key) => {
                    warn_unset(cx, &key).await;
                    keys.push(key);
                }
                Err(error) if self.strictness == Strictness::Strict => {
                    return Err(StepError::errored("rendering a cache key", error));
                }
                Err(error) => {
                    let problem = Problem::new(template, &error);
                    cx.warn(format!("cache key {template} left out: {}", problem.why))
                        .await;
                    problems.push(problem);
                }
            }
        }
        if keys.is_empty() {
            let why: Vec<&str> = problems.iter().map(|problem| &*problem.why).collect();
            let why = format!("no key could be rendered: {}", why.join("; "));
            return Ok(self.unavailable(cx, "no_key", why, &keys, &problems).await);
        }
        let folder = match &self.folder {
            None => cx.job_dir(),
            Some(folder) => {
                // What is wrong with it is said by the restore itself.
                let _ = std::fs::create_dir_all(folder);
                folder
            }
        };
        let options = RestoreOptions::default()
            .with_policy(self.policy)
            .with_unpack(self.unpack.clone().with_working_folder(folder));
        let result = tokio::select! {
            result = self.cache.restore(keys.clone(), options) => result,
            () = cx.cancel().cancelled() => return Err(StepError::Cancelled),
        };
        if matches!(result, Ok(Restored::Exact(_) | Restored::Prefix(_))) {
            cx.push_job_dir().await?;
        }
        match result {
            Ok(Restored::Exact(entry)) => Ok(self.restored(cx, entry, true, &problems).await),
            Ok(Restored::Prefix(entry)) => Ok(self.restored(cx, entry, false, &problems).await),
            Ok(Restored::Miss(miss)) => {
                if self.strictness == Strictness::Strict && !miss.rejected.is_empty() {
                    warn_rejected(cx, &miss.rejected).await;
                    return Err(StepError::failed(
                        "every cache entry that matched is unusable",
                    ));
                }
                Ok(self.missed(cx, &miss, &problems).await)
            }
            Err(error) if self.strictness == Strictness::Strict => {
                Err(StepError::errored("restoring the cache", error))
            }
            Err(error) => {
                let why = error_chain(&error);
                cx.warn(format!("cache unavailable, going on without: {why}"))
                    .await;
                Ok(self
                    .unavailable(cx, "unavailable", why, &keys, &problems)
                    .await)
            }
        }
    }
}

async fn warn_rejected(cx: &StepContext, rejected: &[Rejected]) {
    for entry in rejected {
        let why = error_chain(&entry.error);
        cx.warn(format!("cache entry {} not used: {why}", entry.key))
            .await;
    }
}
