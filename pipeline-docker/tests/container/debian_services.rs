//! A real PostgreSQL and a real browser as services. Their images are assembled from the Debian
//! packages of this machine: a program, the libraries it needs, and busybox.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pipeline_core::ExitStatus;
use pipeline_docker::container::ContainerSpec;
use pipeline_docker::service::{HttpReadiness, LogReadiness, Readiness, ServiceSpec};

use crate::fixture::{self, Ground, finish, run, sh};

/// How long a service may take on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(300);

/// Copies a file or folder to the same path below `root`, links as what they lead to.
fn take(root: &Path, path: &str) {
    let target = root.join(path.trim_start_matches('/'));
    std::fs::create_dir_all(target.parent().unwrap()).unwrap();
    run("cp", &["-rLT", path, target.to_str().unwrap()]);
}

/// Copies a program and what the dynamic loader finds for it.
fn take_program(root: &Path, path: &str, libraries: &mut BTreeSet<String>) {
    if !root.join(path.trim_start_matches('/')).exists() {
        take(root, path);
    }
    for line in run("ldd", &[path]).lines() {
        let found = line.split_whitespace().find(|word| word.starts_with('/'));
        if let Some(library) = found
            && libraries.insert(library.to_owned())
        {
            take(root, library);
        }
    }
}

/// busybox, name resolution and a user database, to which programs are added.
fn base() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    fixture::busybox_into(root.path());
    std::fs::write(root.path().join("etc/nsswitch.conf"), "hosts: files dns\n").unwrap();
    root
}

/// The folder of the newest PostgreSQL, such as `/usr/lib/postgresql/15`.
fn postgresql() -> PathBuf {
    let found = std::fs::read_dir("/usr/lib/postgresql").expect("install postgresql");
    found.map(|entry| entry.unwrap().path()).max().unwrap()
}

fn postgres_image() -> &'static str {
    const TAG: &str = "pipeline-tests/postgres:1";
    if !fixture::exists(TAG) {
        let root = base();
        let folder = postgresql();
        let version = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let mut libraries = BTreeSet::new();
        for program in ["postgres", "initdb", "psql"] {
            let path = folder.join("bin").join(program);
            take_program(root.path(), path.to_str().unwrap(), &mut libraries);
        }
        for entry in std::fs::read_dir(folder.join("lib")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            // Compiling queries at run time would bring a compiler.
            if name.ends_with(".so") && !name.starts_with("llvmjit") {
                take_program(root.path(), path.to_str().unwrap(), &mut libraries);
            }
        }
        take(root.path(), &format!("/usr/share/postgresql/{version}"));
        take(root.path(), "/usr/share/zoneinfo");
        let path = format!("ENV PATH=/bin:{}/bin", folder.display());
        fixture::import(root.path(), TAG, &[&path]);
    }
    TAG
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Docker engine and Debian packages: busybox-static, postgresql"]
async fn a_job_talks_to_postgresql() {
    let ground = Ground::new("postgres");
    let image = postgres_image();
    let start = "initdb -D /data/db -U postgres --auth=trust --no-locale -E UTF8 > /dev/null && \
                 echo 'host all all all trust' >> /data/db/pg_hba.conf && \
                 exec postgres -D /data/db -c listen_addresses='*' -c unix_socket_directories=/tmp";
    let database = ServiceSpec::new("db", image)
        .with_alias("postgres")
        .with_command(["sh", "-c", start])
        .with_user("1000")
        .with_env("TZ", "UTC")
        .with_tmpfs("/data", "mode=1777")
        .with_shm_size(128 << 20)
        .with_timeout(PATIENCE)
        .with_ready(Readiness::Log(LogReadiness::text(
            "database system is ready to accept connections",
        )))
        .with_ready(Readiness::tcp(5432))
        .with_ready(Readiness::exec([
            "psql",
            "-h",
            "127.0.0.1",
            "-U",
            "postgres",
            "-c",
            "select 1",
        ]));
    let environment = ground
        .provision(ContainerSpec::new(image).with_service(database))
        .await;
    let query = "create table lettings (name text); insert into lettings values ('harbour'); \
                 select name || ' ' || count(*) from lettings group by name";
    let asked = sh(&format!(
        "psql -h db -U postgres -At -c \"{query}\" | tail -n 1"
    ));
    let seen = finish(&*environment, asked).await;
    assert_eq!(
        (seen.status, seen.stdout.as_str()),
        (ExitStatus::Exited(0), "harbour 1\n"),
        "{seen:?}"
    );
    environment.shutdown().await.unwrap();
    assert_eq!(ground.left(), [""; 0]);
}

