//! The real package managers against an index on the loopback: cold installation, save, everything
//! wiped, restore, installation without a download.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use pipeline_cache::archive::{DeclaredPaths, PackOptions, pack};
use pipeline_cache::cache::Cache;
use pipeline_cache::steps::{CachePreset, ToolVersion};
use pipeline_cache::store::{Codec, FilesystemStore};
use pipeline_core::{Input, Job, Outcome, Pipeline, sh};
use sha2::{Digest as _, Sha256, Sha512};

use crate::index_server::IndexServer;
use crate::steps::{Recorder, run};

/// Folders of one test.
struct Ground {
    dir: tempfile::TempDir,
    index: IndexServer,
}

/// A tool, what it installs with, and how that is seen.
struct Case<'a> {
    files: Vec<(&'a str, String)>,
    /// Removes what was installed, and installs.
    install: String,
    env: Vec<(&'a str, String)>,
    preset: fn(PathBuf, Input<String>, Input<String>) -> CachePreset,
    tools: [ToolVersion; 2],
    /// How names of packages end.
    ending: &'a str,
}

impl Ground {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            index: IndexServer::start(),
        }
    }

    fn home(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn build(&self, case: &Case<'_>, home: &str) -> Recorder {
        let cache = Cache::new(FilesystemStore::new(self.dir.path().join("cache")));
        let home = self.home(home);
        fs::create_dir_all(&home).unwrap();
        let mut job = Job::new("test").env("HOME", home.display().to_string());
        for (name, value) in &case.env {
            job = job.env(*name, value.clone());
        }
        let [first, second] = case.tools.clone();
        let first = job.step("first tool", first);
        let second = job.step("second tool", second);
        let preset = (case.preset)(home, first.into(), second.into());
        job.step("restore", preset.restore(&cache).unwrap());
        job.step("install", sh(case.install.clone()));
        job.step("save", preset.save(&cache).unwrap());
        let pipeline = Pipeline::builder("p").job(job).build().unwrap();
        let (report, events) = run(&self.dir.path().join("data"), &pipeline).await;
        assert_eq!(
            report.outcome,
            Outcome::Succeeded,
            "{report:#?} {:#?}",
            events.output()
        );
        events
    }

    async fn prove(&self, case: &Case<'_>) {
        for (path, content) in &case.files {
            let path = self.dir.path().join("data/work/test").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{content}\n")).unwrap();
        }
        let events = self.build(case, "cold").await;
        assert!(events.fact("cache.missed").is_some());
        let saved = events.fact("cache.saved").unwrap();
        assert!(self.index.downloads(case.ending) > 0);

        // Another home, as on another machine.
        fs::remove_dir_all(self.home("cold")).unwrap();
        let events = self.build(case, "warm").await;
        let restored = events.fact("cache.restored").unwrap();
        assert_eq!(restored["exact"], true);
        assert_eq!(restored["key"], saved["key"]);
        assert_eq!(self.index.downloads(case.ending), 0);

        // Without the cache it would have been a download.
        fs::remove_dir_all(self.home("warm")).unwrap();
        fs::remove_dir_all(self.dir.path().join("cache")).unwrap();
        self.build(case, "again").await;
        assert!(self.index.downloads(case.ending) > 0);
    }
}

