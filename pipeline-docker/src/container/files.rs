//! Files into a container and out of it, as tar streams through the engine.

use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bollard::query_parameters::{
    DownloadFromContainerOptionsBuilder, UploadToContainerOptionsBuilder,
};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::mpsc;

use super::replace::{Replacing, replace_content};
use super::shared::Shared;
use super::unpack::unpack;
use crate::tar_stream::{Entry, EntryError, EntryKind, TarStream};

/// Pieces of a stream that wait on the way; with their size, what a transfer holds in memory.
const PIECES: usize = 16;
const PIECE: usize = 128 * 1024;

/// Copies a file or folder to the absolute path `target` inside. Folders on the way are made.
pub(super) async fn copy_in(shared: &Shared, host: &Path, target: &Path) -> io::Result<()> {
    let (sender, pieces) = mpsc::channel::<Bytes>(PIECES);
    let (host, target) = (host.to_owned(), target.to_owned());
    // Commands own what is copied in for them, or they could not write there.
    let owner = shared.owner;
    let writer = tokio::task::spawn_blocking(move || {
        let mut tar = TarStream::new(ChannelWriter::new(sender));
        add(&mut tar, &host, &target, owner)?;
        tar.finish()?.flush()
    });
    let body = futures_util::stream::unfold(pieces, |mut pieces| async {
        pieces.recv().await.map(|piece| (piece, pieces))
    });
    let options = UploadToContainerOptionsBuilder::default().path("/").build();
    let sent = shared
        .engine()
        .client_within(None)
        .upload_to_container(&shared.id, Some(options), bollard::body_stream(body))
        .await;
    let sent = sent.map_err(|error| {
        io::Error::other(
            shared
                .engine()
                .error("copy files into the container", error),
        )
    });
    match writer
        .await
        .unwrap_or_else(|join| Err(io::Error::other(join)))
    {
        // The engine stopped listening, and has said why.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => sent.and(Err(error)),
        // If reading failed, that is the reason, whatever the engine made of half an archive.
        Err(error) => Err(error),
        Ok(()) => sent,
    }
}

fn add(
    tar: &mut TarStream<ChannelWriter>,
    host: &Path,
    target: &Path,
    owner: (u64, u64),
) -> io::Result<()> {
    let found = host.symlink_metadata()?;
    let path = target
        .strip_prefix("/")
        .unwrap_or(target)
        .as_os_str()
        .as_bytes();
    let mut entry = Entry {
        path,
        kind: EntryKind::Folder,
        mode: found.permissions().mode() & 0o7777,
        uid: owner.0,
        gid: owner.1,
        mtime: u64::try_from(found.mtime()).unwrap_or(0),
    };
    let go_on = || true;
    let write = |tar: &mut TarStream<ChannelWriter>, entry: &Entry<'_>, content: &mut dyn Read| {
        tar.entry(entry, content, &go_on)
            .map_err(|error| match error {
                EntryError::Write(error) | EntryError::Read(error) => error,
                EntryError::Changed => io::Error::other(format!(
                    "{} changed while it was being read",
                    host.display()
                )),
            })
    };
    if found.is_dir() {
        write(tar, &entry, &mut io::empty())?;
        let mut names = std::fs::read_dir(host)?
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<io::Result<Vec<_>>>()?;
        names.sort();
        for name in names {
            add(tar, &host.join(&name), &target.join(&name), owner)?;
        }
        Ok(())
    } else if found.is_symlink() {
        let link = std::fs::read_link(host)?;
        entry.kind = EntryKind::Symlink(link.as_os_str().as_bytes());
        write(tar, &entry, &mut io::empty())
    } else if found.is_file() {
        entry.kind = EntryKind::File(found.len());
        write(tar, &entry, &mut std::fs::File::open(host)?)
    } else {
        // Sockets and the like mean something to the process that made them only.
        Ok(())
    }
}

/// Copies a file or folder from the absolute path `inside` to `host`. A folder that is there
/// already is added to.
pub(super) async fn copy_out(shared: &Shared, inside: &Path, host: &Path) -> io::Result<()> {
    let parent = host.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(parent)?;
    // Beside the target, so that it is on the same file system.
    let staging = tempfile::Builder::new()
        .prefix(".copy-")
        .tempdir_in(parent)?;
    download(shared, inside, staging.path()).await?;
    let name = inside.file_name().map_or_else(PathBuf::new, PathBuf::from);
    let (from, to) = (staging.path().join(name), host.to_owned());
    tokio::task::spawn_blocking(move || merge(&from, &to))
        .await
        .unwrap_or_else(|join| Err(io::Error::other(join)))
}

