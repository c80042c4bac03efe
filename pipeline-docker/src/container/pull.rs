//! Getting an image onto the engine, with figures about it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bollard::models::{CreateImageInfo, ImageInspect};
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::StreamExt;
use pipeline_core::EventSink;
use serde::Serialize;

use super::PullPolicy;
use crate::credentials::CredentialSource;
use crate::engine::{Engine, EngineError, EngineErrorKind, EngineKind, registry_credentials};
use crate::reference::ImageReference;

/// What an image is, for the log and the facts of an environment.
#[derive(Clone, Debug)]
pub(crate) struct ImageFacts {
    /// The engine's id. What is made of it is this image, whatever its tag means by then.
    pub(crate) id: String,
    /// `name@sha256:…` where it came from the registry that was asked for, else the engine's id.
    pub(crate) digest: String,
    /// Such as `linux/amd64`.
    pub(crate) platform: String,
}

/// One layer of a pull.
#[derive(Clone, Debug, Serialize)]
struct LayerPull {
    id: String,
    /// Compressed, as downloaded.
    bytes: u64,
    existed: bool,
    #[serde(skip)]
    download: Option<(Instant, Instant)>,
    #[serde(skip)]
    extract: Option<(Instant, Instant)>,
}

/// Makes sure that the engine has the image, and says what it is.
///
/// Dropping the future ends the pull; layers that were complete stay on the engine.
pub(crate) async fn ensure_image(
    engine: &Engine,
    image: &str,
    policy: PullPolicy,
    credentials: &dyn CredentialSource,
    events: &EventSink,
) -> Result<ImageFacts, EngineError> {
    let found = inspect(engine, image).await;
    let found = match (policy, found) {
        (PullPolicy::Never | PullPolicy::Missing, Ok(found)) => return Ok(found),
        (PullPolicy::Always, Ok(found)) => Some(found),
        (PullPolicy::Missing | PullPolicy::Always, Err(error))
            if error.kind() == EngineErrorKind::NotFound =>
        {
            None
        }
        (_, Err(error)) => return Err(error),
    };
    // An id or a digest of a local build is nothing that a registry could be asked for.
    if image.starts_with("sha256:") {
        return match found {
            Some(found) => Ok(found),
            None => inspect(engine, image).await,
        };
    }
    if found.is_none() {
        events
            .log(format!(
                "the engine does not have the image {image}; pulling it"
            ))
            .await;
    }
    pull(engine, image, credentials, events).await?;
    inspect(engine, image).await
}

async fn inspect(engine: &Engine, image: &str) -> Result<ImageFacts, EngineError> {
    let found: ImageInspect = engine
        .client()
        .inspect_image(image)
        .await
        .map_err(|error| engine.error(&format!("find the image {image}"), error))?;
    let platform = format!(
        "{}/{}",
        found.os.unwrap_or_default(),
        found.architecture.unwrap_or_default()
    );
    let id = found.id.unwrap_or_else(|| image.to_owned());
    let digests = found.repo_digests.unwrap_or_default();
    let digest = digest_of(image, &digests).unwrap_or(&id).to_owned();
    Ok(ImageFacts {
        id,
        digest,
        platform,
    })
}

/// The digest in the repository that was asked for. An image can be in others too, and an id names
/// none.
fn digest_of<'a>(image: &str, digests: &'a [String]) -> Option<&'a str> {
    let name = |text: &str| {
        let reference = text.parse::<ImageReference>().ok()?;
        Some((
            reference.domain().to_owned(),
            reference.repository().to_owned(),
        ))
    };
    let exact = digests.iter().find(|digest| *digest == image);
    let same = || {
        let wanted = name(image)?;
        digests
            .iter()
            .find(|digest| name(digest).as_ref() == Some(&wanted))
    };
    exact.or_else(same).map(String::as_str)
}

