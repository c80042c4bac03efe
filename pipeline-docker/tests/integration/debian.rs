//! A base of Debian packages, and images on top of it.

use std::fs;
use std::path::Path;

use pipeline_docker::builder::{BaseImage, ImageSpec};
use pipeline_docker::debian::{DebianBase, DebianError, Freshness};
use tempfile::tempdir;

use crate::support::build;

#[tokio::test]
#[ignore = "needs apt and its package sources"]
async fn python_from_packages() {
    let dir = tempdir().unwrap();
    let base = DebianBase::python(dir.path().join("cache"));
    let first = base.prepare().await.unwrap();
    assert!(!first.reused);
    let python = first.python.clone().unwrap();
    assert!(
        first
            .path
            .join(python.path.trim_start_matches('/'))
            .is_file()
    );
    assert!(
        fs::metadata(first.path.join("etc/ssl/certs/ca-certificates.crt"))
            .unwrap()
            .len()
            > 100_000
    );
    let names: Vec<&str> = first
        .packages
        .iter()
        .map(|package| package.name.as_str())
        .collect();
    assert!(
        names.contains(&"libssl3") || names.contains(&"libssl3t64"),
        "{names:?}"
    );
    // Only the result and the notes about it stay.
    let mut left: Vec<_> = fs::read_dir(dir.path().join("cache"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, [".lock", "requests", "roots"]);

    let second = base.prepare().await.unwrap();
    assert!(second.reused);
    assert_eq!(second.path, first.path);

    // Looked up again, and made again elsewhere: the same image.
    let updated = base
        .clone()
        .with_freshness(Freshness::Update)
        .prepare()
        .await
        .unwrap();
    assert!(updated.reused);
    let mut elsewhere = base.clone();
    elsewhere.cache_dir = dir.path().join("other/cache");
    let other = elsewhere.prepare().await.unwrap();
    let digest = |root: &Path, out: &str| {
        build(
            ImageSpec::new(BaseImage::Rootfs(root.to_owned())),
            &dir.path().join(out),
        )
        .manifest
        .digest
    };
    assert_eq!(digest(&first.path, "one"), digest(&other.path, "two"));
}

#[tokio::test]
#[ignore = "needs apt and its package sources"]
async fn unknown_packages_are_named() {
    let dir = tempdir().unwrap();
    let base = DebianBase::new(dir.path(), ["no-such-package-anywhere"]);
    let error = base.prepare().await.unwrap_err();
    assert!(matches!(error, DebianError::Resolve { .. }), "{error:?}");
    assert!(
        error
            .to_string()
            .contains("Unable to locate package no-such-package-anywhere"),
        "{error}"
    );
}

#[tokio::test]
async fn options_are_no_packages() {
    let dir = tempdir().unwrap();
    let error = DebianBase::new(dir.path(), ["-o=x"])
        .prepare()
        .await
        .unwrap_err();
    assert!(matches!(error, DebianError::PackageName { .. }));
}
