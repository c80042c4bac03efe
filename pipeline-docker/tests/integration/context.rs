//! Build contexts: what `.dockerignore` leaves, and that it is what the engine's own build sees.

use std::fs;
use std::path::Path;
use std::process::Command;

use pipeline_docker::context::{BuildContext, ContextError};
use pipeline_docker::ignore::IgnoreRule;
use tempfile::tempdir;

use crate::support::{run, tree};

/// A tree with names that patterns stumble over.
const TREE: &[&str] = &[
    "Dockerfile",
    "README.md",
    "LICENSE",
    "a.txt",
    "b.log",
    "!odd",
    "#hash",
    "with space",
    "a+b(c).md",
    "[x]",
    ".hidden/file",
    ".hidden/deep/file.md",
    "app/main.py",
    "app/main.pyc",
    "app/README.md",
    "app/sub/main.py",
    "app/sub/README.md",
    "app/sub/deep/note.txt",
    "application/x",
    "docs/a.md",
    "docs/b.txt",
    "docs/api/c.md",
    "docs/api/v1/d.md",
    "node_modules/m/index.js",
    "node_modules/m/README.md",
    "src/node_modules/n/index.js",
    "src/main.c",
    "src/main.o",
    "src/lib/util.c",
    "src/lib/util.o",
    "empty/",
    "only/ignored/x.log",
    "link -> app/main.py",
    "linkdir -> docs",
    "ünï/cödé.md",
];

/// One ignore file each.
const IGNORE_FILES: &[&str] = &[
    "",
    "# nothing\n\n   \n",
    "*",
    "**",
    ".",
    "/",
    "*.md",
    "**/*.md",
    "*/*.md",
    "*/*/*.md",
    "docs",
    "docs/",
    "/docs",
    "./docs",
    "docs/../app",
    "docs/*",
    "docs/**",
    "docs/**/d.md",
    "docs/**/*.md",
    "**/node_modules",
    "node_modules",
    "**/*.o\n**/*.pyc",
    "*\n!README.md",
    "*\n!app",
    "*\n!app/main.py",
    "*\n!app/*.py",
    "*\n!app/**",
    "*\n!docs/api",
    "*\n!docs/api/v1/d.md",
    "*\n!**/*.md",
    "**\n!**/*.md",
    "*\n!*.md",
    "docs\n!docs/api",
    "docs\n!docs/api\ndocs/api/v1",
    "docs\n!docs/api/c.md",
    "docs/**\n!docs/api/c.md",
    "**/*.md\n!README.md",
    "**/*.md\n!app/**/README.md",
    "**/README.md\n!app/sub/README.md\napp/sub",
    "app/sub\n!app/sub/deep",
    "app\n!app/sub\n!app/main.py",
    "!app\napp",
    "app?",
    "app*",
    "ap?/*.py",
    "[ab].*",
    "[^ab]*",
    "[!ab]*",
    "\\!odd",
    "\\#hash",
    "#hash",
    " #hash",
    "with space",
    "  with space  ",
    "a+b(c).md",
    "a?b*.md",
    "\\[x\\]",
    "[[]x]",
    "**/main.*",
    "**main.py",
    "app**",
    "**/sub/**",
    "**/deep",
    "**.txt",
    "src/*.o",
    "src/**.o",
    "only",
    "only/ignored/*.log",
    "**/*.log",
    "empty",
    "link",
    "linkdir/a.md",
    "linkdir",
    ".*",
    ".hidden/*\n!.hidden/deep",
    "**/c?d?.md",
    "ünï",
    "Dockerfile",
    ".dockerignore",
    "Dockerfile\n.dockerignore\n*.md",
    "*\n!docs\ndocs/*.txt\n!docs/b.txt",
    "APP",
    "app/main.py/x",
    "*/",
    "*/*",
    "*/*\n!docs/a.md",
    "*\n!*/\n",
    "docs\n! docs/a.md",
    "\u{feff}docs\r\n!docs/a.md\r\n",
    "{docs,app}",
    "do[a-d]s",
    "a.txt\n!a.txt\na.txt\n!a.txt",
    "docs/api\n!docs",
];

fn paths(root: &Path, rule: IgnoreRule) -> Vec<String> {
    BuildContext::new(root)
        .with_rule(rule)
        .scan()
        .unwrap()
        .paths()
}

/// What the classic builder of the engine at hand copies with `COPY . /`.
fn seen_by_engine(root: &Path, tag: &str) -> Result<Vec<String>, String> {
    let build = Command::new("docker")
        // Looking for a cache, the engine fails when another test removes an image meanwhile.
        .args(["build", "--quiet", "--no-cache", "--tag", tag])
        .arg(root)
        .env("DOCKER_BUILDKIT", "0")
        .output()
        .unwrap();
    if !build.status.success() {
        return Err(String::from_utf8_lossy(&build.stderr).into_owned());
    }
    let id = run("docker", &["create", tag, "none"]);
    let id = String::from_utf8(id.stdout).unwrap().trim().to_owned();
    let export = run("docker", &["export", &id]);
    run("docker", &["rm", &id]);
    run("docker", &["rmi", "--force", tag]);
    let mut archive = tar::Archive::new(&export.stdout[..]);
    let mut paths: Vec<String> = archive
        .entries()
        .unwrap()
        .filter_map(|entry| {
            let path = entry.unwrap().path().unwrap().display().to_string();
            path.strip_prefix("context/")
                .map(str::to_owned)
                .filter(|path| !path.is_empty())
        })
        .collect();
    paths.sort();
    Ok(paths)
}

