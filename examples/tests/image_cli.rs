//! The binary `image` as other programs call it.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

#[path = "../../pipeline-cache/src/testing/noise.rs"]
#[expect(unreachable_pub, reason = "the cache crate exports it")]
mod noise;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::tempdir;

use crate::noise::noise;

fn image(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_image"))
        .args(arguments)
        .current_dir(folder)
        .env_remove("SOURCE_DATE_EPOCH")
        .env("DOCKER_CONFIG", folder.join("no-docker-configuration"))
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", stderr(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// One line, and nothing on standard output.
fn failure(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let text = stderr(output);
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

fn site(folder: &Path) {
    for (path, content) in [
        ("app/main.py", "print('hello')\n"),
        ("app/.git/config", "secret"),
        ("deps/lib/x.py", "x = 1\n"),
    ] {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

const BUILD: &[&str] = &[
    "build",
    "--out",
    "out",
    "--layer",
    "deps:/opt/deps",
    "--layer",
    "app:/srv/app",
    "--exclude",
    ".git",
    "--env",
    "PYTHONPATH=/opt/deps",
    "--entrypoint",
    r#"["python3", "/srv/app/main.py"]"#,
    "--tag",
    "v1",
];

#[test]
fn context_lists_what_a_build_gets() {
    let dir = tempdir().unwrap();
    site(dir.path());
    fs::write(dir.path().join(".dockerignore"), "*\n!**/*.py\n").unwrap();
    let buildkit = stdout(&image(dir.path(), &["context", "."]));
    assert_eq!(
        buildkit,
        "app/\napp/main.py\ndeps/\ndeps/lib/\ndeps/lib/x.py\n"
    );
    assert_eq!(
        stdout(&image(dir.path(), &["context", ".", "--rule", "classic"])),
        ""
    );
    fs::write(dir.path().join("other"), "deps\n.*\nother\n").unwrap();
    let other = stdout(&image(
        dir.path(),
        &["context", ".", "--ignore-file", "other"],
    ));
    assert_eq!(other, "app/\napp/.git/\napp/.git/config\napp/main.py\n");
    fs::write(dir.path().join(".dockerignore"), "a\n[\n").unwrap();
    let error = failure(&image(dir.path(), &["context", "."]));
    assert!(
        error.contains("syntax error in ignore pattern \"[\""),
        "{error}"
    );
    failure(&image(dir.path(), &["context", "nowhere"]));
    assert_eq!(
        image(dir.path(), &["context", ".", "--rule", "third"])
            .status
            .code(),
        Some(2)
    );
}

#[test]
fn build_says_the_digest_and_repeats_it() {
    let (one, two) = (tempdir().unwrap(), tempdir().unwrap());
    site(one.path());
    site(two.path());
    let digest = stdout(&image(one.path(), BUILD));
    assert!(digest.starts_with("sha256:") && digest.lines().count() == 1);
    assert_eq!(stdout(&image(one.path(), BUILD)), digest);
    assert_eq!(stdout(&image(two.path(), BUILD)), digest);
    assert_eq!(stdout(&image(one.path(), &["inspect", "out:v1"])), digest);
    let json = stdout(&image(one.path(), &["inspect", "out", "--json"]));
    let document: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(document["digest"], digest.trim());
    assert_eq!(document["config"]["config"]["Entrypoint"][0], "python3");
    assert_eq!(document["manifest"]["layers"].as_array().unwrap().len(), 2);

    let error = failure(&image(
        one.path(),
        &["build", "--out", "o2", "--layer", "none:/x"],
    ));
    assert!(error.contains("none"), "{error}");
    for usage in [
        &["build", "--out", "o", "--layer", "app"][..],
        &["build", "--out", "o", "--entrypoint", "x"],
    ] {
        assert_eq!(image(one.path(), usage).status.code(), Some(2));
    }
}

#[test]
fn a_layout_is_a_base_and_can_be_copied_and_saved() {
    let dir = tempdir().unwrap();
    site(dir.path());
    let digest = stdout(&image(dir.path(), BUILD));
    let based = [
        "build",
        "--out",
        "second",
        "--base",
        "out:v1",
        "--layer",
        "app:/more",
        "--tag",
        "v2",
    ];
    let second = stdout(&image(dir.path(), &based));
    assert_ne!(second, digest);
    let json = stdout(&image(dir.path(), &["inspect", "./second:v2", "--json"]));
    let document: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(document["manifest"]["layers"].as_array().unwrap().len(), 3);
    assert_eq!(
        document["config"]["config"]["Env"][0],
        "PYTHONPATH=/opt/deps"
    );

    assert_eq!(
        stdout(&image(dir.path(), &["copy", "out:v1", "./copy:v3"])),
        digest
    );
    assert_eq!(stdout(&image(dir.path(), &["inspect", "copy:v3"])), digest);
    let error = failure(&image(dir.path(), &["copy", "out:v9", "./copy"]));
    assert!(error.contains("\"v9\"") && error.contains("v1"), "{error}");

    assert_eq!(
        stdout(&image(
            dir.path(),
            &["save", "out:v1", "image.tar", "--name", "site:1"]
        )),
        digest
    );
    let mut archive = fs::read(dir.path().join("image.tar")).unwrap();
    archive.truncate(archive.len() / 512 * 512);
    assert!(String::from_utf8_lossy(&archive).contains(r#""RepoTags":["site:1"]"#));
}

#[test]
#[cfg(unix)]
fn what_is_written_is_readable_for_whom_the_umask_says() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempdir().unwrap();
    site(dir.path());
    let save = ["save", "out:v1", "image.tar", "--name", "site:1"];
    for arguments in [BUILD, &save] {
        let output = Command::new("sh")
            .args(["-c", "umask 027; exec \"$0\" \"$@\""])
            .arg(env!("CARGO_BIN_EXE_image"))
            .args(arguments)
            .current_dir(dir.path())
            .output()
            .unwrap();
        stdout(&output);
    }
    let mut written: Vec<_> = ["image.tar", "out/index.json", "out/oci-layout"]
        .map(|name| dir.path().join(name))
        .into();
    let blobs = fs::read_dir(dir.path().join("out/blobs/sha256")).unwrap();
    written.extend(blobs.map(|blob| blob.unwrap().path()));
    assert!(written.len() > 5);
    for path in written {
        let mode = path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o640, "{}", path.display());
    }
}

#[test]
fn a_registry_that_is_not_there_is_one_line() {
    let dir = tempdir().unwrap();
    site(dir.path());
    stdout(&image(dir.path(), BUILD));
    // Nothing listens on the discard port.
    failure(&image(
        dir.path(),
        &["push", "out:v1", "127.0.0.1:9/site:v1"],
    ));
    failure(&image(
        dir.path(),
        &["pull", "127.0.0.1:9/site:v1", "--out", "pulled"],
    ));
    failure(&image(dir.path(), &["inspect", "127.0.0.1:9/site:v1"]));
}

/// Every blob is what its name says.
fn assert_whole(layout: &Path) {
    for entry in fs::read_dir(layout.join("blobs/sha256")).unwrap() {
        let path = entry.unwrap().path();
        let digest = pipeline_docker::oci::Digest::sha256(&fs::read(&path).unwrap());
        assert_eq!(path.file_name().unwrap().to_str().unwrap(), digest.hex());
    }
}

/// Killed at twelve points of its progress, the program leaves whole blobs, a readable index, and
/// nothing in the way of the next build.
#[test]
fn a_killed_build_leaves_a_usable_layout() {
    let dir = tempdir().unwrap();
    site(dir.path());
    fs::write(dir.path().join("deps/big"), noise(8_000_000, 1)).unwrap();
    let (layout, staging) = (dir.path().join("out"), dir.path().join("out/.staging"));
    let staged = || -> u64 {
        let Ok(entries) = fs::read_dir(&staging) else {
            return 0;
        };
        entries
            .filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len()))
            .sum()
    };
    let mut killed = 0;
    for step in 0..12 {
        let mut build = Command::new(env!("CARGO_BIN_EXE_image"))
            .args(BUILD)
            .current_dir(dir.path())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        while staged() < step * 700_000 && build.try_wait().unwrap().is_none() {
            std::hint::spin_loop();
        }
        build.kill().unwrap();
        if !build.wait().unwrap().success() {
            killed += 1;
        }
        if layout.join("oci-layout").exists() {
            assert_whole(&layout);
            pipeline_docker::oci::OciLayout::open(&layout)
                .unwrap()
                .index()
                .unwrap();
        }
        // What a finished build left would make the next one too quick to be hit.
        if layout.exists() {
            for blob in fs::read_dir(layout.join("blobs/sha256"))
                .into_iter()
                .flatten()
            {
                fs::remove_file(blob.unwrap().path()).unwrap();
            }
        }
    }
    assert!(killed >= 6, "{killed}");
    let digest = stdout(&image(dir.path(), BUILD));
    assert_eq!(stdout(&image(dir.path(), &["inspect", "out:v1"])), digest);
    assert_whole(&layout);
    assert_eq!(fs::read_dir(&staging).unwrap().count(), 0);
}

/// A disk that takes no more: one line that names the layer, no tag, no leftovers.
#[test]
fn a_full_disk_is_named_and_leaves_nothing() {
    let dir = tempdir().unwrap();
    site(dir.path());
    fs::write(dir.path().join("deps/big"), noise(4_000_000, 1)).unwrap();
    // The limit on file sizes stands in for the disk's; both are errors of the same write.
    let output = Command::new("sh")
        .args([
            "-c",
            "trap '' XFSZ; ulimit -f 2000; exec \"$0\" \"$@\"",
            env!("CARGO_BIN_EXE_image"),
        ])
        .args(BUILD)
        .current_dir(dir.path())
        .output()
        .unwrap();
    let error = failure(&output);
    assert!(error.contains("copy to /opt/deps"), "{error}");
    let layout = pipeline_docker::oci::OciLayout::open(dir.path().join("out")).unwrap();
    assert!(layout.tags().unwrap().is_empty());
    assert_eq!(
        fs::read_dir(dir.path().join("out/.staging"))
            .unwrap()
            .count(),
        0
    );
    assert_eq!(
        fs::read_dir(dir.path().join("out/blobs/sha256"))
            .unwrap()
            .count(),
        0
    );
    // Once there is room, the same build works.
    stdout(&image(dir.path(), BUILD));
}

/// A registry on a free port, ended with the test.
struct Registry(std::process::Child, String);

impl Registry {
    fn start(folder: &Path) -> Self {
        Self::start_with(folder, "")
    }

    /// A registry that knows one account.
    fn start_private(folder: &Path, user: &str, password: &str) -> Self {
        let line = Command::new("htpasswd")
            .args(["-Bbn", user, password])
            .output()
            .expect("htpasswd");
        let path = folder.join("htpasswd");
        fs::write(&path, line.stdout).unwrap();
        let auth = format!(
            "auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
            path.display()
        );
        Self::start_with(folder, &auth)
    }

    fn start_with(folder: &Path, more: &str) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let config = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: 127.0.0.1:{port}}}\n{more}",
            folder.join("registry").display()
        );
        fs::write(folder.join("config.yml"), config).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(folder.join("config.yml"))
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("docker-registry");
        let address = format!("127.0.0.1:{port}");
        while std::net::TcpStream::connect(&address).is_err() {
            std::thread::yield_now();
        }
        Self(child, address)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
