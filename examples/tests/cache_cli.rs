//! The `cache` program as other programs call it, against GNU tar and system tools.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("work/tree");
        fs::create_dir_all(tree.join("bin")).unwrap();
        fs::write(tree.join("bin/run"), "#!/bin/sh\necho hello\n").unwrap();
        fs::set_permissions(tree.join("bin/run"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::hard_link(tree.join("bin/run"), tree.join("bin/twin")).unwrap();
        symlink("/nonexistent/python", tree.join("bin/python")).unwrap();
        fs::write(tree.join("x".repeat(180)), "long name").unwrap();
        for index in 0..400 {
            fs::write(
                tree.join(format!("file{index}")),
                "line\n".repeat(index * 10),
            )
            .unwrap();
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn cache(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_cache"))
            .args(arguments)
            .current_dir(self.path("work"))
            .output()
            .unwrap()
    }

    /// Runs, wants an exit code, and returns standard output.
    #[track_caller]
    fn expect(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.cache(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        if code == 0 {
            assert_eq!(stderr, "", "{arguments:?}");
        } else {
            assert_eq!(stderr.lines().count(), 1, "{arguments:?}: {stderr}");
            assert!(stderr.starts_with("cache: "), "{arguments:?}: {stderr}");
        }
        String::from_utf8(output.stdout).unwrap()
    }

    fn shell(&self, script: &str) {
        let output = Command::new("sh")
            .args(["-ec", script])
            .current_dir(self.dir.path())
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}: {stderr}");
    }
}

#[track_caller]
fn same_tree(one: &Path, other: &Path) {
    let output = Command::new("diff")
        .args(["-r", "--no-dereference"])
        .args([one, other])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    let twins = ["bin/run", "bin/twin"].map(|name| fs::metadata(other.join(name)).unwrap().ino());
    assert_eq!(twins[0], twins[1]);
}

#[test]
fn saves_once_restores_and_exchanges_archives_with_tar() {
    let place = Place::new();
    for (codec, extension, list) in [
        ("gzip", "tar.gz", "tar -tzf"),
        ("none", "tar", "tar -tf"),
        ("zstd", "tar.zst", "true"),
    ] {
        let key = format!("k-{codec}");
        let save = [
            "save", "--store", "../store", "--key", &key, "--codec", codec, "tree",
        ];
        assert!(place.expect(0, &save).starts_with(&format!("stored {key}")));
        assert!(place.expect(0, &save).starts_with("already present"));
        let out = format!("../out-{codec}");
        let restore = [
            "restore", "--store", "../store", "--key", &key, "--into", &out,
        ];
        assert_eq!(place.expect(0, &restore), format!("restored {key}\n"));
        same_tree(
            &place.path("work/tree"),
            &place.path(&format!("out-{codec}/tree")),
        );

        let exported = format!("../exported.{extension}");
        place.expect(
            0,
            &["export", "--store", "../store", "--key", &key, &exported],
        );
        place.shell(&format!("{list} exported.{extension} > listing"));
        place.shell(&format!(
            "cmp exported.{extension} store/entries/*.{extension}"
        ));
        place.expect(
            0,
            &["import", "--store", "../store2", "--key", &key, &exported],
        );
        let again = format!("../again-{codec}");
        place.expect(
            0,
            &[
                "restore",
                "--store",
                "../store2",
                "--key",
                &key,
                "--into",
                &again,
            ],
        );
        same_tree(
            &place.path("work/tree"),
            &place.path(&format!("again-{codec}/tree")),
        );
    }

    place.shell("tar -C work -czf foreign.tar.gz tree");
    place.expect(
        0,
        &[
            "import",
            "--store",
            "../store",
            "--key",
            "foreign",
            "../foreign.tar.gz",
        ],
    );
    place.expect(
        0,
        &[
            "restore",
            "--store",
            "../store",
            "--key",
            "foreign",
            "--into",
            "../theirs",
        ],
    );
    same_tree(&place.path("work/tree"), &place.path("theirs/tree"));
    place.shell("mkdir unpacked && tar -xzpf exported.tar.gz -C unpacked");
    same_tree(&place.path("work/tree"), &place.path("unpacked/tree"));
}

#[test]
#[ignore = "needs zstd"]
fn zstd_archives_are_read_by_zstd_and_its_archives_by_us() {
    let place = Place::new();
    place.expect(0, &["save", "--store", "../store", "--key", "k", "tree"]);
    place.shell("zstd -tq store/entries/*.tar.zst");
    place.shell("mkdir unpacked && zstd -dcq store/entries/*.tar.zst | tar -xpf - -C unpacked");
    same_tree(&place.path("work/tree"), &place.path("unpacked/tree"));
    place.shell("tar -C work -cf - tree | zstd -q -19 > foreign.tar.zst");
    place.expect(
        0,
        &[
            "import",
            "--store",
            "../store",
            "--key",
            "f",
            "../foreign.tar.zst",
        ],
    );
    place.expect(
        0,
        &[
            "restore", "--store", "../store", "--key", "f", "--into", "../out",
        ],
    );
    same_tree(&place.path("work/tree"), &place.path("out/tree"));
}

#[test]
fn exit_codes_and_one_line_for_every_error() {
    let place = Place::new();
    let store = ["--store", "../store"];
    let run =
        |code, verb: &str, rest: &[&str]| place.expect(code, &[&[verb], &store[..], rest].concat());
    for verb in ["restore", "evict", "verify"] {
        run(3, verb, &["--key", "nothing"]);
    }
    run(3, "export", &["--key", "nothing", "../file"]);
    assert!(!place.path("store").exists(), "looking makes no store");

    run(1, "save", &["--key", "k", "missing"]);
    fs::create_dir(place.path("work/empty")).unwrap();
    run(1, "save", &["--key", "k", "empty"]);
    run(1, "save", &["--key", "", "tree"]);
    run(1, "save", &["--key", "{{ .Nope }}", "tree"]);
    run(1, "save", &["--key", "{{ checksum \"no\nfile\" }}", "tree"]);
    run(1, "save", &["--key", "k", "--codec", "lzma", "tree"]);
    run(1, "save", &["--key", "k"]);
    run(1, "import", &["--key", "k", "missing.tar"]);
    place.expect(1, &["frobnicate"]);

    run(0, "save", &["--key", "k", "tree"]);
    run(0, "verify", &[]);
    run(0, "verify", &["--key", "k"]);
    place.shell(
        "f=$(echo store/entries/*.tar.zst); printf X | dd of=$f bs=1 seek=99 conv=notrunc 2>&1",
    );
    run(1, "verify", &[]);
    fs::create_dir(place.path("out")).unwrap();
    run(1, "restore", &["--key", "k", "--into", "../out"]);
    assert_eq!(fs::read_dir(place.path("out")).unwrap().count(), 0);
    run(1, "export", &["--key", "k", "../exported"]);
    assert!(!place.path("exported").exists());
    // Damage does not block the key.
    assert!(run(0, "save", &["--key", "k", "tree"]).starts_with("stored"));
    run(0, "verify", &[]);
    run(0, "restore", &["--key", "k", "--into", "../out"]);

    run(0, "evict", &["--key", "k"]);
    assert_eq!(
        fs::read_dir(place.path("store/entries")).unwrap().count(),
        0
    );
}

#[test]
fn fallback_keys_and_templates() {
    let place = Place::new();
    fs::write(place.path("work/requirements.txt"), "Django==3.0\n").unwrap();
    let exact = r#"deps1-{{ .Branch }}-{{ checksum "requirements.txt" }}"#;
    let rendered = place.expect(0, &["key", exact, "--branch", "main"]);
    assert_eq!(
        rendered,
        "deps1-main-6awjwApanElCwa5jf4CocJKVBaOv+vP4p18ktzTz_dQ=\n"
    );
    let facts = [
        "key",
        "{{ .Revision }}-{{ .BuildNum }}-{{ .Environment.A }}-{{ arch }}",
    ];
    let given = ["--revision", "abc", "--build-num", "7", "--env", "A=x=y"];
    let text = place.expect(0, &[&facts[..], &given].concat());
    assert!(text.starts_with("abc-7-x=y-"), "{text}");

    // As for hosted CI, but not in silence.
    let unset = place.cache(&["key", "{{ .Environment.A }}"]);
    assert_eq!(unset.stdout, b"<no value>\n");
    let said = String::from_utf8(unset.stderr).unwrap();
    assert!(said.contains("the variable A is not set"), "{said}");

    let store = ["--store", "../store"];
    let branch = ["--branch", "main"];
    place.expect(
        0,
        &[&["save"], &store[..], &branch, &["--key", exact, "tree"]].concat(),
    );
    fs::write(place.path("work/requirements.txt"), "Django==4.2\n").unwrap();
    let keys = [
        "--key",
        exact,
        "--key",
        "deps1-{{ .Branch }}-",
        "--into",
        "../out",
    ];
    let restored = place.expect(0, &[&["restore"], &store[..], &branch, &keys].concat());
    assert!(restored.starts_with("restored deps1-main-6awjwApanElC"));
    let explained = place.cache(&[&["explain"], &store[..], &branch, &["--key", exact]].concat());
    let text = String::from_utf8(explained.stdout).unwrap();
    assert_eq!(explained.status.code(), Some(3));
    assert!(
        text.contains("requirements.txt") && text.contains("is wanted"),
        "{text}"
    );

    let ask = |key: &str| {
        let ask = [&["explain", "--json"], &store[..], &branch, &["--key", key]].concat();
        let answer = place.cache(&ask);
        let json: serde_json::Value = serde_json::from_slice(&answer.stdout).unwrap();
        (answer.status.code(), json)
    };
    let (code, answer) = ask(exact);
    assert_eq!(code, Some(3));
    let change = &answer["missed"]["nearest"]["changes"][0];
    assert_eq!(change["input"], "checksum \"requirements.txt\"");
    let (code, answer) = ask("deps1-{{ .Branch }}-");
    assert_eq!((code, &answer["exact"]), (Some(0), &false.into()));
    assert_eq!(answer["found"]["entry"]["paths"][0], "tree");

    let listed = place.expect(0, &["list", "--store", "../store", "--json"]);
    let entries: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(entries[0]["key"], rendered.trim());
    assert_eq!(entries[0]["paths"][0], "tree");
    assert_eq!(entries[0]["codec"], "zstd");
    assert_eq!(entries.as_array().unwrap().len(), 1);

    let gc = place.expect(0, &["gc", "--store", "../store", "--max-bytes", "0"]);
    assert!(gc.contains("1 entries evicted"), "{gc}");
}

#[test]
fn gc_keeps_the_newest_that_fits_and_reaches_the_bound() {
    let place = Place::new();
    let tree = place.path("work/blob");
    let mut state = 7_u64;
    for key in ["older", "newer"] {
        let bytes: Vec<u8> = (0..250_000)
            .flat_map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state ^ state >> 29).to_le_bytes()
            })
            .collect();
        std::fs::write(&tree, bytes).unwrap();
        let save = ["save", "--store", "../store", "--codec", "chunked"];
        place.expect(0, &[&save[..], &["--key", key, "blob"]].concat());
    }
    let gc = place.expect(0, &["gc", "--store", "../store", "--max-bytes", "3000000"]);
    assert!(
        gc.contains("evicted older\n") && gc.contains("1 entries evicted"),
        "{gc}"
    );
    let files = std::fs::read_dir(place.path("store/entries")).unwrap();
    let bytes: u64 = files
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    assert!((2_000_000..3_000_000).contains(&bytes), "{bytes}");
}

