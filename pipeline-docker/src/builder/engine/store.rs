//! Images in an engine's store: what they are, their names, and getting rid of them.

use std::path::Path;

use bollard::models::ImageInspect;
use bollard::query_parameters::RemoveImageOptionsBuilder;

use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;

use super::leftover::Before;
use super::names::Names;
use crate::builder::{BuildError, BuiltImage, ImageLocation, LayerInfo, LayerOrigin};
use crate::engine::{Engine, EngineError, EngineErrorKind};
use crate::oci::{Descriptor, Digest, Platform, media_type};
use crate::reference::ImageReference;

/// A name for the engine: with a tag, without a digest.
pub(super) fn name(text: &str) -> Result<ImageReference, BuildError> {
    let invalid = |why| BuildError::Invalid {
        field: "tag",
        value: text.to_owned(),
        why,
    };
    let reference: ImageReference = text
        .parse()
        .map_err(|_| invalid("it is no image reference such as site:1.0"))?;
    if reference.digest().is_some() {
        return Err(invalid("an image that is built here has no digest yet"));
    }
    Ok(reference.or_latest())
}

/// Gives an image all of `names`, or none: what a failure leaves half done is put back. Answers what
/// had the names before.
pub(super) async fn tag(
    engine: &Engine,
    id: &Digest,
    names: &Names,
) -> Result<Vec<Before>, BuildError> {
    let mut before = Vec::new();
    for name in names.all() {
        let image = inspect(engine, &name.to_string()).await?;
        before.push((name.clone(), image.and_then(|image| image.id)));
    }
    let wanted = id.to_string();
    for (name, image) in before.iter().take(names.unique.len()) {
        if let Some(existing) = image.as_ref().filter(|image| **image != wanted) {
            return Err(BuildError::NameTaken {
                name: name.to_string(),
                existing: existing.clone(),
                wanted: id.clone(),
            });
        }
    }
    for (count, (name, _)) in before.iter().enumerate() {
        if let Err(error) = engine.tag(&wanted, name).await {
            let done = before.get(..count).unwrap_or_default();
            // What the first failure says is what counts.
            drop(untag(engine, &wanted, done).await);
            return Err(error.into());
        }
    }
    Ok(before)
}

/// Gives names back to what had them `before`, as far as the image `id` still has them.
pub(super) async fn untag(engine: &Engine, id: &str, before: &[Before]) -> Result<(), EngineError> {
    let mut result = Ok(());
    for (name, image) in before {
        let undone = async {
            let text = name.to_string();
            let now = inspect(engine, &text).await?.and_then(|image| image.id);
            if now.as_deref() != Some(id) {
                return Ok(());
            }
            match image {
                Some(image) => engine.tag(image, name).await,
                None => remove(engine, &text).await.map(drop),
            }
        };
        result = result.and(undone.await);
    }
    result
}

/// Takes a name off an image, and the image away with its last name. What lies below stays for the
/// next build. Answers whether it was there.
pub(super) async fn remove(engine: &Engine, name: &str) -> Result<bool, EngineError> {
    let options = RemoveImageOptionsBuilder::default().noprune(true).build();
    let removed = engine
        .client()
        .remove_image(name, Some(options), None)
        .await;
    match removed {
        Ok(_) => Ok(true),
        Err(error) => match engine.error(&format!("remove the image {name}"), error) {
            error if error.kind() == EngineErrorKind::NotFound => Ok(false),
            error => Err(error),
        },
    }
}

/// What the engine knows of an image; `None` if it has no such one.
pub(super) async fn inspect(
    engine: &Engine,
    name: &str,
) -> Result<Option<ImageInspect>, EngineError> {
    match engine.client().inspect_image(name).await {
        Ok(image) => Ok(Some(image)),
        Err(error) => match engine.error(&format!("find the image {name}"), error) {
            error if error.kind() == EngineErrorKind::NotFound => Ok(None),
            error => Err(error),
        },
    }
}

