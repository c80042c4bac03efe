use std::path::Path;
use std::time::Instant;

use async_trait::async_trait;
use pipeline_core::{InputRef, Step, StepContext, StepError, StepRecording, error_chain};
use serde_json::{Value, json};

use super::fingerprint::Fingerprint;
use super::record::{RECORD, Record};
use super::turn::Turn;
use super::{Inputs, Recipe};
use crate::archive::{PackOptions, UnpackOptions};
use crate::cache::{
    Cache, CacheError, InputChange, RestoreOptions, Restored, SaveOptions, Saved, nearest,
};
use crate::files::StagingFolder;
use crate::key::{CacheKey, RenderedKey};
use crate::steps::{blocking, producer, stamp};
use crate::store::{EntryMetadata, IfExists, Sha256Digest};

/// How many changes of a miss are reported.
const NAMED_CHANGES: usize = 20;

/// Wraps steps so that they run only when something they read has changed.
///
/// ```
/// use pipeline_cache::{cache::Cache, files::FileSet, store::FilesystemStore};
/// use pipeline_cache::memoise::{Inputs, MemoiseExt};
/// use pipeline_core::{Job, sh};
///
/// let cache = Cache::new(FilesystemStore::new(".pipeline/memo"));
/// let sources = FileSet::new(["**/*.py", "setup.cfg"])?.without(["venv"])?;
/// let mut job = Job::new("lint");
/// job.step(
///     "flake8",
///     sh("flake8 --output-file lint.txt .").memoised(
///         &cache,
///         Inputs::new().with_files(sources).with_tool("flake8", "7.1.0".to_owned()),
///         ["lint.txt"],
///     ),
/// );
/// # Ok::<(), pipeline_cache::files::FileSetError>(())
/// ```
pub trait MemoiseExt: Step + Sized {
    /// Runs the step only when what it does, or one of its inputs, is new. `outputs` are the
    /// files and folders that it makes, relative to the job's folder; what it leaves elsewhere is
    /// not there after a hit.
    #[must_use]
    fn memoised<P: Into<String>>(
        self,
        cache: &Cache,
        inputs: Inputs,
        outputs: impl IntoIterator<Item = P>,
    ) -> Memoised<Self>
    where
        Self: Recipe,
    {
        let recipe = self.recipe();
        Memoised::new(self, recipe, cache, inputs, outputs)
    }

    /// The same for a step that cannot say what it does, such as a closure: `version` stands for
    /// that, and is changed by hand whenever the step does something else.
    #[must_use]
    fn memoised_as<P: Into<String>>(
        self,
        version: impl Into<String>,
        cache: &Cache,
        inputs: Inputs,
        outputs: impl IntoIterator<Item = P>,
    ) -> Memoised<Self> {
        let recipe = json!({ "version": version.into() });
        Memoised::new(self, recipe, cache, inputs, outputs)
    }
}

impl<S: Step> MemoiseExt for S {}

/// A step that runs only when something it reads has changed; made by [`MemoiseExt`].
///
/// # Cancellation
/// As for the wrapped step. When it is cancelled while its result is stored, nothing is stored.
#[derive(Clone, Debug)]
pub struct Memoised<S> {
    step: S,
    recipe: Value,
    cache: Cache,
    inputs: Inputs,
    outputs: Vec<String>,
}

/// Why stored results could not be used.
#[derive(Debug, Default)]
struct Rejected(Vec<String>);

impl<S: Step> Memoised<S> {
    fn new<P: Into<String>>(
        step: S,
        recipe: Value,
        cache: &Cache,
        inputs: Inputs,
        outputs: impl IntoIterator<Item = P>,
    ) -> Self {
        Self {
            step,
            recipe,
            cache: cache.clone(),
            inputs,
            outputs: outputs.into_iter().map(Into::into).collect(),
        }
    }

