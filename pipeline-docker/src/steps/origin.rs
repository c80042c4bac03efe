//! [`OriginLabels`]: what an image says of where it comes from.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use pipeline_core::{RunFacts, StepContext};
use tokio::process::Command;

use crate::builder::ImageSource;
use crate::oci::time_text;

/// How long git may take to look at one commit.
const GIT_LIMIT: Duration = Duration::from_secs(10);

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
    let variables = cx
        .env()
        .iter()
        .map(|(name, value)| (name.as_str(), value.expose()));
    in_time(ask_git(cx.job_dir(), variables, revision)).await
}

/// A label that cannot be had soon is left out, as one that is not known.
async fn in_time<T>(asking: impl Future<Output = Option<T>>) -> Option<T> {
    tokio::time::timeout(GIT_LIMIT, asking).await.ok()?
}

/// Commands of the job could write the repository's configuration: nothing that it names is run, and
/// nothing is fetched.
async fn ask_git<'a>(
    folder: &Path,
    variables: impl Iterator<Item = (&'a str, &'a str)>,
    revision: &str,
) -> Option<u64> {
    let output = Command::new("git")
        .args(["--no-pager", "--no-replace-objects"])
        .args([
            "-c",
            "log.showSignature=false",
            "-c",
            "core.fsmonitor=false",
        ])
        .args(["-c", "core.sshCommand=false", "-c", "protocol.allow=never"])
        .args(["show", "--no-patch", "--no-mailmap", "--format=%ct"])
        .arg(revision)
        .current_dir(folder)
        .env_clear()
        .envs(variables)
        .env("GIT_NO_LAZY_FETCH", "1")
        // Older versions know only this one, and it goes before what the configuration allows.
        .env("GIT_ALLOW_PROTOCOL", "none")
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const TIME: u64 = 1_700_000_000;

    fn git(folder: &Path, arguments: &[&str]) -> std::process::Output {
        std::process::Command::new("git")
            .args(["-c", "user.name=a", "-c", "user.email=a@example.com"])
            .args(arguments)
            .current_dir(folder)
            .env("GIT_COMMITTER_DATE", format!("{TIME} +0000"))
            .output()
            .unwrap()
    }

    fn said(folder: &Path, arguments: &[&str]) -> String {
        let output = git(folder, arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn path() -> (String, String) {
        ("PATH".to_owned(), std::env::var("PATH").unwrap())
    }

    async fn asked(folder: &Path, revision: &str) -> Option<u64> {
        let (name, value) = path();
        ask_git(folder, [(&*name, &*value)].into_iter(), revision).await
    }

    /// A repository whose configuration names a program wherever git would run one, and which
    /// leaves a file behind.
    struct Hostile {
        folder: tempfile::TempDir,
        revision: String,
    }

    impl Hostile {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let hostile = Self {
                revision: String::new(),
                folder,
            };
            let root = hostile.folder.path();
            said(root, &["init", "--quiet"]);
            let bait = root.join(".git/bait");
            // As a program for signatures it signs everything.
            let script = format!(
                "#!/bin/sh\necho \"$0 $*\" >> '{}'\n\
                 echo '-----BEGIN PGP SIGNATURE-----'; echo '-----END PGP SIGNATURE-----'\n\
                 echo '[GNUPG:] SIG_CREATED ' >&2\nexec cat >/dev/null\n",
                hostile.marker().display()
            );
            // Not written by us: a program that somebody has open for writing cannot be run, and
            // what other tests start has it open for a moment.
            let text = root.join(".git/text");
            fs::write(&text, script).unwrap();
            let mut install = std::process::Command::new("install");
            let status = install.args(["-m", "755"]).args([&text, &bait]).status();
            assert!(status.unwrap().success());
            let bait = bait.to_str().unwrap();
            said(root, &["config", "gpg.program", bait]);
            let commit = ["commit", "--quiet", "--allow-empty", "--message=first"];
            said(root, &[&commit[..], &["--gpg-sign"]].concat());
            for name in [
                "core.fsmonitor",
                "core.pager",
                "pager.show",
                "core.sshCommand",
                "core.askPass",
                "core.editor",
                "core.gitProxy",
                "credential.helper",
                "diff.external",
                "diff.bait.textconv",
                "filter.bait.smudge",
                "filter.bait.process",
                "interactive.diffFilter",
            ] {
                said(root, &["config", name, bait]);
            }
            let ext = format!("ext::{bait} %S");
            for (name, value) in [
                ("alias.show", format!("!{bait}").as_str()),
                ("log.showSignature", "true"),
                // What is not there is fetched from here.
                ("extensions.partialClone", "origin"),
                ("core.repositoryFormatVersion", "1"),
                ("remote.origin.url", &ext),
                ("remote.origin.promisor", "true"),
                ("protocol.allow", "always"),
                ("protocol.ext.allow", "always"),
            ] {
                said(root, &["config", name, value]);
            }
            fs::write(root.join(".gitattributes"), "* diff=bait filter=bait\n").unwrap();
            let revision = said(root, &["rev-parse", "HEAD"]);
            drop(fs::remove_file(hostile.marker()));
            Self {
                revision,
                ..hostile
            }
        }

        fn root(&self) -> &Path {
            self.folder.path()
        }

        fn marker(&self) -> std::path::PathBuf {
            self.folder.path().join(".git/marker")
        }
    }

    #[tokio::test]
    async fn no_program_that_a_repository_names_is_run() {
        let hostile = Hostile::new();
        let missing = "0123456789".repeat(4);
        // The baits are eaten by who is not careful.
        for revision in [&hostile.revision, &missing] {
            git(hostile.root(), &["show", revision]);
            fs::remove_file(hostile.marker()).unwrap();
        }
        assert_eq!(asked(hostile.root(), &hostile.revision).await, Some(TIME));
        assert_eq!(asked(hostile.root(), &missing).await, None);
        let eaten = fs::read_to_string(hostile.marker());
        assert!(eaten.is_err(), "{eaten:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_repository_that_holds_git_up_costs_the_time_only() {
        let folder = tempfile::tempdir().unwrap();
        said(folder.path(), &["init", "--quiet"]);
        let pipe = folder.path().join("pipe");
        let status = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(status.unwrap().success());
        // Opening it waits for somebody who writes.
        let config = folder.path().join(".git/config");
        fs::write(config, format!("[include]\npath = {}\n", pipe.display())).unwrap();
        let (name, value) = path();
        let asking = ask_git(folder.path(), [(&*name, &*value)].into_iter(), "HEAD");
        let begun = tokio::time::Instant::now();
        // The clock stands still until git reads, and its reading has no end while this is open.
        let open = tokio::task::spawn_blocking(move || fs::File::create(pipe).unwrap());
        let (time, writer) = tokio::join!(in_time(asking), open);
        assert_eq!(time, None);
        assert!(begun.elapsed() >= GIT_LIMIT);
        drop(writer.unwrap());
    }
}
