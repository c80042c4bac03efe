//! [`EngineBuilder`]: images of Dockerfiles, built by a container engine.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bollard::auth::DockerCredentials;
use bollard::query_parameters::BuildImageOptions;

use super::context_stream::stream;
use super::dockerfile::Dockerfile;
use super::failure::Trace;
use super::leftover::Leftover;
use super::names::Names;
use super::{classic, store};
use crate::builder::{
    BaseImage, BuildError, BuildEvent, BuildNetwork, BuildObserver, BuildRequest,
    BuilderCapabilities, BuiltImage, DaemonlessBuilder, DockerfileSpec, ImageBuilder,
    ImageLocation, ImageOutput, ImageSource, ImageSpec, Support,
};
use crate::builder::{daemonless, docker_archive};
use crate::context::{BuildContext, ContextError, ContextFiles};
use crate::credentials::{Anonymous, CredentialSource};
use crate::engine::{Engine, EngineKind, registry_credentials, registry_key};
use crate::ignore::IgnoreRule;
use crate::oci::{Digest, OciLayout};
use crate::reference::ImageReference;

/// Files of a context that are worth a word, in bytes.
const LARGE: u64 = 100_000_000;

/// How often a build is begun that the engine gives up although nothing is wrong with it.
const TRIES: usize = 5;

/// Builds images of Dockerfiles with a container engine.
///
/// The context is read and sent at the same time, so memory does not grow with it. Names are set
/// when the image is complete: all of them, or none. A failure names the instruction, its exit code
/// and the last lines that it printed. The classic builder's intermediate containers are removed.
///
/// Output into a layout takes the image out of the engine again, with layers compressed here and in
/// the same form that a [`DaemonlessBuilder`] gives them.
///
/// # Cancellation
/// Dropping the future ends the connection, upon which the engine stops the command that runs and
/// removes its container. No name is set. Layers that were complete stay as the engine's cache.
///
/// # What the engine decides
/// - BuildKit is used where the engine offers it and the feature `buildkit` is on; see
///   [`BuildBackend`]. It gets its context as a tar, and so sees a Dockerfile that the ignore file
///   leaves out.
/// - With secrets, BuildKit takes the context in one piece: up to 256 MiB, and it tells no progress.
/// - podman builds its own way whatever is asked for, and knows mounts. It takes no secrets here.
/// - Docker's classic builder gives a build up when somebody removes an image, any image, while it
///   looks for its cache. Such a build is begun again, up to four times, with a warning; what was
///   done already comes from the cache.
/// - A build without changes has the same id only as long as the engine keeps its cache.
#[derive(Debug, Clone)]
pub struct EngineBuilder {
    engine: Engine,
    backend: BuildBackend,
    no_cache: bool,
    credentials: Arc<dyn CredentialSource>,
    observer: Option<Arc<dyn BuildObserver>>,
}

/// Which of an engine's builders is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BuildBackend {
    /// BuildKit where the engine has it and the feature `buildkit` is on, else the classic one.
    #[default]
    Auto,
    /// The builder that every engine has. It knows no mounts and no here-documents.
    Classic,
    /// BuildKit. Building fails where there is none.
    BuildKit,
}

/// The name that holds an image until it has others.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) name: String,
    pub(super) leftover: Leftover,
}

impl fmt::Display for EngineBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.engine.fmt(f)
    }
}

impl EngineBuilder {
    /// A builder that uses `engine`, without credentials for base images.
    #[must_use]
    pub fn new(engine: Engine) -> Self {
        Self {
            engine,
            backend: BuildBackend::default(),
            no_cache: false,
            credentials: Arc::new(Anonymous),
            observer: None,
        }
    }

    /// Sets which of the engine's builders is used.
    #[must_use]
    pub const fn with_backend(mut self, backend: BuildBackend) -> Self {
        self.backend = backend;
        self
    }

    /// Builds everything anew.
    #[must_use]
    pub const fn without_cache(mut self) -> Self {
        self.no_cache = true;
        self
    }

    /// Sets who knows credentials for the registries of base images.
    #[must_use]
    pub fn with_credentials(mut self, source: Arc<dyn CredentialSource>) -> Self {
        self.credentials = source;
        self
    }

    fn buildkit(&self) -> Result<bool, BuildError> {
        let offered = self.engine.info().has_buildkit;
        let instead = if cfg!(feature = "buildkit") {
            "use another engine, or the classic builder"
        } else {
            "switch the feature `buildkit` of pipeline-docker on, or use the classic builder"
        };
        match self.backend {
            BuildBackend::Classic => Ok(false),
            BuildBackend::Auto => Ok(offered && cfg!(feature = "buildkit")),
            BuildBackend::BuildKit if offered && cfg!(feature = "buildkit") => Ok(true),
            BuildBackend::BuildKit => Err(unsupported("build with BuildKit", instead)),
        }
    }

