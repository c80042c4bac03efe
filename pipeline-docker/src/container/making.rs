//! [`Making`]: from an image to a container that is ready for a job's commands.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bollard::container::{AttachContainerResults, LogOutput};
use bollard::models::{
    ContainerCreateBody, EndpointSettings, HostConfig, HostConfigLogConfig, MountType,
    NetworkingConfig,
};
use bollard::query_parameters::AttachContainerOptionsBuilder;
use futures_util::StreamExt;
use pipeline_core::ExecutorError;
use pipeline_core::executor::EnvironmentRequest;

use super::environment::Lifeline;
use super::error::ContainerError;
use super::holdings::{Holdings, unique_name};
use super::owner::labels;
use super::record::{HOLDER, unguessable};
use super::spec::{Access, ContainerSpec, JobFolder, Limits, Mount, Network};
use crate::engine::{Engine, EngineError};
use crate::oci::Platform;

/// The job's name on a private network.
pub(super) const JOB_ALIAS: &str = "job";
/// How long the container's first process may take to say that it is there.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// A container that runs, and what it said of itself.
pub(super) struct Begun {
    pub(super) id: String,
    pub(super) holder: String,
    pub(super) system: Option<String>,
    /// User and group of its processes, as numbers.
    pub(super) owner: (u64, u64),
    pub(super) shared_folder: bool,
    pub(super) lifeline: Lifeline,
    pub(super) created: Duration,
    pub(super) started: Duration,
}

/// What a container of a job is made from.
pub(super) struct Making<'a> {
    pub(super) engine: &'a Engine,
    pub(super) spec: &'a ContainerSpec,
    /// The id of the image, which its name may no longer mean.
    pub(super) image: &'a str,
    pub(super) request: &'a EnvironmentRequest,
    pub(super) holdings: &'a Holdings,
    pub(super) folder: &'a Path,
    pub(super) root: &'a Path,
    pub(super) network: Option<&'a str>,
}

