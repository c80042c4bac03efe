//! Push, pull, copy, tags: against the real registry.

use std::process::Command;

use pipeline_docker::oci::{
    Descriptor, ImageIndex, ImageManifest, OciLayout, Platform, media_type,
};
use pipeline_docker::registry::{
    BlobOutcome, CopyOptions, ExistingTag, PlatformChoice, PullOptions, PushOptions, Registry,
    RegistryErrorKind,
};

use crate::fixture::{add_image, client, image, options, reference};
use crate::proxy::{Fault, Proxy};
use crate::server::{Server, run};

fn outcomes(blobs: &[pipeline_docker::registry::BlobReport]) -> Vec<&BlobOutcome> {
    blobs.iter().map(|blob| &blob.outcome).collect()
}

#[tokio::test]
#[ignore = "needs docker-registry and skopeo"]
async fn what_is_pushed_is_there_for_others_and_comes_back() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let (layout, pushed) = image(
        &folder.path().join("out"),
        &[("base", 300_000), ("application", 5_000)],
    );
    let target = reference(format!("{}/team/app:0.1.7", server.address));
    let registry = client();
    assert_eq!(registry.resolve(&target).await.unwrap(), None);
    let report = registry
        .push(&layout, &target, &PushOptions::default())
        .await
        .unwrap();
    assert_eq!(report.digest, pushed.digest);
    assert!(!report.unchanged);
    assert_eq!(outcomes(&report.blobs), [&BlobOutcome::Uploaded; 3]);
    // The manifest by its digest, and under the tag.
    assert_eq!(report.bytes_sent, report.size + 2 * pushed.size);

    let output = run(Command::new("skopeo").args([
        "inspect",
        "--tls-verify=false",
        &format!("docker://{target}"),
    ]));
    let seen: serde_json::Value = serde_json::from_slice(&output).unwrap();
    assert_eq!(seen["Digest"], pushed.digest.to_string());
    assert_eq!(seen["Layers"].as_array().unwrap().len(), 2);

    let back = OciLayout::create(folder.path().join("in")).unwrap();
    let pulled = registry
        .pull(&target, &back, &PullOptions::default())
        .await
        .unwrap();
    assert_eq!(pulled.manifest.digest, pushed.digest);
    assert!(pulled.anonymous);
    assert_eq!(back.resolve(Some("0.1.7")).unwrap().digest, pushed.digest);
    for blob in &report.blobs {
        back.verify_blob(&Descriptor::new("", blob.digest.clone(), blob.size))
            .unwrap();
    }
    let again = registry
        .pull(&target, &back, &PullOptions::default())
        .await
        .unwrap();
    assert_eq!(outcomes(&again.blobs), [&BlobOutcome::Existed; 3]);
    assert_eq!(again.bytes_received, pushed.size);
}

#[tokio::test]
#[ignore = "needs docker-registry"]
async fn a_repeated_push_asks_once_and_sends_nothing() {
    let server = Server::start();
    let proxy = Proxy::start(&server.address).await;
    let folder = tempfile::tempdir().unwrap();
    let (layout, pushed) = image(folder.path(), &[("base", 30_000), ("application", 5_000)]);
    let registry = client();
    let target = reference(format!("{}/app:1", proxy.address));
    registry
        .push(&layout, &target, &PushOptions::default())
        .await
        .unwrap();
    proxy.take_log();
    let report = registry
        .push(&layout, &target, &PushOptions::default())
        .await
        .unwrap();
    assert!(report.unchanged);
    assert_eq!(
        (report.bytes_sent, report.digest),
        (0, pushed.digest.clone())
    );
    assert_eq!(proxy.take_log(), ["HEAD /v2/app/manifests/1"]);

    // Under a new tag: one question per blob and for the manifest, and the manifest.
    let target = reference(format!("{}/app:2", proxy.address));
    let report = registry
        .push(&layout, &target, &PushOptions::default())
        .await
        .unwrap();
    assert_eq!(report.bytes_sent, pushed.size);
    let log = proxy.take_log();
    assert_eq!(
        log.iter()
            .filter(|line| line.starts_with("HEAD /v2/app/blobs/"))
            .count(),
        3
    );
    assert_eq!(
        log.iter().filter(|line| line.starts_with("PUT ")).count(),
        1
    );
    assert_eq!(log.len(), 6, "{log:?}");
}