    async fn fingerprint(&self, cx: &StepContext) -> Result<Fingerprint, StepError> {
        let fingerprint = Fingerprint::of_step(
            cx,
            &self.recipe,
            &self.step.inputs(),
            &self.inputs,
            &self.outputs,
        )?;
        let Some(files) = self.inputs.files.clone() else {
            return Ok(fingerprint);
        };
        let root = cx.pull_job_dir().await?.to_path_buf();
        blocking(move || fingerprint.with_files(&root, &files)).await
    }

    /// The value of an earlier run, with its outputs in place and its log replayed.
    async fn hit(
        &self,
        cx: &StepContext,
        key: &RenderedKey,
        rejected: &mut Rejected,
    ) -> Option<S::Output> {
        match self.try_hit(cx, key).await {
            Ok(value) => value,
            Err(error) => {
                let why = error_chain(&error);
                cx.warn(format!("a memoised result is not used: {why}"))
                    .await;
                rejected.0.push(why);
                None
            }
        }
    }

    async fn try_hit(
        &self,
        cx: &StepContext,
        key: &RenderedKey,
    ) -> Result<Option<S::Output>, StepError> {
        let failed = |error: CacheError| StepError::errored("could not look into the cache", error);
        let store = self.cache.store();
        let Some(entry) = store
            .head(key.key())
            .await
            .map_err(|error| failed(error.into()))?
        else {
            return Ok(None);
        };
        let staging = staging(cx).await?;
        let unpack = UnpackOptions::default().with_into(staging.path());
        self.fetch(key.key(), entry.digest, unpack).await?;
        let record = Record::read(staging.path())?;
        let value: S::Output = serde_json::from_value(record.value.clone())
            .map_err(|error| StepError::errored("the recorded value has another form", error))?;
        if let Some(wanted) = record.outputs {
            let outputs = outputs_key(key)?;
            let unpack = UnpackOptions::default().with_working_folder(cx.pull_job_dir().await?);
            self.fetch(&outputs, wanted, unpack).await?;
            cx.push_job_dir().await?;
        }
        self.tell_hit(cx, &entry, &record).await;
        Ok(Some(value))
    }

    /// Restores exactly this entry: another run may replace it at any time.
    async fn fetch(
        &self,
        key: &CacheKey,
        digest: Sha256Digest,
        unpack: UnpackOptions,
    ) -> Result<(), StepError> {
        let options = RestoreOptions::default()
            .with_unpack(unpack)
            .with_digest(digest);
        match self.cache.restore([key.clone()], options).await {
            Ok(Restored::Exact(_)) => Ok(()),
            Ok(Restored::Miss(miss)) => Err(match miss.rejected.into_iter().next() {
                Some(rejected) => {
                    StepError::errored(format!("{} cannot be used", rejected.key), rejected.error)
                }
                None => StepError::failed(format!("{key} is not in the store any more")),
            }),
            Ok(_) => Err(StepError::failed(format!(
                "{key} is not in the store any more"
            ))),
            Err(error) => Err(StepError::errored(format!("could not fetch {key}"), error)),
        }
    }

    async fn tell_hit(&self, cx: &StepContext, entry: &EntryMetadata, record: &Record) {
        let build = match entry.producer.build_number {
            Some(number) => format!("build {number}"),
            None => "an earlier build".to_owned(),
        };
        let created = stamp(entry.created);
        cx.log(format!(
            "Nothing changed since {build} ({created}): not run; this is what it said then"
        ))
        .await;
        cx.replay(&record.recording).await;
        cx.fact(
            "memo.hit",
            json!({
                "key": entry.key,
                "created": created,
                "producer": entry.producer,
                "outputs": self.outputs,
                "saved_ms": record.took_ms,
            }),
        )
        .await;
        cx.summary(match &record.recording.summary {
            Some(summary) => format!("{summary} (memoised by {build})"),
            None => format!("memoised by {build}"),
        });
    }

