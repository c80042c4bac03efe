//! Images made without an engine run in one.

use std::fs::{self, File};
use std::path::Path;

use pipeline_docker::builder::{BaseImage, BuiltImage, ConfigSpec, ImageSpec, LayerSpec, Owner};
use pipeline_docker::debian::DebianBase;
use pipeline_docker::oci::write_docker_archive;
use tempfile::tempdir;

use crate::support::{build, open, run};

/// An image in the engine, removed at the end together with its containers.
struct Loaded(String);

impl Loaded {
    fn new(built: &BuiltImage, layout: &Path, name: &str) -> Self {
        let archive = layout.with_extension("tar");
        let image = open(built, layout);
        let store = pipeline_docker::oci::OciLayout::open(layout).unwrap();
        let file = File::create(&archive).unwrap();
        write_docker_archive(&store, &image, &[name.to_owned()], file).unwrap();
        run("docker", &["load", "--input", archive.to_str().unwrap()]);
        Self(name.to_owned())
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        for id in text(&[
            "ps",
            "--all",
            "--quiet",
            "--filter",
            &format!("ancestor={}", self.0),
        ])
        .lines()
        {
            text(&["rm", "--force", id]);
        }
        text(&["rmi", "--force", &self.0]);
    }
}

/// The output of docker, whether it succeeds or not.
fn text(arguments: &[&str]) -> String {
    let output = std::process::Command::new("docker")
        .args(arguments)
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

const SITE: &str = r#"
import os, sqlite3, ssl, zoneinfo
from django.conf import settings
from django.http import HttpResponse
from django.urls import path
from django.core.wsgi import get_wsgi_application

settings.configure(SECRET_KEY="for-a-test", ALLOWED_HOSTS=["localhost"], ROOT_URLCONF=__name__, USE_TZ=True, TIME_ZONE="Europe/Paris")

def index(request):
    assert ssl.create_default_context().get_ca_certs()
    sqlite3.connect(":memory:").execute("select 1")
    zoneinfo.ZoneInfo("Europe/Paris")
    return HttpResponse(f"served by {os.getuid()} in {os.getcwd()}")

urlpatterns = [path("", index)]
application = get_wsgi_application()
"#;

const ASK: &str = r#"
import time, urllib.request, urllib.error
for _ in range(600):
    try:
        print(urllib.request.urlopen("http://localhost:8000/").read().decode())
        break
    except urllib.error.HTTPError as error:
        print(error.code, error.read().decode())
        break
    except OSError:
        time.sleep(0.1)
"#;

#[tokio::test]
#[ignore = "needs docker, apt and pip"]
async fn a_django_site_runs() {
    let dir = tempdir().unwrap();
    let base = DebianBase::python(dir.path().join("cache"))
        .prepare()
        .await
        .unwrap();
    let python = base.python.unwrap().path;
    let deps = dir.path().join("deps");
    let app = dir.path().join("app");
    run(
        "python3",
        &[
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-compile",
            "--target",
            deps.to_str().unwrap(),
            "django",
            "gunicorn",
        ],
    );
    fs::create_dir(&app).unwrap();
    fs::write(app.join("site_wsgi.py"), SITE).unwrap();
    let spec = ImageSpec::new(BaseImage::Rootfs(base.path))
        .with_layer(LayerSpec::copy(&deps, "/opt/site-packages"))
        .with_layer(LayerSpec::copy(&app, "/srv/app").with_owner(Owner {
            uid: 1000,
            gid: 1000,
        }))
        .with_config(
            ConfigSpec::default()
                .with_env("PYTHONPATH", "/opt/site-packages")
                .with_entrypoint([python.as_str(), "-m", "gunicorn"])
                .with_cmd(["--bind", "127.0.0.1:8000", "site_wsgi:application"])
                .with_user("1000:1000")
                .with_workdir("/srv/app")
                .with_port("8000"),
        )
        .with_created(1_700_000_000);
    let out = dir.path().join("out");
    let built = build(spec, &out);
    let name = format!("pipeline-docker-test:{}", built.manifest.digest.short());
    let loaded = Loaded::new(&built, &out, &name);
    // The engine shows the configuration's digest as the image's id.
    assert_eq!(
        text(&["inspect", "--format", "{{.Id}}", &name]),
        built.config_digest.to_string()
    );
    let id = run(
        "docker",
        &[
            "run",
            "--detach",
            "--network",
            "none",
            "--read-only",
            "--tmpfs",
            "/tmp",
            &name,
        ],
    );
    let id = String::from_utf8(id.stdout).unwrap();
    let answer = text(&["exec", id.trim(), &python, "-c", ASK]);
    let logs = std::process::Command::new("docker")
        .args(["logs", id.trim()])
        .output()
        .unwrap();
    assert_eq!(
        answer,
        "served by 1000 in /srv/app",
        "{}",
        String::from_utf8_lossy(&logs.stderr)
    );
    // The base's traps: sticky /tmp, links of the merged /usr, a shell.
    let sh = run(
        "docker",
        &[
            "exec",
            id.trim(),
            "sh",
            "-c",
            "test -L /bin && test -d /tmp && echo well",
        ],
    );
    assert!(String::from_utf8_lossy(&sh.stdout).contains("well"));
    drop(loaded);
}

#[test]
#[ignore = "needs docker"]
fn what_the_engine_saves_is_a_base() {
    let dir = tempdir().unwrap();
    let context = dir.path().join("context");
    fs::create_dir(&context).unwrap();
    fs::write(
        context.join("Dockerfile"),
        "FROM scratch\nCOPY a /a\nCOPY a /b/c\nENV X=1\n",
    )
    .unwrap();
    fs::write(context.join("a"), "content\n").unwrap();
    let name = "pipeline-docker-test:saved";
    let build = std::process::Command::new("docker")
        .args(["build", "--quiet", "--no-cache", "--tag", name])
        .arg(&context)
        .env("DOCKER_BUILDKIT", "0")
        .output()
        .unwrap();
    assert!(
        build.status.success(),
        "{}",
        String::from_utf8_lossy(&build.stderr)
    );
    let loaded = Loaded(name.to_owned());
    let file = dir.path().join("saved.tar");
    run(
        "docker",
        &["save", "--output", file.to_str().unwrap(), name],
    );
    let diff_ids = text(&["inspect", "--format", "{{json .RootFS.Layers}}", name]);
    let out = dir.path().join("out");
    let spec =
        ImageSpec::new(BaseImage::from_path(&file)).with_layer(LayerSpec::copy(&context, "/b"));
    let built = crate::support::build(spec, &out);
    let ours: Vec<String> = built
        .layers
        .iter()
        .take(2)
        .map(|layer| layer.diff_id.to_string())
        .collect();
    assert_eq!(serde_json::to_string(&ours).unwrap(), diff_ids);
    assert_eq!(open(&built, &out).config.config.env.last().unwrap(), "X=1");
    drop(loaded);
}