#[tokio::test]
#[ignore = "needs docker-registry"]
async fn a_tag_never_moves_by_accident() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let (layout, first) = image(folder.path(), &[("base", 3_000)]);
    let second = add_image(&layout, &[("base", 3_000), ("application", 1_000)]);
    layout.set_tag(Some("second"), &second).unwrap();
    let registry = client();
    let target = reference(format!("{}/app:1", server.address));
    let options = |name: &str| PushOptions::default().with_image(name);
    registry
        .push(&layout, &target, &options("app"))
        .await
        .unwrap();
    let error = registry
        .push(&layout, &target, &options("second"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), RegistryErrorKind::TagExists, "{error}");
    assert!(
        error.to_string().contains(&first.digest.to_string()),
        "{error}"
    );
    assert_eq!(
        registry.resolve(&target).await.unwrap().unwrap().digest,
        first.digest
    );

    let moving = options("second").with_existing(ExistingTag::Move);
    registry.push(&layout, &target, &moving).await.unwrap();
    assert_eq!(
        registry.resolve(&target).await.unwrap().unwrap().digest,
        second.digest
    );

    let error = registry
        .push(&layout, &reference(target.name()), &options("app"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), RegistryErrorKind::Invalid, "{error}");
    let pinned = target.with_digest(first.digest);
    let error = registry
        .push(&layout, &pinned, &options("second"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), RegistryErrorKind::Untrustworthy, "{error}");
}

#[tokio::test]
#[ignore = "needs docker-registry"]
async fn large_blobs_go_in_chunks() {
    let server = Server::start();
    let proxy = Proxy::start(&server.address).await;
    let folder = tempfile::tempdir().unwrap();
    let (layout, pushed) = image(&folder.path().join("out"), &[("large", 1_000_000)]);
    let options = options()
        .with_single_request_limit(100_000)
        .with_chunk_size(300_000);
    let registry = Registry::new(options).unwrap();
    let target = reference(format!("{}/app:1", proxy.address));
    registry
        .push(&layout, &target, &PushOptions::default())
        .await
        .unwrap();
    let log = proxy.take_log();
    assert_eq!(
        log.iter().filter(|line| line.starts_with("PATCH ")).count(),
        4,
        "{log:?}"
    );
    let back = OciLayout::create(folder.path().join("in")).unwrap();
    let pulled = registry
        .pull(&target, &back, &PullOptions::default())
        .await
        .unwrap();
    assert_eq!(pulled.manifest.digest, pushed.digest);
}

#[tokio::test]
#[ignore = "needs docker-registry"]
async fn an_index_is_pushed_whole_and_pulled_by_platform() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let layout = OciLayout::create(folder.path().join("out")).unwrap();
    let (ours, other) = (
        add_image(&layout, &[("a", 100)]),
        add_image(&layout, &[("bb", 100)]),
    );
    let index = ImageIndex::new(vec![
        other.with_platform(Platform::new("plan9", "mips")),
        ours.clone().with_platform(Platform::host()),
    ]);
    let index = serde_json::to_vec(&index).unwrap();
    let index = layout.write_blob(media_type::IMAGE_INDEX, &index).unwrap();
    layout.set_tag(Some("multi"), &index).unwrap();
    let registry = client();
    let target = reference(format!("{}/app:1", server.address));
    let options = PushOptions::default().with_image("multi");
    let report = registry.push(&layout, &target, &options).await.unwrap();
    assert_eq!(report.digest, index.digest);

    let one = OciLayout::create(folder.path().join("one")).unwrap();
    let pulled = registry
        .pull(&target, &one, &PullOptions::default())
        .await
        .unwrap();
    assert_eq!(pulled.manifest.digest, ours.digest);
    assert_eq!(pulled.reference.digest(), Some(&index.digest));
    assert_eq!(one.index().unwrap().manifests.len(), 1);

    let all = OciLayout::create(folder.path().join("all")).unwrap();
    let every = PullOptions::default().with_platform(PlatformChoice::All);
    let pulled = registry.pull(&target, &all, &every).await.unwrap();
    assert_eq!(pulled.manifest.digest, index.digest);
    assert_eq!(pulled.blobs.len(), 4);

    // A copy is the same index with all of its images; what is asked for by platform is one.
    let copy = reference(format!("{}/copy:1", server.address));
    let copied = registry
        .copy(&target, &copy, &CopyOptions::default())
        .await
        .unwrap();
    assert_eq!(copied.digest, index.digest);
    let there = OciLayout::create(folder.path().join("there")).unwrap();
    let pulled = registry.pull(&copy, &there, &every).await.unwrap();
    assert_eq!(
        (pulled.manifest.digest, pulled.blobs.len()),
        (index.digest.clone(), 4)
    );
    let single = reference(format!("{}/single:1", server.address));
    let options = CopyOptions::default().with_platform(PlatformChoice::default());
    let copied = registry.copy(&target, &single, &options).await.unwrap();
    assert_eq!(copied.digest, ours.digest);
    // From a layout, too.
    let pushed = reference(format!("{}/pushed:1", server.address));
    let options = PushOptions::default().with_image("1");
    let report = registry.push(&all, &pushed, &options).await.unwrap();
    assert_eq!(report.digest, index.digest);

    let wanted = PlatformChoice::Only(Platform::new("linux", "riscv64"));
    let options = PullOptions::default().with_platform(wanted);
    let error = registry.pull(&target, &all, &options).await.unwrap_err();
    assert!(error.to_string().contains("plan9/mips"), "{error}");
}