impl Making<'_> {
    /// The container, with the job folder in it if that is wanted and possible.
    pub(super) async fn begin(&self) -> Result<Begun, ExecutorError> {
        let (spec, engine) = (self.spec, self.engine);
        let share = match spec.sharing {
            JobFolder::Copied => false,
            JobFolder::Shared => true,
            JobFolder::Automatic => engine.address().is_socket(),
        };
        if share {
            let name = unique_name("job", &self.request.job);
            match self.begin_with(&name, true).await {
                Ok(begun) if begun.shared_folder => return Ok(begun),
                // It sees other files under this path, or none.
                Ok(_) | Err(Beginning::NoSuchFolder) => {}
                Err(Beginning::OtherPlatform) => return Err(self.other_platform().await.into()),
                Err(Beginning::Failed(error)) => return Err(error),
            }
            if spec.sharing == JobFolder::Shared {
                return Err(ContainerError::NotShared {
                    engine: engine.address().to_string(),
                    folder: self.folder.display().to_string(),
                }
                .into());
            }
            self.holdings.remove(&name).await.map_err(|error| {
                ExecutorError::environment("could not remove a container", error)
            })?;
        }
        let name = unique_name("job", &self.request.job);
        match self.begin_with(&name, false).await {
            Ok(begun) => Ok(begun),
            Err(Beginning::Failed(error)) => Err(error),
            Err(Beginning::OtherPlatform) => Err(self.other_platform().await.into()),
            Err(Beginning::NoSuchFolder) => Err(ContainerError::NotReady {
                image: spec.image.clone(),
                said: "a folder to mount does not exist on the engine's machine".to_owned(),
            }
            .into()),
        }
    }

    async fn other_platform(&self) -> ContainerError {
        let info = self.engine.info();
        let found = self.engine.client().inspect_image(self.image).await.ok();
        let image_platform = found.and_then(|image| {
            let architecture = image.architecture.filter(|text| !text.is_empty())?;
            Some(Platform::new(image.os?, architecture).to_string())
        });
        ContainerError::OtherPlatform {
            image: self.spec.image.clone(),
            image_platform,
            engine: self.engine.address().to_string(),
            platform: Platform::new(&info.os, &info.architecture).to_string(),
        }
    }

    async fn begin_with(&self, name: &str, share: bool) -> Result<Begun, Beginning> {
        let (spec, engine) = (self.spec, self.engine);
        let marker = if share {
            Some(Marker::put(self.folder)?)
        } else {
            None
        };
        let failed = |error: EngineError| {
            let text = error.to_string();
            if let Some(path) = missing_source(&text) {
                if share && Path::new(path) == self.folder {
                    return Beginning::NoSuchFolder;
                }
                let (path, engine) = (path.to_owned(), engine.address().to_string());
                return Beginning::Failed(ContainerError::NoMount { path, engine }.into());
            }
            // The container is made; what cannot be run is the program.
            match shell_failure(&text) {
                Some(ShellFailure::Missing) => {
                    let image = spec.image.clone();
                    Beginning::Failed(ContainerError::NoShell { image }.into())
                }
                Some(ShellFailure::OtherPlatform) => Beginning::OtherPlatform,
                None => Beginning::Failed(ExecutorError::environment(
                    format!("could not start a container of the image {}", spec.image),
                    error,
                )),
            }
        };
        let begin = Instant::now();
        let body = self.body(share, marker.as_ref());
        let id = self
            .holdings
            .create(name, &spec.image, body)
            .await
            .map_err(failed)?;
        let created = begin.elapsed();
        let begin = Instant::now();
        let options = AttachContainerOptionsBuilder::default()
            .stream(true)
            .stdin(true)
            .stdout(true)
            .stderr(true)
            .build();
        let mut attached = engine
            .client()
            .attach_container(&id, Some(options))
            .await
            .map_err(|error| failed(engine.error("attach to the container", error)))?;
        engine
            .client()
            .start_container(&id, None)
            .await
            .map_err(|error| failed(engine.error("start the container", error)))?;
        let said = tokio::time::timeout(READY_LIMIT, first_words(&mut attached))
            .await
            .unwrap_or_else(|_| Err(format!("it said nothing for {}s", READY_LIMIT.as_secs())))
            .map_err(|said| {
                let image = spec.image.clone();
                // The engine's init looks for the shell, and not the engine itself.
                let error = match shell_failure(&said) {
                    Some(ShellFailure::Missing) => ContainerError::NoShell { image },
                    Some(ShellFailure::OtherPlatform) => return Beginning::OtherPlatform,
                    None => ContainerError::NotReady { image, said },
                };
                Beginning::Failed(error.into())
            })?;
        let line = |key: &str| {
            said.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
        };
        Ok(Begun {
            id,
            holder: line("pid").unwrap_or("1").to_owned(),
            system: line("system").map(|text| text.trim_matches('"').to_owned()),
            owner: line("user").and_then(owner).unwrap_or((0, 0)),
            shared_folder: said.lines().any(|line| line == "shared"),
            lifeline: Lifeline::new(attached),
            created,
            started: begin.elapsed(),
        })
    }

    fn body(&self, share: bool, marker: Option<&Marker>) -> ContainerCreateBody {
        let spec = self.spec;
        let info = self.engine.info();
        let mut mounts: Vec<Mount> = spec.mounts.clone();
        if share {
            mounts.insert(0, Mount::writable(self.folder, self.root));
        }
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let alias = EndpointSettings {
            aliases: Some(vec![JOB_ALIAS.to_owned()]),
            ..EndpointSettings::default()
        };
        ContainerCreateBody {
            image: Some(self.image.to_owned()),
            entrypoint: Some(vec![
                "/bin/sh".to_owned(),
                "-c".to_owned(),
                HOLDER.to_owned(),
            ]),
            cmd: Some(vec![
                "pipeline".to_owned(),
                text(self.root),
                marker.map_or_else(String::new, |marker| marker.name.clone()),
            ]),
            user: spec.user.clone(),
            working_dir: Some(text(self.root)),
            labels: Some(labels(&self.request.scope, &self.request.job, "job")),
            open_stdin: Some(true),
            // The first process meets the end of its input when we are gone.
            stdin_once: Some(true),
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            host_config: Some(HostConfig {
                init: info.has_init.then_some(true),
                // Output goes through the connection of each command.
                log_config: Some(HostConfigLogConfig {
                    typ: Some("none".to_owned()),
                    config: None,
                }),
                network_mode: match (&spec.network, self.network) {
                    (_, Some(network)) => Some(network.to_owned()),
                    (Network::None, None) => Some("none".to_owned()),
                    (Network::Named(name), None) => Some(name.clone()),
                    (Network::Default, None) => None,
                },
                shm_size: spec.shm_size.map(to_i64),
                ..limited(&spec.limits, mounts.iter())
            }),
            networking_config: self.network.map(|network| NetworkingConfig {
                endpoints_config: Some(HashMap::from([(network.to_owned(), alias)])),
            }),
            ..ContainerCreateBody::default()
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ShellFailure {
    Missing,
    OtherPlatform,
}

/// Why the shell cannot be run, in the words of engines, runtimes and inits.
fn shell_failure(said: &str) -> Option<ShellFailure> {
    let said = said.to_ascii_lowercase();
    if said.contains("exec format error") {
        return Some(ShellFailure::OtherPlatform);
    }
    let is_missing = said.contains("no such file") || said.contains("not found");
    (is_missing && said.contains("/bin/sh")).then_some(ShellFailure::Missing)
}

/// The path of a mount that is not there, in docker's words or podman's.
fn missing_source(said: &str) -> Option<&str> {
    if let Some((_, path)) = said.split_once("bind source path does not exist: ") {
        return Some(path.trim_end());
    }
    let (_, rest) = said.split_once("statfs ")?;
    let (path, _) = rest.split_once(": no such file or directory")?;
    Some(path)
}

/// Limits and mounts in the engine's words.
pub(crate) fn limited<'a>(limits: &Limits, mounts: impl Iterator<Item = &'a Mount>) -> HostConfig {
    let mounts: Vec<_> = mounts
        .map(|mount| bollard::models::Mount {
            typ: Some(MountType::BIND),
            source: Some(mount.host.to_string_lossy().into_owned()),
            target: Some(mount.inside.to_string_lossy().into_owned()),
            read_only: Some(mount.access == Access::ReadOnly),
            ..bollard::models::Mount::default()
        })
        .collect();
    HostConfig {
        mounts: Some(mounts),
        memory: limits.memory.map(to_i64),
        // The same figure for both together leaves nothing for swap.
        memory_swap: limits.memory.map(to_i64),
        nano_cpus: limits.cpus.map(|cpus| (cpus * 1e9).round() as i64),
        pids_limit: limits.pids.map(i64::from),
        ..HostConfig::default()
    }
}

fn owner(numbers: &str) -> Option<(u64, u64)> {
    let (user, group) = numbers.split_once(' ')?;
    Some((user.parse().ok()?, group.parse().ok()?))
}

pub(crate) fn to_i64(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

enum Beginning {
    /// The engine's machine has no such folder.
    NoSuchFolder,
    /// It cannot run the image's shell.
    OtherPlatform,
    Failed(ExecutorError),
}

/// A file in the job folder that the container looks for; gone when this is dropped.
struct Marker {
    path: PathBuf,
    name: String,
}

impl Marker {
    fn put(folder: &Path) -> Result<Self, Beginning> {
        let name = format!(".pipeline-{}", unguessable());
        let path = folder.join(&name);
        std::fs::write(&path, "").map_err(|source| {
            Beginning::Failed(ExecutorError::environment(
                format!("could not write to the job folder {}", folder.display()),
                source,
            ))
        })?;
        Ok(Self { path, name })
    }
}

impl Drop for Marker {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).ok();
    }
}

