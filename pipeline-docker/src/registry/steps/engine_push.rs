//! The engine's part of [`PushImage`](super::PushImage).

use std::sync::Arc;

use pipeline_core::{StepContext, StepError, error_chain};

use super::push_image::{move_aliases, refuse_taken};
use super::pushed_image::PushedImage;
use crate::builder::{BuildError, BuiltImage, ImageLocation};
use crate::credentials::CredentialSource;
use crate::engine::{Engine, EngineError, EngineErrorKind};
use crate::existing_tag::ExistingTag;
use crate::oci::{Digest, Manifest};
use crate::reference::ImageReference;
use crate::registry::error::RegistryError;
use crate::registry::step_log::drive;
use crate::registry::{Registry, RegistryErrorKind};
use crate::tag_policy::TagSet;

/// Pushes an image of the engine's store, and gives it its tags in the registry.
///
/// What an engine sends has a digest that nobody knows before, so it goes under a tag that only
/// this image can have. The tags that count are set by our own client, which looks first whose they
/// are. In the engine the image gets them when it has them in the registry.
pub(super) async fn push_with_engine(
    context: &StepContext,
    (engine, credentials): &(Engine, Arc<dyn CredentialSource>),
    registry: &Registry,
    image: &BuiltImage,
    target: &ImageReference,
    tags: &TagSet,
    existing: ExistingTag,
) -> Result<PushedImage, StepError> {
    let doing = format!("push to {}", target.name());
    let started = std::time::Instant::now();
    let found = drive(context, &doing, |observer| {
        let registry = registry.observed_by(observer);
        async move { find(&registry, target, tags, image, existing).await }
    })
    .await?;
    // Before anything is sent: neither side takes a tag then.
    refuse_taken_in_engine(engine, image, target, tags, existing).await?;
    let digest = match &found {
        Some(found) => found.digest.clone(),
        None => {
            let mut upload = Upload::new(engine, registry, target, image)?;
            let pushed = tokio::select! {
                biased;
                () = context.cancel().cancelled() => return Err(StepError::Cancelled),
                pushed = upload.push(&**credentials) => pushed,
            };
            let digest = match pushed {
                Ok(digest) => digest,
                Err(error) => {
                    upload.remove().await;
                    return Err(step_error(&doing, error));
                }
            };
            context
                .log(format!("{}: pushed by the engine, {digest}", target.name()))
                .await;
            // The tags that count keep the image from here on.
            let tagged = set_tags(context, &doing, registry, target, tags, &digest, existing).await;
            let named = match tagged {
                Ok(()) => name_in_engine(engine, image, target, &tags.unique)
                    .await
                    .map_err(|error| step_error(&doing, error)),
                Err(error) => Err(error),
            };
            upload.keeps &= named.is_err();
            upload.remove().await;
            named?;
            digest
        }
    };
    // After the name of the upload is gone: this is also where it is seen that only that is gone.
    set_tags(context, &doing, registry, target, tags, &digest, existing).await?;
    let mut names = tags.unique.iter();
    let first = names
        .next()
        .ok_or_else(|| StepError::failed(format!("{doing}: no tag was asked for")))?;
    let reference = target
        .with_tag(first.as_str())
        .map_err(|error| StepError::failed(error.to_string()))?
        .with_digest(digest.clone());
    let (size, unchanged) = (
        image.layers_size(),
        found.is_some_and(|found| found.everywhere),
    );
    let mut pushed = PushedImage::of_engine(reference, digest, size, unchanged, started.elapsed());
    pushed.tags.extend(names.cloned());
    drive(context, &doing, |observer| {
        let registry = registry.observed_by(observer);
        let pushed = &mut pushed;
        async move { move_aliases(&registry, pushed, &tags.aliases).await }
    })
    .await?;
    // Without the aliases that could not be moved.
    name_in_engine(engine, image, target, &pushed.tags)
        .await
        .map_err(|error| step_error(&doing, error))?;
    Ok(pushed)
}

/// This very image, as the registry has it.
struct Found {
    digest: Digest,
    /// Whether every tag names it.
    everywhere: bool,
}

/// The image, if one of the tags names it already.
async fn find(
    registry: &Registry,
    target: &ImageReference,
    tags: &TagSet,
    image: &BuiltImage,
    existing: ExistingTag,
) -> Result<Option<Found>, RegistryError> {
    let (mut same, mut count) = (None, 0);
    for tag in &tags.unique {
        let wanted = target.with_tag(tag.as_str())?;
        let Some(there) = registry.resolve(&wanted).await? else {
            continue;
        };
        let pinned = wanted.with_digest(there.digest.clone());
        let (descriptor, bytes) = registry.manifest(&pinned).await?;
        let manifest = Manifest::parse(Some(&descriptor.media_type), &bytes).ok();
        // The configuration names all of an image, whatever its layers are compressed with.
        let config = match manifest {
            Some(Manifest::Image(manifest)) => manifest.config.digest,
            _ => there.digest.clone(),
        };
        if config == image.config_digest {
            same = Some(there.digest);
            count += 1;
        } else if existing == ExistingTag::Refuse {
            return Err(RegistryError::TagExists {
                reference: Box::new(wanted),
                existing: config,
                wanted: image.config_digest.clone(),
            });
        }
    }
    Ok(same.map(|digest| Found {
        digest,
        everywhere: count == tags.unique.len(),
    }))
}

