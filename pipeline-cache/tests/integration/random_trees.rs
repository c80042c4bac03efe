//! Trees of everything that a tree can hold, put together by chance, come back as they were.

use std::ffi::OsStr;
use std::fs::{self, File, FileTimes};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use pipeline_cache::archive::{PackOptions, UnpackOptions};
use pipeline_cache::cache::{Cache, RestoreOptions, Restored, SaveOptions};
use pipeline_cache::key::CacheKey;
use pipeline_cache::store::{Codec, MemoryStore};
use proptest::prelude::*;

use crate::noise::noise;
use crate::trees::describe;

#[derive(Clone, Debug)]
enum Thing {
    File {
        size: usize,
        seed: u64,
    },
    Holes {
        size: u64,
        data: Vec<(u64, usize)>,
    },
    Folder,
    Link(Vec<u8>),
    /// Another name of an earlier file.
    Twin(prop::sample::Index),
}

/// One name in a tree, in one of the folders before it.
#[derive(Clone, Debug)]
struct Part {
    name: Vec<u8>,
    folder: prop::sample::Index,
    thing: Thing,
    mode: u32,
    seconds: i64,
    nanoseconds: u32,
    attributes: Vec<(String, Vec<u8>)>,
}

fn names() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        8 => b'a'..=b'z',
        1 => any::<u8>().prop_filter("no name has it", |byte| !matches!(byte, 0 | b'/')),
    ];
    prop_oneof![
        6 => prop::collection::vec(byte.clone(), 1..20),
        1 => prop::collection::vec(byte, 90..255),
    ]
    .prop_filter("not a name", |name| name != b"." && name != b"..")
}

fn things() -> impl Strategy<Value = Thing> {
    let sizes = prop_oneof![0_usize..3000, Just(512), Just(1024), 0_usize..700_000];
    let data = prop::collection::vec((0_u64..2_000_000, 1_usize..9_000), 0..5);
    let target = prop::collection::vec(1_u8.., 1..200);
    prop_oneof![
        5 => (sizes, any::<u64>()).prop_map(|(size, seed)| Thing::File { size, seed }),
        1 => (0_u64..3_000_000, data).prop_map(|(size, data)| Thing::Holes { size, data }),
        3 => Just(Thing::Folder),
        2 => target.prop_map(Thing::Link),
        2 => any::<prop::sample::Index>().prop_map(Thing::Twin),
    ]
}

prop_compose! {
    fn parts()(
        name in names(),
        folder in any::<prop::sample::Index>(),
        thing in things(),
        mode in 0_u32..0o1000,
        // ext4 keeps times from 1901 to 2446.
        seconds in -2_000_000_000_i64..15_000_000_000,
        nanoseconds in 0_u32..1_000_000_000,
        attributes in prop::collection::vec(("[a-z.]{1,20}", prop::collection::vec(any::<u8>(), 0..60)), 0..2),
    ) -> Part {
        Part { name, folder, thing, mode, seconds, nanoseconds, attributes }
    }
}

fn time(part: &Part) -> SystemTime {
    let fraction = Duration::from_nanos(part.nanoseconds.into());
    match u64::try_from(part.seconds) {
        Ok(seconds) => SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + fraction,
        Err(_) => {
            SystemTime::UNIX_EPOCH - Duration::from_secs(part.seconds.unsigned_abs()) + fraction
        }
    }
}