async fn pull(
    engine: &Engine,
    image: &str,
    credentials: &dyn CredentialSource,
    events: &EventSink,
) -> Result<(), EngineError> {
    let started = Instant::now();
    let action = format!("pull the image {image}");
    let (name, tag) = split(image);
    let mut options = CreateImageOptionsBuilder::default().from_image(name);
    if let Some(tag) = tag {
        options = options.tag(tag);
    }
    let credentials = match image.parse::<ImageReference>() {
        Ok(reference) => registry_credentials(credentials, reference.domain()).await?,
        // The engine says what is wrong with the name.
        Err(_) => None,
    };
    if credentials.is_none() {
        events
            .warn(format!(
                "pulling {image} without credentials: registries limit anonymous pulls"
            ))
            .await;
    }
    // The answer is a stream that may be silent while a large layer is extracted.
    let client = engine.client_within(None);
    let mut stream = std::pin::pin!(client.create_image(Some(options.build()), None, credentials));
    let mut progress = Progress::default();
    while let Some(info) = stream.next().await {
        let info = info.map_err(|error| engine.error(&action, error))?;
        if let Some(detail) = info.error_detail {
            let message = detail.message.unwrap_or_default();
            return Err(EngineError::said(&action, None, &message));
        }
        progress.note(&info, Instant::now());
    }
    // podman closes with other words.
    if !progress.complete && engine.info().kind == EngineKind::Docker {
        let why = "the engine stopped telling before the image was complete";
        return Err(EngineError::said(&action, None, why));
    }
    progress.report(image, started.elapsed(), events).await;
    Ok(())
}

/// `tag` is what follows a colon behind the last slash, or a digest; without one it is `latest`.
fn split(image: &str) -> (&str, Option<&str>) {
    if let Some((name, digest)) = image.split_once('@') {
        return (split(name).0, Some(digest));
    }
    let slash = image.rfind('/').map_or(0, |at| at + 1);
    match image[slash..].rfind(':') {
        Some(colon) => (&image[..slash + colon], Some(&image[slash + colon + 1..])),
        None => (image, Some("latest")),
    }
}

#[derive(Debug, Default)]
struct Progress {
    layers: BTreeMap<String, LayerPull>,
    order: Vec<String>,
    /// The engine has said how it ended.
    complete: bool,
}

impl Progress {
    /// The engine tells the state of each layer in words, and bytes where there are some.
    fn note(&mut self, info: &CreateImageInfo, now: Instant) {
        let Some(status) = &info.status else { return };
        // "Status: Image is up to date for …", or "Downloaded newer image".
        self.complete |= info.id.is_none() && status.starts_with("Status: ");
        let Some(id) = &info.id else { return };
        if status.starts_with("Pulling from") || status.starts_with("Digest") {
            return;
        }
        if !self.layers.contains_key(id) {
            self.order.push(id.clone());
        }
        let layer = self.layers.entry(id.clone()).or_insert_with(|| LayerPull {
            id: id.clone(),
            bytes: 0,
            existed: false,
            download: None,
            extract: None,
        });
        let extend = |span: &mut Option<(Instant, Instant)>| {
            *span = Some((span.map_or(now, |(begin, _)| begin), now));
        };
        match status.as_str() {
            "Already exists" => layer.existed = true,
            "Downloading" | "Verifying Checksum" | "Download complete" | "Pulling fs layer" => {
                extend(&mut layer.download);
            }
            "Extracting" => extend(&mut layer.extract),
            "Pull complete" => {
                let begin = layer.extract.map(|(begin, _)| begin);
                let begin = begin.or(layer.download.map(|(_, end)| end));
                layer.extract = Some((begin.unwrap_or(now), now));
            }
            _ => {}
        }
        let total = info
            .progress_detail
            .as_ref()
            .and_then(|detail| detail.total.or(detail.current));
        if let Some(total) = total.and_then(|bytes| u64::try_from(bytes).ok()) {
            layer.bytes = layer.bytes.max(total);
        }
    }