/// Brings a copied job folder back: afterwards `folder` is as it was inside. If that fails, it is as
/// it was before.
pub(super) async fn bring_back(shared: &Shared, folder: &Path) -> io::Result<()> {
    let staging = tempfile::Builder::new()
        .prefix(".back-")
        .tempdir_in(folder.parent().unwrap_or(folder))?;
    let (came, aside) = (staging.path().join("came"), staging.path().join("was"));
    std::fs::create_dir(&came)?;
    std::fs::create_dir(&aside)?;
    download(shared, &shared.root, &came).await?;
    let name = shared
        .root
        .file_name()
        .map_or_else(PathBuf::new, PathBuf::from);
    let (new, folder) = (came.join(name), folder.to_owned());
    tokio::task::spawn_blocking(move || {
        // A command can have put something else in its place.
        if !new.symlink_metadata()?.is_dir() {
            return Err(io::Error::other("inside it is no folder any more"));
        }
        match replace_content(&folder, &new, &aside) {
            Ok(()) => Ok(()),
            Err(Replacing::AsBefore(error)) => Err(error),
            Err(Replacing::Half(error)) => {
                let kept = staging.keep();
                Err(io::Error::other(format!(
                    "{error}; not all could be put back: what was in the folder is in {}",
                    kept.join("was").display()
                )))
            }
        }
    })
    .await
    .unwrap_or_else(|join| Err(io::Error::other(join)))
}

fn names(folder: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    std::fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect()
}

/// Moves `from` to `to`; folders that both have become one.
fn merge(from: &Path, to: &Path) -> io::Result<()> {
    let is_dir = |path: &Path| path.symlink_metadata().is_ok_and(|found| found.is_dir());
    if is_dir(from) && is_dir(to) {
        for name in names(from)? {
            merge(&from.join(&name), &to.join(&name))?;
        }
        std::fs::set_permissions(to, from.metadata()?.permissions())
    } else {
        if is_dir(to) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        std::fs::rename(from, to)
    }
}

/// Unpacks what the engine sends of `inside` into a folder of our own.
async fn download(shared: &Shared, inside: &Path, staging: &Path) -> io::Result<()> {
    let path = inside.to_str().ok_or(io::ErrorKind::InvalidFilename)?;
    let options = DownloadFromContainerOptionsBuilder::default()
        .path(path)
        .build();
    let client = shared.engine().client_within(None);
    let mut pieces = std::pin::pin!(client.download_from_container(&shared.id, Some(options)));
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(PIECES);
    let staging = staging.to_owned();
    let reader =
        tokio::task::spawn_blocking(move || unpack(ChannelReader::new(receiver), &staging));
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| {
            io::Error::other(
                shared
                    .engine()
                    .error("copy files out of the container", error),
            )
        });
        // The reader stops early only if it failed, and says why below.
        if sender.send(piece).await.is_err() {
            break;
        }
    }
    drop(sender);
    reader
        .await
        .unwrap_or_else(|join| Err(io::Error::other(join)))
}

/// Writes into a channel, in pieces.
struct ChannelWriter {
    sender: mpsc::Sender<Bytes>,
    piece: Vec<u8>,
}

impl ChannelWriter {
    fn new(sender: mpsc::Sender<Bytes>) -> Self {
        Self {
            sender,
            piece: Vec::with_capacity(PIECE),
        }
    }
}

impl Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        if piece.is_empty() {
            return Ok(());
        }
        self.sender
            .blocking_send(piece.into())
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Reads what comes through a channel.
struct ChannelReader {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

impl ChannelReader {
    fn new(receiver: mpsc::Receiver<io::Result<Bytes>>) -> Self {
        Self {
            receiver,
            piece: Bytes::new(),
        }
    }
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                None => return Ok(0),
                Some(piece) => self.piece = piece?,
            }
        }
        let length = self.piece.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.piece.split_to(length));
        Ok(length)
    }
}
