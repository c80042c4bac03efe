use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use pipeline_cache::archive::{ArchiveError, ExistingFiles, PackOptions, UnpackOptions};
use pipeline_cache::cache::{Cache, CacheError, RestoreOptions, Restored, SaveOptions, Saved};
use pipeline_cache::key::CacheKey;
use pipeline_cache::store::{
    CacheStore as _, CacheStoreExt as _, Codec, DeleteOutcome, EntryFacts, FilesystemStore,
    IfExists, NewEntry, PutOptions, produce_with,
};
use pipeline_cache::testing::hostile_bombs;

use crate::trees::{curious, describe, many};

fn key(text: &str) -> CacheKey {
    CacheKey::new(text).unwrap()
}

fn into(folder: &Path) -> RestoreOptions {
    RestoreOptions::default().with_unpack(UnpackOptions::default().with_into(folder))
}

struct Saves {
    dir: tempfile::TempDir,
    store: FilesystemStore,
    cache: Cache,
}

impl Saves {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = FilesystemStore::new(dir.path().join("store"));
        let cache = Cache::new(store.clone());
        Self { dir, store, cache }
    }

    fn folder(&self) -> &Path {
        self.dir.path()
    }

    async fn save(&self, name: &str, codec: Codec) -> PathBuf {
        let pack = PackOptions::default()
            .with_codec(codec)
            .with_working_folder(self.folder());
        let options = SaveOptions::default().with_pack(pack);
        match self.cache.save(key(name), ["tree"], options).await.unwrap() {
            Saved::Stored(report) => self.store.payload_path(&report.metadata).unwrap(),
            other => panic!("{other:?}"),
        }
    }
}

/// Changed bytes, a cut, an appended byte, another entry's payload: never restored, and the old
/// tree stays as it was.
#[tokio::test]
async fn damage_is_never_served_and_never_blocks_its_key() {
    let saves = Saves::new();
    many(&saves.folder().join("tree"), 30);
    let out = saves.folder().join("out");
    fs::create_dir_all(out.join("tree")).unwrap();
    fs::write(out.join("tree/mine"), "kept").unwrap();
    let before = describe(&out);
    for codec in [Codec::Zstd, Codec::Gzip, Codec::None] {
        let name = format!("damaged-{codec}");
        let payload = saves.save(&name, codec).await;
        let good = fs::read(&payload).unwrap();
        let step = good.len() / 97;
        let mut cases: Vec<Vec<u8>> = (0..97)
            .map(|index| {
                let mut bad = good.clone();
                bad[index * step] ^= 1 << (index % 8);
                bad
            })
            .collect();
        cases.push(good[..good.len() - 1].to_vec());
        cases.push(Vec::new());
        cases.push([good.as_slice(), b"\0"].concat());
        for (index, bad) in cases.into_iter().enumerate() {
            fs::write(&payload, bad).unwrap();
            let restored = saves.cache.restore([key(&name)], into(&out)).await.unwrap();
            let Restored::Miss(miss) = restored else {
                panic!("{name}, case {index}: damage was served");
            };
            assert!(
                matches!(
                    &miss.rejected[0].error,
                    CacheError::Archive(ArchiveError::Damaged { .. })
                ),
                "{name}, case {index}: {:?}",
                miss.rejected
            );
            assert_eq!(describe(&out), before, "{name}, case {index}");
            assert_eq!(
                saves.store.verify(Some(&key(&name))).await.unwrap().len(),
                1
            );
        }
        let healed = saves.save(&name, codec).await;
        assert!(healed.exists() && !payload.exists());
        assert!(saves.store.verify(None).await.unwrap().is_empty());
    }
    let restored = saves
        .cache
        .restore([key("damaged-zstd")], into(&out))
        .await
        .unwrap();
    assert!(matches!(restored, Restored::Exact(_)));
    assert!(!out.join("tree/mine").exists());
}

