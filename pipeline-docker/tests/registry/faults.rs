//! A real registry behind a proxy that misbehaves.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use pipeline_docker::oci::OciLayout;
use pipeline_docker::registry::{
    BlobOutcome, PullOptions, PushOptions, Registry, RegistryError, RegistryErrorKind,
    TransferEvent, TransferObserver,
};
use tempfile::TempDir;

use crate::fixture::{client, image, layers, options, reference};
use crate::proxy::{Fault, Proxy};
use crate::server::Server;

struct Scene {
    server: Server,
    proxy: Proxy,
    folder: TempDir,
    layout: OciLayout,
    target: pipeline_docker::ImageReference,
    digest: pipeline_docker::oci::Digest,
}

impl Scene {
    async fn new(layers: &[(&str, usize)]) -> Self {
        let server = Server::start();
        let proxy = Proxy::start(&server.address).await;
        let folder = tempfile::tempdir().unwrap();
        let (layout, pushed) = image(&folder.path().join("out"), layers);
        let target = reference(format!("{}/team/app:1", proxy.address));
        Self {
            server,
            proxy,
            folder,
            layout,
            target,
            digest: pushed.digest,
        }
    }

    async fn push(&self, registry: &Registry) -> pipeline_docker::registry::PushReport {
        let report = registry
            .push(&self.layout, &self.target, &PushOptions::default())
            .await;
        let report = report.unwrap_or_else(|error| panic!("{error} {error:?}"));
        assert_eq!(report.digest, self.digest);
        assert_eq!(self.proxy.unmet(), 0, "a fault was never met");
        report
    }

    async fn push_error(&self, registry: &Registry) -> RegistryError {
        let error = registry
            .push(&self.layout, &self.target, &PushOptions::default())
            .await;
        let error = error.unwrap_err();
        assert_eq!(self.proxy.unmet(), 0, "a fault was never met");
        // Nothing half-tagged.
        assert_eq!(client().resolve(&self.target).await.unwrap(), None);
        error
    }

    fn back(&self) -> OciLayout {
        OciLayout::create(self.folder.path().join("in")).unwrap()
    }
}

fn status(status: u16) -> Fault {
    Fault::Answer(status, Vec::new(), String::new())
}

#[derive(Debug, Default)]
struct Delays(Mutex<Vec<Duration>>);

impl TransferObserver for Delays {
    fn event(&self, event: &TransferEvent) {
        if let TransferEvent::Retrying { delay, .. } = event {
            self.0.lock().unwrap().push(*delay);
        }
    }
}

#[tokio::test]
#[ignore = "needs docker-registry"]
async fn trouble_that_passes_is_survived() {
    let scene = Scene::new(&[("base", 200_000), ("application", 1_000)]).await;
    // The first question finds out what it speaks and is not repeated; the second is.
    scene.proxy.fault("GET", "/v2/", 2, status(503));
    scene.proxy.fault("HEAD", "/manifests/", 1, status(500));
    scene.proxy.fault("HEAD", "/blobs/", 1, status(502));
    scene.proxy.fault("POST", "/blobs/uploads/", 1, status(500));
    scene.proxy.fault("PUT", "/blobs/uploads/", 1, status(504));
    scene.proxy.fault("PUT", "/manifests/", 1, status(500));
    let report = scene.push(&client()).await;
    assert_eq!(report.retries, 6);
}

