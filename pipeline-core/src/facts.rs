//! What is known about a run before it starts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::executor::EnvValue;

/// The facts that a plan and cache keys are made from: which source, which
/// build. The caller fills them in; nothing is read behind its back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RunFacts {
    /// The branch being built; none on a tag.
    pub branch: Option<String>,
    /// The tag being built; none on a branch.
    pub tag: Option<String>,
    /// The commit.
    pub revision: Option<String>,
    /// Where the source comes from. Credentials in it are removed.
    pub repository: Option<String>,
    /// The project's name.
    pub project: Option<String>,
    /// Number of this build. The runner counts when it is 0.
    pub build_number: u64,
}

impl RunFacts {
    /// Facts that say nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the branch.
    #[must_use]
    pub fn with_branch(mut self, branch: impl Into<String>) -> Self {
        self.branch = Some(branch.into());
        self
    }

    /// Sets the tag.
    #[must_use]
    pub fn with_tag(mut self, tag: impl Into<String>) -> Self {
        self.tag = Some(tag.into());
        self
    }

    /// Sets the commit.
    #[must_use]
    pub fn with_revision(mut self, revision: impl Into<String>) -> Self {
        self.revision = Some(revision.into());
        self
    }

    /// Sets where the source comes from; a password in the address is dropped.
    #[must_use]
    pub fn with_repository(mut self, address: impl AsRef<str>) -> Self {
        self.repository = Some(crate::source::without_credentials(address.as_ref()));
        self
    }

    /// Sets the project's name.
    #[must_use]
    pub fn with_project(mut self, name: impl Into<String>) -> Self {
        self.project = Some(name.into());
        self
    }

    /// Sets the number of the build.
    #[must_use]
    pub fn with_build_number(mut self, number: u64) -> Self {
        self.build_number = number;
        self
    }

    /// The variables that hosted CI gives to every job, under the names that
    /// existing scripts look for, in the three groups that CircleCI prints.
    ///
    /// `CIRCLECI` itself is not set: this is not that service.
    #[must_use]
    pub fn builtin_variables(&self, run: &str, job: &str, folder: &str) -> BuiltinVariables {
        let plain = |name: &str, value: &str| (name.to_owned(), EnvValue::from(value));
        let agent = vec![
            plain("CI", "true"),
            plain("CIRCLE_JOB", job),
            plain("CIRCLE_NODE_INDEX", "0"),
            plain("CIRCLE_NODE_TOTAL", "1"),
            plain("CIRCLE_WORKING_DIRECTORY", folder),
            plain("CIRCLE_BUILD_NUM", &self.build_number.to_string()),
        ];
        let project = [
            ("CIRCLE_BRANCH", &self.branch),
            ("CIRCLE_TAG", &self.tag),
            ("CIRCLE_SHA1", &self.revision),
            ("CIRCLE_REPOSITORY_URL", &self.repository),
            ("CIRCLE_PROJECT_REPONAME", &self.project),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some(plain(name, value.as_ref()?)))
        .collect();
        let workflow = vec![
            plain("CIRCLE_PIPELINE_ID", run),
            plain("CIRCLE_WORKFLOW_ID", run),
            plain("CIRCLE_WORKFLOW_JOB_ID", &format!("{run}/{job}")),
            plain("CIRCLE_WORKFLOW_WORKSPACE_ID", run),
        ];
        BuiltinVariables {
            agent,
            project,
            workflow,
        }
    }
}

/// Variables in the groups in which they are printed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BuiltinVariables {
    /// What the runner knows.
    pub agent: Vec<(String, EnvValue)>,
    /// What the source says.
    pub project: Vec<(String, EnvValue)>,
    /// What the run is.
    pub workflow: Vec<(String, EnvValue)>,
}

impl BuiltinVariables {
    /// All of them, for the environment of a job.
    #[must_use]
    pub fn into_env(self) -> BTreeMap<String, EnvValue> {
        self.agent
            .into_iter()
            .chain(self.project)
            .chain(self.workflow)
            .collect()
    }

    /// As printed: each variable with its value, secret ones masked.
    #[must_use]
    pub fn groups(&self) -> [(&'static str, Vec<String>); 3] {
        let lines = |group: &[(String, EnvValue)]| {
            group
                .iter()
                .map(|(name, value)| format!("{name}={}", shown(value)))
                .collect()
        };
        [
            ("Build agent environment variables", lines(&self.agent)),
            ("Project environment variables", lines(&self.project)),
            ("Workflow environment variables", lines(&self.workflow)),
        ]
    }
}

/// CircleCI's mark for a value that is not shown.
pub(crate) fn shown(value: &EnvValue) -> &str {
    match value {
        EnvValue::Plain(value) => value,
        EnvValue::Secret(_) => "**REDACTED**",
    }
}
