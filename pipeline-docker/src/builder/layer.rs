//! [`LayerPlan`]: the entries of one layer, decided before a byte is written.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::lower::{Listing, Lower, Node, join, split};
use super::{BuildError, CopySpec, LayerSpec, ModeRule, Owner};
use crate::ignore::{IgnoreRule, IgnoreRules, TreeEntry, TreeKind, WalkError, read_entry, walk};
use crate::tar_stream::{Entry, EntryError, EntryKind, TarStream};

/// What a layer will hold, by path.
#[derive(Debug)]
pub(super) struct LayerPlan {
    entries: BTreeMap<Vec<u8>, Planned>,
    mtime: u64,
}

#[derive(Debug)]
struct Planned {
    kind: PlannedKind,
    mode: u32,
    owner: Owner,
    inode: Option<(u64, u64)>,
}

#[derive(Debug)]
enum PlannedKind {
    Folder,
    File { source: PathBuf, size: u64 },
    Symlink(Vec<u8>),
    Whiteout,
}

impl LayerPlan {
    /// A root file system as the lowest layer: modes as on disk, everything owned by 0.
    pub(super) fn rootfs(root: &Path) -> Result<Self, BuildError> {
        let copy = CopySpec::new(root, "/").with_modes(ModeRule::Keep);
        if !root.is_dir() {
            return Err(BuildError::Invalid {
                field: "base",
                value: root.display().to_string(),
                why: "it is neither a folder nor an OCI layout",
            });
        }
        let mut plan = Self {
            entries: BTreeMap::new(),
            mtime: 0,
        };
        plan.copy(&copy, &Lower::default())?;
        Ok(plan)
    }

    /// A layer on top of `lower`.
    pub(super) fn new(spec: &LayerSpec, lower: &Lower) -> Result<Self, BuildError> {
        let mut plan = Self {
            entries: BTreeMap::new(),
            mtime: spec.mtime,
        };
        for path in &spec.removed {
            plan.remove(path, lower)?;
        }
        for copy in &spec.copies {
            plan.copy(copy, lower)?;
        }
        plan.check_folders()?;
        Ok(plan)
    }

    /// Nothing lies below a link or a file of the same layer: whoever extracts it would write
    /// through the link, wherever that leads.
    fn check_folders(&self) -> Result<(), BuildError> {
        let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
        for (path, planned) in &self.entries {
            if matches!(planned.kind, PlannedKind::Folder) {
                continue;
            }
            let start = join(path, b"");
            if let Some((below, _)) = self.entries.range(start.clone()..).next()
                && below.starts_with(&start)
            {
                return Err(BuildError::BelowNoFolder {
                    path: text(below),
                    parent: text(path),
                });
            }
        }
        Ok(())
    }

    /// What the layer adds, for the layers above it.
    pub(super) fn listing(&self) -> Listing {
        let node = |planned: &Planned| match &planned.kind {
            PlannedKind::Folder => Node::Folder,
            PlannedKind::Symlink(target) => Node::Symlink(target.clone()),
            PlannedKind::File { .. } | PlannedKind::Whiteout => Node::Other,
        };
        Listing(
            self.entries
                .iter()
                .map(|(path, planned)| (path.clone(), node(planned)))
                .collect(),
        )
    }

    fn remove(&mut self, path: &str, lower: &Lower) -> Result<(), BuildError> {
        let invalid = |why| BuildError::Invalid {
            field: "removed path",
            value: path.to_owned(),
            why,
        };
        let wanted = absolute(path).map_err(invalid)?;
        let (folder, name) = split(&wanted);
        let folder = lower
            .resolve(folder)
            .ok_or_else(|| invalid("its links go in circles"))?;
        if name.is_empty() || lower.get(&join(&folder, name)).is_none() {
            return Err(invalid("no lower layer has it"));
        }
        let whiteout = join(&folder, &[b".wh.", name].concat());
        let planned = Planned {
            kind: PlannedKind::Whiteout,
            mode: 0o644,
            owner: Owner::default(),
            inode: None,
        };
        self.parents(&whiteout, lower);
        self.entries.insert(whiteout, planned);
        Ok(())
    }

