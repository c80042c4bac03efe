//! [`PushImage`].

use async_trait::async_trait;
use pipeline_core::{InputRef, Step, StepContext, StepError};

use super::super::client::Registry;
use super::super::error::RegistryError;
use super::super::origin::blocking;
use super::super::push::PushOptions;
use super::super::step_log::drive;
use super::image_input::ImageInput;
use super::pushed_image::PushedImage;
use crate::builder::ImageLocation;
use crate::existing_tag::ExistingTag;
use crate::oci::{Digest, OciLayout};
use crate::reference::ImageReference;
use crate::tag_policy::{TagPolicy, TagSet};

/// Pushes an image to a repository under the tags of a policy.
///
/// The reference's own tag counts if it has one; else the [`TagPolicy`] makes the tags from the
/// run's facts, by default `<branch>-<revision>-<build number>`. A tag that names another image
/// already fails the step. Aliases move last, after the registry has confirmed the image; an
/// alias that cannot be moved is a warning.
///
/// # Cancellation
///
/// As for [`Registry::push`]: no tag is set before everything it names is there.
#[derive(Clone, Debug)]
pub struct PushImage {
    registry: Registry,
    image: ImageInput,
    target: ImageReference,
    tags: TagPolicy,
    options: PushOptions,
    #[cfg(feature = "engine")]
    engine: Option<(
        crate::engine::Engine,
        std::sync::Arc<dyn crate::credentials::CredentialSource>,
    )>,
}

impl PushImage {
    /// Pushes `image` to the repository of `target`.
    #[must_use]
    pub fn new(registry: Registry, image: impl Into<ImageInput>, target: ImageReference) -> Self {
        Self {
            registry,
            image: image.into(),
            target,
            tags: TagPolicy::default(),
            options: PushOptions::default(),
            #[cfg(feature = "engine")]
            engine: None,
        }
    }

    /// Sets which tags the image gets. If the target has a tag, only the aliases of it count.
    #[must_use]
    pub fn with_tags(mut self, policy: TagPolicy) -> Self {
        self.tags = policy;
        self
    }

    /// Sets how it is pushed.
    #[must_use]
    pub fn with_options(mut self, options: PushOptions) -> Self {
        self.options = options;
        self
    }

    /// Sets the engine that pushes what was built into its store, and who knows its credentials.
    ///
    /// The image gets the target's names there, too. On the way it has a tag `upload-<id>`, in the
    /// engine and in the registry; where the registry deletes no tags, that one stays.
    #[cfg(feature = "engine")]
    #[must_use]
    pub fn with_engine(
        mut self,
        engine: crate::engine::Engine,
        credentials: std::sync::Arc<dyn crate::credentials::CredentialSource>,
    ) -> Self {
        self.engine = Some((engine, credentials));
        self
    }

    fn tags(&self, context: &StepContext, digest: &Digest) -> Result<TagSet, StepError> {
        let policy = match self.target.tag() {
            Some(tag) => self.tags.clone().only(tag),
            None => self.tags.clone(),
        };
        policy
            .render(context.facts(), digest)
            .map_err(|error| StepError::failed(error.to_string()))
    }
}

#[async_trait]
impl Step for PushImage {
    type Output = PushedImage;

    fn inputs(&self) -> Vec<InputRef> {
        self.image.edge().into_iter().collect()
    }