#[ignore = "needs docker-registry"]
fn push_pull_and_copy_keep_the_digest() {
    let dir = tempdir().unwrap();
    site(dir.path());
    let registry = Registry::start(dir.path());
    let digest = stdout(&image(dir.path(), BUILD));
    let name = format!("{}/team/site:v1", registry.1);
    assert_eq!(
        stdout(&image(dir.path(), &["push", "out:v1", &name])),
        digest
    );
    let again = image(dir.path(), &["push", "out:v1", &name]);
    assert_eq!(stdout(&again), digest);
    assert!(
        stderr(&again).contains("already there, 0 of"),
        "{}",
        stderr(&again)
    );
    assert_eq!(stdout(&image(dir.path(), &["inspect", &name])), digest);
    assert_eq!(
        stdout(&image(dir.path(), &["pull", &name, "--out", "pulled"])),
        digest
    );
    assert_eq!(
        stdout(&image(dir.path(), &["inspect", "pulled:v1"])),
        digest
    );
    let other = format!("{}/other/site:v1", registry.1);
    assert_eq!(stdout(&image(dir.path(), &["copy", &name, &other])), digest);
    assert_eq!(
        stdout(&image(dir.path(), &["copy", &other, "./third:x"])),
        digest
    );
    // As a base it is pinned and pulled.
    let based = [
        "build",
        "--out",
        "based",
        "--base",
        &name,
        "--layer",
        "app:/more",
    ];
    let based = stdout(&image(dir.path(), &based));
    assert_ne!(based, digest);
    let json = stdout(&image(dir.path(), &["inspect", "based", "--json"]));
    let document: serde_json::Value = serde_json::from_str(&json).unwrap();
    let annotations = &document["manifest"]["annotations"];
    assert_eq!(annotations["org.opencontainers.image.base.name"], name);
    let base_digest = &annotations["org.opencontainers.image.base.digest"];
    assert_eq!(base_digest, digest.trim());
    // A base that is not there leaves nothing.
    let missing = name.replace(":v1", ":v9");
    let wrong = ["build", "--out", "none", "--base", &missing];
    failure(&image(dir.path(), &wrong));
    assert!(!dir.path().join("none").exists());
    // A tag is not moved by accident.
    fs::write(dir.path().join("app/main.py"), "changed").unwrap();
    stdout(&image(dir.path(), BUILD));
    failure(&image(dir.path(), &["push", "out:v1", &name]));
    let moved = stdout(&image(dir.path(), &["push", "out:v1", &name, "--move-tag"]));
    assert_ne!(moved, digest);
}