    async fn report(&self, image: &str, took: Duration, events: &EventSink) {
        let layers: Vec<&LayerPull> = self
            .order
            .iter()
            .filter_map(|id| self.layers.get(id))
            .collect();
        for layer in &layers {
            events
                .log(if layer.existed {
                    format!("{}: already exists", layer.id)
                } else {
                    format!("{}: pulled, {}", layer.id, size(layer.bytes))
                })
                .await;
        }
        let bytes: u64 = layers.iter().map(|layer| layer.bytes).sum();
        let download = span(layers.iter().filter_map(|layer| layer.download));
        let extract = span(layers.iter().filter_map(|layer| layer.extract));
        events
            .log(format!(
                "pull stats: download {} in {} ({}), extract {} in {} ({})",
                size(bytes),
                seconds(download),
                rate(bytes, download),
                size(bytes),
                seconds(extract),
                rate(bytes, extract),
            ))
            .await;
        events
            .fact(
                "container.pulled",
                serde_json::json!({
                    "image": image,
                    "layers": layers,
                    "bytes": bytes,
                    "download_ms": millis(download),
                    "extract_ms": millis(extract),
                    "duration_ms": millis(took),
                }),
            )
            .await;
    }
}

/// From the first beginning to the last end: layers are handled side by side.
fn span(spans: impl Iterator<Item = (Instant, Instant)>) -> Duration {
    spans
        .reduce(|(begin, end), (other_begin, other_end)| {
            (begin.min(other_begin), end.max(other_end))
        })
        .map_or(Duration::ZERO, |(begin, end)| end - begin)
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn seconds(duration: Duration) -> String {
    format!("{:.1}s", duration.as_secs_f64())
}

fn size(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn rate(bytes: u64, duration: Duration) -> String {
    if duration.is_zero() {
        return "at once".to_owned();
    }
    format!(
        "{:.1} MiB/s",
        bytes as f64 / f64::from(1 << 20) / duration.as_secs_f64()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_tags() {
        assert_eq!(split("alpine"), ("alpine", Some("latest")));
        assert_eq!(split("h:5000/a/b"), ("h:5000/a/b", Some("latest")));
        assert_eq!(split("h:5000/a/b:1"), ("h:5000/a/b", Some("1")));
        assert_eq!(split("a:1@sha256:00"), ("a", Some("sha256:00")));
    }

    #[test]
    fn the_digest_is_that_of_the_repository_that_was_asked_for() {
        let hash = |digit: &str| format!("sha256:{}", digit.repeat(64));
        let digests = [
            format!("other:5000/team/app@{}", hash("1")),
            format!("alpine@{}", hash("2")),
            format!("localhost:5000/team/app@{}", hash("3")),
            format!("localhost:5000/team/app@{}", hash("4")),
        ];
        let found = |image: &str| digest_of(image, &digests);
        assert_eq!(found("localhost:5000/team/app:1"), Some(&*digests[2]));
        assert_eq!(found("docker.io/library/alpine"), Some(&*digests[1]));
        assert_eq!(found(&digests[3]), Some(&*digests[3]));
        assert_eq!(found("app"), None);
        assert_eq!(found(&hash("5")), None);
    }

    #[test]
    fn a_pull_is_complete_when_the_engine_says_so() {
        let mut progress = Progress::default();
        let mut say = |id: Option<&str>, status: &str| {
            let info = CreateImageInfo {
                id: id.map(str::to_owned),
                status: Some(status.to_owned()),
                ..CreateImageInfo::default()
            };
            progress.note(&info, Instant::now());
            progress.complete
        };
        assert!(!say(Some("1"), "Pulling from team/app"));
        assert!(!say(Some("a"), "Pull complete"));
        assert!(!say(None, "Digest: sha256:00"));
        assert!(say(
            None,
            "Status: Downloaded newer image for localhost:5000/team/app:1"
        ));
    }
}