fn build(top: &Path, parts: &[Part]) {
    fs::create_dir(top).unwrap();
    fs::write(top.join("always"), "something").unwrap();
    let mut folders = vec![top.to_path_buf()];
    let mut files = vec![top.join("always")];
    let mut made: Vec<(PathBuf, &Part)> = Vec::new();
    for part in parts {
        let path = part
            .folder
            .get(&folders)
            .join(OsStr::from_bytes(&part.name));
        // Taken, or too long for the system.
        if path.as_os_str().len() > 3000 || path.symlink_metadata().is_ok() {
            continue;
        }
        match &part.thing {
            Thing::File { size, seed } => {
                fs::write(&path, noise(*size, *seed)).unwrap();
                files.push(path.clone());
            }
            Thing::Holes { size, data } => {
                let file = File::create(&path).unwrap();
                file.set_len(*size).unwrap();
                for (at, length) in data {
                    file.write_all_at(&noise(*length, *at), *at).unwrap();
                }
                files.push(path.clone());
            }
            Thing::Folder => {
                fs::create_dir(&path).unwrap();
                folders.push(path.clone());
            }
            Thing::Link(target) => {
                symlink(OsStr::from_bytes(target), &path).unwrap();
                continue;
            }
            Thing::Twin(first) => {
                fs::hard_link(first.get(&files), &path).unwrap();
                continue;
            }
        }
        made.push((path, part));
    }
    // From the inside out: whatever is made in a folder changes its time.
    for (path, part) in made.iter().rev() {
        let file = File::open(path).unwrap();
        for (name, value) in &part.attributes {
            let name = format!("user.{name}");
            let flags = rustix::fs::XattrFlags::empty();
            match rustix::fs::fsetxattr(&file, name, value, flags) {
                Ok(()) | Err(rustix::io::Errno::NOTSUP) => {}
                Err(error) => panic!("{error}"),
            }
        }
        // Who is not root must be able to read it, and to remove it again.
        let least = if path.is_dir() { 0o700 } else { 0o400 };
        let mode = fs::Permissions::from_mode(part.mode | least);
        fs::set_permissions(path, mode).unwrap();
        file.set_times(FileTimes::new().set_modified(time(part)))
            .unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if std::env::var_os("PIPELINE_FAULTS").is_some() { 200 } else { 24 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_tree_comes_back(
        parts in prop::collection::vec(parts(), 0..60),
        codec in prop::sample::select(vec![Codec::None, Codec::Gzip, Codec::Zstd]),
        packers in 1_usize..4,
        unpackers in 1_usize..4,
    ) {
        let dir = tempfile::tempdir().unwrap();
        build(&dir.path().join("tree"), &parts);
        let cache = Cache::new(MemoryStore::new());
        let key = CacheKey::new("k").unwrap();
        let pack = PackOptions::default()
            .with_codec(codec)
            .with_workers(packers)
            .with_working_folder(dir.path());
        let unpack = UnpackOptions::default()
            .with_into(dir.path().join("out"))
            .with_workers(unpackers);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let restored = runtime.block_on(async {
            let save = SaveOptions::default().with_pack(pack);
            cache.save(key.clone(), ["tree"], save).await.unwrap();
            let restore = RestoreOptions::default().with_unpack(unpack);
            cache.restore([key], restore).await.unwrap()
        });
        prop_assert!(matches!(restored, Restored::Exact(_)), "{restored:?}");
        let (wanted, found) = (describe(&dir.path().join("tree")), describe(&dir.path().join("out/tree")));
        for (path, wanted) in &wanted {
            prop_assert_eq!(found.get(path), Some(wanted), "{}", path.display());
        }
        prop_assert_eq!(found.len(), wanted.len());
    }
}

/// What cannot be kept is left out and named: sockets, FIFOs, devices.
#[tokio::test]
async fn sockets_and_their_like_are_left_out_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("d")).unwrap();
    fs::write(tree.join("kept"), "x").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(tree.join("d/socket")).unwrap();
    let flags = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        tree.join("fifo"),
        rustix::fs::FileType::Fifo,
        flags,
        0,
    )
    .unwrap();
    let cache = Cache::new(MemoryStore::new());
    let key = CacheKey::new("k").unwrap();
    let options = SaveOptions::in_folder(dir.path());
    let saved = cache.save(key.clone(), ["tree"], options).await.unwrap();
    let pipeline_cache::cache::Saved::Stored(report) = saved else {
        panic!("{saved:?}");
    };
    let skipped: Vec<String> = report.skipped.iter().map(ToString::to_string).collect();
    let why = "neither a file nor a folder nor a link, left out";
    assert_eq!(
        skipped,
        [format!("tree/d/socket: {why}"), format!("tree/fifo: {why}")]
    );
    let out = dir.path().join("out");
    let unpack = UnpackOptions::default().with_into(&out);
    let restore = RestoreOptions::default().with_unpack(unpack);
    cache.restore([key], restore).await.unwrap();
    let found: Vec<PathBuf> = describe(&out).into_keys().collect();
    let wanted = ["tree", "tree/d", "tree/kept"].map(PathBuf::from);
    assert_eq!(found, wanted);
}

