use std::error::Error;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::SystemTime;

use pipeline_core::executor::EnvValue;
use pipeline_core::{Input, InputRef, StepContext, StepError};

use crate::key::{HostArch, KeyContext};

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

/// Where the facts for keys come from, the same for both steps: whatever one of them renders, the
/// other must find.
#[derive(Clone, Debug, Default)]
pub(super) struct KeyFacts {
    pub(super) home: Option<PathBuf>,
    pub(super) environment: Vec<(String, String)>,
    pub(super) tools: Vec<(String, Input<String>)>,
}

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
        let mut context = KeyContext::new(cx.job_dir()).with_host(HostArch::of_this_host());
        context.home_dir.clone_from(&self.home);
        context.branch.clone_from(&facts.branch);
        context.revision.clone_from(&facts.revision);
        context.build_num = (facts.build_number != 0).then_some(facts.build_number);
        context.epoch = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .ok()
            .map(|since| since.as_secs());
        for (name, value) in cx.env() {
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

/// An error with its causes on one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

/// A time as events carry it.
pub(super) fn stamp(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| String::new(), |stamp| stamp.to_string())
}

/// Bytes as people read them.
pub(super) fn size(bytes: u64) -> String {
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
