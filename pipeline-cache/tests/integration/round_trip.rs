use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use pipeline_cache::archive::{ArchiveError, DeclaredPaths, PackOptions, UnpackOptions, pack};
use pipeline_cache::cache::{
    Cache, CacheError, MatchPolicy, RestoreOptions, Restored, SaveOptions, Saved, Validator,
};
use pipeline_cache::key::CacheKey;
use pipeline_cache::store::{CacheStore as _, Codec, FilesystemStore, MemoryStore};

use crate::noise::noise;
use crate::trees::{curious, describe, many};

fn key(text: &str) -> CacheKey {
    CacheKey::new(text).unwrap()
}

fn into(folder: &Path, workers: usize) -> RestoreOptions {
    RestoreOptions::default().with_unpack(
        UnpackOptions::default()
            .with_into(folder)
            .with_workers(workers),
    )
}

async fn save(cache: &Cache, name: &str, folder: &Path, pack: PackOptions) -> Saved {
    let options = SaveOptions::default().with_pack(pack.with_working_folder(folder));
    cache.save(key(name), ["tree"], options).await.unwrap()
}

fn codecs() -> Vec<Codec> {
    let mut codecs = vec![Codec::None];
    if cfg!(feature = "gzip") {
        codecs.push(Codec::Gzip);
    }
    if cfg!(feature = "zstd") {
        codecs.push(Codec::Zstd);
    }
    codecs
}

#[tokio::test]
async fn everything_survives_in_every_codec_with_any_number_of_workers() {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    curious(&work.join("tree"));
    many(&work.join("tree/many"), 1_000);
    let wanted = describe(&work);
    let cache = Cache::new(FilesystemStore::new(dir.path().join("store")));
    for codec in codecs() {
        for workers in [1, 3] {
            let name = format!("{codec}-{workers}");
            let options = PackOptions::default()
                .with_codec(codec)
                .with_workers(workers);
            let Saved::Stored(report) = save(&cache, &name, &work, options).await else {
                panic!("not stored");
            };
            let out = dir.path().join(&name);
            let restored = cache
                .restore([key(&name)], into(&out, workers))
                .await
                .unwrap();
            let Restored::Exact(entry) = restored else {
                panic!("not restored: {restored:?}");
            };
            assert_eq!(entry.unpacked.entries, report.metadata.file_count);
            let found = describe(&out);
            for (path, wanted) in &wanted {
                assert_eq!(found.get(path), Some(wanted), "{name}: {}", path.display());
            }
            assert_eq!(found.len(), wanted.len());
            let sparse = fs::metadata(out.join("tree/sparse")).unwrap();
            assert!(sparse.blocks() * 512 < 1 << 20, "{name}: holes were filled");
        }
    }
}

#[tokio::test]
async fn the_same_tree_gives_the_same_bytes_on_any_number_of_workers() {
    let dir = tempfile::tempdir().unwrap();
    curious(&dir.path().join("tree"));
    many(&dir.path().join("tree/many"), 1_000);
    let paths = DeclaredPaths::new(["tree"]).unwrap();
    for codec in codecs() {
        let mut archives = [1, 2, 5].map(|workers| {
            let options = PackOptions::default()
                .with_codec(codec)
                .with_workers(workers)
                .with_working_folder(dir.path());
            let mut bytes = Vec::new();
            pack(&paths, &options, &mut bytes).unwrap();
            bytes
        });
        archives.sort();
        assert!(archives[0] == archives[2], "{codec}");
    }
}

