use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use petgraph::{
    algo::{tarjan_scc, toposort},
    graph::{DiGraph, NodeIndex},
};

use super::{filter::FilterError, job::Job, plan::Plan};
use crate::{facts::RunFacts, value::InputRef};

/// A validated description of work: jobs, their steps and their order.
///
/// It does nothing by itself: [`plan`](Self::plan) says what would happen and
/// a [`Runner`](crate::Runner) makes it happen.
#[derive(Clone, Debug)]
pub struct Pipeline {
    pub(crate) name: Arc<str>,
    /// In an order in which each job comes after the jobs it needs.
    pub(crate) jobs: Arc<[Job]>,
}

impl Pipeline {
    /// Starts a description.
    #[must_use]
    pub fn builder(name: impl Into<String>) -> PipelineBuilder {
        PipelineBuilder {
            name: name.into(),
            jobs: Vec::new(),
        }
    }

    /// The pipeline's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What will happen for these facts: a pure value, made without running
    /// or reading anything.
    #[must_use]
    pub fn plan(&self, facts: &RunFacts) -> Plan {
        Plan::new(self, facts)
    }
}

/// Collects jobs; made by [`Pipeline::builder`].
#[derive(Debug)]
pub struct PipelineBuilder {
    name: String,
    jobs: Vec<Job>,
}

impl PipelineBuilder {
    /// Adds a job.
    #[must_use]
    pub fn job(mut self, job: Job) -> Self {
        self.jobs.push(job);
        self
    }

    /// Checks everything that can be known before running.
    ///
    /// # Errors
    /// One [`PipelineError`] that lists all findings.
    pub fn build(self) -> Result<Pipeline, PipelineError> {
        let mut findings = Vec::new();
        if self.name.trim().is_empty() {
            findings.push(PipelineFinding::UnnamedPipeline);
        }
        if self.jobs.is_empty() {
            findings.push(PipelineFinding::NoJobs);
        }
        let known: BTreeMap<&str, BTreeSet<&str>> = self
            .jobs
            .iter()
            .map(|job| {
                (
                    &*job.name,
                    job.steps.iter().map(|step| &*step.name).collect(),
                )
            })
            .collect();
        let mut seen = BTreeMap::new();
        for job in &self.jobs {
            check_name("job", &job.name, &mut findings);
            if let Some(first) = seen.insert(job.name.to_lowercase(), &job.name) {
                findings.push(PipelineFinding::DuplicateJob(
                    first.to_string(),
                    job.name.to_string(),
                ));
            }
            if job.folder.is_some() {
                check_name("folder", job.folder_name(), &mut findings);
            }
            findings.extend(
                job.filter
                    .faults()
                    .into_iter()
                    .map(|fault| PipelineFinding::Filter {
                        job: job.name.to_string(),
                        fault,
                    }),
            );
            check_steps(job, &known, &mut findings);
        }
        let order = self.order(&mut findings);
        if !findings.is_empty() {
            return Err(PipelineError { findings });
        }
        let mut jobs: Vec<Option<Job>> = self.jobs.into_iter().map(Some).collect();
        let jobs = order
            .into_iter()
            .filter_map(|index| jobs[index].take())
            .collect();
        Ok(Pipeline {
            name: self.name.into(),
            jobs,
        })
    }

    /// Indices of the jobs in an order that respects the edges; stable for the
    /// same description.
    fn order(&self, findings: &mut Vec<PipelineFinding>) -> Vec<usize> {
        let mut graph = DiGraph::<usize, ()>::with_capacity(self.jobs.len(), self.jobs.len());
        let nodes: Vec<NodeIndex> = (0..self.jobs.len())
            .map(|index| graph.add_node(index))
            .collect();
        let by_name: BTreeMap<&str, NodeIndex> = self
            .jobs
            .iter()
            .zip(&nodes)
            .map(|(job, node)| (&*job.name, *node))
            .collect();
        for (job, node) in self.jobs.iter().zip(&nodes) {
            for needed in job.needs() {
                if let Some(before) = by_name.get(needed) {
                    graph.add_edge(*before, *node, ());
                }
            }
        }
        match toposort(&graph, None) {
            Ok(order) => order.into_iter().map(|node| graph[node]).collect(),
            Err(_) => {
                for component in tarjan_scc(&graph) {
                    let closed = component.len() > 1
                        || component
                            .first()
                            .is_some_and(|node| graph.contains_edge(*node, *node));
                    if closed {
                        findings.push(PipelineFinding::Cycle(self.cycle(&graph, &component)));
                    }
                }
                Vec::new()
            }
        }
    }

