//! Removing what killed programs left on the engine.

use std::collections::HashMap;

use bollard::query_parameters::{ListContainersOptionsBuilder, ListNetworksOptionsBuilder};

use super::holdings::{limit, remove_container, remove_network};
use super::owner::{Liveness, NAME_LABEL, OWNER_LABEL, Owner};
use crate::engine::{Engine, EngineError};

/// What a clean-up removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reaped {
    /// Names of containers.
    pub containers: Vec<String>,
    /// Names of networks.
    pub networks: Vec<String>,
    /// What could not be removed, and why; the next clean-up tries again.
    pub failed: Vec<String>,
}

impl Reaped {
    /// Nothing was there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.containers.is_empty() && self.networks.is_empty() && self.failed.is_empty()
    }
}

/// Removes containers and networks of this crate whose program has died, with their anonymous
/// volumes. [`ContainerExecutor`](super::ContainerExecutor) does this before its first job.
///
/// Each of them carries the label `pipeline.owner`: kernel and boot, namespace of process numbers,
/// process number, and when that process started; and `pipeline.name`, its own name, without which
/// it is left alone, because images made by `docker commit` hand on the labels. What belongs to a living process is never
/// touched, nor what belongs to another machine or boot, because nobody can see from here whether its
/// program lives. The same is true of other namespaces, such as those of programs in containers,
/// unless this program is root outside of all containers. After a reboot, remove the rest with
/// `docker container prune --filter label=pipeline.owner` and
/// `docker network prune --filter label=pipeline.owner`.
///
/// # Errors
/// The engine cannot be asked. That something could not be removed is told in
/// [`Reaped::failed`].
pub async fn reap(engine: &Engine) -> Result<Reaped, EngineError> {
    let mut reaped = Reaped::default();
    let until = limit();
    let filters = HashMap::from([("label", vec![OWNER_LABEL])]);
    let options = ListContainersOptionsBuilder::default()
        .all(true)
        .filters(&filters)
        .build();
    let containers = engine
        .client()
        .list_containers(Some(options))
        .await
        .map_err(|error| engine.error("list containers", error))?;
    for container in containers {
        let Some(id) = container.id else { continue };
        let names = container.names.iter().flatten();
        let mut names = names.map(|name| name.trim_start_matches('/'));
        if let Some(name) = names.find(|name| is_orphan(container.labels.as_ref(), name)) {
            let removed = remove_container(engine, &id, until).await;
            let name = name.to_owned();
            match removed {
                Ok(_) => reaped.containers.push(name),
                Err(error) => reaped.failed.push(told(&name, &error)),
            }
        }
    }
    let options = ListNetworksOptionsBuilder::default()
        .filters(&filters)
        .build();
    let networks = engine
        .client()
        .list_networks(Some(options))
        .await
        .map_err(|error| engine.error("list networks", error))?;
    for network in networks {
        let Some(id) = network.id else { continue };
        let name = network.name.unwrap_or_default();
        if is_orphan(network.labels.as_ref(), &name) {
            let removed = remove_network(engine, &id, until).await;
            match removed {
                Ok(_) => reaped.networks.push(name),
                Err(error) => reaped.failed.push(told(&name, &error)),
            }
        }
    }
    Ok(reaped)
}

fn told(name: &str, error: &EngineError) -> String {
    format!("{name}: {}", pipeline_core::error_chain(error))
}

/// Whether what has this name has labels of its own, and they name an owner that is dead.
pub(crate) fn is_orphan(labels: Option<&HashMap<String, String>>, name: &str) -> bool {
    let Some(labels) = labels else { return false };
    let is_own = labels.get(NAME_LABEL).is_some_and(|own| own == name);
    let owner = labels
        .get(OWNER_LABEL)
        .and_then(|label| Owner::parse(label));
    is_own && owner.is_some_and(|owner| owner.liveness() == Liveness::Dead)
}