/// What the holder says until it is ready, or what was said instead.
async fn first_words(attached: &mut AttachContainerResults) -> Result<String, String> {
    let mut said = String::new();
    loop {
        match attached.output.next().await {
            Some(Ok(
                LogOutput::StdOut { message }
                | LogOutput::StdErr { message }
                | LogOutput::Console { message }
                | LogOutput::StdIn { message },
            )) => said.push_str(&String::from_utf8_lossy(&message)),
            Some(Err(error)) => return Err(error.to_string()),
            None => return Err(said.trim().to_owned()),
        }
        if said.lines().any(|line| line == "ready") {
            return Ok(said);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_a_shell_does_not_run_is_told_apart() {
        let missing = Some(ShellFailure::Missing);
        for (said, why) in [
            (
                "[FATAL tini (7)] exec /bin/sh failed: No such file or directory",
                missing,
            ),
            (
                "exec: \"/bin/sh\": stat /bin/sh: no such file or directory: unknown",
                missing,
            ),
            (
                "crun: executable file `/bin/sh` not found: No such file or directory",
                missing,
            ),
            (
                "[FATAL tini (7)] exec /bin/sh failed: Exec format error",
                Some(ShellFailure::OtherPlatform),
            ),
            (
                "standard_init_linux.go:228: exec user process caused: exec format error",
                Some(ShellFailure::OtherPlatform),
            ),
            ("exec /bin/sh failed: Permission denied", None),
            ("network pipeline-x not found", None),
        ] {
            assert_eq!(shell_failure(said), why, "{said}");
        }
    }
}