    /// One closed path through a strongly connected part.
    fn cycle(&self, graph: &DiGraph<usize, ()>, component: &[NodeIndex]) -> Vec<String> {
        let mut path = Vec::new();
        let mut at = component[0];
        while !path.contains(&at) {
            path.push(at);
            let next = graph.neighbors(at).find(|next| component.contains(next));
            // Every node of the component has an edge inside it.
            let Some(next) = next else { break };
            at = next;
        }
        let start = path.iter().position(|node| *node == at).unwrap_or(0);
        path[start..]
            .iter()
            .chain([&at])
            .map(|node| self.jobs[graph[*node]].name.to_string())
            .collect()
    }
}

fn check_steps(
    job: &Job,
    known: &BTreeMap<&str, BTreeSet<&str>>,
    findings: &mut Vec<PipelineFinding>,
) {
    if job.steps.is_empty() {
        findings.push(PipelineFinding::NoSteps(job.name.to_string()));
    }
    for needed in &job.requires {
        if !known.contains_key(needed.as_str()) {
            findings.push(PipelineFinding::UnknownJob {
                job: job.name.to_string(),
                needs: needed.clone(),
            });
        }
    }
    let mut before: BTreeSet<&str> = BTreeSet::new();
    for step in &job.steps {
        check_name("step", &step.name, findings);
        for input in &step.inputs {
            let there = if input.job == job.name {
                before.contains(&*input.step)
            } else {
                known
                    .get(&*input.job)
                    .is_some_and(|steps| steps.contains(&*input.step))
            };
            if !there {
                findings.push(PipelineFinding::DanglingHandle {
                    job: job.name.to_string(),
                    step: step.name.to_string(),
                    input: input.clone(),
                });
            }
        }
        if !before.insert(&step.name) {
            findings.push(PipelineFinding::DuplicateStep {
                job: job.name.to_string(),
                step: step.name.to_string(),
            });
        }
    }
}

/// Names become files and labels.
fn check_name(what: &'static str, name: &str, findings: &mut Vec<PipelineFinding>) {
    let fault = if name.trim().is_empty() {
        "it is empty"
    } else if name.len() > 100 {
        "it is longer than 100 bytes"
    } else if name
        .chars()
        .any(|c| c == '/' || c == '\\' || c.is_control())
    {
        "it holds a slash or a control character"
    } else if name.starts_with('.') {
        "it starts with a dot"
    } else {
        return;
    };
    findings.push(PipelineFinding::BadName {
        what,
        name: name.to_owned(),
        fault,
    });
}

/// Everything that is wrong with a description.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub struct PipelineError {
    /// One entry per fault.
    pub findings: Vec<PipelineFinding>,
}

impl fmt::Display for PipelineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.findings.as_slice() {
            [one] => write!(f, "the pipeline cannot be built: {one}"),
            all => {
                write!(f, "the pipeline cannot be built, {} findings:", all.len())?;
                all.iter()
                    .try_for_each(|finding| write!(f, "\n  - {finding}"))
            }
        }
    }
}

/// One fault of a description.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineFinding {
    /// The pipeline needs a name.
    #[error("the pipeline has no name")]
    UnnamedPipeline,
    /// There is nothing to do.
    #[error("the pipeline has no jobs")]
    NoJobs,
    /// A job without steps.
    #[error("job {0} has no steps")]
    NoSteps(String),
    /// A name that cannot be a file or a label.
    #[error("the {what} name {name:?} cannot be used: {fault}")]
    BadName {
        /// Job, step or folder.
        what: &'static str,
        /// The name.
        name: String,
        /// Why.
        fault: &'static str,
    },
    /// Two jobs of one name.
    #[error("the job names {0} and {1} are the same; names are compared without case")]
    DuplicateJob(String, String),
    /// Two steps of one name in a job.
    #[error("job {job} has two steps named {step}")]
    DuplicateStep {
        /// The job.
        job: String,
        /// The name.
        step: String,
    },
    /// `requires` names nothing.
    #[error("job {job} requires {needs}, which is not a job of this pipeline")]
    UnknownJob {
        /// The job.
        job: String,
        /// What it requires.
        needs: String,
    },
    /// A handle whose step is not there, or comes later in the same job.
    #[error(
        "step {job}/{step} reads the value of {input}, which no earlier step produces; add its job to the pipeline"
    )]
    DanglingHandle {
        /// The job.
        job: String,
        /// The step.
        step: String,
        /// What it reads.
        input: InputRef,
    },
    /// Jobs that wait for each other.
    #[error("the jobs wait for each other: {}", .0.join(" -> "))]
    Cycle(Vec<String>),
    /// A filter that cannot work.
    #[error("job {job}: {fault}")]
    Filter {
        /// The job.
        job: String,
        /// What is wrong.
        fault: FilterError,
    },
}