#[tokio::test]
async fn user_attributes_survive() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir_all(&tree).unwrap();
    fs::write(tree.join("file"), "x").unwrap();
    fs::set_permissions(tree.join("file"), fs::Permissions::from_mode(0o444)).unwrap();
    let set = |path: &Path| {
        rustix::fs::setxattr(
            path,
            "user.origin",
            b"build\n7",
            rustix::fs::XattrFlags::empty(),
        )
    };
    fs::set_permissions(tree.join("file"), fs::Permissions::from_mode(0o644)).unwrap();
    set(&tree).unwrap();
    set(&tree.join("file")).unwrap();
    fs::set_permissions(tree.join("file"), fs::Permissions::from_mode(0o444)).unwrap();
    let cache = Cache::new(MemoryStore::new());
    save(&cache, "k", dir.path(), PackOptions::default()).await;
    let out = dir.path().join("out");
    cache.restore([key("k")], into(&out, 2)).await.unwrap();
    for name in ["tree", "tree/file"] {
        let mut value = [0; 32];
        let length = rustix::fs::getxattr(out.join(name), "user.origin", &mut value).unwrap();
        assert_eq!(&value[..length], b"build\n7", "{name}");
    }
    assert_eq!(
        fs::metadata(out.join("tree/file")).unwrap().mode() & 0o777,
        0o444
    );
}

#[tokio::test]
async fn system_tools_read_our_archives_and_we_read_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    curious(&work.join("tree"));
    // What GNU tar's own format cannot say is not compared here.
    fs::remove_file(work.join("tree/after-2262")).unwrap();
    fs::remove_file(work.join("tree/before-1970")).unwrap();
    let store = FilesystemStore::new(dir.path().join("store"));
    let cache = Cache::new(store.clone());
    for codec in codecs() {
        let program = match codec {
            Codec::Gzip => "gzip",
            Codec::Zstd => "zstd",
            _ => "cat",
        };
        if Command::new(program).arg("--version").output().is_err() {
            // Only zstd may be missing on a machine with Rust, git and Python.
            assert_eq!(program, "zstd");
            continue;
        }
        let name = format!("{codec}");
        let Saved::Stored(report) = save(
            &cache,
            &name,
            &work,
            PackOptions::default().with_codec(codec),
        )
        .await
        else {
            panic!("not stored");
        };
        let archive = store.payload_path(&report.metadata).unwrap();
        let theirs = dir.path().join(format!("theirs-{name}"));
        fs::create_dir(&theirs).unwrap();
        sh(&format!(
            "{program} {} < '{}' | tar -xpf - -C '{}'",
            if program == "cat" { "" } else { "-dc" },
            archive.display(),
            theirs.display()
        ));
        let (wanted, found) = (describe(&work), describe(&theirs));
        assert_eq!(
            wanted.keys().collect::<Vec<_>>(),
            found.keys().collect::<Vec<_>>()
        );
        if codec != Codec::Zstd {
            // With zstd the nanoseconds are in our index.
            for (path, wanted) in &wanted {
                assert_eq!(found.get(path), Some(wanted), "{name}: {}", path.display());
            }
        }

        let foreign = dir.path().join(format!("foreign.{}", codec.extension()));
        sh(&format!(
            "tar --format=pax -cSf - -C '{}' tree | {program} > '{}'",
            work.display(),
            foreign.display()
        ));
        let foreign_key = key(&format!("foreign-{name}"));
        cache
            .import(foreign_key.clone(), &foreign, std::time::SystemTime::now())
            .await
            .unwrap();
        let ours = dir.path().join(format!("ours-{name}"));
        let restored = cache.restore([foreign_key], into(&ours, 2)).await.unwrap();
        assert!(matches!(restored, Restored::Exact(_)), "{restored:?}");
        let found = describe(&ours);
        for (path, wanted) in &wanted {
            assert_eq!(found.get(path), Some(wanted), "{name}: {}", path.display());
        }
    }
}

fn sh(script: &str) {
    let output = Command::new("sh")
        .args(["-c", &format!("set -e; {script}")])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test]