    /// Says what is new, against the nearest result of this very step.
    async fn tell_miss(
        &self,
        cx: &StepContext,
        key: &RenderedKey,
        prefix: &str,
        mut rejected: Rejected,
    ) {
        let known = self.cache.store().list(prefix).await.unwrap_or_default();
        let nearest = nearest(key, known);
        if nearest
            .as_ref()
            .is_some_and(|near| near.entry.key == *key.key())
            && rejected.0.is_empty()
        {
            // The store saw that by itself, and does not hand it out.
            rejected.0.push("the stored result is damaged".to_owned());
        }
        let why = match &nearest {
            _ if !rejected.0.is_empty() => "the stored result cannot be used".to_owned(),
            None => "no result of this step is stored".to_owned(),
            Some(nearest) => changes_in_words(&nearest.changes),
        };
        cx.log(format!("Not memoised yet: {why}")).await;
        let nearest = nearest.map(|nearest| {
            let named = &nearest.changes[..nearest.changes.len().min(NAMED_CHANGES)];
            json!({
                "key": nearest.entry.key,
                "created": stamp(nearest.entry.created),
                "changes": named,
                "count": nearest.changes.len(),
            })
        });
        cx.fact(
            "memo.missed",
            json!({
                "key": key.key(),
                "why": why,
                "nearest": nearest,
                "rejected": rejected.0,
            }),
        )
        .await;
    }

    async fn store(
        &self,
        cx: &StepContext,
        key: &RenderedKey,
        before: &Fingerprint,
        mut record: Record,
    ) -> Result<u64, StepError> {
        let after = self.fingerprint(cx).await?;
        let changed = after.differences(before);
        if let Some(first) = changed.first() {
            let more = match changed.len() - 1 {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            return Err(StepError::failed(format!(
                "what it reads changed while it ran ({first}{more}); a step that changes its own \
                 inputs cannot be memoised"
            )));
        }
        let mut size = 0;
        if !self.outputs.is_empty() {
            let folder = cx.pull_job_dir().await?;
            let pack = PackOptions::default().with_working_folder(folder);
            let (digest, bytes) = self
                .put(cx, outputs_key(key)?.into(), &self.outputs, pack)
                .await?;
            record.outputs = Some(digest);
            size += bytes;
        }
        let staging = staging(cx).await?;
        record.write(staging.path())?;
        let pack = PackOptions::default().with_working_folder(staging.path());
        let (_, bytes) = self
            .put(cx, key.clone(), &[RECORD.to_owned()], pack)
            .await?;
        Ok(size + bytes)
    }

    /// Replaces what is there: it was looked at, and found unfit.
    async fn put(
        &self,
        cx: &StepContext,
        key: RenderedKey,
        paths: &[String],
        pack: PackOptions,
    ) -> Result<(Sha256Digest, u64), StepError> {
        let options = SaveOptions::default()
            .with_pack(pack)
            .with_producer(producer(cx))
            .with_if_exists(IfExists::Replace);
        let saved = self.cache.save(key, paths, options).await;
        let metadata = match saved {
            Ok(Saved::Stored(report)) => report.metadata,
            Ok(Saved::Exists(metadata)) => metadata,
            Err(error) => return Err(StepError::errored("could not store the result", error)),
        };
        Ok((metadata.digest, metadata.packed_size))
    }

    async fn compute(
        &self,
        cx: &StepContext,
        key: &RenderedKey,
        fingerprint: &Fingerprint,
    ) -> Result<S::Output, StepError> {
        let started = Instant::now();
        let (inner, recorder) = cx.recording();
        let value = self.step.run(&inner).await?;
        let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let recording: Option<StepRecording> = recorder.recording();
        let stored = async {
            let recording = recording.ok_or_else(|| {
                StepError::failed("it said more than eight mebibytes, which cannot be replayed")
            })?;
            let value = serde_json::to_value(&value)
                .map_err(|error| StepError::errored("could not record its value", error))?;
            let record = Record {
                value,
                recording,
                outputs: None,
                took_ms,
            };
            self.store(cx, key, fingerprint, record).await
        };
        let stored = tokio::select! {
            stored = stored => stored,
            () = cx.cancel().cancelled() => Err(StepError::Cancelled),
        };
        match stored {
            Ok(size) => {
                let fact = json!({ "key": key.key(), "outputs": self.outputs, "size": size });
                cx.fact("memo.stored", fact).await;
            }
            Err(error) => {
                let why = error_chain(&error);
                cx.warn(format!("the result is not memoised: {why}")).await;
                cx.fact("memo.skipped", json!({ "key": key.key(), "why": why }))
                    .await;
            }
        }
        Ok(value)
    }
}

#[async_trait]
impl<S: Step> Step for Memoised<S> {
    type Output = S::Output;