    fn copy(&mut self, copy: &CopySpec, lower: &Lower) -> Result<(), BuildError> {
        let invalid = |why| BuildError::Invalid {
            field: "dest",
            value: copy.dest.clone(),
            why,
        };
        let dest = absolute(&copy.dest).map_err(invalid)?;
        // The source itself may be a link; links inside it are copied as links.
        let metadata = fs::metadata(&copy.source).map_err(|source| BuildError::Source {
            path: copy.source.clone(),
            source,
        })?;
        if !metadata.is_dir() {
            let mut file = dest;
            if copy.dest.ends_with('/') {
                use std::os::unix::ffi::OsStrExt;
                let name = copy
                    .source
                    .file_name()
                    .map(OsStrExt::as_bytes)
                    .unwrap_or_default();
                file = join(&file, name);
            }
            if file.is_empty() {
                return Err(invalid("a file needs a name; end a folder with a slash"));
            }
            let full = fs::canonicalize(&copy.source).map_err(|source| BuildError::Source {
                path: copy.source.clone(),
                source,
            })?;
            let entry = read_entry(full, file.clone()).map_err(|error| fail(copy, error))?;
            return self.place(&file, entry, copy, lower);
        }
        let rules =
            IgnoreRules::from_patterns(&copy.exclude).map_err(|source| BuildError::Exclude {
                path: copy.source.clone(),
                source,
            })?;
        let tree =
            walk(&copy.source, &rules, IgnoreRule::Buildkit).map_err(|error| fail(copy, error))?;
        if !dest.is_empty() {
            let root = read_entry(copy.source.join("."), dest.clone())
                .map_err(|error| fail(copy, error))?;
            self.place(&dest, root, copy, lower)?;
        }
        for entry in tree {
            let path = join(&dest, &entry.path);
            self.place(&path, entry, copy, lower)?;
        }
        Ok(())
    }

    fn place(
        &mut self,
        path: &[u8],
        entry: TreeEntry,
        copy: &CopySpec,
        lower: &Lower,
    ) -> Result<(), BuildError> {
        let (folder, name) = split(path);
        if name.starts_with(b".wh.") {
            return Err(BuildError::ReservedName { path: entry.full });
        }
        let circles = || BuildError::Invalid {
            field: "dest",
            value: String::from_utf8_lossy(path).into_owned(),
            why: "links of the base go in circles there",
        };
        let folder = lower.resolve(folder).ok_or_else(circles)?;
        let mut path = join(&folder, name);
        let mode = match (copy.modes, &entry.kind) {
            (_, TreeKind::Symlink(_)) => 0o777,
            (ModeRule::Keep, _) => entry.mode,
            (ModeRule::Normalised, TreeKind::Folder) => 0o755,
            (ModeRule::Normalised, _) if entry.mode & 0o111 != 0 => 0o755,
            (ModeRule::Normalised, _) => 0o644,
            (ModeRule::Fixed { folder, .. }, TreeKind::Folder) => folder & 0o7777,
            (ModeRule::Fixed { file, .. }, _) => file & 0o7777,
        };
        let kind = match entry.kind {
            TreeKind::Folder => {
                // A second header would overrule the base's mode and owner, and would turn a link
                // to a folder into a folder.
                path = lower.resolve(&path).ok_or_else(circles)?;
                if path.is_empty() || lower.get(&path) == Some(&Node::Folder) {
                    return Ok(());
                }
                PlannedKind::Folder
            }
            TreeKind::File => PlannedKind::File {
                source: entry.full.clone(),
                size: entry.size,
            },
            TreeKind::Symlink(target) => PlannedKind::Symlink(target),
            // A socket is a meeting point of running programs, nothing that can be copied.
            TreeKind::Special("socket") => return Ok(()),
            TreeKind::Special(kind) => {
                return Err(BuildError::SpecialFile {
                    path: entry.full,
                    kind,
                });
            }
        };
        self.parents(&path, lower);
        let planned = Planned {
            kind,
            mode,
            owner: copy.owner,
            inode: entry.inode,
        };
        match self.entries.get(&path) {
            Some(Planned {
                kind: PlannedKind::Folder,
                ..
            }) if matches!(planned.kind, PlannedKind::Folder) => {}
            Some(earlier) => {
                let first = match &earlier.kind {
                    PlannedKind::File { source, .. } => source.clone(),
                    _ => PathBuf::from("another entry"),
                };
                return Err(BuildError::Clash {
                    dest: String::from_utf8_lossy(&path).into_owned(),
                    first,
                    second: entry.full,
                });
            }
            None => {
                self.entries.insert(path, planned);
            }
        }
        Ok(())
    }

