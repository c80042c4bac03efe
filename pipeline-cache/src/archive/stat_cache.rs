//! What a tree on disk was when it was last known to be what an entry holds.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};

use super::columns::{ColumnReader, ColumnWriter};
use super::listing::{ListedKind, Listing};
use super::walk::{NodeKind, Tree};
use crate::store::Sha256Digest;

/// Remembers, for each declared path on this machine, which entry it was restored from or saved
/// to, with inode, change time, size and mode of every file. What is still as it was then need
/// not be read, compared or written again.
///
/// It only ever saves work: without it, or when anything about it is not as it was written, files
/// are read and compared instead. A file is trusted when all of these are the same and its times
/// are older than the record, so that no later write can have left the same times; never across a
/// restart of the machine, since a power cut may take content and leave sizes; and never on a
/// network file system, whose clock is another one.
///
/// Not found by this: a program that writes into a file *while it is being restored or saved* and
/// then sets its modification time back.
///
/// The folder can be removed at any time. At most 64 trees are remembered, the last used ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatCache {
    folder: PathBuf,
}

const MARK: [u8; 8] = *b"PCTREE\x01\n";
const MAX_RECORDS: usize = 64;

/// What identifies a file's content without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) inode: u64,
    pub(crate) ctime: (i64, u32),
}

/// One declared path as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TreeRecord {
    /// Digest of the payload that unpacks to this.
    pub(crate) entry: Sha256Digest,
    pub(crate) listing: Listing,
    device: u64,
    /// By place in the listing; `None` for what is no file or must not be trusted.
    pub(crate) identities: Vec<Option<Identity>>,
    /// What the entry's format keeps beside it.
    pub(crate) extra: Vec<u8>,
}

impl StatCache {
    /// A stat cache in a folder, which is made when it is first written.
    #[must_use]
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    fn file_of(&self, target: &Path) -> Option<PathBuf> {
        use std::os::unix::ffi::OsStrExt as _;

        let parent = match target.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => return None,
        };
        let place = parent.canonicalize().ok()?.join(target.file_name()?);
        let name = Sha256Digest::of(place.as_os_str().as_bytes()).to_string();
        Some(self.folder.join(&name[..40]))
    }

    /// The record of a path. `None` as well when it is damaged or of before the last start.
    pub(crate) fn load(&self, target: &Path) -> Option<TreeRecord> {
        let bytes = fs::read(self.file_of(target)?).ok()?;
        TreeRecord::decode(unseal(&bytes)?)
    }

    /// Remembers a path. That it cannot be written is no error: it only saves work.
    pub(crate) fn store(&self, target: &Path, record: &TreeRecord) {
        let Some(place) = self.file_of(target) else {
            return;
        };
        let body = record.encode();
        let mut part = place.clone();
        part.set_extension(format!("part-{}", std::process::id()));
        let write = || -> std::io::Result<()> {
            fs::create_dir_all(&self.folder)?;
            let mut file = fs::File::create(&part)?;
            file.write_all(&MARK)?;
            file.write_all(&Sha256::digest(&body))?;
            file.write_all(&body)?;
            drop(file);
            fs::rename(&part, &place)
        };
        if write().is_err() {
            let _ = fs::remove_file(&part);
        }
        self.forget_oldest();
    }

    fn forget_oldest(&self) {
        let Ok(listing) = fs::read_dir(&self.folder) else {
            return;
        };
        let mut records: Vec<(SystemTime, PathBuf)> = listing
            .filter_map(Result::ok)
            .filter_map(|item| Some((item.metadata().ok()?.modified().ok()?, item.path())))
            .collect();
        records.sort();
        for (_, path) in records.iter().rev().skip(MAX_RECORDS) {
            let _ = fs::remove_file(path);
        }
    }
}

