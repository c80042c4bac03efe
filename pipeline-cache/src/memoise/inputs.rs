use std::collections::BTreeSet;

use pipeline_core::{Input, InputRef};

use crate::files::FileSet;

/// What a memoised step reads, apart from what it does.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    pub(super) files: Option<FileSet>,
    pub(super) variables: BTreeSet<String>,
    pub(super) ignored: BTreeSet<String>,
    pub(super) tools: Vec<(String, Input<String>)>,
    pub(super) image: Option<Input<String>>,
}

impl Inputs {
    /// No files and no tools; the declared variables of job and runner count.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the files of the job's folder that the step reads. Names, contents, links and the
    /// permission to execute count; times do not.
    #[must_use]
    pub fn with_files(mut self, files: FileSet) -> Self {
        self.files = Some(files);
        self
    }

    /// Lets a variable count that would not, such as a built-in one. That it is not set counts
    /// as well. A secret one never does.
    #[must_use]
    pub fn with_variable(mut self, name: impl Into<String>) -> Self {
        self.variables.insert(name.into());
        self
    }

    /// Leaves a declared variable out, because it does not change what the step makes.
    #[must_use]
    pub fn without_variable(mut self, name: impl Into<String>) -> Self {
        self.ignored.insert(name.into());
        self
    }

    /// Adds the version of a tool: known, or produced by a step such as
    /// [`ToolVersion`](crate::steps::ToolVersion).
    #[must_use]
    pub fn with_tool(mut self, name: impl Into<String>, version: impl Into<Input<String>>) -> Self {
        self.tools.push((name.into(), version.into()));
        self
    }

    /// Sets the digest of the image that the step runs in. Default: what the job's environment
    /// says, if it says something.
    #[must_use]
    pub fn with_image(mut self, digest: impl Into<Input<String>>) -> Self {
        self.image = Some(digest.into());
        self
    }

    pub(super) fn edges(&self) -> impl Iterator<Item = InputRef> {
        self.tools
            .iter()
            .map(|(_, version)| version)
            .chain(&self.image)
            .filter_map(Input::edge)
    }
}
