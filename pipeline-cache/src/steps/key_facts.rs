use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use pipeline_core::executor::EnvValue;
use pipeline_core::{Input, InputRef, StepContext, StepError};

use super::blocking;

use crate::key::{HostArch, KeyContext, KeyError, KeyTemplate, RenderedKey};
use crate::store::Producer;

/// What trouble with a cache means for the job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Strictness {
    /// A warning; the job goes on as if nothing was cached.
    #[default]
    Lenient,
    /// The step fails. A plain miss is still no failure.
    Strict,
}

/// Which variables `{{ .Environment.NAME }}` knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyVariables {
    /// The plain variables of the job, and those given to the step.
    #[default]
    OfJob,
    /// Only those given to the step. `CircleCI` knows its own variables and those of contexts, and
    /// none that the job or a step sets: whoever moves its keys here gives those.
    Given,
}

/// Where the facts for keys come from, the same for both steps: whatever one of them renders, the
/// other must find.
#[derive(Clone, Debug, Default)]
pub(super) struct KeyFacts {
    pub(super) home: Option<PathBuf>,
    pub(super) environment: Vec<(String, String)>,
    pub(super) variables: KeyVariables,
    pub(super) checkout_key: Option<String>,
    pub(super) tools: Vec<(String, Input<String>)>,
}

/// What both steps are told in the same way, as methods of each.
macro_rules! settings_of_both_steps {
    ($step:ty) => {
        impl $step {
            /// Sets what trouble means. Default: [`Strictness::Lenient`].
            #[must_use]
            pub fn with_strictness(mut self, strictness: $crate::steps::Strictness) -> Self {
                self.strictness = strictness;
                self
            }

            /// Adds a value for `{{ .Environment.NAME }}`, beside the plain variables of the job.
            #[must_use]
            pub fn with_environment(
                mut self,
                name: impl Into<String>,
                value: impl Into<String>,
            ) -> Self {
                self.facts.environment.push((name.into(), value.into()));
                self
            }

            /// Sets which variables keys know. Default: [`KeyVariables::OfJob`](crate::steps::KeyVariables::OfJob).
            #[must_use]
            pub fn with_key_variables(mut self, variables: $crate::steps::KeyVariables) -> Self {
                self.facts.variables = variables;
                self
            }

            /// Sets `{{ .CheckoutKey }}`: what names the key that the source was fetched with.
            /// Default: none, and a key that asks for it cannot be rendered.
            #[must_use]
            pub fn with_checkout_key(mut self, name: impl Into<String>) -> Self {
                self.facts.checkout_key = Some(name.into());
                self
            }

            /// Adds a value for `{{ tool "NAME" }}`: known, or produced by a step.
            #[must_use]
            pub fn with_tool(
                mut self,
                name: impl Into<String>,
                version: impl Into<pipeline_core::Input<String>>,
            ) -> Self {
                self.facts.tools.push((name.into(), version.into()));
                self
            }
        }
    };
}

pub(super) use settings_of_both_steps;

impl KeyFacts {
    pub(super) fn inputs(&self) -> Vec<InputRef> {
        self.tools
            .iter()
            .filter_map(|(_, version)| version.edge())
            .collect()
    }

    /// Facts of the run, plain variables of the job, and what was given.
    pub(super) fn context(&self, cx: &StepContext) -> Result<KeyContext, StepError> {
        let facts = cx.facts();
        let mut context = KeyContext::new(cx.job_dir()).with_host(host(cx));
        context.home_dir.clone_from(&self.home);
        context.branch.clone_from(&facts.branch);
        context.revision.clone_from(&facts.revision);
        context.build_num = (facts.build_number != 0).then_some(facts.build_number);
        context.epoch = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .ok()
            .map(|since| since.as_secs());
        context.checkout_key.clone_from(&self.checkout_key);
        let of_job = match self.variables {
            KeyVariables::OfJob => Some(cx.env()),
            KeyVariables::Given => None,
        };
        for (name, value) in of_job.into_iter().flatten() {
            // A key is printed and stored in the clear: secrets never get into one.
            if let EnvValue::Plain(value) = value {
                context = context.with_environment(name, value);
            }
        }
        for (name, value) in &self.environment {
            context = context.with_environment(name, value);
        }
        for (name, version) in &self.tools {
            context = context.with_tool(name, cx.resolve(version)?.trim());
        }
        Ok(context)
    }

    /// A declared path with `~` written out.
    pub(super) fn expand(&self, path: &str) -> String {
        let home = || Some(self.home.as_ref()?.to_string_lossy().into_owned());
        match (path.strip_prefix("~/"), home()) {
            (Some(rest), Some(home)) => format!("{home}/{rest}"),
            _ => path.to_owned(),
        }
    }
}

/// Where the job runs, which may be a container of another platform.
pub(crate) fn host(cx: &StepContext) -> HostArch {
    match &cx.environment().facts().platform {
        Some(platform) => HostArch::of_platform(platform),
        None => HostArch::of_this_host(),
    }
}

/// Renders keys on a thread that may block: files are read, and folders are walked. Ends when the
/// step is cancelled.
pub(super) async fn render(
    cx: &StepContext,
    context: KeyContext,
    templates: Vec<KeyTemplate>,
) -> Result<Vec<Result<RenderedKey, KeyError>>, StepError> {
    let rendered = blocking(move || {
        let keys = templates.iter().map(|template| template.render(&context));
        Ok(keys.collect())
    });
    tokio::select! {
        rendered = rendered => rendered,
        () = cx.cancel().cancelled() => Err(StepError::Cancelled),
    }
}

/// An unset variable is most often a mistake, and is in the key all the same.
pub(super) async fn warn_unset(cx: &StepContext, key: &RenderedKey) {
    for name in key.unset_variables() {
        cx.warn(format!(
            "cache key {key}: the variable {name} is not set, or is a secret, which never gets \
             into a key"
        ))
        .await;
    }
}

/// Who makes an entry.
pub(crate) fn producer(cx: &StepContext) -> Producer {
    let facts = cx.facts();
    let mut producer = Producer::default().with_job(cx.job());
    producer.pipeline.clone_from(&facts.project);
    producer.branch.clone_from(&facts.branch);
    producer.revision.clone_from(&facts.revision);
    producer.build_number = (facts.build_number != 0).then_some(facts.build_number);
    producer
}

/// A time as events carry it.
pub(crate) fn stamp(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| String::new(), |stamp| stamp.to_string())
}

/// A time as people read it.
pub(super) fn duration(time: Duration) -> String {
    format!("{:.3} s", time.as_secs_f64())
}

/// Bytes as people read them.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut shown = bytes;
    while shown >= 10 * 1024 && unit + 1 < UNITS.len() || shown >= 1024 && unit == 0 {
        shown = shown.div_ceil(1024);
        unit += 1;
    }
    format!("{shown} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (98_566_144, "94 MiB"),
            (u64::MAX, "16777216 TiB"),
        ] {
            assert_eq!(size(bytes), shown);
        }
    }
}