impl TreeRecord {
    /// Records a listed tree of one declared path.
    ///
    /// A file is trusted if it was changed before `before`, and not modified between `touched`
    /// and that: what happened then may not be what the entry holds, or may have left the same
    /// times. There is no record of a tree in which names came or went meanwhile.
    pub(crate) fn of(
        tree: &Tree,
        root: usize,
        entry: Sha256Digest,
        listing: Listing,
        before: (i64, u32),
        touched: (i64, u32),
    ) -> Option<Self> {
        let device = tree.roots[root].device;
        let mut identities = Vec::with_capacity(listing.len());
        let mut names_changed = false;
        let mut note = |node: &super::walk::Node| {
            let is_recent = (touched..=before).contains(&(node.mtime, node.mtime_ns));
            names_changed |= is_recent && matches!(node.kind, NodeKind::Folder(_));
            identities.push(match &node.kind {
                NodeKind::File(facts)
                    if facts.device == device && node.stamp.ctime < before && !is_recent =>
                {
                    Some(Identity {
                        inode: facts.inode,
                        ctime: node.stamp.ctime,
                    })
                }
                _ => None,
            });
        };
        tree.visit(root, &mut note);
        (!names_changed && identities.len() == listing.len()).then_some(Self {
            entry,
            listing,
            device,
            identities,
            extra: Vec::new(),
        })
    }

