use std::{collections::BTreeMap, sync::Arc};

use super::filter::Filter;
use crate::{
    executor::{EnvValue, Executor},
    step::{ErasedStep, Step, StepOptions},
    value::{InputRef, Output},
};

/// Ordered steps in one environment.
///
/// ```
/// use pipeline_core::{Job, StepOptions, sh};
///
/// let mut job = Job::new("test").only_branches(["main", "/feature-.*/"]);
/// job.step("unit tests", sh("python -m pytest"));
/// job.step_with("lint", sh("flake8"), StepOptions::new().non_blocking());
/// ```
#[derive(Debug)]
pub struct Job {
    pub(crate) name: Arc<str>,
    pub(crate) steps: Vec<JobStep>,
    pub(crate) requires: Vec<String>,
    pub(crate) filter: Filter,
    pub(crate) disabled: Option<String>,
    pub(crate) non_blocking: bool,
    pub(crate) env: BTreeMap<String, EnvValue>,
    pub(crate) folder: Option<String>,
    pub(crate) executor: Option<Arc<dyn Executor>>,
}

#[derive(Debug)]
pub(crate) struct JobStep {
    pub(crate) name: Arc<str>,
    pub(crate) step: Arc<dyn ErasedStep>,
    pub(crate) options: StepOptions,
    pub(crate) inputs: Vec<InputRef>,
}

impl Job {
    /// A job without steps. Names are unique in a pipeline, upper and lower
    /// case being the same.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into().into(),
            steps: Vec::new(),
            requires: Vec::new(),
            filter: Filter::default(),
            disabled: None,
            non_blocking: false,
            env: BTreeMap::new(),
            folder: None,
            executor: None,
        }
    }

    /// Adds a step and returns the handle of its value.
    pub fn step<S: Step>(&mut self, name: &str, step: S) -> Output<S::Output> {
        self.step_with(name, step, StepOptions::new())
    }

    /// Adds a step with policies.
    pub fn step_with<S: Step>(
        &mut self,
        name: &str,
        step: S,
        options: StepOptions,
    ) -> Output<S::Output> {
        let name: Arc<str> = name.into();
        let inputs = step.inputs();
        self.steps.push(JobStep {
            name: Arc::clone(&name),
            step: Arc::new(step),
            options,
            inputs,
        });
        Output::new(Arc::clone(&self.name), name)
    }

    /// Waits for another job without reading a value of it. Jobs whose values
    /// are read need not be named.
    #[must_use]
    pub fn requires(mut self, job: impl Into<String>) -> Self {
        self.requires.push(job.into());
        self
    }

    /// Runs for these branches only; see [`Filter`](super::Filter).
    #[must_use]
    pub fn only_branches(mut self, patterns: impl IntoIterator<Item: AsRef<str>>) -> Self {
        self.filter.only_branches(patterns);
        self
    }

    /// Does not run for these branches.
    #[must_use]
    pub fn ignore_branches(mut self, patterns: impl IntoIterator<Item: AsRef<str>>) -> Self {
        self.filter.ignore_branches(patterns);
        self
    }

    /// Runs for these tags; without it a job runs for no tag.
    #[must_use]
    pub fn only_tags(mut self, patterns: impl IntoIterator<Item: AsRef<str>>) -> Self {
        self.filter.only_tags(patterns);
        self
    }

    /// Keeps the job in the plan without running it, with the reason shown.
    #[must_use]
    pub fn disabled(mut self, reason: impl Into<String>) -> Self {
        self.disabled = Some(reason.into());
        self
    }

    /// A failure of the job is shown and fails neither the run nor the jobs
    /// that require it.
    #[must_use]
    pub fn non_blocking(mut self) -> Self {
        self.non_blocking = true;
        self
    }

    /// Sets a variable for every command of the job.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<EnvValue>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Names the job's folder; the job's own name by default. Jobs that name
    /// the same folder see each other's files, and the graph decides in which
    /// order.
    #[must_use]
    pub fn folder(mut self, name: impl Into<String>) -> Self {
        self.folder = Some(name.into());
        self
    }

    /// Runs the job on this executor instead of the runner's.
    #[must_use]
    pub fn executor(mut self, executor: Arc<dyn Executor>) -> Self {
        self.executor = Some(executor);
        self
    }

    /// The job's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn folder_name(&self) -> &str {
        self.folder.as_deref().unwrap_or(&self.name)
    }

    /// The jobs this one waits for: those it names and those it reads from.
    pub(crate) fn needs(&self) -> Vec<&str> {
        let mut needs: Vec<&str> = self.requires.iter().map(String::as_str).collect();
        needs.extend(self.reads_from());
        needs.sort_unstable();
        needs.dedup();
        needs
    }

    pub(crate) fn reads_from(&self) -> impl Iterator<Item = &str> {
        self.steps
            .iter()
            .flat_map(|step| &step.inputs)
            .map(|input| &*input.job)
            .filter(|job| **job != *self.name)
    }
}
