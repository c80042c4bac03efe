//! Restores onto trees that are there already: the same as fresh ones, with less written.

use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use pipeline_cache::archive::{
    ExistingFiles, PackOptions, StatCache, UnpackOptions, UnpackSummary,
};
use pipeline_cache::cache::{Cache, RestoreOptions, Restored, SaveOptions, Saved};
use pipeline_cache::key::CacheKey;
use pipeline_cache::store::{Codec, FilesystemStore, MemoryStore};
use proptest::prelude::*;

use crate::noise::noise;
use crate::trees::{Described, curious, describe, many};

fn key(text: &str) -> CacheKey {
    CacheKey::new(text).unwrap()
}

/// All that a fresh restore settles: beside what [`describe`] sees, attributes and holes.
pub(crate) fn everything(top: &Path) -> BTreeMap<PathBuf, (Described, Vec<u8>, bool)> {
    describe(top)
        .into_iter()
        .map(|(path, described)| {
            let full = top.join(&path);
            let meta = fs::symlink_metadata(&full).unwrap();
            let mut value = vec![0; 256];
            let length = if meta.is_symlink() {
                0
            } else {
                rustix::fs::getxattr(&full, "user.origin", &mut value).unwrap_or(0)
            };
            value.truncate(length);
            // A folder's blocks are the file system's affair.
            let has_holes = meta.is_file() && meta.blocks() * 512 < meta.len();
            (path, (described, value, has_holes))
        })
        .collect()
}

pub(crate) async fn save(cache: &Cache, name: &str, work: &Path, codec: Codec) -> Saved {
    let pack = PackOptions::default()
        .with_codec(codec)
        .with_workers(2)
        .with_working_folder(work);
    let options = SaveOptions::default().with_pack(pack);
    cache.save(key(name), ["tree"], options).await.unwrap()
}

pub(crate) async fn restore(
    cache: &Cache,
    name: &str,
    into: &Path,
    existing: ExistingFiles,
) -> UnpackSummary {
    let unpack = UnpackOptions::default()
        .with_into(into)
        .with_workers(2)
        .with_existing(existing);
    let options = RestoreOptions::default().with_unpack(unpack);
    match cache.restore([key(name)], options).await.unwrap() {
        Restored::Exact(entry) => entry.unpacked,
        other => panic!("{other:?}"),
    }
}

/// Lets the file clock pass the present moment, so that what was written so far is older than what
/// comes. The library does not trust a file that changed in the moment in which it was saved.
pub(crate) fn pass_a_tick() {
    let present = SystemTime::now();
    let file_clock = || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
        SystemTime::UNIX_EPOCH
            + Duration::new(
                now.tv_sec.try_into().unwrap(),
                now.tv_nsec.try_into().unwrap(),
            )
    };
    while file_clock() <= present {
        std::thread::yield_now();
    }
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::new(1_600_000_000 + seconds, 123_456_789)
}

fn set_time(path: &Path, time: SystemTime) {
    let times = FileTimes::new().set_modified(time);
    File::open(path).unwrap().set_times(times).unwrap();
}

fn set_attribute(path: &Path, value: &[u8]) {
    rustix::fs::setxattr(path, "user.origin", value, rustix::fs::XattrFlags::empty()).unwrap();
}

/// A tree of some files, folders, links and twins, decided by a seed.
fn plant(top: &Path, seed: u64) {
    for index in 0..28_u64 {
        let dice = noise(4, seed.wrapping_mul(31).wrapping_add(index + 1));
        let folder = match dice[0] % 4 {
            0 => top.to_path_buf(),
            1 => top.join("a"),
            2 => top.join("a/b"),
            _ => top.join("c"),
        };
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join(format!("f{index}"));
        match dice[1] % 10 {
            0 => symlink(format!("f{}", dice[2] % 9), &path).unwrap(),
            1 => {
                let file = File::create(&path).unwrap();
                file.set_len(300_000).unwrap();
                file.write_all_at(b"data", u64::from(dice[2]) * 1000)
                    .unwrap();
                set_time(&path, at(dice[3].into()));
            }
            2 => fs::create_dir(&path).unwrap(),
            kind => {
                let length = if kind == 3 {
                    700_000
                } else {
                    usize::from(dice[2]) * 40
                };
                fs::write(&path, noise(length, u64::from(dice[3]) + 1)).unwrap();
                let mode = [0o644, 0o755, 0o444][usize::from(dice[3] % 3)];
                if kind == 4 {
                    set_attribute(&path, &dice);
                }
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
                set_time(&path, at(dice[3].into()));
                if kind == 5 {
                    fs::hard_link(&path, top.join(format!("twin{index}"))).unwrap();
                }
            }
        }
    }
    set_attribute(top, b"root");
}

