//! [`OriginLabels`]: what an image says of where it comes from.

use std::collections::BTreeMap;
use std::process::Stdio;

use pipeline_core::{RunFacts, StepContext};
use tokio::process::Command;

use crate::builder::ImageSource;
use crate::oci::time_text;

/// Which labels say by themselves where an image comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OriginLabels {
    /// `org.opencontainers.image.revision`, `.source`, `.version` (the tag that is built, else the
    /// image's own tag, unless that is made of its content) and `.created` (never the time of day),
    /// as far as they are known.
    #[default]
    All,
    /// None. Then a commit or build that changes nothing in the image gives the same digest.
    None,
}

/// The labels, in the words of the OCI's annotations.
#[derive(Debug)]
pub(super) struct Origin {
    labels: BTreeMap<String, String>,
    created: Option<u64>,
}

impl Origin {
    pub(super) fn new(facts: &RunFacts, own_tag: Option<String>, created: Option<u64>) -> Self {
        let created = created.and_then(|seconds| Some((seconds, time_text(seconds)?)));
        let labels = [
            ("revision", facts.revision.clone()),
            ("source", facts.repository.clone()),
            ("version", facts.tag.clone().or(own_tag)),
            ("created", created.as_ref().map(|(_, text)| text.clone())),
        ];
        let labels = labels
            .into_iter()
            .filter_map(|(name, value)| Some((format!("org.opencontainers.image.{name}"), value?)))
            .collect();
        Self {
            labels,
            created: created.map(|(seconds, _)| seconds),
        }
    }

    /// Adds what the request does not say itself.
    pub(super) fn label(self, source: &mut ImageSource) {
        match source {
            ImageSource::Dockerfile(spec) => fill(&mut spec.labels, &self.labels),
            ImageSource::Layers(spec) => {
                // Either place is where somebody may have said it.
                let mut labels = spec.annotations.clone();
                labels.retain(|name, _| self.labels.contains_key(name));
                labels.extend(spec.config.labels.clone());
                fill(&mut labels, &self.labels);
                let said = labels
                    .iter()
                    .filter(|(name, _)| self.labels.contains_key(*name));
                let said: BTreeMap<_, _> = said
                    .map(|(name, value)| (name.clone(), value.clone()))
                    .collect();
                fill(&mut spec.annotations, &said);
                fill(&mut spec.config.labels, &said);
                spec.created = spec.created.or(self.created);
            }
        }
    }
}

fn fill(labels: &mut BTreeMap<String, String>, more: &BTreeMap<String, String>) {
    for (name, value) in more {
        labels.entry(name.clone()).or_insert_with(|| value.clone());
    }
}

/// When the source was made, in seconds since 1970, as the step's environment or its repository
/// says it.
pub(super) async fn commit_time(cx: &StepContext) -> Option<u64> {
    if let Some(declared) = cx.env().get("SOURCE_DATE_EPOCH") {
        return declared.expose().parse().ok();
    }
    let revision = cx.facts().revision.as_deref()?;
    // Anything else could be an option, or name another commit tomorrow.
    if revision.len() < 40 || !revision.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let variables = cx.env().iter().map(|(name, value)| (name, value.expose()));
    let output = Command::new("git")
        // Commands of the job could write the repository's configuration: nothing it names is run.
        .args(["--no-replace-objects", "-c", "log.showSignature=false"])
        .args(["-c", "core.sshCommand=false", "-c", "protocol.allow=never"])
        .args(["-c", "core.fsmonitor=false"])
        .args(["show", "--no-patch", "--format=%ct", revision])
        .current_dir(cx.job_dir())
        .env_clear()
        .envs(variables)
        .env("GIT_NO_LAZY_FETCH", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.trim().parse().ok().filter(|_| output.status.success())
}
