//! What a local target will do, and how it starts processes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::LocalTarget;
use super::app::AppCommand;
use super::launch::{Launch, ProcessSpec};
use super::tree::is_inside;
use crate::release::{DeploymentStatus, Release, ReleaseId};
use crate::target::{Action, Decision, DeployError, DeployOptions, DeployPlan, Observation};

impl LocalTarget {
    /// Looks at nothing but its arguments and the configuration.
    pub(super) fn make_plan(
        &self,
        release: &Release,
        observed: &Observation,
        options: &DeployOptions,
    ) -> Result<DeployPlan, DeployError> {
        let source = self.check(release)?;
        let configuration = self.fingerprint();
        let decision = Decision::of(release, &configuration, observed, options);
        let live = observed.live.as_ref();
        let is_live = live.is_some_and(|live| {
            live.release.digest == release.digest
                && observed.configuration.as_ref() == Some(&configuration)
        });
        // One that runs and is sick is not helped by being started again.
        let sick = live.is_some_and(|live| live.status == DeploymentStatus::Unhealthy);
        let mut actions = Vec::new();
        match &decision {
            Decision::Refuse { .. } => {}
            _ if is_live && !sick => {
                let live_release = live.map(|live| &live.release);
                if matches!(decision, Decision::Deploy { .. })
                    && let Some(live) = live_release
                {
                    actions.push(Action::Resume {
                        release: live.id.clone(),
                    });
                }
                if let Some(sequence) = release.sequence
                    && live_release.and_then(|live| live.sequence) < Some(sequence)
                {
                    actions.push(Action::RecordSequence { sequence });
                }
            }
            _ => {
                if !observed.half_made.is_empty() {
                    actions.push(Action::Sweep {
                        folders: observed.half_made.clone(),
                    });
                }
                let folder = self.free_name(&release.id, observed);
                actions.push(Action::Copy {
                    from: source,
                    to: self.folders().release(&folder),
                });
                if !self.app.shared.is_empty() {
                    actions.push(Action::Share {
                        paths: self.app.shared.iter().map(|s| s.path.clone()).collect(),
                    });
                }
                actions.extend(self.app.prepare.iter().map(|command| Action::Prepare {
                    name: command.name.clone(),
                    command: self.app.redactor().redact(&command.to_string()),
                }));
                let from = live.filter(|live| live.status != DeploymentStatus::Stopped);
                actions.extend([
                    Action::Start {
                        command: self.app.redactor().redact(&self.app.serve.to_string()),
                    },
                    Action::CheckHealth {
                        check: self.app.health.to_string(),
                    },
                    Action::Switch {
                        from: from.map(|live| live.release.id.clone()),
                        to: release.id.clone(),
                    },
                ]);
            }
        }
        Ok(DeployPlan::new(
            self.to_string(),
            release.clone(),
            observed.live.clone(),
            decision,
            actions,
        ))
    }

    /// What cannot work is said before anything is done.
    fn check(&self, release: &Release) -> Result<PathBuf, DeployError> {
        let Some(source) = &release.source else {
            return Err(self.invalid(release, "it has no folder with files to copy"));
        };
        if !source.is_absolute() {
            let reason = format!("its folder `{}` is not an absolute path", source.display());
            return Err(self.invalid(release, reason));
        }
        for shared in &self.app.shared {
            if !is_inside(&shared.path) || shared.path.as_os_str().is_empty() {
                let path = shared.path.display();
                let reason = format!("the shared path `{path}` is not within the release's folder");
                return Err(self.invalid(release, reason));
            }
        }
        for command in self.app.prepare.iter().chain([&self.app.serve]) {
            if !is_inside(&command.folder) {
                let reason = format!(
                    "the folder of command `{}` is not within the release's folder",
                    command.name
                );
                return Err(self.invalid(release, reason));
            }
        }
        // The control protocol and the state files are text.
        for path in [self.folders().root(), source.as_path()] {
            if path.to_str().is_none() {
                let reason = format!("the path {} is not valid UTF-8", path.display());
                return Err(self.invalid(release, reason));
            }
        }
        Ok(source.clone())
    }

    /// A folder name that no complete release has.
    fn free_name(&self, id: &ReleaseId, observed: &Observation) -> String {
        let taken = |name: &str| observed.kept.contains(&self.folders().release(name));
        let mut name = id.to_string();
        let mut number = 2;
        while taken(&name) {
            name = format!("{id}.{number}");
            number += 1;
        }
        name
    }

    pub(super) fn spec(
        &self,
        release: &Release,
        command: &AppCommand,
        folder: &str,
        log: &str,
    ) -> ProcessSpec {
        let place = self.folders().release(folder);
        let shared = self.folders().shared();
        let fill = |text: &str| {
            text.replace("{release_dir}", &place.to_string_lossy())
                .replace("{shared_dir}", &shared.to_string_lossy())
        };
        let mut env = BTreeMap::from([
            ("RELEASE_ID".to_owned(), release.id.to_string()),
            (
                "RELEASE_DIR".to_owned(),
                place.to_string_lossy().into_owned(),
            ),
            (
                "SHARED_DIR".to_owned(),
                shared.to_string_lossy().into_owned(),
            ),
        ]);
        env.extend(self.app.exposed_env());
        env.extend(command.env.clone());
        for value in env.values_mut() {
            *value = fill(value);
        }
        let program = fill(&command.program);
        let program = if program.contains('/') && !program.starts_with('/') {
            place.join(program).to_string_lossy().into_owned()
        } else {
            program
        };
        ProcessSpec {
            program,
            args: command.args.iter().map(|arg| fill(arg)).collect(),
            env,
            folder: place.join(&command.folder),
            log: self.folders().logs(folder).join(log),
            stop_grace: self.app.stop_grace,
        }
    }

    pub(super) fn fingerprint(&self) -> String {
        self.app.fingerprint(self.folders().root())
    }

    pub(super) fn launch(&self, release: &Release, folder: &str) -> Launch {
        Launch {
            folder: folder.to_owned(),
            release: release.clone(),
            configuration: self.fingerprint(),
            spec: self.spec(release, &self.app.serve, folder, "serve.log"),
            drain: self.app.drain,
        }
    }
}

/// The name of the folder that a plan makes.
pub(super) fn planned_folder(plan: &DeployPlan) -> Option<String> {
    plan.actions.iter().find_map(|action| match action {
        Action::Copy { to, .. } => Some(to.file_name()?.to_string_lossy().into_owned()),
        _ => None,
    })
}