    async fn run(&self, context: &StepContext) -> Result<PushedImage, StepError> {
        let (path, named) = match &self.image {
            ImageInput::Layout { path, image } => (path.clone(), Err(image.clone())),
            ImageInput::Built(input) => {
                let built = context.resolve(input)?;
                match built.location {
                    // Its tag in the layout may name something newer by now.
                    ImageLocation::Layout { path, .. } => (path, Ok(built.manifest)),
                    #[cfg(feature = "engine")]
                    ImageLocation::Engine { .. } if self.engine.is_some() => {
                        return self.with_own_engine(context, &built).await;
                    }
                    ImageLocation::DockerArchive { .. } => {
                        return Err(StepError::failed(
                            "the image is in a file for `docker load`; build it into a layout to push it",
                        ));
                    }
                    ImageLocation::Registry { reference } => {
                        return Err(StepError::failed(format!(
                            "the image is in a registry already, as {reference}; use the steps `CopyImage` or `TagImage`",
                        )));
                    }
                    ImageLocation::Engine { .. } => {
                        return Err(StepError::failed(
                            "the image is in an engine's store; give this step the engine (feature `engine`), or build it into a layout",
                        ));
                    }
                }
            }
        };
        let doing = format!("push to {}", self.target.name());
        let path = context.data_dir().join(path);
        let layout = tokio::task::spawn_blocking(move || OciLayout::open(path))
            .await
            .map_err(|error| StepError::errored(doing.as_str(), error))?
            .map_err(|error| StepError::errored(doing.as_str(), error))?;
        let root = match named {
            Ok(manifest) => manifest,
            Err(name) => blocking(&layout, move |layout| layout.resolve(name.as_deref()))
                .await
                .map_err(|error| StepError::errored(doing.as_str(), error))?,
        };
        let tags = self.tags(context, &root.digest)?;
        let pushed = drive(context, &doing, |observer| async {
            let registry = self.registry.observed_by(observer);
            let mut pushed: Option<PushedImage> = None;
            refuse_taken(
                &registry,
                &self.target,
                &tags,
                &root.digest,
                self.options.existing,
            )
            .await?;
            for tag in &tags.unique {
                let target = self.target.with_tag(tag.as_str())?;
                match &mut pushed {
                    None => {
                        let report = registry
                            .push_manifest(&layout, &root, &target, &self.options)
                            .await?;
                        pushed = Some(PushedImage::of(report));
                    }
                    Some(pushed) => {
                        registry
                            .tag(&pushed.reference, tag, self.options.existing)
                            .await?;
                        pushed.tags.push(tag.clone());
                    }
                }
            }
            let Some(mut pushed) = pushed else {
                return Err(RegistryError::NoTag {
                    reference: Box::new(self.target.clone()),
                });
            };
            move_aliases(&registry, &mut pushed, &tags.aliases).await?;
            Ok(pushed)
        })
        .await?;
        Ok(show(context, pushed).await)
    }
}

#[cfg(feature = "engine")]
impl PushImage {
    async fn with_own_engine(
        &self,
        context: &StepContext,
        built: &crate::builder::BuiltImage,
    ) -> Result<PushedImage, StepError> {
        let Some(engine) = &self.engine else {
            return Err(StepError::failed("there is no engine to push with"));
        };
        let tags = self.tags(context, built.digest())?;
        let pushed = super::engine_push::push_with_engine(
            context,
            engine,
            &self.registry,
            built,
            &self.target,
            &tags,
            self.options.existing,
        )
        .await?;
        Ok(show(context, pushed).await)
    }
}

async fn show(context: &StepContext, pushed: PushedImage) -> PushedImage {
    for (alias, reason) in &pushed.failed_aliases {
        context
            .warn(format!("alias {alias} was not moved: {reason}"))
            .await;
    }
    pushed.show(context).await;
    pushed
}

/// Refuses tags of which one names another image, before the first of them is set.
pub(super) async fn refuse_taken(
    registry: &Registry,
    target: &ImageReference,
    tags: &TagSet,
    digest: &Digest,
    existing: ExistingTag,
) -> Result<(), RegistryError> {
    // A single one is looked up where it is set.
    if existing != ExistingTag::Refuse || tags.unique.len() < 2 {
        return Ok(());
    }
    for tag in &tags.unique {
        let wanted = target.with_tag(tag.as_str())?;
        let there = registry.resolve(&wanted).await?;
        if let Some(there) = there.filter(|there| there.digest != *digest) {
            return Err(RegistryError::TagExists {
                reference: Box::new(wanted),
                existing: there.digest,
                wanted: digest.clone(),
            });
        }
    }
    Ok(())
}

/// Moves aliases to an image, after looking whether it is really there.
pub(super) async fn move_aliases(
    registry: &Registry,
    pushed: &mut PushedImage,
    aliases: &[String],
) -> Result<(), RegistryError> {
    if aliases.is_empty() {
        return Ok(());
    }
    let own = pushed
        .reference
        .tag()
        .map(|tag| pushed.reference.with_tag(tag))
        .transpose()?;
    let there = match own {
        Some(own) => registry.resolve(&own).await?,
        None => registry.resolve(&pushed.reference).await?,
    };
    let actual = there.map(|image| image.digest);
    if actual.as_ref() != Some(&pushed.digest) {
        return Err(RegistryError::Protocol {
            registry: pushed.reference.domain().to_owned(),
            action: format!("show {}", pushed.reference),
            what: "the image is not under its tag after it was pushed".to_owned(),
        });
    }
    for alias in aliases {
        match registry
            .tag(&pushed.reference, alias, ExistingTag::Move)
            .await
        {
            Ok(_) => pushed.tags.push(alias.clone()),
            // An immutable `latest` is no reason to fail a delivery.
            Err(error) => {
                let reason = pipeline_core::error_chain(&error);
                pushed.failed_aliases.push((alias.clone(), reason));
            }
        }
    }
    Ok(())
}