    async fn in_engine(
        &self,
        spec: &DockerfileSpec,
        names: &Names,
    ) -> Result<BuiltImage, BuildError> {
        let mut trace = Trace::new(self.observer.as_deref());
        let buildkit = self.buildkit()?;
        let path = spec
            .dockerfile
            .clone()
            .unwrap_or_else(|| PathBuf::from("Dockerfile"));
        let mut context = BuildContext::new(&spec.context).with_dockerfile(&path);
        if !buildkit && self.engine.info().kind == EngineKind::Docker {
            context = context.with_rule(IgnoreRule::Classic);
        }
        let file = spec.context.join(&path);
        let (dockerfile, files) = blocking(move || read(&file, &context)).await??;
        self.check(spec, &dockerfile, buildkit, &trace)?;
        for (name, bytes) in files.large_files(LARGE).into_iter().take(5) {
            trace.warn(format!(
                "{name} of {} MB is part of the build context; ignore it if the build does not need it",
                bytes / 1_000_000
            ));
        }
        trace.tell(&BuildEvent::ContextFound {
            entries: files.len(),
            bytes: files.size(),
        });
        let began = store::clock(&self.engine).await?;
        let files = Arc::new(files);
        let mut tries = 1;
        let (id, held_by) = loop {
            let files = Arc::clone(&files);
            let done = self
                .run(spec, &path, &dockerfile, files, buildkit, &mut trace)
                .await;
            match done {
                Err(error) if tries < TRIES && classic::is_lost_in_lookup(&error) => {
                    tries += 1;
                    trace.warn(
                        "an image was removed while the engine looked for its cache, and it gave \
                         up; building again",
                    );
                }
                done => break done?,
            }
        };
        self.name(&id, names, held_by, began).await
    }

    /// Gives what was built its names. `held` is the name that it has until then, if any.
    async fn name(
        &self,
        id: &Digest,
        names: &Names,
        held: Option<Held>,
        began: i64,
    ) -> Result<BuiltImage, BuildError> {
        let leftover = Leftover::unnamed(&self.engine, id);
        let named = leftover.name(id, names).await;
        let mut tags = names.texts();
        let mut kept = None;
        match held {
            // Without another name it would go away with this one.
            Some(held) if names.is_empty() && named.is_ok() => {
                tags.push(held.name);
                kept = Some(held.leftover);
            }
            Some(held) => held.leftover.remove().await?,
            None => {}
        }
        let leftover = named?;
        match store::describe(&self.engine, id, tags, began).await {
            Ok(image) => {
                leftover.keep();
                if let Some(kept) = kept {
                    kept.keep();
                }
                Ok(image)
            }
            Err(error) => {
                // What the first failure says is what counts.
                if let Some(kept) = kept {
                    drop(kept.remove().await);
                }
                drop(leftover.remove().await);
                Err(error)
            }
        }
    }

    /// What can be known to fail or surprise before anything is sent.
    fn check(
        &self,
        spec: &DockerfileSpec,
        dockerfile: &Dockerfile,
        buildkit: bool,
        trace: &Trace<'_>,
    ) -> Result<(), BuildError> {
        let docker = self.engine.info().kind == EngineKind::Docker;
        if !buildkit && !spec.secrets.is_empty() {
            return Err(unsupported(
                "give secrets to the classic builder",
                "build with BuildKit (feature `buildkit`), which mounts them; a build argument would stay in the image",
            ));
        }
        if let Some((line, what)) = dockerfile.needs_buildkit.filter(|_| docker && !buildkit) {
            return Err(unsupported(
                &format!(
                    "do what line {line} of the Dockerfile asks for with the classic builder ({what})"
                ),
                "build with BuildKit (feature `buildkit`)",
            ));
        }
        let unknown = dockerfile.unknown(spec.args.keys());
        if !unknown.is_empty() {
            trace.warn(format!(
                "no ARG of the Dockerfile takes the build argument{} {}",
                if unknown.len() == 1 { "" } else { "s" },
                unknown.join(", ")
            ));
        }
        for name in dockerfile.unused(spec.args.keys()) {
            trace.warn(format!(
                "no stage sees the build argument {name}: it is declared before the first FROM \
                 only, and no FROM uses it; repeat `ARG {name}` in the stage that does"
            ));
        }
        for id in &dockerfile.secrets {
            if docker && !spec.secrets.contains_key(id) {
                trace.warn(format!(
                    "the Dockerfile mounts the secret {id}, which was not given"
                ));
            }
        }
        Ok(())
    }