#[tokio::test]
#[ignore = "needs docker-registry"]
async fn too_many_requests_wait_as_long_as_the_registry_says() {
    let scene = Scene::new(&[("base", 1_000)]).await;
    let busy = |seconds: &str| {
        let body = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#;
        Fault::Answer(
            429,
            vec![("retry-after".to_owned(), seconds.to_owned())],
            body.to_owned(),
        )
    };
    scene.proxy.fault("POST", "/blobs/uploads/", 1, busy("1"));
    scene.proxy.fault("PUT", "/manifests/", 1, busy("0"));
    let delays = Arc::new(Delays::default());
    let observer: Arc<dyn TransferObserver> = Arc::clone(&delays) as _;
    let registry = Registry::new(options().with_observer(observer)).unwrap();
    scene.push(&registry).await;
    assert_eq!(
        *delays.0.lock().unwrap(),
        [Duration::from_secs(1), Duration::ZERO]
    );

    // Longer than anybody wants to wait: said, not waited for.
    let scene = Scene::new(&[("base", 1_000)]).await;
    scene.proxy.fault("PUT", "/manifests/", 1, busy("86400"));
    let error = scene.push_error(&client()).await;
    assert_eq!(error.kind(), RegistryErrorKind::RateLimited);
    assert!(error.is_retryable());
    let text = error.to_string();
    assert!(
        text.contains("86400 s") && text.contains("slow down"),
        "{text}"
    );
}

#[tokio::test]
#[ignore = "needs docker-registry"]
async fn trouble_that_stays_is_an_error_and_nothing_is_tagged() {
    let scene = Scene::new(&[("base", 1_000)]).await;
    scene.proxy.fault("PUT", "/manifests/", 4, status(500));
    let error = scene.push_error(&client()).await;
    assert_eq!(error.kind(), RegistryErrorKind::Unavailable);
    assert!(error.is_retryable());

    let scene = Scene::new(&[("base", 1_000)]).await;
    let body = r#"{"errors":[{"code":"DENIED","message":"quota used up"}]}"#;
    scene.proxy.fault(
        "PUT",
        "/blobs/",
        1,
        Fault::Answer(403, Vec::new(), body.to_owned()),
    );
    let error = scene.push_error(&client()).await;
    assert_eq!(error.kind(), RegistryErrorKind::Denied);
    assert!(error.to_string().contains("quota used up"), "{error}");
}

#[tokio::test]
#[ignore = "needs docker-registry"]
async fn a_connection_cut_in_the_middle_of_a_blob_is_survived() {
    let scene = Scene::new(&[("base", 2_000_000)]).await;
    scene
        .proxy
        .fault("PUT", "/blobs/uploads/", 1, Fault::CutRequest(700_000));
    let report = scene
        .push(&Registry::new(options().with_parallel(1)).unwrap())
        .await;
    assert_eq!(report.retries, 1);
    let layer = &report.blobs[0];
    assert!(layer.bytes_moved > layer.size, "{layer:?}");
}

#[tokio::test]
#[ignore = "needs docker-registry"]
async fn an_upload_in_chunks_goes_on_after_a_cut() {
    let scene = Scene::new(&[("base", 2_000_000)]).await;
    let options = options()
        .with_single_request_limit(100_000)
        .with_chunk_size(500_000);
    let registry = Registry::new(options).unwrap();
    // The answer to the chunk is lost, the chunk itself is not.
    let upload = "/v2/team/app/blobs/uploads/";
    scene.proxy.fault("PATCH", upload, 1, status(503));
    scene.push(&registry).await;
    let log = scene.proxy.take_log();
    let patches = log.iter().filter(|line| line.starts_with("PATCH")).count();
    assert_eq!(patches, 6, "{log:?}");

    // A chunk arrives in part: whatever the registry makes of that, the push ends well.
    let scene = Scene::new(&[("base", 2_000_000)]).await;
    scene.proxy.fault(
        "PATCH",
        upload,
        1,
        Fault::Header("x-first", "passes".to_owned()),
    );
    scene
        .proxy
        .fault("PATCH", upload, 1, Fault::CutRequest(200_000));
    scene.push(&registry).await;
}

