use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::release::Release;

/// The places in a target's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Folders {
    root: PathBuf,
}

/// Says that a release's folder is complete.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Complete {
    pub(super) release: Release,
    pub(super) configuration: String,
}

/// What must survive a restart of the supervisor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// The stable port.
    #[serde(default)]
    pub(super) port: Option<u16>,
    /// The folder of the live release.
    #[serde(default)]
    pub(super) live: Option<String>,
    /// Stopped on purpose: a supervisor that starts does not start the live release.
    #[serde(default)]
    pub(super) stopped: bool,
}

impl Folders {
    /// `root` must be absolute: the supervisor runs in another folder.
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn releases(&self) -> PathBuf {
        self.root.join("releases")
    }

    pub(super) fn release(&self, folder: &str) -> PathBuf {
        self.releases().join(folder)
    }

    pub(super) fn complete(&self, folder: &str) -> PathBuf {
        self.releases().join(format!("{folder}.json"))
    }

    pub(super) fn shared(&self) -> PathBuf {
        self.root.join("shared")
    }

    pub(super) fn logs(&self, folder: &str) -> PathBuf {
        self.root.join("logs").join(folder)
    }

    pub(super) fn launch(&self, folder: &str) -> PathBuf {
        self.root.join("launch").join(format!("{folder}.json"))
    }

    pub(super) fn state(&self) -> PathBuf {
        self.root.join("state.json")
    }

    pub(super) fn current(&self) -> PathBuf {
        self.root.join("current")
    }

    pub(super) fn deploy_lock(&self) -> PathBuf {
        self.root.join("deploy.lock")
    }

    pub(super) fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    pub(super) fn supervisor_lock(&self) -> PathBuf {
        self.run().join("supervisor.lock")
    }

    pub(super) fn supervisor_log(&self) -> PathBuf {
        self.run().join("supervisor.log")
    }

    pub(super) fn processes(&self) -> PathBuf {
        self.run().join("processes")
    }

    /// The name of the control socket within [`run`](Self::run).
    pub(super) const SOCKET: &str = "control.sock";

    /// Makes all folders that are missing.
    pub(super) fn make(&self) -> io::Result<()> {
        fs::create_dir_all(&self.root)?;
        for open in [self.releases(), self.shared(), self.root.join("logs")] {
            fs::create_dir_all(open)?;
        }
        for closed in [self.root.join("launch"), self.run(), self.processes()] {
            let made = DirBuilder::new().mode(0o700).create(&closed);
            match made {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    // One that was made with other rights is closed again.
                    fs::set_permissions(&closed, Permissions::from_mode(0o700))?;
                }
                made => made?,
            }
        }
        Ok(())
    }

    /// The folders below `releases/`: complete ones from oldest to newest, then others.
    pub(super) fn list(&self) -> io::Result<(Vec<String>, Vec<String>)> {
        let mut complete = Vec::new();
        let mut half_made = Vec::new();
        let entries = match fs::read_dir(self.releases()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Default::default()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if !entry.file_type()?.is_dir() {
                continue;
            }
            match fs::metadata(self.complete(&name)) {
                Ok(metadata) => complete.push((metadata.modified()?, name)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => half_made.push(name),
                Err(error) => return Err(error),
            }
        }
        complete.sort();
        half_made.sort();
        Ok((
            complete.into_iter().map(|(_, name)| name).collect(),
            half_made,
        ))
    }

    /// The names of all folders with logs, oldest first.
    pub(super) fn log_folders(&self) -> io::Result<Vec<String>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.root.join("logs"))? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string() {
                found.push((entry.metadata()?.modified()?, name));
            }
        }
        found.sort();
        Ok(found.into_iter().map(|(_, name)| name).collect())
    }

    /// Removes a release with everything that belongs to it, except its logs.
    pub(super) fn remove(&self, folder: &str) -> io::Result<()> {
        // The mark goes first: what is left after a crash is half-made, not complete.
        for file in [self.complete(folder), self.launch(folder)] {
            absent(fs::remove_file(file))?;
        }
        remove_tree(&self.release(folder))
    }
}

/// Removes a tree, also one whose folders are read-only.
fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let mut todo = vec![path.to_path_buf()];
            while let Some(folder) = todo.pop() {
                fs::set_permissions(&folder, Permissions::from_mode(0o700))?;
                for entry in fs::read_dir(&folder)? {
                    let entry = entry?;
                    if entry.file_type()?.is_dir() {
                        todo.push(entry.path());
                    }
                }
            }
            fs::remove_dir_all(path)
        }
        removed => absent(removed),
    }
}

