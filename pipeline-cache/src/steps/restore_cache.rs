use std::path::PathBuf;

use async_trait::async_trait;
use pipeline_core::{Input, InputRef, Step, StepContext, StepError};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Strictness;
use super::key_facts::{KeyFacts, chain, size, stamp};
use crate::archive::{Limits, UnpackOptions};
use crate::cache::{
    Cache, CacheError, MatchPolicy, Miss, Rejected, RestoreOptions, Restored, RestoredEntry,
};
use crate::key::{KeyTemplate, RenderedKey};

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
    limits: Limits,
    facts: KeyFacts,
}

/// What a [`RestoreCache`] found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "hit", rename_all = "snake_case")]
#[non_exhaustive]
pub enum CacheHit {
    /// The entry of exactly a key that was asked for.
    Exact {
        /// Its key.
        key: String,
    },
    /// An entry whose key starts with one that was asked for.
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
    /// Whether exactly a wanted key was found, so that nothing need be done.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        matches!(self, Self::Exact { .. })
    }
}

impl RestoreCache {
    /// Restores from a cache by the first of these keys that finds something.
    #[must_use]
    pub fn new(cache: Cache, keys: impl IntoIterator<Item = KeyTemplate>) -> Self {
        Self {
            cache,
            keys: keys.into_iter().collect(),
            policy: MatchPolicy::default(),
            strictness: Strictness::default(),
            limits: Limits::default(),
            facts: KeyFacts::default(),
        }
    }

    /// Sets which entry a key finds. Default: exact, then newest prefix.
    #[must_use]
    pub fn with_policy(mut self, policy: MatchPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Sets what trouble means. Default: [`Strictness::Lenient`].
    #[must_use]
    pub fn with_strictness(mut self, strictness: Strictness) -> Self {
        self.strictness = strictness;
        self
    }

    /// Sets the bounds for archives.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets what `~` means in keys. Default: `~` is an error.
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

    async fn missed(&self, cx: &StepContext, miss: &Miss, problems: &[String]) -> CacheHit {
        for candidate in &miss.candidates {
            cx.log(format!("No cache is found for key: {}", candidate.key))
                .await;
        }
        warn_rejected(cx, &miss.rejected).await;
        let why = miss.to_string();
        cx.log(&why).await;
        let nearest = miss.nearest.as_ref().map(|nearest| {
            let changes: Vec<_> = nearest
                .changes
                .iter()
                .map(|change| {
                    json!({
                        "input": change.input,
                        "stored": change.stored,
                        "wanted": change.wanted,
                    })
                })
                .collect();
            json!({ "key": nearest.entry.key, "changes": changes })
        });
        let keys: Vec<_> = miss.candidates.iter().map(|c| c.key.as_str()).collect();
        cx.fact(
            "cache.missed",
            json!({
                "keys": keys,
                "why": why,
                "nearest": nearest,
                "rejected": rejected(&miss.rejected),
                "problems": problems,
            }),
        )
        .await;
        cx.summary(format!("cache miss: {why}"));
        CacheHit::Miss { why }
    }

    async fn restored(&self, cx: &StepContext, entry: RestoredEntry) -> CacheHit {
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
        let exact = metadata.key == entry.candidate;
        let millis =
            |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        cx.fact(
            "cache.restored",
            json!({
                "key": entry.candidate,
                "matched": metadata.key,
                "exact": exact,
                "size": metadata.packed_size,
                "raw_size": metadata.raw_size,
                "files": entry.unpacked.entries,
                "paths": metadata.paths,
                "created": stamp(metadata.created),
                "digest": metadata.digest,
                "producer": metadata.producer,
                "fetch_ms": millis(entry.fetch_time),
                "unpack_ms": millis(entry.unpacked.unpack_time),
                "place_ms": millis(entry.unpacked.place_time),
                "rejected": rejected(&entry.rejected),
            }),
        )
        .await;
        cx.summary(format!(
            "cache hit{}: {} ({})",
            if exact { "" } else { " by prefix" },
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
        why: String,
        keys: &[RenderedKey],
        problems: &[String],
    ) -> CacheHit {
        let keys: Vec<_> = keys.iter().map(|key| key.key().as_str()).collect();
        cx.fact(
            "cache.missed",
            json!({ "keys": keys, "why": why, "problems": problems }),
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
        let context = self.facts.context(cx)?;
        let mut keys: Vec<RenderedKey> = Vec::new();
        let mut problems = Vec::new();
        for template in &self.keys {
            match template.render(&context) {
                Ok(key) => keys.push(key),
                Err(error) if self.strictness == Strictness::Strict => {
                    return Err(StepError::errored("rendering a cache key", error));
                }
                Err(error) => {
                    let problem = chain(&error);
                    cx.warn(format!("cache key {template} left out: {problem}"))
                        .await;
                    problems.push(problem);
                }
            }
        }
        if keys.is_empty() {
            let why = format!("no key could be rendered: {}", problems.join("; "));
            return Ok(self.unavailable(cx, why, &keys, &problems).await);
        }
        let mut options = RestoreOptions::default()
            .with_policy(self.policy)
            .with_unpack(
                UnpackOptions::default()
                    .with_working_folder(cx.job_dir())
                    .with_limits(self.limits.clone()),
            );
        options.unpack.workers = options.unpack.workers.max(1);
        let result = tokio::select! {
            result = self.cache.restore(keys.clone(), options) => result,
            () = cx.cancel().cancelled() => return Err(StepError::Cancelled),
        };
        match result {
            Ok(Restored::Exact(entry) | Restored::Prefix(entry)) => {
                Ok(self.restored(cx, entry).await)
            }
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
                let why = chain(&error);
                cx.warn(format!("cache unavailable, going on without: {why}"))
                    .await;
                Ok(self.unavailable(cx, why, &keys, &problems).await)
            }
        }
    }
}

async fn warn_rejected(cx: &StepContext, rejected: &[Rejected]) {
    for entry in rejected {
        let why = chain(&entry.error);
        cx.warn(format!("cache entry {} not used: {why}", entry.key))
            .await;
    }
}

fn rejected(rejected: &[Rejected]) -> Vec<serde_json::Value> {
    let why = |error: &CacheError| chain(error);
    rejected
        .iter()
        .map(|entry| json!({ "key": entry.key, "why": why(&entry.error) }))
        .collect()
}