    async fn run(
        &self,
        spec: &DockerfileSpec,
        path: &Path,
        dockerfile: &Dockerfile,
        files: Arc<ContextFiles>,
        buildkit: bool,
        trace: &mut Trace<'_>,
    ) -> Result<(Digest, Option<Held>), BuildError> {
        let credentials = self.base_credentials(dockerfile, spec).await?;
        #[cfg(feature = "buildkit")]
        if buildkit && !spec.secrets.is_empty() {
            let build = super::secret_build::SecretBuild {
                engine: self.engine.clone(),
                spec: spec.clone(),
                dockerfile: path.to_owned(),
                syntax: dockerfile.syntax.clone(),
                no_cache: self.no_cache,
                credentials,
            };
            return build.run(files, trace).await;
        }
        let options = self.options(spec, path, buildkit)?;
        let observer = self.observer.clone();
        let (body, sending) = stream(move |pieces| {
            files.write_tar(&mut *pieces)?;
            io::Write::flush(pieces).map_err(ContextError::Write)?;
            if let Some(observer) = observer {
                observer.event(&BuildEvent::ContextSent {
                    bytes: pieces.sent(),
                });
            }
            Ok(())
        });
        let client = self.engine.client_within(None);
        let followed = {
            let body = bollard::body_try_stream(body);
            let answers = client.build_image(options, Some(credentials), Some(body));
            #[cfg(feature = "buildkit")]
            if buildkit {
                let syntax = dockerfile.syntax.as_deref();
                super::buildkit::follow(&self.engine, answers, trace, syntax).await
            } else {
                classic::follow(&self.engine, answers, trace).await
            }
            #[cfg(not(feature = "buildkit"))]
            classic::follow(&self.engine, answers, trace).await
        };
        let sent: Result<u64, ContextError> = joined(sending.await)?;
        match (followed, sent) {
            // Who stopped reading early has said why.
            (Err(error), Ok(_)) => Err(error),
            (Err(error), Err(ContextError::Write(source)))
                if source.kind() == io::ErrorKind::BrokenPipe =>
            {
                Err(error)
            }
            (_, Err(error)) => Err(error.into()),
            (Ok(id), Ok(_)) => Ok((id, None)),
        }
    }

    fn options(
        &self,
        spec: &DockerfileSpec,
        path: &Path,
        buildkit: bool,
    ) -> Result<BuildImageOptions, BuildError> {
        let dockerfile = path.to_str().ok_or_else(|| BuildError::Invalid {
            field: "Dockerfile",
            value: path.display().to_string(),
            why: "the name is no UTF-8 text",
        })?;
        let map = |values: &std::collections::BTreeMap<String, String>| -> HashMap<_, _> {
            values
                .iter()
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect()
        };
        let mut options = BuildImageOptions {
            dockerfile: dockerfile.to_owned(),
            nocache: self.no_cache,
            rm: true,
            forcerm: true,
            buildargs: Some(map(&spec.args)),
            labels: Some(map(&spec.labels)),
            cachefrom: (!spec.cache_from.is_empty()).then(|| spec.cache_from.clone()),
            networkmode: match spec.network {
                BuildNetwork::Default => None,
                BuildNetwork::None => Some("none".to_owned()),
                BuildNetwork::Host => Some("host".to_owned()),
            },
            platform: spec
                .platform
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            target: spec.target.clone().unwrap_or_default(),
            ..BuildImageOptions::default()
        };
        #[cfg(feature = "buildkit")]
        if buildkit {
            options.version = bollard::query_parameters::BuilderVersion::BuilderBuildKit;
            options.session = Some(super::buildkit::session());
        }
        #[cfg(not(feature = "buildkit"))]
        {
            debug_assert!(!buildkit, "not offered without the feature");
            options.version = bollard::query_parameters::BuilderVersion::BuilderV1;
        }
        Ok(options)
    }

    async fn base_credentials(
        &self,
        dockerfile: &Dockerfile,
        spec: &DockerfileSpec,
    ) -> Result<HashMap<String, DockerCredentials>, BuildError> {
        let mut known = HashMap::new();
        for image in dockerfile.images(&spec.args) {
            let Ok(reference) = image.parse::<ImageReference>() else {
                continue;
            };
            let registry = reference.domain();
            let found = registry_credentials(&*self.credentials, registry).await?;
            if let Some(found) = found {
                known.insert(registry_key(registry), found);
            }
        }
        Ok(known)
    }