#[tokio::test]
async fn a_damaged_entry_gives_way_to_the_next_candidate() {
    let saves = Saves::new();
    many(&saves.folder().join("tree"), 10);
    saves.save("deps-old", Codec::Zstd).await;
    let newest = saves.save("deps-new", Codec::Zstd).await;
    fs::write(newest, "rubbish").unwrap();
    let out = saves.folder().join("out");
    let restored = saves
        .cache
        .restore([key("deps-")], into(&out))
        .await
        .unwrap();
    match restored {
        Restored::Prefix(entry) => {
            assert_eq!(entry.metadata.key.as_str(), "deps-old");
            assert_eq!(entry.rejected[0].key.as_str(), "deps-new");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_vanished_payload_is_a_miss_and_a_save_heals_it() {
    let saves = Saves::new();
    many(&saves.folder().join("tree"), 10);
    let payload = saves.save("k", Codec::Zstd).await;
    fs::remove_file(&payload).unwrap();
    let out = saves.folder().join("out");
    let restored = saves.cache.restore([key("k")], into(&out)).await.unwrap();
    assert!(matches!(restored, Restored::Miss(_)));
    assert!(!out.exists());
    assert_eq!(saves.store.verify(None).await.unwrap().len(), 1);
    assert!(saves.save("k", Codec::Zstd).await.exists());
    assert!(saves.store.verify(None).await.unwrap().is_empty());
}

#[tokio::test]
async fn no_flipped_bit_of_a_description_goes_unnoticed() {
    let saves = Saves::new();
    many(&saves.folder().join("tree"), 5);
    let payload = saves.save("k", Codec::Zstd).await;
    let name = payload.file_name().unwrap().to_str().unwrap();
    let description = payload.with_file_name(format!("{}.json", name.split('-').next().unwrap()));
    let good = fs::read(&description).unwrap();
    let wanted = saves.store.head(&key("k")).await.unwrap().unwrap();
    for index in 0..good.len() {
        let mut bad = good.clone();
        bad[index] ^= 1 << (index % 8);
        fs::write(&description, &bad).unwrap();
        if let Ok(Some(entry)) = saves.store.get(&key("k")).await {
            let mut found = entry.metadata;
            found.last_used = wanted.last_used;
            assert_eq!(found, wanted, "byte {index}");
        }
    }
    fs::write(&description, "{}").unwrap();
    assert!(matches!(
        saves.save("k", Codec::Zstd).await,
        path if path.exists()
    ));
}

/// What a killed program leaves behind: temporary files without a lock, a payload without a
/// description, a staging folder.
#[tokio::test]
async fn leftovers_of_killed_programs_are_swept_and_living_ones_are_not() {
    let saves = Saves::new();
    many(&saves.folder().join("tree"), 10);
    let payload = saves.save("k", Codec::Zstd).await;
    let entries = payload.parent().unwrap();
    let orphan = entries.join(format!("{}-0123456789abcdef.tar.zst", "0".repeat(40)));
    let loser = payload.with_file_name(
        payload
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .replace('-', "-0"),
    );
    let temporary = saves.store.folder().join("tmp/left");
    let living = saves.store.folder().join("tmp/living");
    for file in [&orphan, &loser, &temporary, &living] {
        fs::write(file, "x").unwrap();
    }
    let held = fs::File::open(&living).unwrap();
    held.lock().unwrap();
    let report = saves.store.sweep().await.unwrap();
    assert_eq!(report.files, 3);
    assert!(living.exists() && payload.exists());

    let out = saves.folder().join("out");
    fs::create_dir_all(out.join(".pipeline-cache-0123456789abcdef/x")).unwrap();
    // Not one of ours, though it begins alike: somebody's store, perhaps.
    let alike = out.join(".pipeline-cache-v1");
    fs::create_dir_all(&alike).unwrap();
    saves.cache.restore([key("k")], into(&out)).await.unwrap();
    assert!(!out.join(".pipeline-cache-0123456789abcdef").exists());
    assert!(alike.exists());
}

/// Folders, links and pipes under names of the store: nothing waits for them, follows them or fails
/// over them.
#[tokio::test]
async fn what_does_not_belong_into_a_store_spoils_nothing() {
    let saves = Saves::new();
    many(&saves.folder().join("tree"), 3);
    let payload = saves.save("k", Codec::Zstd).await;
    let fifo = |at: PathBuf| {
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, at, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    };
    let link = |at: PathBuf| std::os::unix::fs::symlink("/dev/zero", at).unwrap();
    for folder in ["tmp", "entries"] {
        let at = |letter: &str| {
            let name = format!("{}.json", letter.repeat(40));
            saves.store.folder().join(folder).join(name)
        };
        fs::create_dir(at("a")).unwrap();
        link(at("b"));
        fifo(at("c"));
    }
    saves.save("other", Codec::Zstd).await;
    assert_eq!(saves.store.list("").await.unwrap().len(), 2);
    assert!(saves.store.verify(None).await.unwrap().is_empty());
    assert!(saves.store.repair().await.unwrap().removed.is_empty());

    // The same in a payload's place: the entry is damaged, and saving replaces it.
    for stray in [&fifo as &dyn Fn(PathBuf), &link] {
        let payload = match saves.store.head(&key("k")).await.unwrap() {
            Some(entry) => saves.store.payload_path(&entry).unwrap(),
            None => payload.clone(),
        };
        fs::remove_file(&payload).unwrap();
        stray(payload);
        assert_eq!(saves.store.verify(None).await.unwrap().len(), 1);
        let out = into(&saves.folder().join("out"));
        let restored = saves.cache.restore([key("k")], out).await.unwrap();
        assert!(matches!(restored, Restored::Miss(_)), "{restored:?}");
        saves.save("k", Codec::Zstd).await;
        assert!(saves.store.verify(None).await.unwrap().is_empty());
    }
}

/// What was made for a restore that fails is gone again, the folders above included.
#[tokio::test]
async fn a_failed_restore_leaves_no_folders() {
    let saves = Saves::new();
    many(&saves.folder().join("tree"), 3);
    let payload = saves.save("k", Codec::Zstd).await;
    let mut bytes = fs::read(&payload).unwrap();
    bytes[20] ^= 1;
    fs::write(&payload, bytes).unwrap();
    let out = saves.folder().join("some/where/deep");
    let restored = saves.cache.restore([key("k")], into(&out)).await.unwrap();
    assert!(matches!(restored, Restored::Miss(_)), "{restored:?}");
    assert!(!saves.folder().join("some").exists());
}

/// Names that no restore would take are refused when saving, and nothing is stored.
#[tokio::test]
async fn what_could_not_be_restored_is_not_saved() {
    let saves = Saves::new();
    let mut at = saves.folder().join("tree");
    for _ in 0..501 {
        at.push("d");
    }
    fs::create_dir_all(&at).unwrap();
    let options = SaveOptions::in_folder(saves.folder());
    let error = saves.cache.save(key("k"), ["tree"], options).await;
    let error = pipeline_core::error_chain(&error.unwrap_err());
    assert!(error.contains("File name too long"), "{error}");
    assert!(saves.store.list("").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_leased_entry_is_not_evicted() {
    let saves = Saves::new();
    many(&saves.folder().join("tree"), 10);
    saves.save("k", Codec::Zstd).await;
    let entry = saves.store.get(&key("k")).await.unwrap().unwrap();
    assert_eq!(
        saves.store.delete(&key("k")).await.unwrap(),
        DeleteOutcome::Leased
    );
    drop(entry);
    assert_eq!(
        saves.store.delete(&key("k")).await.unwrap(),
        DeleteOutcome::Deleted
    );
    assert_eq!(
        saves.store.delete(&key("k")).await.unwrap(),
        DeleteOutcome::Absent
    );
    let left = fs::read_dir(saves.store.folder().join("entries"))
        .unwrap()
        .count();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_failure_while_placing_brings_the_old_trees_back() {
    let saves = Saves::new();
    let work = saves.folder().join("work");
    for name in ["a", "b/c"] {
        fs::create_dir_all(work.join(name)).unwrap();
        fs::write(work.join(name).join("file"), "new").unwrap();
    }
    saves
        .cache
        .save(key("k"), ["a", "b/c"], SaveOptions::in_folder(&work))
        .await
        .unwrap();
    // `b` becomes a file: the second path cannot be placed, after the first one was.
    let out = saves.folder().join("out");
    fs::create_dir_all(out.join("a")).unwrap();
    fs::write(out.join("a/file"), "old").unwrap();
    fs::write(out.join("b"), "in the way").unwrap();
    let before = describe(&out);
    let error = saves
        .cache
        .restore([key("k")], into(&out))
        .await
        .unwrap_err();
    assert!(
        matches!(error, CacheError::Archive(ArchiveError::Destination { .. })),
        "{error:?}"
    );
    assert_eq!(describe(&out), before);
}

#[tokio::test]
async fn links_above_a_relative_path_are_not_followed() {
    let saves = Saves::new();
    let work = saves.folder().join("work");
    fs::create_dir_all(work.join("d/sub")).unwrap();
    fs::write(work.join("d/sub/file"), "x").unwrap();
    saves
        .cache
        .save(key("k"), ["d/sub"], SaveOptions::in_folder(&work))
        .await
        .unwrap();
    let (out, outside) = (saves.folder().join("out"), saves.folder().join("outside"));
    fs::create_dir_all(&out).unwrap();
    fs::create_dir_all(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, out.join("d")).unwrap();
    saves
        .cache
        .restore([key("k")], into(&out))
        .await
        .unwrap_err();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[tokio::test]
async fn a_tree_that_denies_everything_is_replaced_and_restored() {
    let saves = Saves::new();
    curious(&saves.folder().join("tree"));
    saves.save("k", Codec::Zstd).await;
    let out = saves.folder().join("out");
    saves.cache.restore([key("k")], into(&out)).await.unwrap();
    let first = fs::metadata(out.join("tree")).unwrap().ino();
    let mut anew = into(&out);
    anew.unpack = anew.unpack.with_existing(ExistingFiles::Replace);
    saves.cache.restore([key("k")], anew).await.unwrap();
    assert_ne!(fs::metadata(out.join("tree")).unwrap().ino(), first);
    assert_eq!(
        describe(&out.join("tree")),
        describe(&saves.folder().join("tree"))
    );
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
}

/// Mounted read-only while it lives: a right that is missing stops no root, this does.
struct ReadOnlyMount<'a>(&'a Path);

impl<'a> ReadOnlyMount<'a> {
    fn over(folder: &'a Path) -> Self {
        let mount = |arguments: &[&str]| {
            let mut command = std::process::Command::new("mount");
            command.args(arguments).arg(folder);
            assert!(command.status().unwrap().success(), "{arguments:?}");
        };
        mount(&["--bind", folder.to_str().unwrap()]);
        let mounted = Self(folder);
        mount(&["-o", "remount,ro,bind"]);
        mounted
    }
}

impl Drop for ReadOnlyMount<'_> {
    fn drop(&mut self) {
        let mut command = std::process::Command::new("umount");
        let _ = command.arg("-l").arg(self.0).status();
    }
}

#[tokio::test]
#[ignore = "needs root and mount"]
async fn a_store_that_cannot_be_written_can_be_read() {
    let saves = Saves::new();
    many(&saves.folder().join("tree"), 10);
    let codecs = [
        Codec::Zstd,
        #[cfg(feature = "chunked")]
        Codec::Chunked,
    ];
    for codec in codecs {
        saves.save(&codec.to_string(), codec).await;
    }
    let _mounted = ReadOnlyMount::over(saves.store.folder());
    let refused = fs::write(saves.store.folder().join("x"), b"x").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    for codec in codecs {
        let name = codec.to_string();
        let out = saves.folder().join(format!("out-{name}"));
        let restored = saves.cache.restore([key(&name)], into(&out)).await;
        assert!(matches!(restored, Ok(Restored::Exact(_))), "{restored:?}");
        let options = SaveOptions::in_folder(saves.folder());
        let saved = saves
            .cache
            .save(key(&name), ["tree"], options.clone())
            .await;
        assert!(matches!(saved, Ok(Saved::Exists(_))), "{saved:?}");
        let error = saves.cache.save(key("new"), ["tree"], options).await;
        assert!(error.is_err(), "{error:?}");
    }
    assert!(saves.store.verify(None).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_bomb_ends_at_the_limit_with_nothing_left() {
    use std::io::Write as _;

    let saves = Saves::new();
    let file = saves.folder().join("bomb.tar.gz");
    let mut header = [0_u8; 512];
    header[..4].copy_from_slice(b"bomb");
    header[100..108].copy_from_slice(b"0000644\0");
    header[124..136].copy_from_slice(b"77777777777\0");
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|&b| u32::from(b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut out = flate2::write::GzEncoder::new(
        fs::File::create(&file).unwrap(),
        flate2::Compression::fast(),
    );
    out.write_all(&header).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..64 {
        out.write_all(&zeros).unwrap();
    }
    out.finish().unwrap();
    saves
        .cache
        .import(key("bomb"), &file, SystemTime::now())
        .await
        .unwrap();
    let out = saves.folder().join("out");
    let mut options = into(&out);
    options.unpack.limits = options.unpack.limits.with_max_bytes(16 << 20);
    let Restored::Miss(miss) = saves.cache.restore([key("bomb")], options).await.unwrap() else {
        panic!("restored");
    };
    assert!(
        matches!(
            &miss.rejected[0].error,
            CacheError::Archive(ArchiveError::TooLarge {
                what: "bytes",
                limit: 0x100_0000
            })
        ),
        "{:?}",
        miss.rejected
    );
    assert!(!out.exists());
}

/// A description is not signed by everybody: what it says of sizes is a claim.
#[tokio::test]
async fn a_bomb_is_refused_whatever_its_description_says() {
    let saves = Saves::new();
    let bomb = hostile_bombs().into_iter().find(|b| b.codec == Codec::Zstd);
    let bytes = bomb.unwrap().bytes;
    assert!(bytes.len() < 1 << 20);
    let put = async |raw_size: u64| {
        let bytes = bytes.clone();
        let payload = produce_with(move |out| {
            out.write_all(&bytes)?;
            Ok(EntryFacts::opaque(Codec::Zstd).with_sizes(raw_size, 2))
        });
        let entry = NewEntry::new(key("bomb"), SystemTime::now()).with_paths(["a", "b"]);
        let options = PutOptions::default().with_if_exists(IfExists::Replace);
        saves.store.put_opts(entry, payload, options).await.unwrap();
    };
    let out = saves.folder().join("out");
    put(1 << 50).await;
    let Restored::Miss(miss) = saves
        .cache
        .restore([key("bomb")], into(&out))
        .await
        .unwrap()
    else {
        panic!("restored");
    };
    let error = &miss.rejected[0].error;
    let is_right = |error: &CacheError| {
        matches!(
            error,
            CacheError::Archive(ArchiveError::TooLarge {
                what: "bytes",
                limit: 0x4000_0000
            })
        )
    };
    assert!(is_right(error), "{error:?}");
    // Who lifts the limit is told that it cannot fit, and the entry stays.
    put(1 << 60).await;
    let mut options = into(&out);
    options.unpack.limits = options.unpack.limits.with_max_bytes(u64::MAX);
    match saves.cache.restore([key("bomb")], options).await {
        Err(CacheError::Archive(ArchiveError::NoRoom { needed, free, .. })) => {
            assert!(needed > free && needed > 1 << 59);
        }
        other => panic!("{other:?}"),
    }
    assert!(saves.store.head(&key("bomb")).await.unwrap().is_some());
    assert!(!out.exists());
}

/// What packs better than any restore takes is padded rather than refused.
#[tokio::test]
async fn the_emptiest_tree_is_no_bomb() {
    let saves = Saves::new();
    let content = vec![0; 40 << 20];
    fs::create_dir(saves.folder().join("tree")).unwrap();
    fs::write(saves.folder().join("tree/zeros"), &content).unwrap();
    let codecs = [Codec::Zstd, Codec::Gzip, Codec::Chunked];
    for (number, codec) in codecs.into_iter().enumerate() {
        let name = format!("k{number}");
        saves.save(&name, codec).await;
        let entry = saves.store.head(&key(&name)).await.unwrap().unwrap();
        let is_enough = entry.packed_size * 1100 >= entry.raw_size;
        assert!(is_enough || codec == Codec::Chunked, "{entry:?}");
        let out = saves.folder().join(&name);
        saves.cache.restore([key(&name)], into(&out)).await.unwrap();
        assert!(fs::read(out.join("tree/zeros")).unwrap() == content);
    }
}