/// Does something to one entry of a tree.
fn edit(top: &Path, pick: u8, what: u8) {
    let paths: Vec<PathBuf> = describe(top).into_keys().collect();
    let Some(path) = paths.get(usize::from(pick) % paths.len().max(1)) else {
        return;
    };
    let path = top.join(path);
    let meta = fs::symlink_metadata(&path).unwrap();
    let remove = || {
        if meta.is_dir() {
            fs::remove_dir_all(&path).unwrap();
        } else {
            fs::remove_file(&path).unwrap();
        }
    };
    let modified = meta.modified().unwrap();
    match (what % 12, meta.is_file()) {
        (0, true) => {
            // As sly as it gets: same length, same time, same inode.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let mut content = fs::read(&path).unwrap();
            if let Some(last) = content.last_mut() {
                *last ^= 1;
            }
            fs::write(&path, content).unwrap();
            set_time(&path, modified);
            fs::set_permissions(&path, fs::Permissions::from_mode(meta.mode() & 0o777)).unwrap();
        }
        (1, true) => {
            // The same content, holes filled.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let content = fs::read(&path).unwrap();
            fs::write(&path, content).unwrap();
            set_time(&path, modified);
            fs::set_permissions(&path, fs::Permissions::from_mode(meta.mode() & 0o777)).unwrap();
        }
        (2, true) => {
            // Equal to the eye, but another inode.
            let content = fs::read(&path).unwrap();
            fs::remove_file(&path).unwrap();
            fs::write(&path, content).unwrap();
            set_time(&path, modified);
            fs::set_permissions(&path, fs::Permissions::from_mode(meta.mode() & 0o777)).unwrap();
        }
        (3, true) => fs::hard_link(&path, top.join(format!("another{pick}"))).unwrap_or(()),
        (4, true) => {
            fs::hard_link(&path, top.with_file_name(format!("outside{pick}"))).unwrap_or(())
        }
        (5, true) => {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            set_attribute(&path, b"changed");
            set_time(&path, modified);
            fs::set_permissions(&path, fs::Permissions::from_mode(meta.mode() & 0o777)).unwrap();
        }
        (6, _) if !meta.is_symlink() => {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        }
        (7, _) if !meta.is_symlink() => set_time(&path, at(9_999)),
        (8, false) if meta.is_dir() => fs::write(path.join("new"), "new").unwrap(),
        (9, _) => {
            remove();
            symlink("elsewhere", &path).unwrap();
        }
        (10, _) => {
            remove();
            fs::create_dir(&path).unwrap();
        }
        _ => remove(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn an_incremental_restore_is_a_fresh_one(
        seed in any::<u64>(),
        edits in prop::collection::vec((any::<u8>(), any::<u8>()), 0..6),
        remembers in any::<bool>(),
        codec in prop::sample::select(codecs()),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let work = dir.path().join("work");
        plant(&work.join("tree"), seed);
        let mut cache = Cache::new(MemoryStore::new());
        if remembers {
            cache = cache.with_stat_cache(StatCache::in_folder(dir.path().join("state")));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let out = dir.path().join("out");
        let fresh = dir.path().join("fresh");
        runtime.block_on(async {
            save(&cache, "k", &work, codec).await;
            restore(&cache, "k", &fresh, ExistingFiles::Replace).await;
            restore(&cache, "k", &out, ExistingFiles::Reuse).await;
        });
        let wanted = everything(&fresh);
        prop_assert_eq!(&everything(&out), &wanted);
        for (pick, what) in edits {
            edit(&out.join("tree"), pick, what);
        }
        let done = runtime.block_on(restore(&cache, "k", &out, ExistingFiles::Reuse));
        let names: Vec<_> = fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name()).collect();
        for name in names {
            if name.to_string_lossy().starts_with("outside") {
                fs::remove_file(out.join(name)).unwrap();
            }
        }
        prop_assert_eq!(&everything(&out), &wanted);
        let again = runtime.block_on(restore(&cache, "k", &out, ExistingFiles::Reuse));
        prop_assert_eq!(&everything(&out), &wanted);
        prop_assert_eq!(again.kept + again.written, done.kept + done.written);
        if remembers {
            prop_assert_eq!(again.written, 0);
        }
    }
}

fn codecs() -> Vec<Codec> {
    vec![
        Codec::None,
        Codec::Zstd,
        #[cfg(feature = "chunked")]
        Codec::Chunked,
    ]
}

#[tokio::test]
async fn what_nobody_touched_is_neither_read_nor_written() {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    curious(&work.join("tree"));
    many(&work.join("tree/many"), 300);
    pass_a_tick();
    let store = FilesystemStore::new(dir.path().join("store"));
    let cache = Cache::new(store.clone());
    for codec in codecs() {
        let name = format!("{codec}");
        let Saved::Stored(report) = save(&cache, &name, &work, codec).await else {
            panic!("not stored");
        };
        // Whoever reads the payload fails.
        let payload = store.payload_path(&report.metadata).unwrap();
        let bytes = fs::read(&payload).unwrap();
        fs::write(&payload, vec![0; bytes.len()]).unwrap();
        let before = fs::metadata(work.join("tree")).unwrap().ino();
        let options = RestoreOptions::in_folder(&work);
        let Restored::Exact(entry) = cache.restore([key(&name)], options).await.unwrap() else {
            panic!("{name}: not restored where it was saved");
        };
        assert_eq!(entry.unpacked.written, 0);
        assert!(entry.unpacked.kept > 300);
        assert_eq!(fs::metadata(work.join("tree")).unwrap().ino(), before);
        fs::write(&payload, bytes).unwrap();

        let out = dir.path().join(format!("out-{name}"));
        restore(&cache, &name, &out, ExistingFiles::Reuse).await;
        let before = fs::metadata(out.join("tree")).unwrap().ino();
        let again = restore(&cache, &name, &out, ExistingFiles::Reuse).await;
        assert_eq!((again.kept, again.written), (entry.unpacked.kept, 0));
        assert_eq!(fs::metadata(out.join("tree")).unwrap().ino(), before);
        let replaced = restore(&cache, &name, &out, ExistingFiles::Replace).await;
        assert_eq!((replaced.kept, replaced.written), (0, entry.unpacked.kept));
    }
}

#[tokio::test]
async fn one_changed_file_is_one_written_file() {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    many(&work.join("tree"), 300);
    pass_a_tick();
    for codec in codecs() {
        for remembers in [true, false] {
            let mut cache = Cache::new(FilesystemStore::new(dir.path().join("store")));
            if !remembers {
                cache = cache.without_stat_cache();
            }
            let name = format!("{codec}-{remembers}");
            save(&cache, &name, &work, codec).await;
            let out = dir.path().join(&name);
            restore(&cache, &name, &out, ExistingFiles::Reuse).await;
            let wanted = everything(&out);
            let kept = fs::metadata(out.join("tree/d1/f1")).unwrap().ino();
            fs::write(out.join("tree/d2/f2"), "changed").unwrap();
            fs::write(out.join("tree/d2/new"), "new").unwrap();
            let done = restore(&cache, &name, &out, ExistingFiles::Reuse).await;
            assert_eq!((done.kept, done.written), (299, 1), "{name}");
            assert_eq!(everything(&out), wanted, "{name}");
            assert_eq!(fs::metadata(out.join("tree/d1/f1")).unwrap().ino(), kept);
        }
    }
}

/// What one entry left must not pass for another.
#[tokio::test]
async fn another_entry_of_the_same_paths_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    for codec in codecs() {
        let cache = Cache::new(FilesystemStore::new(dir.path().join("store")));
        let out = dir.path().join(format!("out-{codec}"));
        let mut wanted = Vec::new();
        for version in [1_u64, 2] {
            for index in 0..40_u64 {
                let file = work.join("tree").join(format!("f{index}"));
                fs::create_dir_all(work.join("tree")).unwrap();
                // Every second file differs, with the same length and time.
                let seed = if index % 2 == 0 {
                    index + 1
                } else {
                    index + 100 * version
                };
                fs::write(&file, noise(5_000, seed)).unwrap();
                set_time(&file, at(index));
            }
            set_time(&work.join("tree"), at(1));
            save(&cache, &format!("{codec}{version}"), &work, codec).await;
            wanted.push(everything(&work));
        }
        for round in 0..4 {
            let version = round % 2;
            let name = format!("{codec}{}", version + 1);
            let done = restore(&cache, &name, &out, ExistingFiles::Reuse).await;
            assert_eq!(everything(&out), wanted[version], "{name}");
            if round > 0 {
                assert_eq!((done.kept, done.written), (20, 20), "{name}");
            }
        }
    }
}