#[tokio::test]
#[ignore = "needs docker-registry"]
async fn a_registry_that_stalls_is_not_waited_for_for_ever() {
    let scene = Scene::new(&[("base", 1_000)]).await;
    scene.proxy.fault("HEAD", "/manifests/", 1, Fault::Stall);
    scene.proxy.fault("PUT", "/blobs/", 1, Fault::Stall);
    let options = options()
        .with_idle_timeout(Duration::from_millis(700))
        .with_answer_timeout(Duration::from_millis(900));
    let registry = Registry::new(options.clone()).unwrap();
    let report = scene.push(&registry).await;
    assert_eq!(report.retries, 2);

    let scene = Scene::new(&[("base", 1_000)]).await;
    scene.proxy.fault("POST", "/blobs/", 4, Fault::Stall);
    let error = scene
        .push_error(&Registry::new(options.with_parallel(1)).unwrap())
        .await;
    assert!(matches!(error, RegistryError::Stalled { .. }), "{error}");
}

#[tokio::test]
#[ignore = "needs docker-registry"]
async fn locations_may_be_relative() {
    let scene = Scene::new(&[("base", 300_000)]).await;
    scene
        .proxy
        .fault("POST", "/blobs/uploads/", 2, Fault::RelativeLocation);
    scene
        .proxy
        .fault("PATCH", "/blobs/uploads/", 3, Fault::RelativeLocation);
    let options = options()
        .with_single_request_limit(100_000)
        .with_chunk_size(101_000);
    scene.push(&Registry::new(options).unwrap()).await;
}

#[tokio::test]
#[ignore = "needs docker-registry"]
async fn a_mount_that_is_not_taken_goes_on_with_the_same_upload() {
    let scene = Scene::new(&[("base", 10_000)]).await;
    let registry = client();
    scene.push(&registry).await;
    scene.proxy.take_log();
    scene
        .proxy
        .fault("POST", "/blobs/uploads/", 1, Fault::NoMount);
    scene.proxy.fault("POST", "/blobs/uploads/", 1, status(403));
    let target = reference(format!("{}/team/other:1", scene.proxy.address));
    let options = PushOptions::default().with_mount_from("team/app");
    let report = registry
        .push(&scene.layout, &target, &options)
        .await
        .unwrap();
    assert_eq!(scene.proxy.unmet(), 0);
    assert!(
        report
            .blobs
            .iter()
            .all(|blob| blob.outcome == BlobOutcome::Uploaded),
        "{report:?}"
    );
    // One POST that became the upload; one that was forbidden, and a plain one after it.
    let log = scene.proxy.take_log();
    assert_eq!(
        log.iter().filter(|line| line.starts_with("POST")).count(),
        3,
        "{log:?}"
    );
}

#[tokio::test]
#[ignore = "needs docker-registry"]
async fn a_registry_that_stores_something_else_is_found_out() {
    let scene = Scene::new(&[("base", 1_000)]).await;
    let lie = format!("sha256:{}", "0".repeat(64));
    let header = Fault::Header("docker-content-digest", lie.clone());
    scene.proxy.fault("PUT", "/manifests/", 1, header.clone());
    let error = client()
        .push(&scene.layout, &scene.target, &PushOptions::default())
        .await;
    let error = error.unwrap_err();
    assert!(
        matches!(error, RegistryError::DigestMismatch { .. }),
        "{error}"
    );
    assert!(error.to_string().contains(&lie), "{error}");
    assert!(client().resolve(&scene.target).await.unwrap().is_none());

    // Without the header the registry is asked again.
    let scene = Scene::new(&[("base", 1_000)]).await;
    scene.proxy.fault(
        "PUT",
        "/manifests/",
        1,
        Fault::WithoutHeader("docker-content-digest"),
    );
    scene.push(&client()).await;
    scene.proxy.fault(
        "HEAD",
        "/manifests/",
        1,
        Fault::WithoutHeader("docker-content-digest"),
    );
    let found = client().resolve(&scene.target).await.unwrap().unwrap();
    assert_eq!(found.digest, scene.digest);
    assert_eq!(scene.proxy.unmet(), 0);
}