    async fn in_layout(
        &self,
        spec: &DockerfileSpec,
        path: &Path,
        tag: Option<&str>,
    ) -> Result<BuiltImage, BuildError> {
        let layout = OciLayout::create(path)?;
        let image = self.in_engine(spec, &Names::default()).await?;
        let file = self.take_out(&image, layout).await?;
        let base = BaseImage::DockerArchive {
            path: file.path().to_owned(),
            name: None,
        };
        let output = ImageOutput::Layout {
            path: path.to_owned(),
            tag: tag.map(str::to_owned),
        };
        let mut request = ImageSpec::new(base);
        request.platform = image.platform;
        DaemonlessBuilder::new()
            .build(&BuildRequest::layers(request, output))
            .await
    }

    /// Moves an image out of the engine into an unfinished file of `layout`. Whatever happens, the
    /// engine does not keep it.
    async fn take_out(
        &self,
        image: &BuiltImage,
        layout: OciLayout,
    ) -> Result<tempfile::NamedTempFile, BuildError> {
        // Dropped in this order, names first, when the future is.
        let mut leftovers = Vec::new();
        if let ImageLocation::Engine { tags } = &image.location {
            let held = tags.iter().cloned();
            leftovers.extend(held.map(|name| Leftover::named(&self.engine, name)));
        }
        leftovers.push(Leftover::unnamed(&self.engine, &image.config_digest));
        let saved = self.save(image, layout).await;
        for leftover in leftovers {
            let removed = leftover.remove().await;
            if saved.is_ok() {
                removed?;
            }
        }
        saved
    }

    async fn save(
        &self,
        image: &BuiltImage,
        layout: OciLayout,
    ) -> Result<tempfile::NamedTempFile, BuildError> {
        let file = blocking(move || layout.staged()).await??;
        store::save(&self.engine, &image.config_digest, file.path()).await?;
        Ok(file)
    }
}

impl EngineBuilder {
    /// By way of a layout, so that the file has the form that a [`DaemonlessBuilder`] gives it.
    async fn in_archive(
        &self,
        spec: &DockerfileSpec,
        path: &Path,
        names: &[String],
    ) -> Result<BuiltImage, BuildError> {
        let names = docker_archive::names(names)?;
        let folder = docker_archive::temporary(docker_archive::folder_of(path))?;
        let image = self.in_layout(spec, folder.path(), None).await?;
        let layout = OciLayout::open(folder.path())?;
        let path = path.to_owned();
        daemonless::on_worker(move |go_on| {
            let _folder = folder;
            docker_archive::write(&layout, image, &path, names, go_on)
        })
        .await
    }
}

#[async_trait]
impl ImageBuilder for EngineBuilder {
    fn capabilities(&self) -> BuilderCapabilities {
        BuilderCapabilities {
            dockerfiles: Support::Yes,
            layout_output: Support::Yes,
            engine_output: Support::Yes,
            archive_output: Support::Yes,
            ..BuilderCapabilities::default()
        }
    }

    fn observed_by(&self, observer: Arc<dyn BuildObserver>) -> Arc<dyn ImageBuilder> {
        Arc::new(Self {
            observer: Some(observer),
            ..self.clone()
        })
    }

    async fn build(&self, request: &BuildRequest) -> Result<BuiltImage, BuildError> {
        let ImageSource::Dockerfile(spec) = &request.source else {
            return Err(unsupported(
                "build an image of layers",
                "use a DaemonlessBuilder, with this engine for its output",
            ));
        };
        match &request.output {
            ImageOutput::Engine { .. } => self.in_engine(spec, &Names::of(&request.output)?).await,
            ImageOutput::Layout { path, tag } => self.in_layout(spec, path, tag.as_deref()).await,
            ImageOutput::DockerArchive { path, names } => self.in_archive(spec, path, names).await,
            ImageOutput::Registry { .. } => Err(unsupported(
                "push what it builds",
                "build into the engine or into a layout and push that, as the step `PushImage` does",
            )),
        }
    }
}

pub(super) fn unsupported(what: &str, instead: &str) -> BuildError {
    BuildError::Unsupported {
        builder: "engine",
        what: what.to_owned(),
        instead: instead.to_owned(),
    }
}

fn read(path: &Path, context: &BuildContext) -> Result<(Dockerfile, ContextFiles), BuildError> {
    let text = std::fs::read(path).map_err(|source| BuildError::Source {
        path: path.to_owned(),
        source,
    })?;
    let dockerfile = Dockerfile::read(&String::from_utf8_lossy(&text));
    Ok((dockerfile, context.scan()?))
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, BuildError> {
    joined(tokio::task::spawn_blocking(work).await)
}

pub(super) fn joined<T>(result: Result<T, tokio::task::JoinError>) -> Result<T, BuildError> {
    result.map_err(|error| BuildError::Aborted {
        message: error.to_string(),
    })
}
