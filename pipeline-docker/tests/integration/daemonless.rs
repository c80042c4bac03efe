//! The daemonless builder: what is in its layers, and that equal inputs give equal digests.

use std::fs;
use std::num::NonZeroUsize;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use pipeline_docker::builder::{
    BaseImage, BuildError, BuildRequest, ConfigSpec, CopySpec, DaemonlessBuilder, DockerfileSpec,
    ImageBuilder, ImageOutput, ImageSpec, LayerCache, LayerOrigin, LayerSpec, ModeRule, Owner,
};
use pipeline_docker::oci::{OciLayout, write_docker_archive};
use proptest::prelude::*;
use tempfile::tempdir;

use crate::support::{build, build_with, listing, open, tree};

fn scratch() -> ImageSpec {
    ImageSpec::new(BaseImage::Scratch)
}

#[test]
fn entries_are_sorted_normalised_and_complete() {
    let dir = tempdir().unwrap();
    let (source, out) = (dir.path().join("src"), dir.path().join("out"));
    tree(
        &source,
        &[
            "b/c",
            "b-c",
            "run *",
            "empty/",
            "link -> b/c",
            "dangling -> /nowhere",
            "skip/x",
        ],
    );
    fs::set_permissions(source.join("b"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(source.join("b-c"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::hard_link(source.join("run"), source.join("same")).unwrap();
    let layer = LayerSpec::copy(&source, "/srv/app")
        .with_exclude(["skip"])
        .with_owner(Owner {
            uid: 1000,
            gid: 3_000_000,
        });
    let built = build(scratch().with_layer(layer), &out);
    let image = open(&built, &out);
    assert_eq!(
        listing(&out, &image.manifest.layers[0]),
        [
            "d 0755 0:0 srv/",
            "d 0755 1000:3000000 srv/app/",
            "d 0755 1000:3000000 srv/app/b/",
            "- 0644 1000:3000000 srv/app/b-c",
            "- 0644 1000:3000000 srv/app/b/c",
            "l 0777 1000:3000000 srv/app/dangling -> /nowhere",
            "d 0755 1000:3000000 srv/app/empty/",
            "l 0777 1000:3000000 srv/app/link -> b/c",
            "- 0755 1000:3000000 srv/app/run",
            "h 0755 1000:3000000 srv/app/same -> srv/app/run",
        ]
    );
    assert_eq!(
        image.config.rootfs.diff_ids,
        [built.layers[0].diff_id.clone()]
    );
    assert_eq!(image.config.history.len(), 1);
}

#[test]
fn files_and_folders_as_sources() {
    let dir = tempdir().unwrap();
    let (source, out) = (dir.path().join("src"), dir.path().join("out"));
    tree(&source, &["a", "to -> a"]);
    let layer = LayerSpec::copy(source.join("a"), "/etc/app.conf")
        .with_copy(CopySpec::new(source.join("a"), "/etc/"))
        .with_copy(CopySpec::new(source.join("to"), "/linked"))
        .with_modes(ModeRule::Fixed {
            folder: 0o750,
            file: 0o640,
        });
    let built = build(scratch().with_layer(layer), &out);
    let image = open(&built, &out);
    assert_eq!(
        listing(&out, &image.manifest.layers[0]),
        [
            "d 0755 0:0 etc/",
            "- 0640 0:0 etc/a",
            "- 0640 0:0 etc/app.conf",
            "- 0640 0:0 linked"
        ]
    );
}

/// A base with the traps: a sticky folder, a link to a folder, a private folder.
fn base(root: &Path) -> BaseImage {
    tree(
        root,
        &[
            "usr/bin/sh *",
            "tmp/",
            "root/",
            "bin -> usr/bin",
            "etc/passwd",
        ],
    );
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::set_permissions(root.join("root"), fs::Permissions::from_mode(0o700)).unwrap();
    BaseImage::Rootfs(root.to_owned())
}

#[test]
fn folders_and_links_of_the_base_stay_what_they_are() {
    let dir = tempdir().unwrap();
    let rootfs = base(&dir.path().join("rootfs"));
    let source = dir.path().join("src");
    tree(&source, &["tmp/x", "bin/tool *", "root/y", "opt/z"]);
    let layer = LayerSpec::copy(&source, "/").with_removed("/etc/passwd");
    let expected = [
        "- 0644 0:0 etc/.wh.passwd",
        "d 0755 0:0 opt/",
        "- 0644 0:0 opt/z",
        "- 0644 0:0 root/y",
        "- 0644 0:0 tmp/x",
        "- 0755 0:0 usr/bin/tool",
    ];
    let one = dir.path().join("one");
    let direct = build(
        ImageSpec::new(rootfs.clone()).with_layer(layer.clone()),
        &one,
    );
    assert_eq!(
        listing(&one, &open(&direct, &one).manifest.layers[1]),
        expected
    );
    assert!(
        listing(&one, &open(&direct, &one).manifest.layers[0])
            .contains(&"d 1777 0:0 tmp/".to_owned())
    );

    // The same through a layout, whose layer has to be read to know what is there.
    let two = dir.path().join("two");
    build(ImageSpec::new(rootfs), &two);
    let three = dir.path().join("three");
    let from = BaseImage::from_path(&two);
    let cache = LayerCache::open(dir.path().join("cache")).unwrap();
    let builder = DaemonlessBuilder::new().with_layer_cache(cache);
    for _ in 0..2 {
        let stacked = build_with(
            &builder,
            ImageSpec::new(from.clone()).with_layer(layer.clone()),
            &three,
        );
        assert_eq!(stacked.layers[0].origin, LayerOrigin::Base);
        assert_eq!(stacked.layers[1].digest, direct.layers[1].digest);
    }
}

#[test]
fn an_archive_of_docker_save_is_a_base() {
    let dir = tempdir().unwrap();
    let (source, out) = (dir.path().join("src"), dir.path().join("out"));
    tree(&source, &["a/b", "c"]);
    let config = ConfigSpec::default().with_cmd(["/c"]);
    let base = build(
        scratch()
            .with_layer(LayerSpec::copy(&source, "/"))
            .with_config(config),
        &out,
    );
    let more = LayerSpec::copy(source.join("c"), "/a/new");

    // As our own writer makes it, with compressed layers.
    let packed = dir.path().join("packed.tar");
    let layout = OciLayout::open(&out).unwrap();
    let image = open(&base, &out);
    write_docker_archive(
        &layout,
        &image,
        &["x:1".to_owned()],
        fs::File::create(&packed).unwrap(),
    )
    .unwrap();

    // As engines of that age make it: plain layers, one of them a link.
    let plain = dir.path().join("plain.tar");
    let mut tar = Vec::new();
    let blob = layout.open_blob(&image.manifest.layers[0]).unwrap();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(blob), &mut tar).unwrap();
    let mut archive = tar::Builder::new(fs::File::create(&plain).unwrap());
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, bytes).unwrap();
    };
    add("one/layer.tar", &tar);
    add(
        "config.json",
        &layout.read_blob(&image.manifest.config).unwrap(),
    );
    let manifest = |layer: &str| {
        format!(r#"[{{"Config":"config.json","RepoTags":null,"Layers":["{layer}"]}}]"#)
    };
    add("manifest.json", manifest("two/layer.tar").as_bytes());
    let mut link = tar::Header::new_ustar();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    archive
        .append_link(&mut link, "two/layer.tar", "../one/layer.tar")
        .unwrap();
    archive.into_inner().unwrap();

    for (name, path) in [("packed", &packed), ("plain", &plain)] {
        let spec = ImageSpec::new(BaseImage::from_path(path)).with_layer(more.clone());
        let result = dir.path().join(name);
        let built = build(spec, &result);
        assert_eq!(built.layers[0].diff_id, base.layers[0].diff_id, "{name}");
        assert_eq!(built.layers[0].digest, base.layers[0].digest, "{name}");
        let image = open(&built, &result);
        assert_eq!(
            listing(&result, &image.manifest.layers[1]),
            ["- 0644 0:0 a/new"],
            "{name}"
        );
        assert_eq!(image.config.config.cmd, ["/c"], "{name}");
    }
    let wrong = BaseImage::DockerArchive {
        path: packed,
        name: Some("y:2".to_owned()),
    };
    let request = BuildRequest::layers(ImageSpec::new(wrong), ImageOutput::layout(&out, "w"));
    let error = DaemonlessBuilder::new()
        .build_blocking(&request)
        .unwrap_err();
    assert!(
        error.to_string().contains("no image in it has that name"),
        "{error}"
    );
}

#[test]
fn nothing_about_the_machine_shows() {
    let dir = tempdir().unwrap();
    let entries = ["z/y/x", "a", "m/n *", "m/o -> n"];
    let first = dir.path().join("here");
    tree(&first, &entries);
    let second = dir.path().join("elsewhere/deep");
    let mut reversed = entries;
    reversed.reverse();
    tree(&second, &reversed);
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(86_400 * 400);
    fs::File::options()
        .write(true)
        .open(second.join("a"))
        .unwrap()
        .set_modified(old)
        .unwrap();
    fs::set_permissions(second.join("a"), fs::Permissions::from_mode(0o664)).unwrap();
    fs::set_permissions(second.join("z"), fs::Permissions::from_mode(0o775)).unwrap();
    let digests: Vec<_> = [(&first, 1), (&second, 1), (&first, 7)]
        .iter()
        .enumerate()
        .map(|(number, (source, threads))| {
            let builder =
                DaemonlessBuilder::new().with_threads(NonZeroUsize::new(*threads).unwrap());
            let spec = scratch()
                .with_layer(LayerSpec::copy(source, "/app"))
                .with_config(ConfigSpec::default().with_cmd(["/app/m/n"]).with_port("80"))
                .with_created(1_700_000_000);
            build_with(&builder, spec, &dir.path().join(format!("out{number}")))
                .manifest
                .digest
        })
        .collect();
    assert_eq!(digests[0], digests[1]);
    assert_eq!(digests[0], digests[2]);
}

#[test]
fn configuration_is_laid_over_the_base() {
    let dir = tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    let spec = scratch().with_config(
        ConfigSpec::default()
            .with_env("A", "1")
            .with_env("B", "2")
            .with_cmd(["old"])
            .with_label("l", "1"),
    );
    build(spec, &one);
    let spec = ImageSpec::new(BaseImage::from_path(&one))
        .with_config(
            ConfigSpec::default()
                .with_env("A", "3")
                .with_entrypoint(["new"])
                .with_label("m", "2"),
        )
        .with_annotation("org.opencontainers.image.revision", "abc")
        .with_created(0);
    let image = open(&build(spec, &two), &two);
    assert_eq!(image.config.config.env, ["A=3", "B=2"]);
    assert_eq!(image.config.config.entrypoint, ["new"]);
    assert!(image.config.config.cmd.is_empty());
    assert_eq!(image.config.config.labels.len(), 2);
    assert_eq!(
        image.config.created.as_deref(),
        Some("1970-01-01T00:00:00Z")
    );
    assert_eq!(
        image.manifest.annotations["org.opencontainers.image.revision"],
        "abc"
    );
}

#[test]
fn unchanged_layers_come_from_the_cache() {
    let dir = tempdir().unwrap();
    let (deps, app) = (dir.path().join("deps"), dir.path().join("app"));
    tree(&deps, &["lib/a", "lib/b"]);
    tree(&app, &["main"]);
    let cache_dir = dir.path().join("cache");
    let run = |out: &str| {
        let cache = LayerCache::open(&cache_dir).unwrap();
        let spec = scratch()
            .with_layer(LayerSpec::copy(&deps, "/deps"))
            .with_layer(LayerSpec::copy(&app, "/app"));
        let out = dir.path().join(out);
        let built = build_with(
            &DaemonlessBuilder::new().with_layer_cache(cache),
            spec,
            &out,
        );
        // Whole also when its blobs are links into the cache.
        let layout = OciLayout::open(&out).unwrap();
        for layer in &open(&built, &out).manifest.layers {
            layout.verify_blob(layer).unwrap();
        }
        let origins: Vec<_> = built.layers.iter().map(|layer| layer.origin).collect();
        (origins, built.manifest.digest)
    };
    use LayerOrigin::{Cached, New};
    let (origins, first) = run("one");
    assert_eq!(origins, [New, New]);
    assert_eq!(run("two"), (vec![Cached, Cached], first.clone()));
    fs::write(app.join("main"), "changed").unwrap();
    assert_eq!(run("three").0, [Cached, New]);

    // A damaged blob in the cache is noticed and made again.
    for entry in fs::read_dir(cache_dir.join("blobs/blobs/sha256")).unwrap() {
        let path = entry.unwrap().path();
        let content = vec![0; fs::metadata(&path).unwrap().len() as usize];
        // Not in place: the layouts share the file.
        fs::remove_file(&path).unwrap();
        fs::write(&path, content).unwrap();
    }
    tree(&app, &["main"]);
    assert_eq!(run("four"), (vec![New, New], first.clone()));
    assert_eq!(run("five"), (vec![Cached, Cached], first));
}

#[test]
fn requests_that_make_no_sense() {
    let dir = tempdir().unwrap();
    let source = dir.path().join("src");
    tree(&source, &["a", "b", ".wh.c"]);
    let attempt = |spec: ImageSpec| {
        let request = BuildRequest::layers(spec, ImageOutput::layout(dir.path().join("out"), "t"));
        DaemonlessBuilder::new()
            .build_blocking(&request)
            .unwrap_err()
    };
    let layer = |layer: LayerSpec| attempt(scratch().with_layer(layer));
    let copy = |from: &str, to: &str| LayerSpec::copy(source.join(from), to);
    assert!(matches!(
        layer(LayerSpec::copy(&source, "/x")),
        BuildError::ReservedName { .. }
    ));
    assert!(matches!(
        layer(copy("nothing", "/x")),
        BuildError::Source { .. }
    ));
    assert!(matches!(layer(copy("a", "x")), BuildError::Invalid { .. }));
    assert!(matches!(
        layer(copy("a", "/../x")),
        BuildError::Invalid { .. }
    ));
    let clash = copy("a", "/x").with_copy(CopySpec::new(source.join("b"), "/x"));
    assert!(matches!(layer(clash), BuildError::Clash { .. }));
    let exclude = LayerSpec::copy(&source, "/x").with_exclude(["["]);
    assert!(matches!(layer(exclude), BuildError::Exclude { .. }));
    assert!(matches!(
        layer(LayerSpec::default().with_removed("/nothing")),
        BuildError::Invalid { .. }
    ));
    assert!(matches!(
        attempt(ImageSpec::new(BaseImage::Rootfs(source.join("a")))),
        BuildError::Invalid { .. }
    ));
    crate::support::run("mkfifo", &[source.join("pipe").to_str().unwrap()]);
    let pipe = LayerSpec::copy(&source, "/x").with_exclude([".wh.c"]);
    assert!(matches!(
        layer(pipe),
        BuildError::SpecialFile {
            kind: "named pipe",
            ..
        }
    ));
    let dockerfile = BuildRequest::dockerfile(
        DockerfileSpec::new(&source),
        ImageOutput::layout(dir.path().join("out"), "t"),
    );
    let error = DaemonlessBuilder::new()
        .build_blocking(&dockerfile)
        .unwrap_err()
        .to_string();
    assert!(error.contains("run its commands as steps"), "{error}");
    // Nothing of all this got a tag.
    assert!(
        OciLayout::open(dir.path().join("out"))
            .unwrap()
            .tags()
            .unwrap()
            .is_empty()
    );
}

#[test]
fn dropping_the_future_stops_the_build() {
    let dir = tempdir().unwrap();
    let source = dir.path().join("src");
    fs::create_dir(&source).unwrap();
    // Larger than any test could wait for.
    let big = fs::File::create(source.join("big")).unwrap();
    big.set_len(1 << 40).unwrap();
    let out = dir.path().join("out");
    let spec = scratch().with_layer(LayerSpec::copy(&source, "/x"));
    let request = BuildRequest::layers(spec, ImageOutput::layout(&out, "t"));
    let builder: Box<dyn ImageBuilder> = Box::new(DaemonlessBuilder::new());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut build = builder.build(&request);
        // Started, then dropped.
        assert!(futures_poll(&mut build).is_none());
    });
    // Waits for the worker, which has to notice.
    drop(runtime);
    let staging = out.join(".staging");
    assert!(!staging.is_dir() || fs::read_dir(staging).unwrap().next().is_none());
    assert!(
        !out.join("index.json").exists()
            || OciLayout::open(&out).unwrap().tags().unwrap().is_empty()
    );
}

fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::Pin::new(future).poll(&mut context) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is packed comes out again, and twice the same.
    #[test]
    fn any_tree_round_trips(files in prop::collection::btree_map("[a-c]{1,2}(/[d-f]{1,3}){0,2}/g", prop::collection::vec(any::<u8>(), 0..2000), 1..8)) {
        let dir = tempdir().unwrap();
        let source = dir.path().join("src");
        for (path, content) in &files {
            let path = source.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let out = dir.path().join("out");
        let spec = scratch().with_layer(LayerSpec::copy(&source, "/"));
        let built = build(spec.clone(), &out);
        prop_assert_eq!(&build(spec, &dir.path().join("again")).manifest, &built.manifest);
        let layer = &open(&built, &out).manifest.layers[0];
        let blob = OciLayout::open(&out).unwrap().open_blob(layer).unwrap();
        let back = dir.path().join("back");
        tar::Archive::new(flate2::read::GzDecoder::new(blob)).unpack(&back).unwrap();
        for (path, content) in &files {
            prop_assert_eq!(&fs::read(back.join(path)).unwrap(), content);
        }
    }
}