#[tokio::test]
#[ignore = "needs docker-registry"]
async fn a_lie_on_the_way_in_never_reaches_the_layout() {
    let scene = Scene::new(&[("base", 100_000)]).await;
    scene.push(&client()).await;
    let lie = format!("sha256:{}", "0".repeat(64));
    let layer = scene.layout.image(
        &scene.layout.resolve(Some("app")).unwrap(),
        &pipeline_docker::oci::Platform::host(),
    );
    let layer = layer.unwrap().manifest.layers[0].clone();
    for (path, fault) in [
        (format!("/blobs/{}", layer.digest), Fault::FlipBit),
        ("/manifests/".to_owned(), Fault::FlipBit),
        (
            "/manifests/".to_owned(),
            Fault::Header("docker-content-digest", lie),
        ),
    ] {
        scene.proxy.fault("GET", &path, 1, fault.clone());
        let back = scene.back();
        let error = client()
            .pull(&scene.target, &back, &PullOptions::default())
            .await
            .unwrap_err();
        assert!(
            matches!(error, RegistryError::DigestMismatch { .. }),
            "{fault:?}: {error}"
        );
        assert!(!error.is_retryable());
        assert_eq!(scene.proxy.unmet(), 0);
        assert_eq!(back.blob_size(&layer.digest), None);
        assert_eq!(back.tags().unwrap(), Vec::<String>::new());
    }
}

#[tokio::test]
#[ignore = "needs docker-registry"]
async fn an_interrupted_download_goes_on_where_it_stopped() {
    let scene = Scene::new(&[("base", 1_000_000)]).await;
    scene.push(&client()).await;
    let blobs = "/v2/team/app/blobs/";
    scene
        .proxy
        .fault("GET", blobs, 1, Fault::CutAnswer(400_000));
    let registry = Registry::new(options().with_parallel(1)).unwrap();
    let back = scene.back();
    let report = registry
        .pull(&scene.target, &back, &PullOptions::default())
        .await
        .unwrap();
    assert_eq!(report.retries, 1);
    assert_eq!(scene.proxy.unmet(), 0);
    // Not one byte twice.
    assert_eq!(report.bytes_received, report.size + report.manifest.size);
}

#[tokio::test]
#[ignore = "needs docker-registry"]
async fn rate_limits_are_passed_on() {
    let scene = Scene::new(&[("base", 1_000)]).await;
    scene.push(&client()).await;
    let headers = [
        ("ratelimit-limit", "100;w=21600"),
        ("ratelimit-remaining", "9;w=21600"),
    ];
    let body = scene
        .layout
        .read_blob(&scene.layout.resolve(Some("app")).unwrap())
        .unwrap();
    let mut all: Vec<(String, String)> = headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect();
    all.push((
        "content-type".to_owned(),
        pipeline_docker::oci::media_type::IMAGE_MANIFEST.to_owned(),
    ));
    let body = String::from_utf8(body).unwrap();
    scene
        .proxy
        .fault("GET", "/manifests/", 1, Fault::Answer(200, all, body));
    let back = scene.back();
    let report = client()
        .pull(&scene.target, &back, &PullOptions::default())
        .await
        .unwrap();
    let limit = report.rate_limit.unwrap();
    assert_eq!(
        (limit.limit, limit.remaining, limit.is_low()),
        (100, 9, true)
    );
}