/// Absence is what was wanted.
pub(super) fn absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Reads a JSON file; `None` when there is none.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes?,
    };
    Ok(Some(serde_json::from_slice(&bytes)?))
}

/// Writes a JSON file that only its owner can read: whole and durable, or not at all.
pub(super) fn write_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let temporary = path.with_extension("json.new");
    // A left-over may be of other rights; create_new gives ours.
    absent(fs::remove_file(&temporary))?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(&serde_json::to_vec_pretty(value)?)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(folder)?.sync_all()
}

/// Points the link at `path` to `to`, in one step.
pub(super) fn swap_link(path: &Path, to: &Path) -> io::Result<()> {
    let temporary = path.with_extension("new");
    absent(fs::remove_file(&temporary))?;
    std::os::unix::fs::symlink(to, &temporary)?;
    fs::rename(&temporary, path)
}

/// The last `count` lines of a file, lossily as text; empty when there is no such file.
pub(super) fn tail(path: &Path, count: usize) -> Vec<String> {
    use std::io::{Read, Seek, SeekFrom};
    const WINDOW: u64 = 64 * 1024;
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(WINDOW)))?;
        let mut bytes = Vec::new();
        file.take(WINDOW).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = String::from_utf8_lossy(&read().unwrap_or_default()).into_owned();
    let lines: Vec<_> = text.lines().map(ToOwned::to_owned).collect();
    lines[lines.len().saturating_sub(count)..].to_vec()
}

/// Moves what a log that is longer than `limit` bytes holds to `<log>.1`.
///
/// The file stays, because its writer holds it open; the writer appends, so that it goes on
/// at the new end. Lines written meanwhile are lost.
pub(super) fn trim(log: &Path, limit: u64) -> io::Result<()> {
    let file = match OpenOptions::new().write(true).open(log) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file?,
    };
    if file.metadata()?.len() > limit {
        let mut aside = log.as_os_str().to_owned();
        aside.push(".1");
        fs::copy(log, aside)?;
        file.set_len(0)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_file_is_whole_and_closed_to_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        let state = State {
            port: Some(1),
            ..State::default()
        };
        write_json(&path, &state).unwrap();
        assert_eq!(read_json::<State>(&path).unwrap(), Some(state));
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(
            read_json::<State>(&folder.path().join("b.json")).unwrap(),
            None
        );
    }

    #[test]
    fn the_link_is_replaced_and_the_tail_is_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("current");
        for to in ["a", "b"] {
            swap_link(&link, Path::new(to)).unwrap();
            assert_eq!(fs::read_link(&link).unwrap(), Path::new(to));
        }
        let log = folder.path().join("log");
        fs::write(&log, "1\n2\n3\n").unwrap();
        assert_eq!(tail(&log, 2), ["2", "3"]);
        assert_eq!(tail(&folder.path().join("none"), 2), [""; 0]);
    }

    #[test]
    fn a_long_log_is_moved_aside_under_its_writer() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut writer = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        writer.write_all(b"12345").unwrap();
        trim(&log, 5).unwrap();
        assert_eq!(fs::read_to_string(&log).unwrap(), "12345");
        writer.write_all(b"6").unwrap();
        trim(&log, 5).unwrap();
        writer.write_all(b"7").unwrap();
        assert_eq!(fs::read_to_string(&log).unwrap(), "7");
        let aside = folder.path().join("log.1");
        assert_eq!(fs::read_to_string(aside).unwrap(), "123456");
        trim(&folder.path().join("none"), 5).unwrap();
    }

    #[test]
    fn folders_without_a_mark_are_half_made() {
        let root = tempfile::tempdir().unwrap();
        let folders = Folders::new(root.path().to_path_buf());
        folders.make().unwrap();
        for name in ["a", "b"] {
            fs::create_dir(folders.release(name)).unwrap();
        }
        fs::write(folders.complete("a"), "{}").unwrap();
        assert_eq!(
            folders.list().unwrap(),
            (vec!["a".to_owned()], vec!["b".to_owned()])
        );
        folders.remove("a").unwrap();
        assert_eq!(folders.list().unwrap(), (vec![], vec!["b".to_owned()]));
        let run = fs::metadata(folders.run()).unwrap().permissions().mode();
        assert_eq!(run & 0o777, 0o700);
    }
}
