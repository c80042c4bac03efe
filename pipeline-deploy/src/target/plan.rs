use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{DeployOptions, OlderReleases, Refusal};
use crate::release::{Deployment, DeploymentStatus, Release, ReleaseId};

/// What a target was seen to run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Observation {
    /// The release that takes the traffic, or would if it were running.
    pub live: Option<Deployment>,
    /// A hash of the configuration (command, environment) that the live release was started
    /// with; a release is only unchanged when this is, too.
    pub configuration: Option<String>,
    /// Folders of complete releases, oldest first.
    pub kept: Vec<PathBuf>,
    /// Folders that a deploy began and did not finish.
    pub half_made: Vec<PathBuf>,
}

/// What a target will do, and why; nothing has been done yet.
///
/// `Display` prints it for people, one action per line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeployPlan {
    /// The target, as it prints itself.
    pub target: String,
    /// The release to make live.
    pub release: Release,
    /// What was live when the plan was made.
    pub previous: Option<Deployment>,
    /// Whether to deploy, and why.
    pub decision: Decision,
    /// What to do, in order. May hold book-keeping when the decision is "unchanged".
    pub actions: Vec<Action>,
}

/// Whether to deploy, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "decision", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Decision {
    /// Do the actions.
    Deploy {
        /// Why it is needed.
        why: String,
    },
    /// There is nothing to do.
    Unchanged {
        /// Why not.
        why: String,
    },
    /// It must not be done.
    Refuse {
        /// Why not.
        why: Refusal,
    },
}

impl Decision {
    /// The rule every target shares: the same digest and configuration, live, is nothing to
    /// do; a smaller sequence number than the live one's is refused.
    #[must_use]
    pub fn of(
        release: &Release,
        configuration: &str,
        observed: &Observation,
        options: &DeployOptions,
    ) -> Self {
        let Some(live) = &observed.live else {
            return Self::deploy("nothing is deployed yet");
        };
        let same_digest = live.release.digest == release.digest;
        let same_configuration = observed.configuration.as_deref() == Some(configuration);
        if same_digest && same_configuration && live.status == DeploymentStatus::Live {
            return Self::Unchanged {
                why: format!(
                    "release {} is live with digest {}",
                    live.release.id, live.release.digest
                ),
            };
        }
        if let (Some(ours), Some(theirs)) = (release.sequence, live.release.sequence)
            && ours < theirs
            && options.older_releases == OlderReleases::Refuse
        {
            return Self::Refuse {
                why: Refusal::Older {
                    live: live.release.id.clone(),
                    live_sequence: theirs,
                    sequence: ours,
                },
            };
        }
        if live.status != DeploymentStatus::Live {
            return Self::deploy(format!("release {} is {}", live.release.id, live.status));
        }
        if same_digest {
            return Self::deploy(format!(
                "release {} has the same digest, but the way to run it changed",
                live.release.id
            ));
        }
        Self::deploy(format!(
            "release {} is live with another digest, {}",
            live.release.id, live.release.digest
        ))
    }

    fn deploy(why: impl Into<String>) -> Self {
        Self::Deploy { why: why.into() }
    }
}

/// One thing that a target does. `Display` prints it as a line for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Action {
    /// Remove folders that an interrupted deploy left.
    Sweep {
        /// The folders.
        folders: Vec<PathBuf>,
    },
    /// Copy the release's files to a folder of its own.
    Copy {
        /// From here.
        from: PathBuf,
        /// To here.
        to: PathBuf,
    },
    /// Put links to state that outlives releases into the release's folder.
    Share {
        /// The paths, relative to the release's folder.
        paths: Vec<PathBuf>,
    },
    /// Run a preparation command in the release's folder.
    Prepare {
        /// Its name.
        name: String,
        /// The command, for people; values of secrets are not in it.
        command: String,
    },
    /// Start the release beside the live one, without traffic.
    Start {
        /// The command, for people; values of secrets are not in it.
        command: String,
    },
    /// Ask the new release until it is healthy.
    CheckHealth {
        /// The check.
        check: String,
    },
    /// Give the traffic to the new release.
    Switch {
        /// The release that had it.
        from: Option<ReleaseId>,
        /// The release that gets it.
        to: ReleaseId,
    },
    /// Start a release again that is complete but does not run.
    Resume {
        /// The release.
        release: ReleaseId,
    },
    /// Remember that the live release also stands for a newer sequence number.
    RecordSequence {
        /// The number.
        sequence: u64,
    },
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sweep { folders } => {
                write!(f, "sweep half-made folders: {}", list(folders))
            }
            Self::Copy { from, to } => {
                write!(f, "copy {} to {}", from.display(), to.display())
            }
            Self::Share { paths } => write!(f, "link shared paths: {}", list(paths)),
            Self::Prepare { name, command } => write!(f, "prepare {name}: {command}"),
            Self::Start { command } => write!(f, "start {command}"),
            Self::CheckHealth { check } => write!(f, "check health: {check}"),
            Self::Switch {
                from: Some(from),
                to,
            } => write!(f, "switch traffic from {from} to {to}"),
            Self::Switch { from: None, to } => write!(f, "switch traffic to {to}"),
            Self::Resume { release } => write!(f, "start release {release} again"),
            Self::RecordSequence { sequence } => {
                write!(f, "record sequence number {sequence} for the live release")
            }
        }
    }
}

