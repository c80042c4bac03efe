use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::builder::Pipeline;
use crate::{facts::RunFacts, step::When};

/// What will happen: a pure function of a pipeline and facts.
///
/// The text form is its `Display`; JSON is its serialised form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Plan {
    /// Name of the pipeline.
    pub pipeline: String,
    /// What it was planned for.
    pub facts: RunFacts,
    /// Jobs in an order that respects their edges.
    pub jobs: Vec<PlannedJob>,
}

/// A job of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PlannedJob {
    /// Its name.
    pub name: String,
    /// Why it will not run; nothing when it will.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
    /// Jobs it waits for.
    pub needs: Vec<String>,
    /// Whether a failure leaves the run going.
    pub non_blocking: bool,
    /// Its steps in order.
    pub steps: Vec<PlannedStep>,
}

/// A step of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PlannedStep {
    /// Its name.
    pub name: String,
    /// A condition other than "on success".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// Whether a failure leaves the job going.
    pub non_blocking: bool,
    /// Values it reads from other steps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reads: Vec<String>,
}

impl Plan {
    pub(crate) fn new(pipeline: &Pipeline, facts: &RunFacts) -> Self {
        let mut skipped: BTreeMap<&str, String> = BTreeMap::new();
        let mut jobs = Vec::with_capacity(pipeline.jobs.len());
        for job in pipeline.jobs.iter() {
            let needs = job.needs();
            let reason = job
                .disabled
                .clone()
                .or_else(|| job.filter.reason_to_skip(facts))
                .or_else(|| {
                    let source = job
                        .reads_from()
                        .find(|source| skipped.contains_key(source))?;
                    Some(format!("it needs a value of {source}, which does not run"))
                })
                .or_else(|| {
                    // A dependency that a filter removed is ignored; when all
                    // are, the job does not run either (CircleCI's rule).
                    let all = !needs.is_empty()
                        && needs.iter().all(|needed| skipped.contains_key(needed));
                    all.then(|| format!("nothing that it requires runs ({})", needs.join(", ")))
                });
            if let Some(reason) = &reason {
                skipped.insert(&job.name, reason.clone());
            }
            jobs.push(PlannedJob {
                name: job.name.to_string(),
                skipped: reason,
                needs: needs.into_iter().map(str::to_owned).collect(),
                non_blocking: job.non_blocking,
                steps: job
                    .steps
                    .iter()
                    .map(|step| PlannedStep {
                        name: step.name.to_string(),
                        condition: match step.options.when {
                            When::OnSuccess => None,
                            When::OnFailure => Some("on failure".into()),
                            When::Always => Some("always".into()),
                        },
                        non_blocking: step.options.non_blocking,
                        reads: step.inputs.iter().map(ToString::to_string).collect(),
                    })
                    .collect(),
            });
        }
        Self {
            pipeline: pipeline.name.to_string(),
            facts: facts.clone(),
            jobs,
        }
    }

    /// SHA-256 over everything that decides what happens, in hexadecimal.
    ///
    /// The build's number and the address of the source are left out, so that
    /// a laptop and a CI machine give the same hash for the same commit.
    #[must_use]
    pub fn hash(&self) -> String {
        let mut plan = self.clone();
        plan.facts.build_number = 0;
        plan.facts.repository = None;
        // Field order is fixed and no map is involved: one form per plan.
        let form = serde_json::to_vec(&plan).unwrap_or_default();
        Sha256::digest(&form)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// The plan as indented JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// The graph as a Mermaid flowchart; jobs that do not run are dashed.
    #[must_use]
    pub fn to_mermaid(&self) -> String {
        let mut text = String::from("flowchart LR\n");
        let position: BTreeMap<&str, usize> = self
            .jobs
            .iter()
            .enumerate()
            .map(|(at, job)| (job.name.as_str(), at))
            .collect();
        let id = |name: &str| {
            position
                .get(name)
                .map_or_else(String::new, |at| format!("j{at}"))
        };
        for job in &self.jobs {
            let label = job.name.replace('"', "#quot;");
            let mark = if job.non_blocking {
                " (not blocking)"
            } else {
                ""
            };
            let class = if job.skipped.is_some() {
                ":::skipped"
            } else {
                ""
            };
            text.push_str(&format!(
                "    {}[\"{label}{mark}\"]{class}\n",
                id(&job.name)
            ));
        }
        for job in &self.jobs {
            for needed in &job.needs {
                text.push_str(&format!("    {} --> {}\n", id(needed), id(&job.name)));
            }
        }
        if self.jobs.iter().any(|job| job.skipped.is_some()) {
            text.push_str("    classDef skipped stroke-dasharray: 5 5\n");
        }
        text
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "plan of {}", self.pipeline)?;
        for (label, value) in [
            ("branch", &self.facts.branch),
            ("tag", &self.facts.tag),
            ("revision", &self.facts.revision),
        ] {
            if let Some(value) = value {
                write!(f, ", {label} {value}")?;
            }
        }
        writeln!(f, "\nhash {}", self.hash())?;
        for job in &self.jobs {
            match &job.skipped {
                Some(reason) => writeln!(f, "\n- {}: will not run: {reason}", job.name)?,
                None => {
                    write!(f, "\n+ {}", job.name)?;
                    if job.non_blocking {
                        f.write_str(" (not blocking)")?;
                    }
                    if !job.needs.is_empty() {
                        write!(f, ", after {}", job.needs.join(", "))?;
                    }
                    writeln!(f)?;
                    for step in &job.steps {
                        write!(f, "    {}", step.name)?;
                        if step.non_blocking {
                            f.write_str(" (not blocking)")?;
                        }
                        if let Some(condition) = &step.condition {
                            write!(f, " ({condition})")?;
                        }
                        if !step.reads.is_empty() {
                            write!(f, " <- {}", step.reads.join(", "))?;
                        }
                        writeln!(f)?;
                    }
                }
            }
        }
        Ok(())
    }
}