#[test]
#[ignore = "needs docker"]
fn the_engine_sees_the_same() {
    let dir = tempdir().unwrap();
    let mut differences = Vec::new();
    for (number, text) in IGNORE_FILES.iter().enumerate() {
        let root = dir.path().join(number.to_string());
        tree(&root, TREE);
        fs::write(root.join("Dockerfile"), "FROM scratch\nCOPY . /context/\n").unwrap();
        fs::write(root.join(".dockerignore"), text).unwrap();
        let ours = BuildContext::new(&root)
            .with_rule(IgnoreRule::Classic)
            .scan();
        let theirs = seen_by_engine(&root, &format!("pipeline-docker-context:{number}"));
        match (ours, theirs) {
            (Ok(ours), Ok(theirs)) if ours.paths() == theirs => {}
            // An empty context is refused by COPY, not by the rules.
            (Ok(ours), Err(error)) if ours.is_empty() && error.contains("no source files") => {}
            (Err(_), Err(_)) => {}
            (ours, theirs) => differences.push(format!(
                "{text:?}\n  ours {:?}\n  engine {theirs:?}",
                ours.map(|files| files.paths())
            )),
        }
        fs::remove_dir_all(&root).unwrap();
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// The same with patterns put together at random, from a fixed seed.
#[test]
#[ignore = "needs docker"]
fn the_engine_sees_the_same_at_random() {
    const PARTS: &[&str] = &[
        "*",
        "**",
        "app",
        "docs",
        "src",
        "lib",
        "sub",
        "deep",
        "*.md",
        "*.o",
        "?.txt",
        "[a-m]*",
        "a*",
        "api",
        "node_modules",
        "README.md",
        "main.*",
        ".hidden",
        "[^d]*",
        "**.md",
        "v1",
    ];
    let mut state = 0x1234_5678_9abc_def1_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let dir = tempdir().unwrap();
    let mut compared = 0;
    for number in 0..60 {
        let mut text = String::new();
        for _ in 0..=random(4) {
            if random(3) == 0 && !text.is_empty() {
                text.push('!');
            }
            let parts: Vec<&str> = (0..=random(3))
                .map(|_| PARTS[random(PARTS.len())])
                .collect();
            text.push_str(&parts.join("/"));
            text.push('\n');
        }
        let root = dir.path().join(number.to_string());
        tree(&root, TREE);
        fs::write(root.join("Dockerfile"), "FROM scratch\nCOPY . /context/\n").unwrap();
        fs::write(root.join(".dockerignore"), &text).unwrap();
        let ours = paths(&root, IgnoreRule::Classic);
        match seen_by_engine(&root, &format!("pipeline-docker-random:{number}")) {
            Ok(theirs) => {
                assert_eq!(ours, theirs, "{text:?}");
                compared += 1;
            }
            Err(error) => assert!(
                ours.is_empty() && error.contains("no source files"),
                "{text:?}: {error}"
            ),
        }
    }
    assert!(compared > 40, "{compared}");
}

#[test]
fn buildkit_walks_where_classic_does_not() {
    let dir = tempdir().unwrap();
    tree(dir.path(), TREE);
    fs::write(dir.path().join(".dockerignore"), "*\n!**/*.md\n").unwrap();
    assert_eq!(
        paths(dir.path(), IgnoreRule::Classic),
        ["README.md", "a+b(c).md"]
    );
    let buildkit = paths(dir.path(), IgnoreRule::Buildkit);
    assert!(buildkit.contains(&"docs/api/v1/d.md".to_owned()));
    // Folders above what is kept, and only those.
    assert!(
        buildkit.contains(&"docs/api/".to_owned()) && !buildkit.contains(&"src/lib/".to_owned())
    );
    assert!(!buildkit.contains(&"only/".to_owned()));
}

#[test]
fn a_dockerfile_may_have_its_own_ignore_file() {
    let dir = tempdir().unwrap();
    tree(
        dir.path(),
        &["a", "b", "Dockerfile", "build/prod.Dockerfile"],
    );
    fs::write(dir.path().join(".dockerignore"), "a\n").unwrap();
    fs::write(
        dir.path().join("build/prod.Dockerfile.dockerignore"),
        "b\nbuild\n",
    )
    .unwrap();
    let context = BuildContext::new(dir.path()).with_dockerfile("build/prod.Dockerfile");
    assert_eq!(
        context.scan().unwrap().paths(),
        [".dockerignore", "Dockerfile", "a"]
    );
    let classic = context
        .with_rule(IgnoreRule::Classic)
        .scan()
        .unwrap()
        .paths();
    assert!(classic.contains(&"b".to_owned()) && !classic.contains(&"a".to_owned()));
}

#[test]
fn the_tar_is_complete_and_repeatable() {
    let dir = tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    let mut reversed = TREE.to_vec();
    reversed.reverse();
    for (root, entries) in [(&one, TREE.to_vec()), (&two, reversed)] {
        tree(root, &entries);
        fs::write(
            root.join(".dockerignore"),
            "docs\nDockerfile\n.dockerignore\n",
        )
        .unwrap();
    }
    let tar = |root: &Path| {
        BuildContext::new(root)
            .scan()
            .unwrap()
            .write_tar(Vec::new())
            .unwrap()
    };
    assert!(tar(&one) == tar(&two));
    let bytes = tar(&one);
    let mut archive = tar::Archive::new(&bytes[..]);
    let names: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    // An engine needs them, also where the build does not see them.
    assert!(
        names.contains(&"Dockerfile".to_owned()) && names.contains(&".dockerignore".to_owned())
    );
    assert!(!paths(&one, IgnoreRule::Buildkit).contains(&"Dockerfile".to_owned()));
    assert!(!names.iter().any(|name| name.starts_with("docs")));
}

#[test]
#[ignore = "needs docker"]
fn the_engine_builds_from_the_tar() {
    let dir = tempdir().unwrap();
    tree(dir.path(), TREE);
    fs::write(
        dir.path().join("Dockerfile"),
        "FROM scratch\nCOPY app /app\n",
    )
    .unwrap();
    fs::write(dir.path().join(".dockerignore"), "Dockerfile\n**/*.pyc\n").unwrap();
    let file = dir.path().with_extension("tar");
    BuildContext::new(dir.path())
        .scan()
        .unwrap()
        .write_tar(fs::File::create(&file).unwrap())
        .unwrap();
    let build = Command::new("docker")
        .args([
            "build",
            "--quiet",
            "--no-cache",
            "--tag",
            "pipeline-docker-context:tar",
            "-",
        ])
        .env("DOCKER_BUILDKIT", "0")
        .stdin(fs::File::open(&file).unwrap())
        .output()
        .unwrap();
    fs::remove_file(&file).unwrap();
    assert!(
        build.status.success(),
        "{}",
        String::from_utf8_lossy(&build.stderr)
    );
    run("docker", &["rmi", "--force", "pipeline-docker-context:tar"]);
}

#[test]
fn files_that_vanish_or_change_are_named() {
    let dir = tempdir().unwrap();
    tree(dir.path(), &["a", "b"]);
    let files = BuildContext::new(dir.path()).scan().unwrap();
    fs::write(dir.path().join("b"), "another length").unwrap();
    let changed = |error| matches!(error, ContextError::Changed { path } if path.ends_with("b"));
    assert!(changed(files.write_tar(Vec::new()).unwrap_err()));
    fs::remove_file(dir.path().join("b")).unwrap();
    assert!(changed(files.write_tar(Vec::new()).unwrap_err()));
    fs::write(dir.path().join(".dockerignore"), "[").unwrap();
    assert!(matches!(
        BuildContext::new(dir.path()).scan(),
        Err(ContextError::Ignore(_))
    ));
    let missing = BuildContext::new(dir.path())
        .with_ignore_file(dir.path().join("none"))
        .scan();
    assert!(matches!(missing, Err(ContextError::Ignore(_))));
}

#[test]
fn big_files_are_named() {
    let dir = tempdir().unwrap();
    tree(dir.path(), &["a"]);
    fs::write(dir.path().join("big"), vec![0; 5000]).unwrap();
    let files = BuildContext::new(dir.path()).scan().unwrap();
    assert_eq!(files.large_files(1000), [("big".to_owned(), 5000)]);
    assert!(files.size() > 5000 && files.len() == 2);
}

/// Runs something on a thread without the superuser's rights, for which no folder is closed.
fn as_anybody<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
    let nothing = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            set_capabilities(None, nothing).unwrap();
            act()
        });
        thread.join().unwrap()
    })
}

#[test]
fn ignored_folders_are_not_entered() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempdir().unwrap();
    tree(dir.path(), &["secret/x", "a"]);
    let secret = dir.path().join("secret");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).unwrap();
    let scan = || BuildContext::new(dir.path()).scan();
    // Whoever enters it fails.
    let entered = as_anybody(scan);
    fs::write(dir.path().join(".dockerignore"), "secret\n!a\n").unwrap();
    let found = as_anybody(|| paths(dir.path(), IgnoreRule::Buildkit));
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o755)).unwrap();
    let error = pipeline_core::error_chain(&entered.unwrap_err());
    assert!(error.contains("secret"), "{error}");
    assert_eq!(found, [".dockerignore", "a"]);
}