/// A `tar.gz` of one folder.
fn tarball(folder: &Path, name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let options = PackOptions::default()
        .with_codec(Codec::Gzip)
        .with_working_folder(folder);
    pack(&DeclaredPaths::new([name]).unwrap(), &options, &mut bytes).unwrap();
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A wheel with one module, and its page in the index.
fn offer_wheel(ground: &Ground) -> String {
    const MAKE: &str = r#"
import sys, zipfile
with zipfile.ZipFile(sys.argv[1], "w") as wheel:
    info = "demo_dep-1.0.dist-info/"
    wheel.writestr("demo_dep.py", "answer = 42\n")
    wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: demo-dep\nVersion: 1.0\n")
    wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(info + "RECORD", "demo_dep.py,,\n" + "".join(info + n + ",,\n" for n in ("METADATA", "WHEEL", "RECORD")))
"#;
    let name = "demo_dep-1.0-py3-none-any.whl";
    let path = ground.dir.path().join(name);
    let made = Command::new("python3")
        .args(["-c", MAKE])
        .arg(&path)
        .status();
    assert!(made.unwrap().success());
    let bytes = fs::read(path).unwrap();
    let digest = hex(&Sha256::digest(&bytes));
    let page = format!(
        "<!DOCTYPE html><html><body><a href=\"/files/{name}#sha256={digest}\">{name}</a></body></html>"
    );
    ground.index.offer("/simple/demo-dep/", "text/html", page);
    ground
        .index
        .offer(&format!("/files/{name}"), "application/octet-stream", bytes);
    digest
}

#[tokio::test]
#[ignore = "needs python3 with venv"]
async fn pip_installs_from_the_cache() {
    let ground = Ground::new();
    offer_wheel(&ground);
    let case = Case {
        files: vec![("requirements.txt", "demo-dep==1.0".to_owned())],
        install: "rm -rf venv; python3 -m venv venv; venv/bin/python -m pip install -r requirements.txt; \
                  venv/bin/python -c 'import demo_dep'"
            .to_owned(),
        env: vec![
            ("PIP_CONFIG_FILE", "/dev/null".to_owned()),
            ("PIP_INDEX_URL", format!("{}/simple", ground.index.url())),
            ("PIP_TRUSTED_HOST", "127.0.0.1".to_owned()),
            ("PIP_DISABLE_PIP_VERSION_CHECK", "1".to_owned()),
        ],
        preset: CachePreset::pip,
        tools: [
            ToolVersion::of("python3"),
            ToolVersion::of("python3").with_args(["-m", "pip", "--version"]),
        ],
        ending: ".whl",
    };
    ground.prove(&case).await;
}

/// A tool of the package index in an environment of its own.
fn python_tool(ground: &Ground, package: &str) -> PathBuf {
    let folder = ground.dir.path().join("tools");
    let run = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    run(Command::new("python3").args(["-m", "venv"]).arg(&folder));
    run(Command::new(folder.join("bin/python")).args(["-m", "pip", "install", "--quiet", package]));
    folder.join("bin")
}

#[tokio::test]
#[ignore = "needs the package index"]
async fn uv_installs_from_the_cache() {
    let ground = Ground::new();
    let digest = offer_wheel(&ground);
    let tools = python_tool(&ground, "uv");
    let uv = tools.join("uv");
    let url = ground.index.url();
    let lock = format!(
        "version = 1\nrequires-python = \">=3.8\"\n\n[[package]]\nname = \"app\"\nversion = \"0.1\"\n\
         source = {{ virtual = \".\" }}\ndependencies = [{{ name = \"demo-dep\" }}]\n\n\
         [package.metadata]\nrequires-dist = [{{ name = \"demo-dep\", specifier = \"==1.0\" }}]\n\n\
         [[package]]\nname = \"demo-dep\"\nversion = \"1.0\"\nsource = {{ registry = \"{url}/simple\" }}\n\
         wheels = [{{ url = \"{url}/files/demo_dep-1.0-py3-none-any.whl\", hash = \"sha256:{digest}\" }}]\n"
    );
    let project = "[project]\nname = \"app\"\nversion = \"0.1\"\nrequires-python = \">=3.8\"\n\
                   dependencies = [\"demo-dep==1.0\"]\n";
    let case = Case {
        files: vec![("uv.lock", lock), ("pyproject.toml", project.to_owned())],
        install: format!(
            "rm -rf .venv; {} sync --frozen --no-python-downloads; .venv/bin/python -c 'import demo_dep'",
            uv.display()
        ),
        env: vec![
            ("UV_DEFAULT_INDEX", format!("{url}/simple")),
            ("UV_NO_CONFIG", "1".to_owned()),
        ],
        preset: CachePreset::uv,
        tools: [ToolVersion::of("python3"), ToolVersion::of(uv)],
        ending: ".whl",
    };
    ground.prove(&case).await;
}

#[tokio::test]
#[ignore = "needs the package index"]
async fn poetry_installs_from_the_cache() {
    let ground = Ground::new();
    offer_wheel(&ground);
    let tools = python_tool(&ground, "poetry");
    let poetry = tools.join("poetry");
    let url = ground.index.url();
    let project = format!(
        "[tool.poetry]\nname = \"app\"\nversion = \"0.1\"\ndescription = \"\"\nauthors = []\n\
         package-mode = false\n\n[tool.poetry.dependencies]\npython = \">=3.9\"\ndemo-dep = \"1.0\"\n\n\
         [[tool.poetry.source]]\nname = \"local\"\nurl = \"{url}/simple\"\npriority = \"primary\"\n"
    );
    let mut case = Case {
        files: vec![("pyproject.toml", project)],
        install: format!(
            "rm -rf .venv; {0} install --no-interaction; .venv/bin/python -c 'import demo_dep'",
            poetry.display()
        ),
        env: vec![
            ("POETRY_VIRTUALENVS_IN_PROJECT", "true".to_owned()),
            ("POETRY_KEYRING_ENABLED", "false".to_owned()),
        ],
        preset: CachePreset::poetry,
        tools: [ToolVersion::of("python3"), ToolVersion::of(poetry.clone())],
        ending: ".whl",
    };
    case.files.push((
        "poetry.lock",
        lock_with(&ground, &case, &poetry, "poetry.lock"),
    ));
    ground.prove(&case).await;
}

#[tokio::test]
#[ignore = "needs the package index"]
async fn pipenv_installs_from_the_cache() {
    let ground = Ground::new();
    offer_wheel(&ground);
    let tools = python_tool(&ground, "pipenv");
    let pipenv = tools.join("pipenv");
    let url = ground.index.url();
    let pipfile = format!(
        "[[source]]\nurl = \"{url}/simple\"\nverify_ssl = false\nname = \"local\"\n\n\
         [packages]\ndemo-dep = \"==1.0\"\n"
    );
    let mut case = Case {
        files: vec![("Pipfile", pipfile)],
        install: format!(
            "rm -rf .venv; {0} sync; .venv/bin/python -c 'import demo_dep'",
            pipenv.display()
        ),
        env: vec![
            ("PIPENV_VENV_IN_PROJECT", "1".to_owned()),
            ("PIPENV_NOSPIN", "1".to_owned()),
            ("PIP_CONFIG_FILE", "/dev/null".to_owned()),
            ("PIP_TRUSTED_HOST", "127.0.0.1".to_owned()),
        ],
        preset: CachePreset::pipenv,
        tools: [ToolVersion::of("python3"), ToolVersion::of(pipenv.clone())],
        ending: ".whl",
    };
    case.files.push((
        "Pipfile.lock",
        lock_with(&ground, &case, &pipenv, "Pipfile.lock"),
    ));
    ground.prove(&case).await;
}

/// Lets the tool write its lock file, with a home that is thrown away.
fn lock_with(ground: &Ground, case: &Case<'_>, tool: &Path, name: &str) -> String {
    let folder = ground.dir.path().join("locking");
    fs::create_dir_all(&folder).unwrap();
    for (path, content) in &case.files {
        fs::write(folder.join(path), content).unwrap();
    }
    let output = Command::new(tool)
        .arg("lock")
        .current_dir(&folder)
        .env("HOME", folder.join("home"))
        .envs(case.env.iter().map(|(name, value)| (*name, value.as_str())))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    ground.index.downloads("");
    fs::read_to_string(folder.join(name)).unwrap()
}

#[tokio::test]
async fn cargo_fetches_from_the_cache() {
    let ground = Ground::new();
    let work = ground.dir.path().join("crate");
    let manifest = "[package]\nname = \"demo-dep\"\nversion = \"1.0.0\"\nedition = \"2021\"\n";
    fs::create_dir_all(work.join("demo-dep-1.0.0/src")).unwrap();
    fs::write(work.join("demo-dep-1.0.0/Cargo.toml"), manifest).unwrap();
    fs::write(
        work.join("demo-dep-1.0.0/src/lib.rs"),
        "pub fn answer() -> u8 { 42 }\n",
    )
    .unwrap();
    let package = tarball(&work, "demo-dep-1.0.0");
    let digest = hex(&Sha256::digest(&package));
    let url = ground.index.url();
    let config = format!("{{\"dl\":\"{url}/dl/{{crate}}-{{version}}.crate\"}}");
    ground
        .index
        .offer("/index/config.json", "application/json", config);
    let entry = format!(
        "{{\"name\":\"demo-dep\",\"vers\":\"1.0.0\",\"deps\":[],\"cksum\":\"{digest}\",\"features\":{{}},\"yanked\":false}}\n"
    );
    ground
        .index
        .offer("/index/de/mo/demo-dep", "text/plain", entry);
    ground
        .index
        .offer("/dl/demo-dep-1.0.0.crate", "application/gzip", package);

    let source = format!("registry+sparse+{url}/index/");
    let source = source.trim_start_matches("registry+");
    let lock = format!(
        "version = 3\n\n[[package]]\nname = \"app\"\nversion = \"0.1.0\"\ndependencies = [\n \"demo-dep\",\n]\n\n\
         [[package]]\nname = \"demo-dep\"\nversion = \"1.0.0\"\nsource = \"{source}\"\nchecksum = \"{digest}\"\n"
    );
    // The one that runs this test: it needs no other set-up in a home of its own.
    let cargo = PathBuf::from(std::env::var("CARGO").unwrap());
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", cargo.parent().unwrap().display());
    let version = || ToolVersion::of(std::env::var("CARGO").unwrap());
    let case = Case {
        files: vec![
            ("Cargo.lock", lock),
            (
                "Cargo.toml",
                "[package]\nname = \"app\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\n[workspace]\n\n\
                 [dependencies]\ndemo-dep = { version = \"1\", registry = \"local\" }"
                    .to_owned(),
            ),
            ("src/lib.rs", "pub use demo_dep::answer;".to_owned()),
            (
                ".cargo/config.toml",
                format!("[registries.local]\nindex = \"sparse+{url}/index/\""),
            ),
        ],
        install: format!("{0} fetch --locked; {0} metadata --locked --offline --format-version 1 > /dev/null", cargo.display()),
        env: vec![("PATH", path)],
        preset: |home, cargo, _| CachePreset::cargo(home, cargo),
        tools: [version(), version()],
        ending: ".crate",
    };
    ground.prove(&case).await;
}

#[tokio::test]
#[ignore = "needs npm"]
async fn npm_installs_from_the_cache() {
    let ground = Ground::new();
    let work = ground.dir.path().join("package-work");
    fs::create_dir_all(work.join("package")).unwrap();
    let manifest = r#"{"name":"demo-dep","version":"1.0.0","main":"index.js"}"#;
    fs::write(work.join("package/package.json"), manifest).unwrap();
    fs::write(work.join("package/index.js"), "module.exports = 42;\n").unwrap();
    let package = tarball(&work, "package");
    let digest = base64::engine::general_purpose::STANDARD.encode(Sha512::digest(&package));
    let url = ground.index.url();
    let resolved = format!("{url}/demo-dep/-/demo-dep-1.0.0.tgz");
    let document = serde_json::json!({
        "name": "demo-dep",
        "dist-tags": { "latest": "1.0.0" },
        "versions": { "1.0.0": {
            "name": "demo-dep",
            "version": "1.0.0",
            "dist": { "tarball": resolved, "integrity": format!("sha512-{digest}") },
        } },
    });
    ground
        .index
        .offer("/demo-dep", "application/json", document.to_string());
    ground.index.offer(
        "/demo-dep/-/demo-dep-1.0.0.tgz",
        "application/octet-stream",
        package,
    );
    let lock = serde_json::json!({
        "name": "app",
        "version": "1.0.0",
        "lockfileVersion": 3,
        "requires": true,
        "packages": {
            "": { "name": "app", "version": "1.0.0", "dependencies": { "demo-dep": "1.0.0" } },
            "node_modules/demo-dep": {
                "version": "1.0.0",
                "resolved": resolved,
                "integrity": format!("sha512-{digest}"),
            },
        },
    });
    let case = Case {
        files: vec![
            ("package-lock.json", format!("{lock:#}")),
            (
                "package.json",
                r#"{"name":"app","version":"1.0.0","dependencies":{"demo-dep":"1.0.0"}}"#
                    .to_owned(),
            ),
        ],
        install:
            "npm ci --no-audit --no-fund --no-update-notifier; node -e 'require(\"demo-dep\")'"
                .to_owned(),
        env: vec![("npm_config_registry", url)],
        preset: CachePreset::npm,
        tools: [ToolVersion::of("node"), ToolVersion::of("npm")],
        ending: ".tgz",
    };
    ground.prove(&case).await;
}