    /// Whether something listed now is what was recorded, without looking into it.
    pub(crate) fn is_same(&self, at: usize, node: &super::walk::Node, tree: &Tree) -> bool {
        let listing = &self.listing;
        if node.stamp.special_mode || (node.mtime, node.mtime_ns) != listing.mtime(at) {
            return false;
        }
        match (&node.kind, listing.kind(at)) {
            (NodeKind::Folder(folder), ListedKind::Folder) => {
                let attributes = tree.folders[*folder].xattrs.as_ref();
                node.mode == listing.mode(at) && attributes == listing.attributes(at)
            }
            (NodeKind::Symlink(target), ListedKind::Symlink) => **target == *listing.target(at),
            (NodeKind::File(facts), ListedKind::File | ListedKind::HardLink(_)) => {
                node.mode == listing.mode(at)
                    && facts.size == listing.size(at)
                    && facts.device == self.device
                    && node.stamp.links == listing.names_of(at)
                    && self.identities[at].is_some_and(|known| {
                        known.inode == facts.inode && known.ctime == node.stamp.ctime
                    })
            }
            _ => false,
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = ColumnWriter::default();
        out.bytes(&boot_id());
        out.0.extend_from_slice(self.entry.as_bytes());
        out.number(self.device);
        self.listing.encode(&mut out);
        let (mut inode, mut second) = (0, 0);
        for identity in &self.identities {
            let Some(known) = identity else {
                out.number(0);
                continue;
            };
            out.number(1);
            out.signed(known.inode.cast_signed().wrapping_sub(inode));
            out.signed(known.ctime.0.wrapping_sub(second));
            out.number(known.ctime.1.into());
            (inode, second) = (known.inode.cast_signed(), known.ctime.0);
        }
        out.bytes(&self.extra);
        out.0
    }

    pub(crate) fn decode(body: &[u8]) -> Option<Self> {
        let mut from = ColumnReader(body);
        if from.bytes()? != boot_id() {
            return None;
        }
        let entry = Sha256Digest::from_bytes(from.take(32)?.try_into().ok()?);
        let device = from.number()?;
        let listing = Listing::decode(&mut from)?;
        let (mut inode, mut second) = (0_i64, 0_i64);
        let mut identities = Vec::with_capacity(listing.len());
        for _ in 0..listing.len() {
            if from.number()? == 0 {
                identities.push(None);
                continue;
            }
            inode = inode.wrapping_add(from.signed()?);
            second = second.wrapping_add(from.signed()?);
            identities.push(Some(Identity {
                inode: inode.cast_unsigned(),
                ctime: (second, from.small()?),
            }));
        }
        let extra = from.bytes()?.to_vec();
        from.is_at_end().then_some(Self {
            entry,
            listing,
            device,
            identities,
            extra,
        })
    }
}

/// What a whole file of the cache holds.
pub(crate) fn unseal(file: &[u8]) -> Option<&[u8]> {
    let (digest, body) = file.strip_prefix(&MARK)?.split_at_checked(32)?;
    (*digest == *Sha256::digest(body)).then_some(body)
}

/// Changes with every start of the machine.
pub(crate) fn boot_id() -> Vec<u8> {
    fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

/// The clock that file times are taken from. It stands still for some milliseconds at a time.
pub(crate) fn file_clock() -> (i64, u32) {
    #[cfg(target_os = "linux")]
    {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
        (now.tv_sec, u32::try_from(now.tv_nsec).unwrap_or(0))
    }
    #[cfg(not(target_os = "linux"))]
    {
        // Longer than any such clock stands still.
        const STANDSTILL: u32 = 50_000_000;
        let (second, nanosecond) = exact_clock();
        match nanosecond.checked_sub(STANDSTILL) {
            Some(rest) => (second, rest),
            None => (second - 1, nanosecond + 1_000_000_000 - STANDSTILL),
        }
    }
}

/// Waits until that clock is past the present moment, so that whatever was written up to now is
/// older than what comes. Gives up after a second, or when the clock was set back: that only costs
/// trust.
///
/// To wait for its next step would not do. Since Linux 6.13 a change that is looked at gets the
/// exact time, which lies ahead of this clock; and where a virtual machine is not run for a while,
/// the next step may still be behind a time that was given out before it.
pub(crate) fn next_tick() -> (i64, u32) {
    const PATIENCE: Duration = Duration::from_secs(1);
    let asked = std::time::Instant::now();
    let present = exact_clock();
    loop {
        let now = file_clock();
        let was_set_back = exact_clock() < present;
        if now > present || was_set_back || asked.elapsed() > PATIENCE {
            return now;
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}

fn exact_clock() -> (i64, u32) {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    (
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        since.subsec_nanos(),
    )
}

/// Whether times in this folder come from this machine's clock.
pub(crate) fn has_local_clock(folder: std::os::fd::BorrowedFd<'_>) -> bool {
    #[cfg(target_os = "linux")]
    {
        // NFS, SMB, SMB2, CIFS, FUSE, 9p, Ceph, AFS: someone else may set the times.
        const REMOTE: [u64; 8] = [
            0x6969,
            0x517b,
            0xfe53_4d42,
            0xff53_4d42,
            0x6573_5546,
            0x0102_1997,
            0x00c3_6400,
            0x6b41_4653,
        ];
        rustix::fs::fstatfs(folder)
            .is_ok_and(|found| !REMOTE.contains(&(found.f_type as u64 & 0xffff_ffff)))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = folder;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{DeclaredPaths, Unreadable};

    const NEVER: (i64, u32) = (i64::MAX, 0);

    fn record(dir: &Path, before: (i64, u32)) -> (Tree, TreeRecord) {
        let paths = DeclaredPaths::new(["tree"]).unwrap();
        let tree = Tree::list(&paths, dir, 1, Unreadable::Refuse).unwrap();
        let listing = Listing::of(&tree, 0).unwrap();
        let digest = Sha256Digest::of(b"entry");
        let record = TreeRecord::of(&tree, 0, digest, listing, before, NEVER).unwrap();
        (tree, record)
    }

    fn trusted(tree: &Tree, record: &TreeRecord) -> Vec<bool> {
        let mut same = Vec::new();
        let mut at = 0;
        tree.visit(0, &mut |node| {
            same.push(record.is_same(at, node, tree));
            at += 1;
        });
        same
    }

    #[test]
    fn a_record_round_trips_and_damage_is_no_record() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("tree")).unwrap();
        fs::write(dir.path().join("tree/file"), "x").unwrap();
        let (tree, mut record) = record(dir.path(), NEVER);
        record.extra = b"more".to_vec();
        let cache = StatCache::in_folder(dir.path().join("state"));
        let target = dir.path().join("tree");
        cache.store(&target, &record);
        assert_eq!(cache.load(&target), Some(record.clone()));
        assert_eq!(trusted(&tree, &record), [true, true]);
        assert_eq!(cache.load(&dir.path().join("other")), None);
        let file = cache.file_of(&target).unwrap();
        let whole = fs::read(&file).unwrap();
        for at in (0..whole.len()).step_by(7) {
            let mut damaged = whole.clone();
            damaged[at] ^= 4;
            fs::write(&file, damaged).unwrap();
            assert_eq!(cache.load(&target), None, "{at}");
        }
    }

    #[test]
    fn times_not_older_than_the_record_are_not_trusted() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("tree")).unwrap();
        fs::write(dir.path().join("tree/file"), "x").unwrap();
        // As if the record was made in the very tick in which the file was written.
        let (tree, _) = record(dir.path(), NEVER);
        let mut changed = (0, 0);
        tree.visit(0, &mut |node| changed = node.stamp.ctime);
        let (tree, same_tick) = record(dir.path(), changed);
        assert_eq!(trusted(&tree, &same_tick), [true, false]);
        // A clock that was set back since: nothing is older than the record.
        let (tree, set_back) = record(dir.path(), (0, 0));
        assert_eq!(trusted(&tree, &set_back), [true, false]);
        let later = next_tick();
        let (tree, later) = record(dir.path(), later);
        assert_eq!(trusted(&tree, &later), [true, true]);
    }

    /// Something old that is moved into a tree while it is put in place has only this trace.
    #[test]
    fn a_tree_whose_names_changed_meanwhile_is_not_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("tree");
        fs::create_dir(&top).unwrap();
        fs::write(top.join("file"), "x").unwrap();
        let old = SystemTime::now() - Duration::from_secs(1000);
        let set_old = |path: &Path| {
            let times = fs::FileTimes::new().set_modified(old);
            fs::File::open(path).unwrap().set_times(times).unwrap();
        };
        set_old(&top);
        let record = |touched| {
            let paths = DeclaredPaths::new(["tree"]).unwrap();
            let before = next_tick();
            let tree = Tree::list(&paths, dir.path(), 1, Unreadable::Refuse).unwrap();
            let listing = Listing::of(&tree, 0).unwrap();
            TreeRecord::of(
                &tree,
                0,
                Sha256Digest::of(b"entry"),
                listing,
                before,
                touched,
            )
        };
        let touched = next_tick();
        assert!(record(touched).is_some());
        fs::write(dir.path().join("late"), "x").unwrap();
        set_old(&dir.path().join("late"));
        fs::rename(dir.path().join("late"), top.join("late")).unwrap();
        assert_eq!(record(touched), None);
    }

    #[test]
    fn every_change_is_seen() {
        use std::os::unix::fs::PermissionsExt as _;

        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tree/file");
        fs::create_dir(dir.path().join("tree")).unwrap();
        fs::write(&file, "x").unwrap();
        let time = fs::metadata(&file).unwrap().modified().unwrap();
        let keep_time = || {
            let times = fs::FileTimes::new().set_modified(time);
            fs::File::open(&file).unwrap().set_times(times).unwrap();
        };
        let changes: [&dyn Fn(); 4] = [
            &|| {
                // Same length, same modification time, same inode.
                fs::write(&file, "y").unwrap();
                keep_time();
            },
            &|| fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap(),
            &|| {
                fs::write(dir.path().join("tree/new"), "x").unwrap();
                fs::rename(dir.path().join("tree/new"), &file).unwrap();
                keep_time();
            },
            &|| fs::hard_link(&file, dir.path().join("elsewhere")).unwrap(),
        ];
        for (number, change) in changes.iter().enumerate() {
            let (_, record_before) = record(dir.path(), next_tick());
            change();
            let (tree, _) = record(dir.path(), NEVER);
            assert_eq!(
                trusted(&tree, &record_before).last(),
                Some(&false),
                "change {number}"
            );
        }
    }
}
