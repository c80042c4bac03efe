//! Removing what killed programs left on the swarm.

use std::collections::HashMap;

use bollard::query_parameters::{ListSecretsOptionsBuilder, ListServicesOptionsBuilder};

use super::holdings::{remove_secret, remove_service};
use crate::container::{OWNER_LABEL, is_orphan, limit};
use crate::engine::{Engine, EngineError};

/// What a clean-up removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SwarmReaped {
    /// Names of services.
    pub services: Vec<String>,
    /// Names of secrets.
    pub secrets: Vec<String>,
}

impl SwarmReaped {
    /// Nothing was there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.secrets.is_empty()
    }
}

/// Removes services and secrets of this crate whose program has died; their tasks are stopped.
/// [`Swarm::run`](super::Swarm::run) does this first.
///
/// The rules are those of [`container::reap`](crate::container::reap): what belongs to a living
/// process is never touched, nor what belongs to another machine, boot or namespace. After a
/// reboot, find the rest with `docker service ls --filter label=pipeline.owner` and
/// `docker secret ls --filter label=pipeline.owner`, and remove it with `docker service rm` and
/// `docker secret rm`.
///
/// # Errors
/// The engine cannot be asked or is no manager, or a removal failed.
pub async fn reap(engine: &Engine) -> Result<SwarmReaped, EngineError> {
    let mut reaped = SwarmReaped::default();
    let until = limit();
    let filters = HashMap::from([("label", vec![OWNER_LABEL])]);
    let options = ListServicesOptionsBuilder::default()
        .filters(&filters)
        .build();
    let services = engine.client().list_services(Some(options)).await;
    let services = services.map_err(|error| engine.error("list services of the swarm", error))?;
    for service in services {
        let spec = service.spec.unwrap_or_default();
        let Some(id) = service.id else { continue };
        let name = spec.name.unwrap_or_default();
        if is_orphan(spec.labels.as_ref(), &name) {
            remove_service(engine, &id, until).await?;
            reaped.services.push(name);
        }
    }
    let options = ListSecretsOptionsBuilder::default()
        .filters(&filters)
        .build();
    let secrets = engine.client().list_secrets(Some(options)).await;
    let secrets = secrets.map_err(|error| engine.error("list secrets of the swarm", error))?;
    for secret in secrets {
        let spec = secret.spec.unwrap_or_default();
        let Some(id) = secret.id else { continue };
        let name = spec.name.unwrap_or_default();
        if is_orphan(spec.labels.as_ref(), &name) {
            remove_secret(engine, &id, until).await?;
            reaped.secrets.push(name);
        }
    }
    Ok(reaped)
}