#[tokio::test]
#[ignore = "needs docker-registry"]
async fn a_dropped_push_leaves_the_tag_alone() {
    let scene = Scene::new(&[("base", 100_000)]).await;
    scene.proxy.fault("PUT", "/blobs/", 2, Fault::Stall);
    let registry = client();
    let options = PushOptions::default();
    let push = registry.push(&scene.layout, &scene.target, &options);
    let reached = async {
        while scene.proxy.unmet() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = push => panic!("the push cannot end"),
        () = reached => {}
    }
    assert_eq!(client().resolve(&scene.target).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker-registry"]
async fn a_dropped_pull_stops_and_leaves_nothing() {
    let scene = Scene::new(&[("base", 400_000), ("application", 300_000)]).await;
    scene.push(&client()).await;
    for layer in layers(&scene.layout) {
        let slow = Fault::SlowAnswer(100_000);
        scene.proxy.fault("GET", &layer, 1, slow);
    }
    let back = scene.back();
    let options = PullOptions::default();
    let registry = client();
    tokio::select! {
        _ = registry.pull(&scene.target, &back, &options) => panic!("the pull cannot end"),
        () = scene.proxy.slow(2) => {}
    }
    // Nobody listens any more, and nothing else is asked for.
    scene.proxy.hung_up(2).await;
    scene.proxy.take_log();
    let staging = back.path().join(".staging");
    let empty = async {
        // A piece that was being written is finished first.
        while std::fs::read_dir(&staging).unwrap().count() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let limit = Duration::from_secs(60);
    tokio::time::timeout(limit, empty).await.unwrap();
    assert_eq!(back.tags().unwrap(), [""; 0]);
    assert_eq!(scene.proxy.take_log(), [""; 0]);
}

#[tokio::test]
#[ignore = "needs docker-registry"]
async fn a_registry_that_is_often_busy_costs_little_more() {
    let names: Vec<String> = (1..=20).map(|number| "x".repeat(number)).collect();
    let layers: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), 60_000)).collect();
    let scene = Scene::new(&layers).await;
    scene.proxy.busy_every(20);
    let report = scene.push(&client()).await;
    assert!(report.retries >= 3, "{report:?}");
    let manifest = scene.layout.blob_size(&scene.digest).unwrap();
    let most = (report.size + manifest) * 12 / 10;
    assert!(report.bytes_sent <= most, "{} of {most}", report.bytes_sent);
}

#[tokio::test]
#[ignore = "needs docker-registry"]
async fn a_layout_that_is_damaged_is_not_pushed() {
    for damage in ["missing", "short", "changed"] {
        let scene = Scene::new(&[("base", 10_000)]).await;
        let root = scene.layout.resolve(None).unwrap();
        let platform = pipeline_docker::oci::Platform::host();
        let layer = scene
            .layout
            .image(&root, &platform)
            .unwrap()
            .manifest
            .layers[0]
            .clone();
        let path = scene.layout.blob_path(&layer.digest);
        let mut bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let expected = match damage {
            "missing" => RegistryErrorKind::Local,
            "short" => {
                std::fs::write(&path, &bytes[1..]).unwrap();
                RegistryErrorKind::Local
            }
            _ => {
                bytes[0] ^= 1;
                std::fs::write(&path, &bytes).unwrap();
                // The registry computes the digest.
                RegistryErrorKind::Invalid
            }
        };
        let error = scene.push_error(&client()).await;
        assert_eq!(error.kind(), expected, "{damage}: {error}");
        if damage == "changed" {
            assert!(error.to_string().contains("DIGEST_INVALID"), "{error}");
        } else {
            let log = scene.proxy.take_log();
            assert!(!log.iter().any(|line| line.starts_with("POST")), "{log:?}");
        }
    }
}

#[tokio::test]
#[ignore = "needs docker-registry"]
async fn a_registry_that_dies_in_the_middle_of_a_push_is_an_error() {
    let mut scene = Scene::new(&[("base", 400_000)]).await;
    scene.proxy.fault("PUT", "/blobs/uploads/", 2, Fault::Stall);
    let registry = client();
    let options = PushOptions::default();
    let push = registry.push(&scene.layout, &scene.target, &options);
    let die = async {
        while scene.proxy.unmet() > 0 {
            tokio::task::yield_now().await;
        }
        scene.proxy.close();
        scene.server.kill();
    };
    let (error, ()) = tokio::join!(push, die);
    let error = error.unwrap_err();
    assert_eq!(error.kind(), RegistryErrorKind::Unavailable, "{error:?}");
    assert!(error.is_retryable());
}
