//! A task of a job in the words of the swarm.

use std::collections::HashMap;

use bollard::models::{
    Limit, NetworkAttachmentConfig, ResourceObject, ServiceSpec, ServiceSpecMode,
    ServiceSpecModeReplicated, TaskSpec, TaskSpecContainerSpec, TaskSpecContainerSpecFile,
    TaskSpecContainerSpecSecrets, TaskSpecLogDriver, TaskSpecPlacement, TaskSpecResources,
    TaskSpecRestartPolicy, TaskSpecRestartPolicyConditionEnum,
};

use super::SwarmJob;
use crate::container::{labels, to_i64};
use crate::reference::ImageReference;

/// The role in the labels of what is made here.
pub(super) const ROLE: &str = "swarm-task";

/// A secret that the swarm keeps.
#[derive(Clone, Debug)]
pub(super) struct KeptSecret {
    /// The file below `/run/secrets`.
    pub(super) file: String,
    /// Its name in the swarm.
    pub(super) name: String,
    pub(super) id: String,
}

/// The labels of what is made for a job.
pub(super) fn owned(job: &SwarmJob) -> HashMap<String, String> {
    let mut all: HashMap<_, _> = job.labels.clone().into_iter().collect();
    all.extend(labels(&job.scope, &job.name, ROLE));
    all
}

/// A service whose only replica is one task that is never started again.
pub(super) fn service(
    job: &SwarmJob,
    name: &str,
    index: u32,
    image: &ImageReference,
    secrets: &[KeptSecret],
) -> ServiceSpec {
    let networks = job.networks.iter().map(|network| NetworkAttachmentConfig {
        target: Some(network.clone()),
        ..NetworkAttachmentConfig::default()
    });
    let template = TaskSpec {
        container_spec: Some(container(job, index, image, secrets)),
        resources: Some(resources(job)),
        restart_policy: Some(TaskSpecRestartPolicy {
            condition: Some(TaskSpecRestartPolicyConditionEnum::NONE),
            ..TaskSpecRestartPolicy::default()
        }),
        placement: Some(TaskSpecPlacement {
            constraints: Some(job.constraints.clone()),
            ..TaskSpecPlacement::default()
        }),
        networks: Some(networks.collect()),
        // Whatever a node's default is: output that the node drops or cuts would be lost.
        log_driver: Some(TaskSpecLogDriver {
            name: Some("json-file".to_owned()),
            options: None,
        }),
        ..TaskSpec::default()
    };
    ServiceSpec {
        name: Some(name.to_owned()),
        labels: Some(owned(job)),
        task_template: Some(template),
        mode: Some(ServiceSpecMode {
            replicated: Some(ServiceSpecModeReplicated { replicas: Some(1) }),
            ..ServiceSpecMode::default()
        }),
        ..ServiceSpec::default()
    }
}

fn container(
    job: &SwarmJob,
    index: u32,
    image: &ImageReference,
    secrets: &[KeptSecret],
) -> TaskSpecContainerSpec {
    let words = |words: &[String]| (!words.is_empty()).then(|| words.to_vec());
    let mut env = job.env.clone();
    env.insert("PIPELINE_TASK_INDEX".to_owned(), index.to_string());
    env.insert(
        "PIPELINE_TASK_TOTAL".to_owned(),
        job.completions.to_string(),
    );
    let files = secrets.iter().map(|secret| TaskSpecContainerSpecSecrets {
        file: Some(TaskSpecContainerSpecFile {
            name: Some(secret.file.clone()),
            uid: Some("0".to_owned()),
            gid: Some("0".to_owned()),
            // The image's user need not be the superuser, and nobody else is in there.
            mode: Some(0o444),
        }),
        secret_id: Some(secret.id.clone()),
        secret_name: Some(secret.name.clone()),
    });
    TaskSpecContainerSpec {
        image: Some(image.familiar()),
        command: words(&job.entrypoint),
        args: words(&job.command),
        env: Some(
            env.iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect(),
        ),
        user: job.user.clone(),
        stop_grace_period: Some(i64::try_from(job.grace.as_nanos()).unwrap_or(i64::MAX)),
        secrets: Some(files.collect()),
        ..TaskSpecContainerSpec::default()
    }
}

fn resources(job: &SwarmJob) -> TaskSpecResources {
    let nanos = |cpus: f64| (cpus * 1e9).round() as i64;
    TaskSpecResources {
        limits: Some(Limit {
            nano_cpus: job.limits.cpus.map(nanos),
            memory_bytes: job.limits.memory.map(to_i64),
            pids: job.limits.pids.map(i64::from),
        }),
        reservations: Some(ResourceObject {
            nano_cpus: job.reserved_cpus.map(nanos),
            memory_bytes: job.reserved_memory.map(to_i64),
            generic_resources: None,
        }),
        ..TaskSpecResources::default()
    }
}
