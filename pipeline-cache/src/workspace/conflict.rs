//! Files of two layers that cannot both be attached.

use std::collections::BTreeSet;

use super::WorkspaceLayer;
use super::manifest::{Entry, Manifest};
use pipeline_core::{StepContext, StepError};
use serde_json::json;

/// At most this many paths are named.
const NAMED: usize = 20;

/// Two layers of jobs that may run at the same time, with files of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Conflict {
    pub(super) jobs: [String; 2],
    pub(super) paths: Vec<String>,
}

impl Conflict {
    /// `None` when one job waited for the other, or nothing differs.
    pub(super) fn between(
        (first, one): (&WorkspaceLayer, &Manifest),
        (second, other): (&WorkspaceLayer, &Manifest),
    ) -> Option<Self> {
        if !first.is_beside(second) {
            return None;
        }
        let mut paths = BTreeSet::new();
        for (ours, theirs) in [(one, other), (other, one)] {
            for (path, entry) in &ours.entries {
                if let Some(their) = theirs.entries.get(path)
                    && !entry.is_same_content(their)
                {
                    paths.insert(path.clone());
                }
                // A file of theirs where one of our files needs a folder.
                for above in path.match_indices('/').map(|(at, _)| &path[..at]) {
                    if let Some(Entry::File { .. } | Entry::Link { .. }) = theirs.entries.get(above)
                    {
                        paths.insert(above.to_owned());
                    }
                }
            }
        }
        (!paths.is_empty()).then(|| Self {
            jobs: [first.job.clone(), second.job.clone()],
            paths: paths.into_iter().collect(),
        })
    }

    /// Reports it; the error ends the step.
    pub(super) async fn into_error(self, cx: &StepContext) -> StepError {
        let [first, second] = &self.jobs;
        let named = &self.paths[..self.paths.len().min(NAMED)];
        cx.fact(
            "workspace.conflict",
            json!({ "jobs": self.jobs, "paths": named, "count": self.paths.len() }),
        )
        .await;
        for path in named {
            cx.log(format!("  * {path}")).await;
        }
        let more = match self.paths.len() - 1 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        StepError::failed(format!(
            "jobs {first} and {second} persist different content as {}{more}; neither waits for \
             the other, so which of them is wanted is not known: let one require the other, or \
             use different names",
            self.paths[0]
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Sha256Digest;

    fn layer(job: &str, after: &[&str]) -> WorkspaceLayer {
        WorkspaceLayer {
            layer: Sha256Digest::of(b""),
            job: job.to_owned(),
            step: "persist".to_owned(),
            after: after.iter().map(|&job| job.to_owned()).collect(),
            files: 0,
            bytes: 0,
        }
    }

    fn manifest(files: &[(&str, &str)]) -> Manifest {
        let entry = |content: &str| Entry::File {
            size: content.len() as u64,
            digest: Sha256Digest::of(content.as_bytes()),
            mode: 0o644,
        };
        Manifest {
            entries: files
                .iter()
                .map(|(path, content)| ((*path).to_owned(), entry(content)))
                .collect(),
            archived: true,
        }
    }

    #[test]
    fn only_jobs_that_may_run_together_conflict_and_only_over_what_differs() {
        let (a, b) = (layer("a", &[]), layer("b", &[]));
        let after_a = layer("c", &["a"]);
        let one = manifest(&[("same", "x"), ("mine", "1"), ("f/deep", "y")]);
        let two = manifest(&[("same", "x"), ("mine", "2"), ("f", "a file")]);
        let conflict = Conflict::between((&a, &one), (&b, &two)).unwrap();
        assert_eq!(conflict.jobs, ["a", "b"]);
        assert_eq!(conflict.paths, ["f", "mine"]);
        assert_eq!(Conflict::between((&a, &one), (&after_a, &two)), None);
        assert_eq!(Conflict::between((&after_a, &one), (&a, &two)), None);
        assert_eq!(Conflict::between((&a, &one), (&b, &one)), None);
    }
}