/// A thread that may not read everything, not even for root.
fn without_rights<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

    let restricted = || {
        let mut mine = capabilities(None).unwrap();
        mine.effective
            .remove(CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH);
        set_capabilities(None, mine).unwrap();
        work()
    };
    std::thread::scope(|scope| scope.spawn(restricted).join().unwrap())
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn two_folders(tree: &Path) {
    for name in ["a/b", "c"] {
        fs::create_dir_all(tree.join(name)).unwrap();
        fs::write(tree.join(name).join("file"), "x").unwrap();
    }
}

#[test]
fn a_file_that_may_not_be_read_is_one_clear_error() {
    use pipeline_cache::archive::{ArchiveError, DeclaredPaths, pack};

    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    two_folders(&tree);
    let denied = |path: &Path, mode| {
        set_mode(path, mode);
        let outcome = without_rights(|| {
            let paths = DeclaredPaths::new(["tree"]).unwrap();
            let options = PackOptions::default().with_working_folder(dir.path());
            pack(&paths, &options, &mut std::io::sink())
        });
        set_mode(path, 0o755);
        match outcome.unwrap_err() {
            error @ ArchiveError::Read { .. } => error.to_string(),
            other => panic!("{other:?}"),
        }
    };
    let file = denied(&tree.join("c/file"), 0);
    assert!(file.contains("tree/c/file"), "{file}");
    let folder = denied(&tree.join("a/b"), 0);
    assert!(folder.contains("tree/a/b"), "{folder}");
}

#[test]
fn what_may_not_be_read_is_left_out_and_listed_when_asked() {
    use pipeline_cache::archive::{ArchiveError, SkipReason, Unreadable};
    use pipeline_cache::cache::{CacheError, Saved};

    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    two_folders(&tree);
    let cache = Cache::new(MemoryStore::new());
    let save = |name: &str, codec, paths: &[&str]| {
        let pack = PackOptions::default()
            .with_codec(codec)
            .with_unreadable(Unreadable::Skip)
            .with_working_folder(dir.path());
        let options = SaveOptions::default().with_pack(pack);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(cache.save(CacheKey::new(name).unwrap(), paths, options))
    };
    let codecs = [
        Codec::Zstd,
        #[cfg(feature = "chunked")]
        Codec::Chunked,
    ];
    for codec in codecs {
        for (denied, mode, kept) in [
            ("c/file", 0, &["a", "a/b", "a/b/file", "c"][..]),
            ("a/b", 0, &["a", "c", "c/file"]),
            // A folder that may be listed and not entered.
            ("a/b", 0o400, &["a", "c", "c/file"]),
        ] {
            let name = format!("{codec} without {denied} {mode:o}");
            set_mode(&tree.join(denied), mode);
            let saved = without_rights(|| save(&name, codec, &["tree"])).unwrap();
            // The folder itself was asked for.
            let asked_for = format!("tree/{denied}");
            let error = without_rights(|| save("asked for", codec, &[&asked_for])).unwrap_err();
            set_mode(&tree.join(denied), 0o755);
            assert!(
                matches!(&error, CacheError::Archive(ArchiveError::Read { .. })),
                "{name}: {error:?}"
            );
            let Saved::Stored(report) = saved else {
                panic!("{name}: {saved:?}");
            };
            assert_eq!(report.skipped.len(), 1, "{name}");
            assert_eq!(report.skipped[0].path, asked_for);
            assert_eq!(report.skipped[0].reason, SkipReason::Unreadable);
            let out = dir.path().join(&name);
            let unpack = UnpackOptions::default().with_into(&out);
            let options = RestoreOptions::default().with_unpack(unpack);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap();
            runtime
                .block_on(cache.restore([CacheKey::new(&name).unwrap()], options))
                .unwrap();
            let found: Vec<PathBuf> = describe(&out.join("tree")).into_keys().collect();
            let wanted: Vec<PathBuf> = kept.iter().map(PathBuf::from).collect();
            assert_eq!(found, wanted, "{name}");
        }
    }
}