#[test]
fn repair_removes_what_verify_finds_and_nothing_else() {
    let place = Place::new();
    let run = |code, arguments: &[&str]| {
        place.expect(
            code,
            &[&arguments[..1], &["--store", "../store"], &arguments[1..]].concat(),
        )
    };
    assert_eq!(
        run(0, &["repair"]),
        "0 damaged entries removed, 0 left-over files removed, 0 bytes freed\n"
    );
    assert!(!place.path("store").exists(), "looking makes no store");
    // One of each kind of damage, and a sound one.
    for key in ["bits", "short", "gone", "described", "sound"] {
        run(0, &["save", "--key", key, "tree"]);
    }
    place.shell(
        r#"
        payload() { ls -d "$PWD"/store/entries/"$(printf %s "$1" | sha256sum | head -c 40)"-*; }
        printf X | dd of="$(payload bits)" bs=1 seek=99 conv=notrunc 2>/dev/null
        truncate -s -1 "$(payload short)"
        rm "$(payload gone)"
        described=store/entries/"$(printf %s described | sha256sum | head -c 40)".json
        printf '{}' > "$described"
        echo stray > store/tmp/stray
        echo mine > store/entries/notes.txt
        "#,
    );
    run(1, &["verify"]);
    let said = run(0, &["repair"]);
    assert_eq!(
        said.lines()
            .filter(|line| line.starts_with("removed "))
            .count(),
        4,
        "{said}"
    );
    for what in [
        "bits: damaged",
        "short: damaged",
        "gone: damaged",
        ".json: damaged",
    ] {
        assert!(said.contains(what), "{said}");
    }
    // The payload of the lost description, and what a killed writer left.
    assert!(
        said.contains("4 damaged entries removed, 2 left-over files removed"),
        "{said}"
    );
    run(0, &["verify"]);
    assert_eq!(run(0, &["list"]).lines().count(), 1);
    run(0, &["restore", "--key", "sound", "--into", "../out"]);
    same_tree(&place.path("work/tree"), &place.path("out/tree"));
    let mut left: Vec<_> = fs::read_dir(place.path("store/entries"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left.len(), 3, "{left:?}");
    assert!(
        run(0, &["repair"]).starts_with("0 damaged entries removed, 0 left-over files removed, 0 ")
    );
    run(0, &["save", "--key", "bits", "tree"]);
}