#[tokio::test]
#[ignore = "needs docker-registry"]
async fn images_are_copied_between_and_mounted_within_registries() {
    let (near, far) = (Server::start(), Server::start());
    let folder = tempfile::tempdir().unwrap();
    let (layout, pushed) = image(folder.path(), &[("base", 700_000), ("application", 10)]);
    let options = options()
        .with_single_request_limit(200_000)
        .with_chunk_size(100_000);
    let registry = Registry::new(options).unwrap();
    let first = reference(format!("{}/team/app:1", near.address));
    registry
        .push(&layout, &first, &PushOptions::default())
        .await
        .unwrap();

    let within = reference(format!("{}/other/name", near.address));
    let report = registry
        .copy(&first, &within, &CopyOptions::default())
        .await
        .unwrap();
    let mounted = BlobOutcome::Mounted {
        from: "team/app".to_owned(),
    };
    assert_eq!(outcomes(&report.blobs), [&mounted; 3]);
    assert_eq!(
        (report.bytes_sent, report.reference.tag()),
        (2 * pushed.size, Some("1"))
    );

    let across = reference(format!("{}/a/b:moved", far.address));
    let report = registry
        .copy(
            &within.with_tag("1").unwrap(),
            &across,
            &CopyOptions::default(),
        )
        .await
        .unwrap();
    assert_eq!(report.digest, pushed.digest);
    assert_eq!(outcomes(&report.blobs), [&BlobOutcome::Uploaded; 3]);
    let back = OciLayout::create(folder.path().join("back")).unwrap();
    registry
        .pull(&across, &back, &PullOptions::default())
        .await
        .unwrap();
}

#[tokio::test]
#[ignore = "needs docker-registry"]
async fn tags_are_listed_over_pages_given_and_deleted() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let (layout, pushed) = image(folder.path(), &[("base", 100)]);
    let registry = client();
    let target = reference(format!("{}/app:0", server.address));
    registry
        .push(&layout, &target, &PushOptions::default())
        .await
        .unwrap();
    let mut expected = vec!["0".to_owned()];
    for number in 1..=5 {
        let tag = format!("t{number}");
        let digest = registry
            .tag(&target, &tag, ExistingTag::Refuse)
            .await
            .unwrap();
        assert_eq!(digest, pushed.digest);
        expected.push(tag);
    }
    let mut tags = registry.tags(&target).await.unwrap();
    tags.sort();
    assert_eq!(tags, expected);

    // This registry knows no pages, so the first comes from the proxy.
    let proxy = Proxy::start(&server.address).await;
    let link = "</v2/app/tags/list?last=first>; rel=\"next\"".to_owned();
    let body = r#"{"name": "app", "tags": ["first"]}"#.to_owned();
    let page = Fault::Answer(200, vec![("link".to_owned(), link)], body);
    proxy.fault("GET", "/tags/list", 1, page);
    let paged = reference(format!("{}/app", proxy.address));
    let tags = registry.tags(&paged).await.unwrap();
    assert_eq!((tags.len(), tags[0].as_str()), (7, "first"));
    let missing = reference(format!("{}/nothing", server.address));
    let error = registry.tags(&missing).await.unwrap_err();
    assert_eq!(error.kind(), RegistryErrorKind::NotFound, "{error}");

    // This registry cannot delete a tag alone, and says so.
    assert!(registry.delete(&target).await.is_err());
    assert_eq!(registry.tags(&target).await.unwrap().len(), 6);
    let pinned = target.pinned(pushed.digest);
    assert!(registry.delete(&pinned).await.unwrap());
    assert!(!registry.delete(&pinned).await.unwrap());
    assert_eq!(registry.resolve(&target).await.unwrap(), None);
}