async fn set_tags(
    context: &StepContext,
    doing: &str,
    registry: &Registry,
    target: &ImageReference,
    tags: &TagSet,
    digest: &Digest,
    existing: ExistingTag,
) -> Result<(), StepError> {
    drive(context, doing, |observer| {
        let registry = registry.observed_by(observer);
        async move {
            refuse_taken(&registry, target, tags, digest, existing).await?;
            let image = target.with_digest(digest.clone());
            for tag in &tags.unique {
                registry.tag(&image, tag, existing).await?;
            }
            Ok(())
        }
    })
    .await
}

/// Refuses tags of which one names another image in the engine.
async fn refuse_taken_in_engine(
    engine: &Engine,
    image: &BuiltImage,
    target: &ImageReference,
    tags: &TagSet,
    existing: ExistingTag,
) -> Result<(), StepError> {
    if existing != ExistingTag::Refuse {
        return Ok(());
    }
    for tag in &tags.unique {
        let Ok(name) = target.with_tag(tag.as_str()) else {
            continue;
        };
        let found = engine.image_id(&name).await;
        let found = found.map_err(|error| step_error("look for a tag in the engine", error))?;
        if let Some(existing) = found.filter(|id| *id != image.config_digest.to_string()) {
            let taken = BuildError::NameTaken {
                name: name.to_string(),
                existing,
                wanted: image.config_digest.clone(),
            };
            let kind = format!("{:?}", RegistryErrorKind::TagExists);
            return Err(StepError::failed(taken.to_string())
                .with_detail(serde_json::json!({ "kind": kind })));
        }
    }
    Ok(())
}

async fn name_in_engine(
    engine: &Engine,
    image: &BuiltImage,
    target: &ImageReference,
    tags: &[String],
) -> Result<(), EngineError> {
    let id = image.config_digest.to_string();
    for tag in tags {
        if let Ok(name) = target.with_tag(tag.as_str()) {
            engine.tag(&id, &name).await?;
        }
    }
    Ok(())
}

/// The name under which an image goes over. It is made of the image's id: where a registry lets no
/// tag be deleted, the same image leaves one, however often it is pushed.
struct Upload {
    engine: Engine,
    registry: Registry,
    id: String,
    name: ImageReference,
    /// The image has no other name, and would go away with this one.
    keeps: bool,
    armed: bool,
}

impl Upload {
    fn new(
        engine: &Engine,
        registry: &Registry,
        target: &ImageReference,
        image: &BuiltImage,
    ) -> Result<Self, StepError> {
        let tag = format!("upload-{}", image.config_digest.short());
        Ok(Self {
            engine: engine.clone(),
            registry: registry.clone(),
            id: image.config_digest.to_string(),
            name: target
                .with_tag(tag)
                .map_err(|error| StepError::failed(error.to_string()))?,
            keeps: matches!(&image.location, ImageLocation::Engine { tags } if tags.is_empty()),
            armed: true,
        })
    }

    async fn push(&self, credentials: &dyn CredentialSource) -> Result<Digest, EngineError> {
        self.engine.tag(&self.id, &self.name).await?;
        let pushed = self.engine.push(&self.name, credentials).await?;
        Ok(pushed.digest)
    }

    /// Not where the image would be lost: then the name stays, the only one it has.
    fn engine_to_clear(&self) -> Option<&Engine> {
        (!self.keeps).then_some(&self.engine)
    }

    async fn remove(mut self) {
        self.armed = false;
        remove_upload(self.engine_to_clear(), &self.registry, &self.name).await;
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let engine = self.engine_to_clear().cloned();
            let (registry, name) = (self.registry.clone(), self.name.clone());
            runtime.spawn(async move { remove_upload(engine.as_ref(), &registry, &name).await });
        }
    }
}

/// Takes the name away in both places, as far as they let it be taken.
async fn remove_upload(engine: Option<&Engine>, registry: &Registry, name: &ImageReference) {
    if let Some(engine) = engine {
        drop(engine.untag(name).await);
    }
    // Many registries delete no tags.
    drop(registry.delete(name).await);
}

fn step_error(doing: &str, error: EngineError) -> StepError {
    use EngineErrorKind as Kind;
    match error.kind() {
        Kind::Conflict | Kind::Unauthorized | Kind::NotFound => {
            let kind = match error.kind() {
                Kind::Conflict => RegistryErrorKind::TagExists,
                Kind::Unauthorized => RegistryErrorKind::Unauthorized,
                _ => RegistryErrorKind::NotFound,
            };
            StepError::failed(format!("{doing}: {}", error_chain(&error)))
                .with_detail(serde_json::json!({ "kind": format!("{kind:?}") }))
        }
        _ => StepError::errored(doing, error),
    }
}
