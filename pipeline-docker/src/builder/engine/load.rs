//! [`load`]: an image in a layout goes into an engine.

use std::error::Error;
use std::io;

use bollard::query_parameters::ImportImageOptionsBuilder;
use futures_util::StreamExt;
use tokio::sync::oneshot;

use super::builder::joined;
use super::context_stream::stream;
use super::leftover::Leftover;
use super::names::Names;
use super::store;
use crate::builder::{BuildError, BuiltImage, ImageLocation};
use crate::engine::{Engine, EngineError};
use crate::oci::{Descriptor, Digest, LayoutError, OciLayout, media_type, write_docker_archive};

/// Brings the image into the engine under `names`, all or none; answers how it is known there.
///
/// # Cancellation
/// Dropping the future leaves neither image nor names: what is half sent is given up, and what the
/// engine has all of is removed when it has answered.
pub(in crate::builder) async fn load(
    engine: &Engine,
    layout: OciLayout,
    image: BuiltImage,
    names: &Names,
) -> Result<BuiltImage, BuildError> {
    let (stays, gone) = oneshot::channel();
    let (engine, names) = (engine.clone(), names.clone());
    // A task of its own, because only the engine's answer tells when the image can be removed. If
    // nobody takes its result, that is dropped with the leftover in it.
    let task = tokio::spawn(async move { bring(&engine, layout, image, &names, gone).await });
    let brought = joined(task.await);
    drop(stays);
    let (image, leftover) = brought??;
    leftover.keep();
    Ok(image)
}

async fn bring(
    engine: &Engine,
    layout: OciLayout,
    mut image: BuiltImage,
    names: &Names,
    mut gone: oneshot::Receiver<()>,
) -> Result<(BuiltImage, Leftover), BuildError> {
    let known = store::inspect(engine, &image.config_digest.to_string()).await?;
    // Set before anything is sent: whoever gives up in the middle leaves nothing either.
    let mut leftover = match known {
        Some(_) => Leftover::nothing(engine),
        None => Leftover::unnamed(engine, &image.config_digest).pending(),
    };
    let action = "load the image";
    let (manifest, platform) = (image.manifest.clone(), image.platform.clone());
    let (body, sending) = stream(move |pieces| {
        let found = layout.image(&manifest, &platform)?;
        // Without names: they are set when everything is there.
        write_docker_archive(&layout, &found, &[], &mut *pieces).map(|_| ())
    });
    let client = engine.client_within(None);
    let mut id = None;
    let mut is_wanted = true;
    let loaded = {
        let options = ImportImageOptionsBuilder::default().quiet(true).build();
        let mut answers =
            std::pin::pin!(client.import_image(options, bollard::body_try_stream(body), None));
        loop {
            let answer = tokio::select! {
                answer = answers.next() => answer,
                _ = &mut gone, if is_wanted => {
                    is_wanted = false;
                    if sending.is_finished() {
                        continue;
                    }
                    return Err(given_up());
                }
            };
            match answer {
                None => break Ok(()),
                Some(Err(error)) => break Err(engine.error(action, error)),
                Some(Ok(info)) => {
                    if let Some(message) = info.error_detail.and_then(|detail| detail.message) {
                        leftover.answered();
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
    leftover.answered();
    if !is_wanted {
        return Err(given_up());
    }
    let leftover = leftover.name(&id, names).await?;
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
    Ok((image, leftover))
}

/// For nobody: it is said when nobody waits any more.
fn given_up() -> BuildError {
    BuildError::Aborted {
        message: "it was cancelled".to_owned(),
    }
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