    fn inputs(&self) -> Vec<InputRef> {
        let mut inputs = self.step.inputs();
        inputs.extend(self.inputs.edges());
        inputs
    }

    async fn run(&self, cx: &StepContext) -> Result<S::Output, StepError> {
        let prefix = format!("memo-{}/{}-", cx.job(), cx.step());
        let fingerprint = async {
            let fingerprint = self.fingerprint(cx).await?;
            let key = fingerprint.key(&prefix)?;
            Ok::<_, StepError>((fingerprint, key))
        };
        let (fingerprint, key) = match fingerprint.await {
            Ok(both) => both,
            Err(error) => {
                let why = error_chain(&error);
                cx.warn(format!("not memoised, what it reads cannot be read: {why}"))
                    .await;
                cx.fact("memo.skipped", json!({ "key": null, "why": why }))
                    .await;
                return self.step.run(cx).await;
            }
        };
        let mut rejected = Rejected::default();
        if let Some(value) = self.hit(cx, &key, &mut rejected).await {
            return Ok(value);
        }
        let turns = cx.data_dir().join("memo");
        let name = fingerprint.digest().to_string();
        let _turn = match Turn::take(cx, &turns, &name).await {
            Ok(Some(turn)) => {
                // It may have been computed since the first look.
                if rejected.0.is_empty()
                    && let Some(value) = self.hit(cx, &key, &mut rejected).await
                {
                    return Ok(value);
                }
                Some(turn)
            }
            Ok(None) => return Err(StepError::Cancelled),
            Err(error) => {
                cx.warn(format!(
                    "other runs may compute the same at the same time: {}: {error}",
                    turns.display()
                ))
                .await;
                None
            }
        };
        self.tell_miss(cx, &key, &prefix, rejected).await;
        self.compute(cx, &key, &fingerprint).await
    }
}

fn outputs_key(key: &RenderedKey) -> Result<CacheKey, StepError> {
    // Another beginning than the records': those are listed to explain a miss.
    CacheKey::new(format!("outputs-of-{}", key.key()))
        .map_err(|error| StepError::errored("could not name the outputs", error))
}

fn changes_in_words(changes: &[InputChange]) -> String {
    let mut words: Vec<String> = changes
        .iter()
        .take(3)
        .map(|change| match (&change.stored, &change.wanted) {
            (None, _) => format!("{} is new", change.input),
            (_, None) => format!("{} is gone", change.input),
            _ => format!("{} changed", change.input),
        })
        .collect();
    if changes.len() > words.len() {
        words.push(format!("{} more", changes.len() - words.len()));
    }
    words.join(", ")
}

/// A folder for records, which never get into the job's own.
async fn staging(cx: &StepContext) -> Result<StagingFolder, StepError> {
    let folder = cx.data_dir().join("memo");
    blocking(move || {
        let make = |folder: &Path| {
            std::fs::create_dir_all(folder)?;
            StagingFolder::new(folder)
        };
        make(&folder).map_err(|error| {
            StepError::errored(format!("could not write into {}", folder.display()), error)
        })
    })
    .await
}
