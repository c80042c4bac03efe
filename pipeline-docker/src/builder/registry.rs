//! Bases from a registry, and images that go into one.

use std::sync::{Arc, Mutex, PoisonError};

use super::progress::Tenths;
use super::{
    BaseImage, BuildError, BuildEvent, BuildObserver, BuiltImage, ImageLocation, ImageSpec,
    LayerCache,
};
use crate::oci::{LayoutImage, OciLayout};
use crate::reference::ImageReference;
use crate::registry::{PlatformChoice, PushOptions, Registry, TransferEvent, TransferObserver};

/// What a result says of its base.
const BASE_NAME: &str = "org.opencontainers.image.base.name";
const BASE_DIGEST: &str = "org.opencontainers.image.base.digest";

/// The client, telling what it moves as events of the build.
pub(super) fn observed(
    registry: &Registry,
    action: &'static str,
    observer: Option<&Arc<dyn BuildObserver>>,
) -> Registry {
    match observer {
        Some(observer) => registry.observed_by(Arc::new(Relay {
            observer: Arc::clone(observer),
            action,
            tenths: Mutex::default(),
        })),
        None => registry.clone(),
    }
}

/// Looks the base up, once, and notes in `spec` what it turned out to be.
///
/// `layout` gets the layers that neither it nor the cache has; its index stays as it is.
pub(super) async fn pull_base(
    registry: &Registry,
    reference: &ImageReference,
    spec: &mut ImageSpec,
    layout: impl FnOnce() -> Result<OciLayout, BuildError> + Send + 'static,
    cache: Option<&LayerCache>,
    observer: Option<&Arc<dyn BuildObserver>>,
) -> Result<LayoutImage, BuildError> {
    let platform = PlatformChoice::Only(spec.platform.clone());
    let found = registry.find(reference, &platform).await?;
    let pinned = reference
        .or_latest()
        .with_digest(found.image.descriptor.digest.clone());
    if let Some(observer) = observer {
        observer.event(&BuildEvent::BaseResolved {
            reference: pinned.clone(),
        });
    }
    describe_base(spec, reference, &pinned);
    // Not before the base is known to exist: a wrong name leaves no empty layout.
    let (image, known) = (found.image.clone(), cache.cloned());
    let layout = blocking(move || {
        let layout = layout()?;
        if let Some(cache) = known {
            for layer in &image.manifest.layers {
                cache.fetch_base(layer, &layout);
            }
        }
        Ok(layout)
    })
    .await?;
    found.pull_layers(&layout).await?;
    if let Some(cache) = cache.cloned() {
        let image = found.image.clone();
        blocking(move || {
            for layer in &image.manifest.layers {
                cache.store_base(layer, &layout);
            }
            Ok(())
        })
        .await?;
    }
    Ok(found.image)
}

fn describe_base(spec: &mut ImageSpec, reference: &ImageReference, pinned: &ImageReference) {
    let name = match reference.tag() {
        Some(tag) => format!("{}:{tag}", reference.name()),
        None => reference.name(),
    };
    let digest = pinned.digest().map(ToString::to_string);
    for (key, value) in [(BASE_NAME, Some(name)), (BASE_DIGEST, digest)] {
        if let Some(value) = value {
            spec.annotations.entry(key.to_owned()).or_insert(value);
        }
    }
}

/// What can be known to be wrong with a destination before anything is built.
pub(super) fn check_target(reference: &ImageReference) -> Result<(), BuildError> {
    let why = match (reference.tag(), reference.digest()) {
        (_, Some(_)) => "an image that is built here has no digest yet",
        (None, None) => "it needs a tag, such as a revision or build number",
        (Some(_), None) => return Ok(()),
    };
    Err(BuildError::Invalid {
        field: "destination",
        value: reference.to_string(),
        why,
    })
}

/// Pushes an image of `layout`; another one under the tag is refused.
pub(super) async fn push(
    registry: &Registry,
    layout: &OciLayout,
    image: BuiltImage,
    reference: &ImageReference,
    base: &BaseImage,
) -> Result<BuiltImage, BuildError> {
    let mut options = PushOptions::default();
    if let BaseImage::Registry { reference: base } = base
        && base.domain() == reference.domain()
        && base.repository() != reference.repository()
    {
        options = options.with_mount_from(base.repository());
    }
    let report = registry
        .push_manifest(layout, &image.manifest, reference, &options)
        .await?;
    Ok(BuiltImage {
        location: ImageLocation::Registry {
            reference: report.reference,
        },
        ..image
    })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BuildError> + Send + 'static,
) -> Result<T, BuildError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| {
            Err(BuildError::Aborted {
                message: error.to_string(),
            })
        })
}

/// Passes on what a registry client tells.
#[derive(Debug)]
struct Relay {
    observer: Arc<dyn BuildObserver>,
    action: &'static str,
    /// Also what keeps the events of several transfers apart.
    tenths: Mutex<Tenths>,
}

impl TransferObserver for Relay {
    fn event(&self, event: &TransferEvent) {
        let mut tenths = self.tenths.lock().unwrap_or_else(PoisonError::into_inner);
        let event = match event {
            TransferEvent::BlobProgress {
                digest,
                transferred,
                size,
            } => {
                let layer = digest.short().to_owned();
                if !tenths.is_news(&layer, *transferred, *size) {
                    return;
                }
                BuildEvent::LayerProgress {
                    layer,
                    action: self.action.to_owned(),
                    current: *transferred,
                    total: *size,
                }
            }
            TransferEvent::Retrying {
                action,
                attempt,
                delay,
                reason,
            } => BuildEvent::Line {
                text: format!(
                    "try {attempt} to {action} in {} ms: {reason}",
                    delay.as_millis()
                ),
            },
            TransferEvent::Warning { message } => BuildEvent::Warning {
                message: message.clone(),
            },
            _ => return,
        };
        self.observer.event(&event);
    }
}
