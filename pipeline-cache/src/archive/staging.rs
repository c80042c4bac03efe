//! Where a restore is unpacked before it replaces anything, and the replacing.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{
    AtFlags, CWD, Dir, FlockOperation, Mode, OFlags, fchmod, flock, fstat, mkdirat, openat,
    renameat, statat, unlinkat,
};
use rustix::io::Errno;

use super::remove_tree::remove_tree;
use super::roots::DeclaredPath;
use super::roots::is_below;
use super::tree_writer::{FolderRecord, SameName, TreeWriter};
use super::walk::FOLDER;
use super::{ArchiveError, DeclaredPaths, Refusal};

const PREFIX: &str = ".pipeline-cache-";

/// Whether this is the name of a staging folder. Nothing else is ever swept: people give folders
/// of their own names that begin alike.
pub(crate) fn is_staging(name: &[u8]) -> bool {
    name.strip_prefix(PREFIX.as_bytes()).is_some_and(|rest| {
        rest.len() == 16 && rest.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// One staging folder, beside what it will replace.
struct Stage {
    /// The folder that is there already and in which everything happens.
    base: OwnedFd,
    base_path: PathBuf,
    name: String,
    handle: OwnedFd,
    mask: u32,
}

/// One declared path: where it is unpacked and where it goes.
struct Slot {
    archived: Vec<u8>,
    stage: usize,
    name: Vec<u8>,
    /// Folders between the stage's base and the target.
    between: Vec<Vec<u8>>,
    /// Name of the target; `None` when the folder's children are what is placed.
    target: Option<Vec<u8>>,
    shown: Vec<u8>,
}

/// Folders whose mode is set after they were moved, by stage and path.
type Late = HashMap<(usize, Box<[u8]>), FolderRecord>;

/// All staging of one restore. Dropping it removes whatever is still in it.
pub(crate) struct Staging {
    stages: Vec<Stage>,
    slots: Vec<Slot>,
    /// The destination folder and what is above it, as far as they were made for this restore.
    made: Vec<PathBuf>,
}

impl Staging {
    /// Makes staging folders for declared paths. With `into`, everything goes below it.
    pub(crate) fn prepare(
        paths: &DeclaredPaths,
        into: Option<&Path>,
        working_folder: &Path,
    ) -> Result<Self, ArchiveError> {
        let mut staging = Self {
            stages: Vec::new(),
            slots: Vec::new(),
            made: Vec::new(),
        };
        let top = into.unwrap_or(working_folder);
        if into.is_some() && !top.exists() {
            let is_missing = |at: &&Path| !at.as_os_str().is_empty() && !at.exists();
            let missing = top.ancestors().take_while(is_missing);
            staging.made = missing.map(Path::to_path_buf).collect();
            std::fs::create_dir_all(top)
                .map_err(|error| shown_error(top, "make the folder", error))?;
        }
        for (index, declared) in paths.as_slice().iter().enumerate() {
            let archived = declared.archived().to_vec();
            let (base, base_path, between, target) = base_of(declared, into, top)?;
            let stage = staging.stage(base, base_path)?;
            staging.slots.push(Slot {
                archived,
                stage,
                name: index.to_string().into_bytes(),
                between,
                target,
                shown: declared.as_str().as_bytes().to_vec(),
            });
        }
        Ok(staging)
    }

    fn stage(&mut self, base: OwnedFd, base_path: PathBuf) -> Result<usize, ArchiveError> {
        if let Some(known) = self
            .stages
            .iter()
            .position(|stage| stage.base_path == base_path)
        {
            return Ok(known);
        }
        sweep(base.as_fd());
        let fail = |action| {
            let path = base_path.clone();
            move |error: Errno| shown_error(&path, action, error.into())
        };
        loop {
            let name = format!("{PREFIX}{}", unique());
            mkdirat(&base, name.as_str(), Mode::RWXU).map_err(fail("make a staging folder in"))?;
            let handle = match openat(&base, name.as_str(), FOLDER, Mode::empty()) {
                // A sweep of another restore came between.
                Err(Errno::NOENT) => continue,
                other => other.map_err(fail("open the staging folder in"))?,
            };
            flock(&handle, FlockOperation::LockExclusive)
                .map_err(fail("lock the staging folder in"))?;
            // Or between these two.
            if same_file(&handle, base.as_fd(), name.as_bytes()) {
                let mask = probe_mask(handle.as_fd()).map_err(fail("write into"))?;
                self.stages.push(Stage {
                    base,
                    base_path,
                    name,
                    handle,
                    mask,
                });
                return Ok(self.stages.len() - 1);
            }
        }
    }

    /// The folders that everything goes into.
    pub(super) fn bases(&self) -> impl Iterator<Item = (BorrowedFd<'_>, &Path)> {
        let stages = self.stages.iter();
        stages.map(|stage| (stage.base.as_fd(), stage.base_path.as_path()))
    }

    /// Device and inode of what will be each declared path, once everything is unpacked.
    pub(crate) fn placed(&self) -> Vec<Option<(u64, u64)>> {
        self.slots
            .iter()
            .map(|slot| {
                slot.target.as_ref()?;
                let handle = &self.stages[slot.stage].handle;
                let stat = statat(handle, slot.name.as_slice(), AtFlags::SYMLINK_NOFOLLOW).ok()?;
                Some((stat.st_dev, stat.st_ino))
            })
            .collect()
    }

    /// Writers for one worker, one for each stage.
    pub(crate) fn writers(&self, same_name: SameName) -> Vec<TreeWriter<'_>> {
        self.stages
            .iter()
            .map(|stage| TreeWriter::new(stage.handle.as_fd(), stage.mask, same_name))
            .collect()
    }

    /// Stage and path in it of an archived path.
    pub(crate) fn place(&self, path: &[u8]) -> Result<(usize, Vec<u8>), ArchiveError> {
        let slot = self
            .slots
            .iter()
            .find(|slot| is_below(path, &slot.archived))
            .ok_or_else(|| ArchiveError::refuse(path, Refusal::OutsideRoots))?;
        let mut place = slot.name.clone();
        let below = &path[slot.archived.len()..];
        if !below.is_empty() && !below.starts_with(b"/") {
            place.push(b'/');
        }
        place.extend_from_slice(below);
        Ok((slot.stage, place))
    }

    /// Puts everything in place: each declared path in one step, all of them or none.
    pub(crate) fn commit(
        mut self,
        folders: Vec<(usize, FolderRecord)>,
        workers: usize,
    ) -> Result<(), ArchiveError> {
        let mut late = Late::new();
        let mut by_stage: Vec<Vec<FolderRecord>> = self.stages.iter().map(|_| Vec::new()).collect();
        for (stage, record) in folders {
            if record.mode & 0o200 == 0 && self.is_moved(stage, &record.path) {
                // A folder without write permission cannot be moved, so its mode comes after.
                // All others are complete before the move: a kill leaves nothing to be done.
                late.insert((stage, record.path.clone()), record);
            } else {
                by_stage[stage].push(record);
            }
        }
        for (stage, records) in by_stage.into_iter().enumerate() {
            self.finish_folders(stage, records, workers)?;
        }
        let mut done = Vec::new();
        let result = self
            .slots
            .iter()
            .try_for_each(|slot| self.place_slot(slot, &late, &mut done));
        match result {
            Ok(()) => {
                self.made.clear();
                Ok(())
            }
            Err(error) => {
                for step in done.iter().rev() {
                    step.undo(&self.stages);
                }
                Err(error)
            }
        }
    }

    /// Gives folders of one stage their times and modes, when nothing is made in them any more.
    fn finish_folders(
        &self,
        stage: usize,
        mut records: Vec<FolderRecord>,
        workers: usize,
    ) -> Result<(), ArchiveError> {
        // Those near each other next to each other. Stable: of several entries for one folder the
        // last counts, and it comes last here too.
        records.sort_by(|a, b| a.path.cmp(&b.path));
        let (mut simple, mut others) = (Vec::new(), Vec::new());
        for run in records.chunk_by(|a, b| a.path == b.path) {
            match run {
                [only] if only.mode_is_set && only.xattrs.is_empty() => simple.push(only),
                run => others.extend(run.last().cloned()),
            }
        }
        let at = &self.stages[stage];
        let writer = || TreeWriter::new(at.handle.as_fd(), at.mask, SameName::Refuse);
        let share = simple.len().div_ceil(workers.max(1)).max(256);
        std::thread::scope(|scope| {
            let shares: Vec<_> = simple
                .chunks(share)
                .map(|share| {
                    scope.spawn(move || {
                        let mut writer = writer();
                        share
                            .iter()
                            .try_for_each(|record| writer.finish_time(record))
                    })
                })
                .collect();
            shares.into_iter().try_for_each(|share| {
                share
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })?;
        // These may not be entered any more when they have their modes, so they come last.
        writer().finish_folders(others)
    }

    /// Whether a staged folder is one of those that get a new parent.
    fn is_moved(&self, stage: usize, path: &[u8]) -> bool {
        self.slots
            .iter()
            .filter(|slot| slot.stage == stage && is_below(path, &slot.name))
            .any(|slot| {
                let below = &path[slot.name.len()..];
                let depth = below.iter().filter(|&&b| b == b'/').count();
                depth == usize::from(slot.target.is_none()) || below.is_empty()
            })
    }

    fn place_slot(
        &self,
        slot: &Slot,
        late: &Late,
        done: &mut Vec<Step>,
    ) -> Result<(), ArchiveError> {
        let stage = &self.stages[slot.stage];
        let fail =
            |action| move |error: Errno| ArchiveError::destination(&slot.shown, action, error);
        let mut parent = openat(&stage.base, ".", FOLDER, Mode::empty())
            .map_err(fail("open the folder above"))?;
        for name in &slot.between {
            match mkdirat(&parent, name.as_slice(), Mode::from_raw_mode(0o777)) {
                Ok(()) => done.push(Step::Made {
                    parent: parent.try_clone().map_err(|error| {
                        ArchiveError::destination(&slot.shown, "open the folder above", error)
                    })?,
                    name: name.clone(),
                }),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(fail("make the folder above")(error)),
            }
            parent = openat(&parent, name.as_slice(), FOLDER, Mode::empty())
                .map_err(fail("open the folder above"))?;
        }
        let mut moves = Vec::new();
        match &slot.target {
            Some(target) => moves.push((slot.name.clone(), target.clone())),
            None => {
                let staged = openat(&stage.handle, slot.name.as_slice(), FOLDER, Mode::empty())
                    .map_err(|_| missing(&slot.shown))?;
                for child in children(staged.as_fd()).map_err(fail("list the staging folder"))? {
                    let from = [slot.name.as_slice(), b"/", &child].concat();
                    moves.push((from, child));
                }
            }
        }
        for (from, to) in moves {
            let step = swap(stage, slot.stage, &from, &parent, &to, &slot.shown)?;
            done.push(step);
            if let Some(record) = late.get(&(slot.stage, from.into_boxed_slice())) {
                let mut writer = TreeWriter::new(parent.as_fd(), stage.mask, SameName::Refuse);
                let mut record = record.clone();
                record.path = to.into();
                writer.finish_folders(vec![record])?;
            }
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        for stage in &self.stages {
            // What cannot be removed now is swept by the next restore here.
            let _ = remove_tree(stage.base.as_fd(), stage.name.as_bytes());
        }
        for made in &self.made {
            // Only if it is still as empty as it was made.
            let _ = std::fs::remove_dir(made);
        }
    }
}

/// Something that was done to the destination and can be taken back.
enum Step {
    Made {
        parent: OwnedFd,
        name: Vec<u8>,
    },
    Moved {
        stage: usize,
        from: Vec<u8>,
        parent: OwnedFd,
        to: Vec<u8>,
        /// Where the old content is now, if there was some.
        old: Option<Vec<u8>>,
    },
}

impl Step {
    fn undo(&self, stages: &[Stage]) {
        match self {
            Self::Made { parent, name } => {
                let _ = unlinkat(parent, name.as_slice(), AtFlags::REMOVEDIR);
            }
            Self::Moved {
                stage,
                from,
                parent,
                to,
                old,
            } => {
                let handle = &stages[*stage].handle;
                make_movable(parent.as_fd(), to);
                match old {
                    Some(old) if old == from => {
                        let _ = exchange(handle.as_fd(), from, parent.as_fd(), to);
                    }
                    Some(old) => {
                        let _ = renameat(parent, to.as_slice(), handle, from.as_slice());
                        let _ = renameat(handle, old.as_slice(), parent, to.as_slice());
                    }
                    None => {
                        let _ = renameat(parent, to.as_slice(), handle, from.as_slice());
                    }
                }
            }
        }
    }
}

/// Puts one staged file or folder in place of whatever is there.
fn swap(
    stage: &Stage,
    stage_index: usize,
    from: &[u8],
    parent: &OwnedFd,
    to: &[u8],
    shown: &[u8],
) -> Result<Step, ArchiveError> {
    let fail = |action| move |error: Errno| ArchiveError::destination(shown, action, error);
    if statat(&stage.handle, from, AtFlags::SYMLINK_NOFOLLOW).is_err() {
        return Err(missing(shown));
    }
    let moved = |old: Option<Vec<u8>>| -> Result<Step, ArchiveError> {
        Ok(Step::Moved {
            stage: stage_index,
            from: from.to_vec(),
            parent: parent.try_clone().map_err(|error| {
                ArchiveError::destination(shown, "open the folder above", error)
            })?,
            to: to.to_vec(),
            old,
        })
    };
    let before = statat(parent, to, AtFlags::SYMLINK_NOFOLLOW);
    match before {
        Err(Errno::NOENT) => {
            // Made ready before the move, so that nothing can fail after it.
            let step = moved(None)?;
            renameat(&stage.handle, from, parent, to).map_err(fail("put it in place"))?;
            Ok(step)
        }
        Err(error) => Err(fail("look at it")(error)),
        Ok(_) => {
            let step = moved(Some(from.to_vec()))?;
            let mut result = exchange(stage.handle.as_fd(), from, parent.as_fd(), to);
            if result == Err(Errno::ACCESS) && make_movable(parent.as_fd(), to) {
                result = exchange(stage.handle.as_fd(), from, parent.as_fd(), to);
            }
            match result {
                Ok(()) => Ok(step),
                Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                    let old = [b"old-", &from.to_vec()[..]]
                        .concat()
                        .into_iter()
                        .map(|byte| if byte == b'/' { b'-' } else { byte })
                        .collect::<Vec<u8>>();
                    let step = moved(Some(old.clone()))?;
                    renameat(parent, to, &stage.handle, old.as_slice())
                        .map_err(fail("move the old content away"))?;
                    if let Err(error) = renameat(&stage.handle, from, parent, to) {
                        let _ = renameat(&stage.handle, old.as_slice(), parent, to);
                        return Err(fail("put it in place")(error));
                    }
                    Ok(step)
                }
                Err(error) => Err(fail("put it in place")(error)),
            }
        }
    }
}

#[cfg(target_os = "linux")]
fn exchange(
    from_folder: BorrowedFd<'_>,
    from: &[u8],
    to_folder: BorrowedFd<'_>,
    to: &[u8],
) -> Result<(), Errno> {
    use rustix::fs::{RenameFlags, renameat_with};
    renameat_with(from_folder, from, to_folder, to, RenameFlags::EXCHANGE)
}

#[cfg(not(target_os = "linux"))]
fn exchange(
    _from_folder: BorrowedFd<'_>,
    _from: &[u8],
    _to_folder: BorrowedFd<'_>,
    _to: &[u8],
) -> Result<(), Errno> {
    Err(Errno::NOSYS)
}

/// Lets a folder of ours be moved, which takes write permission on the folder itself.
fn make_movable(parent: BorrowedFd<'_>, name: &[u8]) -> bool {
    openat(parent, name, FOLDER, Mode::empty())
        .and_then(|folder| {
            let mode = fstat(&folder)?.st_mode & 0o7777;
            fchmod(&folder, Mode::from_raw_mode(mode | 0o700))
        })
        .is_ok()
}

fn missing(shown: &[u8]) -> ArchiveError {
    ArchiveError::Damaged {
        what: format!(
            "the archive does not hold {}",
            super::archive_error::escape(shown)
        ),
    }
}

/// The deepest folder that exists on the way to a target, and the names still to be made.
fn deepest(
    start: &Path,
    parts: Vec<Vec<u8>>,
    follow: bool,
) -> Result<(OwnedFd, PathBuf, Vec<Vec<u8>>), ArchiveError> {
    use std::os::unix::ffi::OsStrExt as _;

    let mut path = start.to_path_buf();
    // The caller names the start, and absolute declared paths; links in those are the caller's.
    let anywhere = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = openat(CWD, start, anywhere, Mode::empty())
        .map_err(|error| shown_error(start, "open the folder", error.into()))?;
    let flags = if follow { anywhere } else { FOLDER };
    let mut parts = parts.into_iter();
    while let Some(part) = parts.next() {
        match openat(&at, part.as_slice(), flags, Mode::empty()) {
            Ok(next) => {
                path.push(std::ffi::OsStr::from_bytes(&part));
                at = next;
            }
            Err(Errno::NOENT) => {
                return Ok((at, path, std::iter::once(part).chain(parts).collect()));
            }
            Err(error) => {
                path.push(std::ffi::OsStr::from_bytes(&part));
                return Err(shown_error(
                    &path,
                    "open it as a folder (links above a relative path are not followed)",
                    error.into(),
                ));
            }
        }
    }
    Ok((at, path, Vec::new()))
}

/// What one declared path is staged beside: the folder, its name, the folders that are missing
/// between, and the last part of the name.
type Base = (OwnedFd, PathBuf, Vec<Vec<u8>>, Option<Vec<u8>>);

fn base_of(declared: &DeclaredPath, into: Option<&Path>, top: &Path) -> Result<Base, ArchiveError> {
    let absolute = declared.is_absolute() && into.is_none();
    let start = if absolute { Path::new("/") } else { top };
    let mut parts: Vec<Vec<u8>> = declared
        .archived()
        .split(|&b| b == b'/')
        .filter(|part| !part.is_empty())
        .map(<[u8]>::to_vec)
        .collect();
    let target = parts.pop();
    let (base, base_path, between) = deepest(start, parts, absolute)?;
    Ok((base, base_path, between, target))
}

/// Removes what killed restores left beside these paths, for a restore that stages nothing.
pub(crate) fn sweep_beside(paths: &DeclaredPaths, into: Option<&Path>, working_folder: &Path) {
    for declared in paths.as_slice() {
        if let Ok((base, ..)) = base_of(declared, into, into.unwrap_or(working_folder)) {
            sweep(base.as_fd());
        }
    }
}

/// Removes staging folders that a killed restore left behind.
fn sweep(base: BorrowedFd<'_>) {
    let Ok(names) = children(base) else { return };
    for name in names {
        if !is_staging(&name) {
            continue;
        }
        let Ok(handle) = openat(base, name.as_slice(), FOLDER, Mode::empty()) else {
            continue;
        };
        if flock(&handle, FlockOperation::NonBlockingLockExclusive).is_ok()
            && same_file(&handle, base, &name)
        {
            let _ = remove_tree(base, &name);
        }
    }
}

fn children(folder: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    Dir::read_from(folder)?
        .map(|item| item.map(|item| item.file_name().to_bytes().to_vec()))
        .filter(|name| !matches!(name.as_deref(), Ok(b"." | b"..")))
        .collect()
}

fn same_file(open: &OwnedFd, folder: BorrowedFd<'_>, name: &[u8]) -> bool {
    match (fstat(open), statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)) {
        (Ok(open), Ok(named)) => open.st_ino == named.st_ino && open.st_dev == named.st_dev,
        _ => false,
    }
}

/// Which permission bits new files lose. Asking the process itself would change it.
fn probe_mask(folder: BorrowedFd<'_>) -> Result<u32, Errno> {
    const NAME: &str = "mask";
    mkdirat(folder, NAME, Mode::from_raw_mode(0o777))?;
    let stat = statat(folder, NAME, AtFlags::SYMLINK_NOFOLLOW)?;
    unlinkat(folder, NAME, AtFlags::REMOVEDIR)?;
    Ok(!stat.st_mode & 0o777)
}

fn unique() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u64(COUNTER.fetch_add(1, Ordering::Relaxed));
    hasher.write_u32(std::process::id());
    format!("{:016x}", hasher.finish())
}

fn shown_error(path: &Path, action: &'static str, error: std::io::Error) -> ArchiveError {
    use std::os::unix::ffi::OsStrExt as _;
    ArchiveError::destination(path.as_os_str().as_bytes(), action, error)
}