#[test]
#[ignore = "needs docker-registry"]
fn a_pull_says_what_came_in_for_people() {
    let dir = tempdir().unwrap();
    site(dir.path());
    let registry = Registry::start(dir.path());
    fs::write(dir.path().join("deps/big"), noise(1_500_000, 1)).unwrap();
    stdout(&image(dir.path(), BUILD));
    let name = format!("{}/team/site:v1", registry.1);
    let digest = stdout(&image(dir.path(), &["push", "out:v1", &name]));
    let pull = ["pull", &name, "--out", "pulled"];
    let first = stderr(&image(dir.path(), &pull));
    assert!(first.contains(": downloaded 1.5MB in "), "{first}");
    assert!(first.contains(&format!("digest: {digest}")), "{first}");
    assert!(first.contains("1.5MB of 1.5MB received in "), "{first}");
    assert!(first.contains("pulled without credentials"), "{first}");
    let second = stderr(&image(dir.path(), &pull));
    assert!(second.contains(": already exists (1.5MB)"), "{second}");
}

#[test]
#[ignore = "needs docker-registry and htpasswd"]
fn credentials_are_those_of_dockers_configuration() {
    let dir = tempdir().unwrap();
    site(dir.path());
    let registry = Registry::start_private(dir.path(), "robot", "rather-secret");
    let digest = stdout(&image(dir.path(), BUILD));
    let name = format!("{}/team/site:v1", registry.1);
    let push = ["push", "out:v1", &name];
    let error = failure(&image(dir.path(), &push));
    assert!(error.contains("it wants credentials"), "{error}");
    let config = dir.path().join("no-docker-configuration");
    fs::create_dir(&config).unwrap();
    let log_in = |basic: &str| {
        let auths = format!(r#"{{"auths":{{"{}":{{"auth":"{basic}"}}}}}}"#, registry.1);
        fs::write(config.join("config.json"), auths).unwrap();
    };
    // robot:wrong
    log_in("cm9ib3Q6d3Jvbmc=");
    let error = failure(&image(dir.path(), &push));
    assert!(error.contains("refused to"), "{error}");
    assert!(!error.contains("cm9ib3Q6d3Jvbmc=") && !error.contains("robot:wrong"));
    // robot:rather-secret
    log_in("cm9ib3Q6cmF0aGVyLXNlY3JldA==");
    assert_eq!(stdout(&image(dir.path(), &push)), digest);
    assert_eq!(stdout(&image(dir.path(), &["inspect", &name])), digest);
    let pulled = image(dir.path(), &["pull", &name, "--out", "pulled"]);
    assert_eq!(stdout(&pulled), digest);
    assert!(!stderr(&pulled).contains("without credentials"));
    let based = ["build", "--out", "based", "--base", &name];
    stdout(&image(dir.path(), &based));
}

/// Images that an index names twice, and the index itself, are copied once each.
#[test]
fn a_layout_that_repeats_itself_is_copied() {
    use pipeline_docker::oci::{Descriptor, ImageIndex, OciLayout, media_type};
    let dir = tempdir().unwrap();
    site(dir.path());
    stdout(&image(dir.path(), BUILD));
    let layout = OciLayout::open(dir.path().join("out")).unwrap();
    // Each names the one before a hundred times: without a look back, a hundred to the tenth.
    let mut inner: Descriptor = layout.resolve(Some("v1")).unwrap();
    for _ in 0..10 {
        let index = ImageIndex::new(vec![inner; 100]);
        let bytes = serde_json::to_vec(&index).unwrap();
        inner = layout.write_blob(media_type::IMAGE_INDEX, &bytes).unwrap();
    }
    layout.set_tag(Some("deep"), &inner).unwrap();
    let copied = stdout(&image(dir.path(), &["copy", "out:deep", "./copy:deep"]));
    assert_eq!(copied.trim(), inner.digest.to_string());
}
