//! [`write`]: an image in a layout becomes a file for `docker load`.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use tempfile::TempDir;

use super::{BuildError, BuiltImage, ImageLocation};
use crate::oci::{OciLayout, unpublished, write_docker_archive};
use crate::reference::ImageReference;

/// The folder of a file: where what becomes it must lie.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."))
}

/// A folder for a layout that is gone with the build.
pub(super) fn temporary(folder: &Path) -> Result<TempDir, BuildError> {
    tempfile::Builder::new()
        .prefix(".image-")
        .tempdir_in(folder)
        .map_err(|source| BuildError::Write {
            layer: "a temporary layout".to_owned(),
            source,
        })
}

/// Names that engines understand, each with a tag.
pub(super) fn names(given: &[String]) -> Result<Vec<String>, BuildError> {
    let invalid = |name: &String, why| BuildError::Invalid {
        field: "name",
        value: name.clone(),
        why,
    };
    given
        .iter()
        .map(|name| {
            let reference: ImageReference = name
                .parse()
                .map_err(|_| invalid(name, "it is no image reference such as site:1.0"))?;
            match (reference.digest(), reference.tag()) {
                (Some(_), _) => Err(invalid(
                    name,
                    "an image that is built here has no digest yet",
                )),
                (None, Some(_)) => Ok(name.clone()),
                (None, None) => Ok(format!("{name}:latest")),
            }
        })
        .collect()
}

/// Writes the archive beside its place and puts it there when it is complete.
pub(super) fn write(
    layout: &OciLayout,
    image: BuiltImage,
    path: &Path,
    names: Vec<String>,
    go_on: &dyn Fn() -> bool,
) -> Result<BuiltImage, BuildError> {
    let fail = |source| BuildError::Archive {
        path: path.to_owned(),
        source,
    };
    let found = layout.image(&image.manifest, &image.platform)?;
    let file = unpublished(folder_of(path)).map_err(fail)?;
    let mut sink = Sink {
        inner: BufWriter::with_capacity(256 * 1024, file),
        go_on,
        failure: None,
    };
    if let Err(error) = write_docker_archive(layout, &found, &names, &mut sink) {
        return Err(match sink.failure {
            _ if !go_on() => BuildError::Cancelled,
            Some(source) => fail(source),
            None => error.into(),
        });
    }
    let file = sink
        .inner
        .into_inner()
        .map_err(|error| fail(error.into_error()))?;
    file.as_file().sync_all().map_err(fail)?;
    if !go_on() {
        return Err(BuildError::Cancelled);
    }
    file.persist(path).map_err(|error| fail(error.error))?;
    Ok(BuiltImage {
        location: ImageLocation::DockerArchive {
            path: path.to_owned(),
            names,
        },
        ..image
    })
}

/// The file, which takes nothing more when the build is given up, and which remembers why it
/// refused: that is no fault of the layout.
struct Sink<'a, W> {
    inner: W,
    go_on: &'a dyn Fn() -> bool,
    failure: Option<io::Error>,
}

impl<W: Write> Sink<'_, W> {
    fn keep<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|error| {
            let kind = error.kind();
            self.failure = Some(error);
            kind.into()
        })
    }
}

impl<W: Write> Write for Sink<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !(self.go_on)() {
            return Err(io::ErrorKind::Other.into());
        }
        let result = self.inner.write(bytes);
        self.keep(result)
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.inner.flush();
        self.keep(result)
    }
}