    /// Adds the folders above `path` that nobody has: extractors would make them unreadable.
    fn parents(&mut self, path: &[u8], lower: &Lower) {
        let mut folder = split(path).0;
        while !folder.is_empty() {
            if lower.get(folder) != Some(&Node::Folder) && !self.entries.contains_key(folder) {
                let planned = Planned {
                    kind: PlannedKind::Folder,
                    mode: 0o755,
                    owner: Owner::default(),
                    inode: None,
                };
                self.entries.insert(folder.to_vec(), planned);
            }
            folder = split(folder).0;
        }
    }

    /// Writes the layer's tar. `go_on` is asked now and then; `false` cancels.
    pub(super) fn write<W: Write>(
        &self,
        sink: W,
        go_on: &dyn Fn() -> bool,
        layer: &str,
    ) -> Result<W, BuildError> {
        type Same = ((u64, u64), u32, u32, u32);
        let mut first_names: BTreeMap<Same, &[u8]> = BTreeMap::new();
        let mut stream = TarStream::new(sink);
        for (path, planned) in &self.entries {
            let mut content: Box<dyn Read> = Box::new(io::empty());
            let mut source_path: &Path = Path::new("");
            let owner = planned.owner;
            let kind = match &planned.kind {
                PlannedKind::Folder => EntryKind::Folder,
                PlannedKind::Symlink(target) => EntryKind::Symlink(target),
                PlannedKind::Whiteout => EntryKind::File(0),
                PlannedKind::File { source, size } => {
                    let same = planned
                        .inode
                        .map(|inode| (inode, planned.mode, owner.uid, owner.gid));
                    match same.and_then(|same| first_names.get(&same)) {
                        Some(target) => EntryKind::HardLink(target),
                        None => {
                            if let Some(same) = same {
                                first_names.insert(same, path);
                            }
                            source_path = source;
                            content =
                                Box::new(File::open(source).map_err(|error| gone(source, error))?);
                            EntryKind::File(*size)
                        }
                    }
                }
            };
            let entry = Entry {
                path,
                kind,
                mode: planned.mode,
                uid: u64::from(owner.uid),
                gid: u64::from(owner.gid),
                mtime: self.mtime,
            };
            if !go_on() {
                return Err(BuildError::Cancelled);
            }
            stream
                .entry(&entry, content.as_mut(), go_on)
                .map_err(|error| match error {
                    EntryError::Changed => BuildError::Changed {
                        path: source_path.to_owned(),
                    },
                    EntryError::Read(source) => BuildError::Source {
                        path: source_path.to_owned(),
                        source,
                    },
                    EntryError::Write(_) if !go_on() => BuildError::Cancelled,
                    EntryError::Write(source) => BuildError::Write {
                        layer: layer.to_owned(),
                        source,
                    },
                })?;
        }
        stream.finish().map_err(|source| BuildError::Write {
            layer: layer.to_owned(),
            source,
        })
    }
}

/// A file that the walk saw and that is not there any more has changed.
fn gone(path: &Path, error: io::Error) -> BuildError {
    if error.kind() == io::ErrorKind::NotFound {
        BuildError::Changed {
            path: path.to_owned(),
        }
    } else {
        BuildError::Source {
            path: path.to_owned(),
            source: error,
        }
    }
}

fn fail(copy: &CopySpec, error: WalkError) -> BuildError {
    match error {
        WalkError::Io { path, source } if path != copy.source => gone(&path, source),
        WalkError::Io { path, source } => BuildError::Source { path, source },
        WalkError::Ignore(source) => BuildError::Exclude {
            path: copy.source.clone(),
            source,
        },
    }
}

/// The relative form of an absolute path in an image.
fn absolute(path: &str) -> Result<Vec<u8>, &'static str> {
    if !path.starts_with('/') {
        return Err("a path in an image begins with a slash");
    }
    if path.contains('\0') {
        return Err("a path holds no zero byte");
    }
    let parts: Vec<&str> = path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    if parts.contains(&"..") {
        return Err("a path in an image holds no ..");
    }
    Ok(parts.join("/").into_bytes())
}
