//! The answers of the engine's own builder, which is podman's way, too.

use bollard::errors::Error as BollardError;
use bollard::models::BuildInfo;
use futures_util::{Stream, StreamExt};

use super::failure::{Trace, code_after};
use crate::builder::BuildError;
use crate::engine::{Engine, EngineError, EngineErrorKind};
use crate::oci::Digest;

/// Reads a build to its end; answers the id of the image.
pub(super) async fn follow(
    engine: &Engine,
    stream: impl Stream<Item = Result<BuildInfo, BollardError>>,
    trace: &mut Trace<'_>,
) -> Result<Digest, BuildError> {
    let mut stream = std::pin::pin!(stream);
    let mut id = None;
    let mut short = None;
    while let Some(info) = stream.next().await {
        let info = match info {
            Ok(info) => info,
            Err(error) => return Err(fail(engine, trace, error)),
        };
        if let Some(text) = &info.stream {
            show(text, trace, &mut short);
        }
        if let (Some(status), None) = (&info.status, &info.progress_detail) {
            let layer = info.id.as_ref().map(|id| format!("{id}: "));
            trace.output(&format!("{}{status}\n", layer.unwrap_or_default()));
        }
        if let (Some(status), Some(layer), Some(detail)) =
            (&info.status, &info.id, &info.progress_detail)
            && let (Some(current), Some(total)) = (detail.current, detail.total)
        {
            trace.layer(layer, status, current, total);
        }
        if let Some(found) = image_id(&info) {
            id = Some(found);
        }
        if let Some(detail) = info.error_detail {
            let message = detail.message.unwrap_or_default();
            return Err(fail(
                engine,
                trace,
                BollardError::DockerStreamError { error: message },
            ));
        }
    }
    trace.finish();
    let found = match (id, short) {
        (Some(id), _) => Some(id),
        // podman names the image in a line only.
        (None, Some(short)) => {
            engine
                .client()
                .inspect_image(&short)
                .await
                .map_err(|error| engine.error("find the image that was built", error))?
                .id
        }
        (None, None) => None,
    };
    found
        .map(|id| full(&id))
        .and_then(|id| id.parse().ok())
        .ok_or_else(|| {
            // An engine that goes away while it builds just ends its answer.
            let gone = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
            let address = engine.address().to_string();
            EngineError::broke(&address, "build the image", Box::new(gone)).into()
        })
}

#[cfg(feature = "buildkit")]
pub(super) fn image_id(info: &BuildInfo) -> Option<String> {
    match &info.aux {
        Some(bollard::models::BuildInfoAux::Default(image)) => image.id.clone(),
        _ => None,
    }
}

#[cfg(not(feature = "buildkit"))]
pub(super) fn image_id(info: &BuildInfo) -> Option<String> {
    info.aux.as_ref().and_then(|image| image.id.clone())
}

fn full(id: &str) -> String {
    if id.contains(':') {
        id.to_owned()
    } else {
        format!("sha256:{id}")
    }
}

fn show(text: &str, trace: &mut Trace<'_>, short: &mut Option<String>) {
    // The engine paints what went to the standard error stream red.
    let plain = text
        .strip_prefix("\u{1b}[91m")
        .and_then(|text| text.strip_suffix("\u{1b}[0m"));
    if let Some(plain) = plain {
        trace.output(plain);
        return;
    }
    let line = text.trim_end();
    let number = line
        .strip_prefix("Step ")
        .or_else(|| line.strip_prefix("STEP "))
        .and_then(|rest| rest.split_once(if rest.contains(" : ") { " : " } else { ": " }));
    if let Some((place, instruction)) = number
        && place.contains('/')
    {
        trace.start(format!("[{}] {instruction}", place.trim()));
        return;
    }
    if let Some(rest) = line.strip_prefix("Successfully built ") {
        *short = Some(rest.trim().to_owned());
        return;
    }
    match line.trim_start() {
        "---> Using cache" => trace.cached(),
        about if about.starts_with("---> ") || about.starts_with("Removing intermediate") => {}
        "" => {}
        _ => trace.output(text),
    }
}

fn fail(engine: &Engine, trace: &mut Trace<'_>, error: BollardError) -> BuildError {
    match error {
        BollardError::DockerStreamError { error } => {
            let code = code_after(&error, "returned a non-zero code:")
                .or_else(|| code_after(&error, "exit status"));
            trace.failed(&error, code)
        }
        BollardError::DockerResponseServerError {
            status_code,
            message,
        } => before(status_code, &message),
        other => engine.error("build the image", other).into(),
    }
}

/// Whether a build failed only because an image went away while the engine compared it.
///
/// Docker's classic builder looks for its cache among all images there are, and takes one that
/// was removed since it listed them for an error (moby 20.10, `image/cache`).
pub(super) fn is_lost_in_lookup(error: &BuildError) -> bool {
    let BuildError::Instruction {
        exit_code: None,
        message,
        ..
    } = error
    else {
        return false;
    };
    message.starts_with("unable to find image \"sha256:")
}

/// What an engine says before it begins is mostly about the Dockerfile.
pub(super) fn before(status: u16, message: &str) -> BuildError {
    let said = EngineError::said("build the image", Some(status), message);
    let low = message.to_ascii_lowercase();
    let about_file = [
        "dockerfile",
        "build target",
        "target stage",
        "unknown instruction",
        "parse",
    ]
    .iter()
    .any(|part| low.contains(part));
    if (status == 400 || about_file) && said.kind() != EngineErrorKind::DiskFull {
        return BuildError::Dockerfile {
            message: message.trim().to_owned(),
        };
    }
    said.into()
}
