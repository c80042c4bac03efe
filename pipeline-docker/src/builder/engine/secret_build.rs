//! [`SecretBuild`]: a BuildKit build with secrets, which goes another way into the engine.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use bollard::auth::DockerCredentials;
use bollard::grpc::build::{
    ImageBuildFrontendOptions, ImageBuildLoadInput, ImageBuildNetworkMode, ImageBuildPlatform,
    SecretSource,
};
use bollard::grpc::driver::Build;
use bollard::grpc::driver::moby::Moby;
use bollard::grpc::error::GrpcError;
use bollard::moby::buildkit::v1::CacheOptionsEntry;

use super::builder::{Held, blocking, unsupported};
use super::buildkit_error::classify;
use super::failure::Trace;
use super::leftover::Leftover;
use super::store;
use crate::builder::{BuildError, BuildNetwork, DockerfileSpec};
use crate::context::{ContextError, ContextFiles};
use crate::engine::{Engine, EngineError};
use crate::oci::Digest;

/// Bytes of a context that are held in memory at most.
const CONTEXT: usize = 256 * 1024 * 1024;

pub(super) struct SecretBuild {
    pub(super) engine: Engine,
    pub(super) spec: DockerfileSpec,
    pub(super) dockerfile: PathBuf,
    pub(super) syntax: Option<String>,
    pub(super) no_cache: bool,
    pub(super) credentials: HashMap<String, DockerCredentials>,
}

impl SecretBuild {
    /// Answers the id of the image, and the name that keeps it until it has others.
    pub(super) async fn run(
        self,
        files: Arc<ContextFiles>,
        trace: &Trace<'_>,
    ) -> Result<(Digest, Option<Held>), BuildError> {
        crate::tls::ensure();
        if self.spec.network == BuildNetwork::Host {
            return Err(unsupported(
                "use the host's network in a build with secrets",
                "leave one of them out",
            ));
        }
        for (id, path) in &self.spec.secrets {
            if let Err(source) = std::fs::File::open(path) {
                trace.warn(format!("the secret {id} cannot be read"));
                return Err(BuildError::Source {
                    path: path.clone(),
                    source,
                });
            }
        }
        let context = blocking(move || files.write_tar(Bounded(Vec::new()))).await?;
        let context = match context {
            Ok(context) => context.0,
            Err(ContextError::Write(_)) => {
                return Err(unsupported(
                    "send a context of more than 256 MiB together with secrets",
                    "ignore what the build does not need",
                ));
            }
            Err(error) => return Err(error.into()),
        };
        // The image has a name until its id is known, and nobody else has that one.
        let name = format!("pipeline-docker-build:{}", super::buildkit::session());
        let mut leftover = Leftover::named(&self.engine, name.clone()).pending();
        let (engine, syntax) = (self.engine.clone(), self.syntax.clone());
        let built = self.build(name.clone(), context).await;
        match &built {
            Err(GrpcError::TonicStatus { err }) if is_transport(err.message()) => {}
            Ok(()) | Err(GrpcError::TonicStatus { .. }) => leftover.answered(),
            Err(_) => {}
        }
        if let Err(error) = built {
            return Err(match error {
                GrpcError::DockerError { err } => engine.error("build the image", err).into(),
                GrpcError::TonicStatus { err } if is_transport(err.message()) => {
                    lost(&engine, err.into())
                }
                GrpcError::TonicStatus { err } => {
                    classify(err.message(), syntax.as_deref(), instruction(err.message()))
                }
                other => lost(&engine, other.into()),
            });
        }
        let found = store::inspect(&engine, &name).await?;
        let id = found
            .and_then(|image| image.id)
            .and_then(|id| id.parse::<Digest>().ok())
            .ok_or_else(|| EngineError::NotFound {
                action: "find the image that was built".to_owned(),
                message: name.clone(),
            })?;
        Ok((id, Some(Held { name, leftover })))
    }

    /// The client's future cannot move between threads, so it stays on one.
    async fn build(self, name: String, context: Vec<u8>) -> Result<(), GrpcError> {
        let (alive, gone) = tokio::sync::oneshot::channel::<()>();
        let runtime = tokio::runtime::Handle::current();
        let worker = tokio::task::spawn_blocking(move || {
            runtime.block_on(async move {
                let options = self.options();
                let credentials = self
                    .credentials
                    .iter()
                    .map(|(registry, found)| (registry.as_str(), found.clone()))
                    .collect();
                let client = self.engine.client_within(None);
                let build = Moby::new(&client).docker_build(
                    &name,
                    options,
                    ImageBuildLoadInput::Upload(context.into()),
                    Some(credentials),
                    None,
                );
                tokio::select! {
                    result = build => result,
                    // Ends the request, and with it the build.
                    _ = gone => Ok(()),
                }
            })
        });
        let result = worker.await;
        drop(alive);
        result.unwrap_or_else(|error| {
            Err(GrpcError::DockerError {
                err: io::Error::other(error).into(),
            })
        })
    }

    fn options(&self) -> ImageBuildFrontendOptions {
        let mut options = ImageBuildFrontendOptions::builder()
            .dockerfile(&self.dockerfile)
            .nocache(self.no_cache);
        for (name, value) in &self.spec.args {
            options = options.buildarg(name, value);
        }
        for (name, value) in &self.spec.labels {
            options = options.label(name, value);
        }
        for (id, path) in &self.spec.secrets {
            options = options.set_secret(id, &SecretSource::File(path.clone()));
        }
        for image in &self.spec.cache_from {
            options = options.cachefrom(&CacheOptionsEntry {
                r#type: "registry".to_owned(),
                attrs: HashMap::from([("ref".to_owned(), image.clone())]),
            });
        }
        if let Some(target) = &self.spec.target {
            options = options.target(target);
        }
        if let Some(platform) = &self.spec.platform {
            options = options.platforms(&ImageBuildPlatform {
                architecture: platform.architecture.clone(),
                os: platform.os.clone(),
                variant: platform.variant.clone(),
            });
        }
        if self.spec.network == BuildNetwork::None {
            options = options.force_network_mode(&ImageBuildNetworkMode::None);
        }
        options.build()
    }
}

fn is_transport(message: &str) -> bool {
    message.contains("transport error") || message.contains("h2 protocol error")
}

fn lost(engine: &Engine, source: Box<dyn std::error::Error + Send + Sync>) -> BuildError {
    EngineError::broke(&engine.address().to_string(), "build the image", source).into()
}

/// The command in BuildKit's words for its failure; there is no progress to take it from.
fn instruction(message: &str) -> Option<(String, Vec<String>)> {
    let (_, rest) = message.split_once("executor failed running [")?;
    let (command, _) = rest.rsplit_once("]:")?;
    Some((format!("RUN [{command}]"), Vec::new()))
}

/// A buffer that refuses to grow beyond what is reasonable.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > CONTEXT {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
