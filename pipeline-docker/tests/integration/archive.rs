//! Images written as files for `docker load`.

use std::fs;
use std::path::Path;

use pipeline_docker::builder::{
    BaseImage, BuildError, BuildRequest, BuiltImage, DaemonlessBuilder, ImageBuilder,
    ImageLocation, ImageOutput, ImageSpec, LayerSpec,
};
use tempfile::tempdir;

use crate::support::{build, run, tree};

fn spec(folder: &Path) -> ImageSpec {
    let source = folder.join("src");
    tree(&source, &["a/b", "a/run *"]);
    ImageSpec::new(BaseImage::Scratch).with_layer(LayerSpec::copy(source, "/srv"))
}

fn archive(spec: &ImageSpec, path: &Path, name: &str) -> Result<BuiltImage, BuildError> {
    let output = ImageOutput::docker_archive(path, name);
    DaemonlessBuilder::new().build_blocking(&BuildRequest::layers(spec.clone(), output))
}

/// What lies in a folder, hidden things included.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn an_archive_is_reproducible_and_a_base() {
    let (dir, out) = (tempdir().unwrap(), tempdir().unwrap());
    let spec = spec(dir.path());
    let (one, two) = (out.path().join("one.tar"), out.path().join("two.tar"));
    let built = archive(&spec, &one, "site").unwrap();
    let location = ImageLocation::DockerArchive {
        path: one.clone(),
        names: vec!["site:latest".to_owned()],
    };
    assert_eq!(built.location, location);
    let request = BuildRequest::layers(
        spec.clone(),
        ImageOutput::docker_archive(&two, "site:latest"),
    );
    let again = DaemonlessBuilder::new().build(&request).await.unwrap();
    assert_eq!(again.manifest, built.manifest);
    assert!(fs::read(&one).unwrap() == fs::read(&two).unwrap());
    let layout = dir.path().join("layout");
    assert_eq!(build(spec, &layout).manifest, built.manifest);
    assert_eq!(names(out.path()), ["one.tar", "two.tar"]);
    // And it can be read back.
    let based = ImageSpec::new(BaseImage::from_path(&one));
    let based = build(based, &layout);
    assert_eq!(based.layers[0].diff_id, built.layers[0].diff_id);
}

#[test]
fn an_archive_appears_whole_or_not_at_all() {
    let (dir, out) = (tempdir().unwrap(), tempdir().unwrap());
    let path = out.path().join("image.tar");
    let spec = spec(dir.path());
    archive(&spec, &path, "site:1").unwrap();
    let before = fs::read(&path).unwrap();
    let torn = spec
        .clone()
        .with_layer(LayerSpec::copy(dir.path().join("nothing"), "/x"));
    archive(&torn, &path, "site:1").unwrap_err();
    let error = archive(&spec, &path, "Bad Name").unwrap_err();
    assert!(matches!(error, BuildError::Invalid { .. }), "{error}");
    assert!(fs::read(&path).unwrap() == before);
    assert_eq!(names(out.path()), ["image.tar"]);
    // Where nothing can be put, the place is named.
    let error = archive(&spec, &out.path().join("none/image.tar"), "site:1").unwrap_err();
    assert!(matches!(error, BuildError::Write { .. }), "{error}");
}

#[test]
#[ignore = "needs skopeo"]
fn skopeo_reads_the_archive_under_its_name() {
    let (dir, out) = (tempdir().unwrap(), tempdir().unwrap());
    let path = out.path().join("image.tar");
    let built = archive(&spec(dir.path()), &path, "site:1.0").unwrap();
    let from = format!("docker-archive:{}:site:1.0", path.display());
    let inspected = run("skopeo", &["inspect", "--config", &from]);
    let config: serde_json::Value = serde_json::from_slice(&inspected.stdout).unwrap();
    let diff_id = built.layers[0].diff_id.to_string();
    assert_eq!(config["rootfs"]["diff_ids"][0], diff_id);
}

#[test]
#[ignore = "needs docker"]
fn the_engine_loads_the_archive_under_its_name() {
    let (dir, out) = (tempdir().unwrap(), tempdir().unwrap());
    let path = out.path().join("image.tar");
    let name = format!("pipeline-docker-test:archive-{}", std::process::id());
    let built = archive(&spec(dir.path()), &path, &name).unwrap();
    run("docker", &["load", "--input", path.to_str().unwrap()]);
    let inspect = ["image", "inspect", "--format", "{{.Id}}", &name];
    let id = run("docker", &inspect).stdout;
    run("docker", &["image", "rm", "--force", &name]);
    let id = String::from_utf8(id).unwrap();
    assert_eq!(id.trim(), built.config_digest.to_string());
}