async fn gnu_sparse_files_of_the_old_form_and_appended_ones_restore() {
    let dir = tempfile::tempdir().unwrap();
    let top = dir.path();
    fs::write(top.join("data"), noise(10_000, 2)).unwrap();
    sh(&format!(
        "cd '{}'; truncate -s 5000000 holes; for at in 0 1000000 2000000 3000000 4000000 4900000; do \
         dd if=data of=holes bs=1 seek=$at count=4096 conv=notrunc status=none; done; \
         tar --format=gnu -cSf foreign.tar holes; echo old > twice; tar -rf foreign.tar twice; \
         echo new > twice; tar -rf foreign.tar twice",
        top.display()
    ));
    let cache = Cache::new(MemoryStore::new());
    cache
        .import(
            key("k"),
            top.join("foreign.tar"),
            std::time::SystemTime::now(),
        )
        .await
        .unwrap();
    let out = top.join("out");
    let restored = cache.restore([key("k")], into(&out, 2)).await.unwrap();
    assert!(matches!(restored, Restored::Exact(_)), "{restored:?}");
    assert!(fs::read(out.join("holes")).unwrap() == fs::read(top.join("holes")).unwrap());
    // As tar does: the later one counts.
    assert_eq!(fs::read(out.join("twice")).unwrap(), b"new\n");
}

#[tokio::test]
async fn a_taken_key_reads_no_file_and_a_bad_path_stores_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = MemoryStore::new();
    let cache = Cache::new(store.clone());
    let options = || SaveOptions::in_folder(dir.path());
    fs::create_dir(dir.path().join("empty")).unwrap();
    for (path, wanted) in [
        ("nope", "is missing"),
        ("empty", "is empty"),
        ("..", "absolute"),
    ] {
        let error = cache.save(key("k"), [path], options()).await.unwrap_err();
        assert!(error.to_string().contains(wanted), "{error}");
    }
    fs::write(dir.path().join("file"), "x").unwrap();
    let refuse = Validator::new(|packed| Err(format!("{} bytes", packed.content_bytes).into()));
    let error = cache
        .save(key("k"), ["file"], options().with_validator(refuse))
        .await
        .unwrap_err();
    assert!(matches!(
        error,
        CacheError::Archive(ArchiveError::Validator(_))
    ));
    assert!(store.list("").await.unwrap().is_empty());

    let saved = cache.save(key("k"), ["file"], options()).await.unwrap();
    assert!(matches!(saved, Saved::Stored(_)));
    // The path is gone, so reading it would be an error.
    let saved = cache.save(key("k"), ["nope"], options()).await.unwrap();
    assert!(matches!(saved, Saved::Exists(_)));
}

#[tokio::test]
async fn keys_are_tried_in_order_and_each_exact_before_newest_prefix() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(MemoryStore::new());
    fs::write(dir.path().join("file"), "x").unwrap();
    for (second, name) in [
        (1, "v1-app-cache"),
        (2, "v1-app-cache-new"),
        (3, "v1-app-cache-newer"),
    ] {
        let created = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(second);
        let options = SaveOptions::in_folder(dir.path()).with_created(created);
        cache.save(key(name), ["file"], options).await.unwrap();
    }
    let out = dir.path().join("out");
    let restored = async |keys: &[&str], policy| {
        let keys: Vec<CacheKey> = keys.iter().map(|text| key(text)).collect();
        match cache
            .restore(keys, into(&out, 1).with_policy(policy))
            .await
            .unwrap()
        {
            Restored::Exact(entry) => format!("exact {}", entry.metadata.key),
            Restored::Prefix(entry) => format!("prefix {}", entry.metadata.key),
            other => format!("{other:?}"),
        }
    };
    let exact_first = MatchPolicy::ExactThenNewestPrefix;
    assert_eq!(
        restored(&["v1-app-cache"], exact_first).await,
        "exact v1-app-cache"
    );
    // The documented example of CircleCI: the newer prefix match wins over the exact one.
    assert_eq!(
        restored(&["v1-app-cache"], MatchPolicy::NewestPrefix).await,
        "prefix v1-app-cache-newer"
    );
    assert_eq!(
        restored(&["nope", "v1-app"], exact_first).await,
        "prefix v1-app-cache-newer"
    );
    assert_eq!(
        restored(&["v1-app-cache-n", "v1-app-cache"], exact_first).await,
        "prefix v1-app-cache-newer"
    );
}