fn browser_image() -> &'static str {
    const TAG: &str = "pipeline-tests/chromium:1";
    if !fixture::exists(TAG) {
        let root = base();
        let mut libraries = BTreeSet::new();
        take(root.path(), "/usr/lib/chromium");
        for program in ["/usr/lib/chromium/chromium", "/usr/bin/chromedriver"] {
            take_program(root.path(), program, &mut libraries);
        }
        // Loaded at run time, so the loader does not name them.
        let folder = libraries
            .iter()
            .find(|path| path.contains("libnss3"))
            .and_then(|path| Path::new(path).parent().map(Path::to_owned))
            .expect("chromium uses libnss3");
        for name in [
            "libsoftokn3.so",
            "libfreebl3.so",
            "libfreeblpriv3.so",
            "libnssckbi.so",
        ] {
            for path in [folder.join(name), folder.join("nss").join(name)] {
                if path.exists() {
                    take_program(root.path(), path.to_str().unwrap(), &mut libraries);
                }
            }
        }
        for path in ["/etc/fonts", "/usr/share/fontconfig", "/usr/share/fonts"] {
            if Path::new(path).exists() {
                take(root.path(), path);
            }
        }
        fixture::import(root.path(), TAG, &["ENV PATH=/bin:/usr/bin HOME=/root"]);
    }
    TAG
}

/// The web driver protocol, spoken with wget: opens a page of another service, prints its title.
/// The limits are for a machine that has other things to do: there, the first start of the browser
/// alone can take a minute, which is also how long the driver waits for it unless told otherwise.
/// wget's own limit, `-T`, is none to use: with it Debian's static busybox dies of a null pointer.
const VISIT: &str = r#"
ask() { timeout 300 wget -qO- --header 'Host: localhost' --header 'Content-Type: application/json' "$@"; }
driver=http://browser:4444
options='{"args":["--headless=new","--no-sandbox","--disable-gpu","--no-first-run","--no-proxy-server","--disable-background-networking"],"binary":"/usr/lib/chromium/chromium","browserStartupTimeout":280000}'
made=$(ask --post-data '{"capabilities":{"alwaysMatch":{"goog:chromeOptions":'"$options"'}}}' $driver/session) || exit 1
session=$(echo "$made" | sed 's/.*"sessionId":"\([^"]*\)".*/\1/')
ask --post-data '{"url":"http://site/"}' $driver/session/$session/url > /dev/null || exit 1
ask $driver/session/$session/title
"#;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Docker engine and Debian packages: busybox-static, chromium, chromium-driver"]
async fn a_job_drives_a_browser_that_opens_a_page_of_another_service() {
    let ground = Ground::new("browser");
    let driver = "exec chromedriver --port=4444 --allowed-ips= --allowed-origins=*";
    let browser = ServiceSpec::new("browser", browser_image())
        .with_command(["sh", "-c", driver])
        .with_shm_size(512 << 20)
        .with_timeout(PATIENCE)
        .with_ready(Readiness::Http(
            HttpReadiness::new(4444, "/status").with_json("/value/ready", true),
        ));
    let page = "mkdir -p /www && echo '<!doctype html><title>Harbour lettings</title>' \
                > /www/index.html && exec httpd -f -p 80 -h /www";
    let site = ServiceSpec::new("site", fixture::busybox())
        .with_command(["sh", "-c", page])
        .with_timeout(PATIENCE)
        .with_ready(Readiness::Http(HttpReadiness::new(80, "/")));
    let spec = ContainerSpec::new(fixture::busybox())
        .with_service(browser)
        .with_service(site);
    let environment = ground.provision(spec).await;
    let seen = finish(&*environment, sh(VISIT)).await;
    assert_eq!(seen.status, ExitStatus::Exited(0), "{seen:?}");
    let title: serde_json::Value = serde_json::from_str(&seen.stdout).unwrap();
    assert_eq!(title["value"], "Harbour lettings");
    environment.shutdown().await.unwrap();
    assert_eq!(ground.left(), [""; 0]);
}