#[tokio::test]
#[ignore = "needs docker-registry"]
async fn referrers_are_noted_and_found_where_there_is_no_api() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let (layout, pushed) = image(folder.path(), &[("base", 100)]);
    let registry = client();
    let target = reference(format!("{}/app:1", server.address));
    registry
        .push(&layout, &target, &PushOptions::default())
        .await
        .unwrap();
    assert_eq!(registry.referrers(&target, None).await.unwrap(), []);
    let mut expected = Vec::new();
    for name in ["signature", "bill-of-materials"] {
        let empty = layout.write_blob(media_type::EMPTY_JSON, b"{}").unwrap();
        let content = layout.write_blob("text/plain", name.as_bytes()).unwrap();
        let mut manifest = ImageManifest::new(empty, vec![content]);
        manifest.artifact_type = Some(format!("application/vnd.test.{name}"));
        manifest.subject = Some(pushed.clone());
        manifest
            .annotations
            .insert("who".to_owned(), "test".to_owned());
        let bytes = serde_json::to_vec(&manifest).unwrap();
        let artifact = layout
            .write_blob(media_type::IMAGE_MANIFEST, &bytes)
            .unwrap();
        layout.set_tag(Some(name), &artifact).unwrap();
        let options = PushOptions::default().with_image(name);
        let pinned = target.pinned(artifact.digest.clone());
        registry.push(&layout, &pinned, &options).await.unwrap();
        expected.push(artifact.digest);
    }
    let found = registry.referrers(&target, None).await.unwrap();
    let digests: Vec<_> = found.iter().map(|entry| entry.digest.clone()).collect();
    assert_eq!(digests, expected);
    assert_eq!(found[0].annotations["who"], "test");
    let wanted = Some("application/vnd.test.signature");
    let found = registry.referrers(&target, wanted).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].digest, expected[0]);
    assert_eq!(
        registry.referrers(&target, Some("other")).await.unwrap(),
        []
    );
}

#[tokio::test]
#[ignore = "needs docker-registry"]
async fn an_index_that_names_a_manifest_twice_is_stored_in_order() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let layout = OciLayout::create(folder.path()).unwrap();
    let image = add_image(&layout, &[("base", 100)]);
    let mut root = image.clone();
    // The image, an index of it, and an index of both: each only after what it names.
    for _ in 0..2 {
        let bytes = serde_json::to_vec(&ImageIndex::new(vec![image.clone(), root])).unwrap();
        root = layout.write_blob(media_type::IMAGE_INDEX, &bytes).unwrap();
    }
    layout.set_tag(None, &root).unwrap();
    let registry = client();
    let target = reference(format!("{}/app:1", server.address));
    let report = registry
        .push(&layout, &target, &PushOptions::default())
        .await
        .unwrap();
    assert_eq!(report.digest, root.digest);
    assert_eq!(report.blobs.len(), 2);
}

/// A file system of a few MiB.
struct Small(std::path::PathBuf);

impl Small {
    fn mount(at: &std::path::Path) -> Self {
        std::fs::create_dir(at).unwrap();
        let options = ["-t", "tmpfs", "-o", "size=3m", "tmpfs"];
        run(Command::new("mount").args(options).arg(at));
        Self(at.to_owned())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        drop(Command::new("umount").arg(&self.0).status());
    }
}

#[tokio::test]
#[ignore = "needs docker-registry, and root to mount a small file system"]
async fn a_full_disk_ends_a_pull_and_leaves_nothing() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let (layout, _) = image(&folder.path().join("out"), &[("base", 4_000_000)]);
    let registry = client();
    let target = reference(format!("{}/app:1", server.address));
    registry
        .push(&layout, &target, &PushOptions::default())
        .await
        .unwrap();
    let small = Small::mount(&folder.path().join("small"));
    let back = OciLayout::create(small.0.join("layout")).unwrap();
    let error = registry
        .pull(&target, &back, &PullOptions::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), RegistryErrorKind::Local, "{error}");
    let text = pipeline_core::error_chain(&error);
    assert!(text.contains("No space left on device"), "{text}");
    assert_eq!(back.tags().unwrap(), Vec::<String>::new());
    let staging = std::fs::read_dir(small.0.join("layout/.staging")).unwrap();
    assert_eq!(staging.count(), 0);
}