#[tokio::test]
async fn each_path_goes_back_to_where_it_was_and_nothing_else_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    let elsewhere = dir.path().join("elsewhere/deep");
    fs::create_dir_all(work.join("a/b/venv")).unwrap();
    fs::create_dir_all(&elsewhere).unwrap();
    fs::write(work.join("a/b/venv/new"), "1").unwrap();
    fs::write(work.join("a/b/beside"), "kept").unwrap();
    fs::write(elsewhere.join("file"), "2").unwrap();
    let cache = Cache::new(MemoryStore::new());
    let absolute = elsewhere.to_str().unwrap();
    cache
        .save(
            key("k"),
            ["a/b/venv", absolute],
            SaveOptions::in_folder(&work),
        )
        .await
        .unwrap();
    fs::write(work.join("a/b/venv/stale"), "gone after").unwrap();
    fs::write(work.join("a/b/beside"), "changed").unwrap();
    fs::remove_dir_all(dir.path().join("elsewhere")).unwrap();
    cache
        .restore([key("k")], RestoreOptions::in_folder(&work))
        .await
        .unwrap();
    assert_eq!(fs::read(work.join("a/b/venv/new")).unwrap(), b"1");
    assert!(!work.join("a/b/venv/stale").exists());
    assert_eq!(fs::read(work.join("a/b/beside")).unwrap(), b"changed");
    assert_eq!(fs::read(elsewhere.join("file")).unwrap(), b"2");

    // With `into`, absolute paths go below it.
    let out = dir.path().join("out");
    cache.restore([key("k")], into(&out, 2)).await.unwrap();
    let below = out.join(absolute.trim_start_matches('/'));
    assert_eq!(fs::read(below.join("file")).unwrap(), b"2");
    for folder in [dir.path(), &work, &out] {
        let left = fs::read_dir(folder)
            .unwrap()
            .filter(|entry| {
                let name = entry.as_ref().unwrap().file_name();
                name.to_string_lossy().starts_with(".pipeline-cache")
            })
            .count();
        assert_eq!(left, 0, "{}", folder.display());
    }
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_read_stores_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    many(&tree, 300);
    fs::write(tree.join("growing"), noise(2_000_000, 1)).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| {
            use std::io::Write as _;
            let mut file = fs::OpenOptions::new()
                .append(true)
                .open(tree.join("growing"))
                .unwrap();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                file.write_all(b"more").unwrap();
            }
        });
        let paths = DeclaredPaths::new(["tree"]).unwrap();
        let options = PackOptions::default().with_working_folder(dir.path());
        let outcome = pack(&paths, &options, &mut std::io::sink());
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        outcome
    });
    assert!(
        matches!(&outcome, Err(ArchiveError::Changed { path }) if path == "tree/growing"),
        "{outcome:?}"
    );
}

/// Long names take more room than most contents: a block must not outgrow what readers take.
#[cfg(feature = "zstd")]
#[tokio::test]
async fn times_of_files_with_very_long_names_survive() {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    let deep = (0..14).fold(work.join("tree"), |path, _| path.join("d".repeat(250)));
    fs::create_dir_all(&deep).unwrap();
    for index in 0..6_000 {
        fs::write(deep.join(index.to_string()), b"").unwrap();
    }
    // Large trees are cut into the largest blocks.
    fs::write(work.join("tree/large"), vec![0; 140 << 20]).unwrap();
    let cache = Cache::new(MemoryStore::new());
    let options = PackOptions::default().with_codec(Codec::Zstd);
    save(&cache, "long", &work, options).await;
    let out = dir.path().join("out");
    cache.restore([key("long")], into(&out, 2)).await.unwrap();
    assert!(describe(&out) == describe(&work));
}