/// Removes an image that has no name any more, or never had one. Answers whether it was there.
pub(super) async fn remove_unnamed(engine: &Engine, id: &Digest) -> Result<bool, EngineError> {
    let id = id.to_string();
    let Some(image) = inspect(engine, &id).await? else {
        return Ok(false);
    };
    // By its id, the engine would take the only name of an image with it.
    if image.repo_tags.is_some_and(|tags| !tags.is_empty()) {
        return Ok(true);
    }
    match remove(engine, &id).await {
        // Something was built on it meanwhile.
        Err(error) if error.kind() == EngineErrorKind::Conflict => Ok(true),
        other => other,
    }
}

/// Writes an image to a file, as `docker save` does.
pub(super) async fn save(engine: &Engine, id: &Digest, path: &Path) -> Result<(), BuildError> {
    let fail = |source| BuildError::Write {
        layer: "the engine's image".to_owned(),
        source,
    };
    let mut file = tokio::fs::File::create(path).await.map_err(fail)?;
    let client = engine.client_within(None);
    let mut pieces = std::pin::pin!(client.export_image(&id.to_string()));
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| engine.error("save the image", error))?;
        file.write_all(&piece).await.map_err(fail)?;
    }
    file.flush().await.map_err(fail)
}

/// The engine's time, in seconds since 1970.
pub(super) async fn clock(engine: &Engine) -> Result<i64, EngineError> {
    let info = engine.client().info().await;
    let info = info.map_err(|error| engine.error("ask the engine for its time", error))?;
    let time = info.system_time.and_then(|text| text.parse().ok());
    Ok(time.unwrap_or_else(jiff::Timestamp::now).as_second())
}

/// The image as a result. Layers that were made since `began`, by the engine's clock, are new.
pub(super) async fn describe(
    engine: &Engine,
    id: &Digest,
    tags: Vec<String>,
    began: i64,
) -> Result<BuiltImage, BuildError> {
    let action = "read the image that was built";
    let text = id.to_string();
    let image = inspect(engine, &text)
        .await?
        .ok_or_else(|| EngineError::NotFound {
            action: action.to_owned(),
            message: text.clone(),
        })?;
    let history = engine
        .client()
        .image_history(&text)
        .await
        .map_err(|error| engine.error(action, error))?;
    let platform = Platform::new(
        image.os.unwrap_or_else(|| "linux".to_owned()),
        image.architecture.unwrap_or_default(),
    );
    let diff_ids = image
        .root_fs
        .and_then(|root| root.layers)
        .unwrap_or_default();
    // Newest first; entries that only configure have no size, and a layer may have none, too.
    let mut entries: Vec<_> = history.iter().filter(|entry| entry.size > 0).collect();
    let known = entries.len() <= diff_ids.len();
    entries.reverse();
    let mut layers = Vec::new();
    let skip = diff_ids.len().saturating_sub(entries.len());
    for (index, diff_id) in diff_ids.iter().enumerate() {
        let digest: Digest = diff_id.parse().map_err(|error| EngineError::Answer {
            action: action.to_owned(),
            source: Box::new(error),
        })?;
        let entry = index
            .checked_sub(skip)
            .filter(|_| known)
            .and_then(|index| entries.get(index));
        layers.push(LayerInfo {
            digest: digest.clone(),
            diff_id: digest,
            size: entry.map_or(0, |entry| u64::try_from(entry.size).unwrap_or_default()),
            origin: match entry {
                Some(entry) if entry.created >= began => LayerOrigin::New,
                _ => LayerOrigin::Cached,
            },
            comment: entry.map_or_else(String::new, |entry| entry.created_by.clone()),
        });
    }
    let manifest = match image.descriptor.and_then(|found| {
        let digest: Digest = found.digest?.parse().ok()?;
        let size = u64::try_from(found.size?).ok()?;
        Some(Descriptor::new(found.media_type?, digest, size))
    }) {
        Some(manifest) => manifest,
        None => Descriptor::new(media_type::IMAGE_CONFIG, id.clone(), 0),
    };
    Ok(BuiltImage {
        manifest: manifest.with_platform(platform.clone()),
        config_digest: id.clone(),
        layers,
        platform,
        location: ImageLocation::Engine { tags },
    })
}
