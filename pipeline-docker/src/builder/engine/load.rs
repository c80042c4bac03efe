//! [`load`]: an image in a layout goes into an engine.

use std::error::Error;
use std::io;

use bollard::query_parameters::ImportImageOptionsBuilder;
use futures_util::StreamExt;

use super::builder::joined;
use super::context_stream::stream;
use super::leftover::Leftover;
use super::names::Names;
use super::store;
use crate::builder::{BuildError, BuiltImage, ImageLocation};
use crate::engine::{Engine, EngineError};
use crate::oci::{Descriptor, Digest, LayoutError, OciLayout, media_type, write_docker_archive};

/// Brings the image into the engine under `names`, all or none; answers how it is known there.
pub(in crate::builder) async fn load(
    engine: &Engine,
    layout: OciLayout,
    mut image: BuiltImage,
    names: &Names,
) -> Result<BuiltImage, BuildError> {
    let known = store::inspect(engine, &image.config_digest.to_string()).await?;
    // Set before anything is sent: whoever gives up in the middle leaves nothing either.
    let leftover = known
        .is_none()
        .then(|| Leftover::unnamed(engine, &image.config_digest));
    let action = "load the image";
    let (manifest, platform) = (image.manifest.clone(), image.platform.clone());
    let (body, sending) = stream(move |pieces| {
        let found = layout.image(&manifest, &platform)?;
        // Without names: they are set when everything is there.
        write_docker_archive(&layout, &found, &[], &mut *pieces).map(|_| ())
    });
    let client = engine.client_within(None);
    let mut id = None;
    let loaded = {
        let options = ImportImageOptionsBuilder::default().quiet(true).build();
        let mut answers =
            std::pin::pin!(client.import_image(options, bollard::body_try_stream(body), None));
        loop {
            match answers.next().await {
                None => break Ok(()),
                Some(Err(error)) => break Err(engine.error(action, error)),
                Some(Ok(info)) => {
                    if let Some(message) = info.error_detail.and_then(|detail| detail.message) {
                        break Err(EngineError::said(action, None, &message));
                    }
                    let text = info.stream.unwrap_or_default();
                    if let Some((_, found)) = text.split_once("Loaded image") {
                        id = found
                            .split_whitespace()
                            .find_map(|word| word.parse::<Digest>().ok());
                    }
                }
            }
        }
    };
    let sent: Result<u64, LayoutError> = joined(sending.await)?;
    match (loaded, sent) {
        (Err(error), Err(sent)) if !is_broken_pipe(&sent) => {
            drop(error);
            return Err(sent.into());
        }
        (Err(error), _) => return Err(error.into()),
        (Ok(()), Err(error)) => return Err(error.into()),
        (Ok(()), Ok(_)) => {}
    }
    let id = match id {
        Some(id) => id,
        // An engine that goes away while it loads just ends its answer.
        None if store::inspect(engine, &image.config_digest.to_string())
            .await?
            .is_some() =>
        {
            image.config_digest.clone()
        }
        None => {
            let gone = io::Error::from(io::ErrorKind::UnexpectedEof);
            let address = engine.address().to_string();
            return Err(EngineError::broke(&address, action, Box::new(gone)).into());
        }
    };
    if let Err(error) = store::tag(engine, &id, names).await {
        if let Some(leftover) = leftover {
            // What the first failure says is what counts.
            drop(leftover.remove().await);
        }
        return Err(error);
    }
    if let Some(leftover) = leftover {
        leftover.keep();
    }
    if id == image.config_digest {
        image.manifest =
            Descriptor::new(media_type::IMAGE_CONFIG, id, 0).with_platform(image.platform.clone());
    }
    for layer in &mut image.layers {
        layer.digest = layer.diff_id.clone();
    }
    image.location = ImageLocation::Engine {
        tags: names.texts(),
    };
    Ok(image)
}

fn is_broken_pipe(error: &LayoutError) -> bool {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.kind() == io::ErrorKind::BrokenPipe;
        }
        next = error.source();
    }
    false
}