fn list(paths: &[PathBuf]) -> String {
    let names: Vec<_> = paths.iter().map(|p| p.display().to_string()).collect();
    names.join(", ")
}

impl DeployPlan {
    /// A plan of a target.
    #[must_use]
    pub fn new(
        target: impl Into<String>,
        release: Release,
        previous: Option<Deployment>,
        decision: Decision,
        actions: Vec<Action>,
    ) -> Self {
        Self {
            target: target.into(),
            release,
            previous,
            decision,
            actions,
        }
    }
}

impl fmt::Display for DeployPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.decision {
            Decision::Deploy { why } => {
                write!(f, "deploy {} to {}: {why}", self.release, self.target)?;
            }
            Decision::Unchanged { why } => {
                write!(f, "nothing to do for {}: {why}", self.target)?;
            }
            Decision::Refuse { why } => {
                write!(f, "refuse {} for {}: {why}", self.release, self.target)?;
            }
        }
        for (number, action) in self.actions.iter().enumerate() {
            write!(f, "\n  {}. {action}", number + 1)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(id: &str, digest: &str, sequence: u64) -> Release {
        Release::new(ReleaseId::new(id).unwrap(), digest).with_sequence(sequence)
    }

    fn seen(release: Release, status: DeploymentStatus) -> Observation {
        Observation {
            live: Some(Deployment::new(release, "http://127.0.0.1:1/", status)),
            configuration: Some("c1".into()),
            ..Observation::default()
        }
    }

    fn decide(release: &Release, configuration: &str, observed: &Observation) -> Decision {
        Decision::of(release, configuration, observed, &DeployOptions::default())
    }

    #[test]
    fn the_first_release_is_deployed() {
        let plan = decide(&release("r1", "sha256:a", 1), "c1", &Observation::default());
        assert!(matches!(plan, Decision::Deploy { why } if why.contains("nothing is deployed")));
    }

    #[test]
    fn the_same_digest_is_nothing_to_do_and_says_so() {
        let observed = seen(release("r1", "sha256:a", 5), DeploymentStatus::Live);
        // Also under another name and with a smaller number: the content is what counts.
        let decision = decide(&release("r2", "sha256:a", 4), "c1", &observed);
        let Decision::Unchanged { why } = decision else {
            panic!("{decision:?}");
        };
        assert_eq!(why, "release r1 is live with digest sha256:a");
    }

    #[test]
    fn the_same_digest_is_deployed_when_it_does_not_run_or_runs_otherwise() {
        let stopped = seen(release("r1", "sha256:a", 1), DeploymentStatus::Stopped);
        let same = release("r1", "sha256:a", 1);
        assert!(matches!(
            decide(&same, "c1", &stopped),
            Decision::Deploy { why } if why.contains("stopped")
        ));
        let live = seen(release("r1", "sha256:a", 1), DeploymentStatus::Live);
        assert!(matches!(
            decide(&same, "c2", &live),
            Decision::Deploy { why } if why.contains("changed")
        ));
    }

    #[test]
    fn an_older_release_is_refused_unless_told_to() {
        let observed = seen(release("r5", "sha256:e", 5), DeploymentStatus::Live);
        let old = release("r4", "sha256:d", 4);
        let decision = decide(&old, "c1", &observed);
        let Decision::Refuse { why } = decision else {
            panic!("{decision:?}");
        };
        assert!(why.to_string().contains('5') && why.to_string().contains('4'));
        let told = DeployOptions::default().with_older_releases(OlderReleases::Deploy);
        assert!(matches!(
            Decision::of(&old, "c1", &observed, &told),
            Decision::Deploy { .. }
        ));
        // A stopped newer release is still newer.
        let stopped = seen(release("r5", "sha256:e", 5), DeploymentStatus::Stopped);
        assert!(matches!(
            decide(&old, "c1", &stopped),
            Decision::Refuse { .. }
        ));
    }
}
