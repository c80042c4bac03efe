//! Bases that are hostile, blobs that are damaged, layers that contradict themselves.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use pipeline_core::error_chain;
use pipeline_docker::builder::{
    BaseImage, BuildError, BuildRequest, CopySpec, DaemonlessBuilder, ImageOutput, ImageSpec,
    LayerCache, LayerSpec,
};
use pipeline_docker::oci::{
    Descriptor, Digest, DigestWriter, ImageConfig, ImageManifest, OciLayout, Platform, media_type,
};
use tempfile::tempdir;

use crate::support::{build_with, listing, open, tree};

/// The beginning of a tar whose first name goes on for `size` bytes.
fn endless_name(size: u64) -> impl Read {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_size(size);
    header.set_cksum();
    io::Cursor::new(header.as_bytes().to_vec()).chain(io::repeat(b'a').take(size))
}

/// A layout with one image, of one layer that holds `tar`.
fn image_of(mut tar: impl Read, path: &Path) -> BaseImage {
    let layout = OciLayout::create(path).unwrap();
    let gzip =
        flate2::write::GzEncoder::new(layout.blob_writer().unwrap(), flate2::Compression::fast());
    let mut sink = DigestWriter::new(gzip);
    io::copy(&mut tar, &mut sink).unwrap();
    let (gzip, diff_id, _) = sink.finish();
    let (digest, size) = gzip.finish().unwrap().commit(None).unwrap();
    let layer = Descriptor::new(media_type::LAYER_TAR_GZIP, digest, size);
    let mut config = ImageConfig::new(Platform::host());
    config.rootfs.diff_ids.push(diff_id);
    let store = |kind, bytes: Vec<u8>| layout.write_blob(kind, &bytes).unwrap();
    let config = store(
        media_type::IMAGE_CONFIG,
        serde_json::to_vec(&config).unwrap(),
    );
    let manifest = ImageManifest::new(config, vec![layer]);
    let bytes = serde_json::to_vec(&manifest).unwrap();
    let manifest = store(media_type::IMAGE_MANIFEST, bytes);
    layout.set_tag(Some("test"), &manifest).unwrap();
    BaseImage::from_path(path)
}

fn refusal(spec: ImageSpec, out: &Path) -> BuildError {
    let request = BuildRequest::layers(spec, ImageOutput::layout(out, "test"));
    DaemonlessBuilder::new()
        .build_blocking(&request)
        .unwrap_err()
}

#[test]
fn a_base_with_an_endless_name_is_refused_before_it_fills_the_memory() {
    let dir = tempdir().unwrap();
    let size = 4 << 20;
    tree(&dir.path().join("app"), &["file"]);
    let more = LayerSpec::copy(dir.path().join("app"), "/app");
    let base = image_of(endless_name(size), &dir.path().join("base"));
    let layer = OciLayout::open(dir.path().join("base")).unwrap();
    let layer = layer
        .image(&layer.resolve(None).unwrap(), &Platform::host())
        .unwrap();
    let layer = layer.manifest.layers[0].digest.to_string();

    let mut saved = fs::File::create(dir.path().join("saved.tar")).unwrap();
    io::copy(&mut endless_name(size), &mut saved).unwrap();
    saved.flush().unwrap();
    let archive = BaseImage::from_path(&dir.path().join("saved.tar"));

    for (base, place) in [(base, layer.as_str()), (archive, "saved.tar")] {
        let spec = ImageSpec::new(base).with_layer(more.clone());
        let text = error_chain(&refusal(spec, &dir.path().join("out")));
        for part in [place, "more than 1048576 bytes", "take another one"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}

/// Changes a byte of every blob: in the file that is there, or in a new one at its place.
fn damage(layout: &Path, in_place: bool) -> Vec<PathBuf> {
    let blobs = fs::read_dir(layout.join("blobs/sha256")).unwrap();
    let paths: Vec<PathBuf> = blobs.map(|blob| blob.unwrap().path()).collect();
    for path in &paths {
        let mut bytes = fs::read(path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        if !in_place {
            fs::remove_file(path).unwrap();
        }
        fs::write(path, bytes).unwrap();
    }
    paths
}

#[test]
fn a_build_replaces_blobs_that_are_damaged() {
    let dir = tempdir().unwrap();
    tree(&dir.path().join("app"), &["a", "b"]);
    tree(&dir.path().join("rootfs"), &["bin/tool *"]);
    let app = LayerSpec::copy(dir.path().join("app"), "/app");
    let plain = DaemonlessBuilder::new();
    let base = dir.path().join("base");
    let rootfs = BaseImage::from_path(&dir.path().join("rootfs"));
    build_with(&plain, ImageSpec::new(rootfs), &base);
    let spec = || ImageSpec::new(BaseImage::from_path(&base)).with_layer(app.clone());
    let cache = LayerCache::open(dir.path().join("cache")).unwrap();
    let caching = DaemonlessBuilder::new().with_layer_cache(cache);
    for (number, builder) in [plain, caching].iter().enumerate() {
        let out = dir.path().join(format!("out-{number}"));
        let built = build_with(builder, spec(), &out);
        let damaged = damage(&out, false);
        assert_eq!(damaged.len(), 4);
        assert_eq!(build_with(builder, spec(), &out).manifest, built.manifest);
        for path in damaged {
            let digest = sha256(&path);
            assert_eq!(path.file_name().unwrap().to_str(), Some(digest.hex()));
        }
    }
    // The layer cache's blobs are links to the same files.
    let cache = LayerCache::open(dir.path().join("linked")).unwrap();
    let caching = DaemonlessBuilder::new().with_layer_cache(cache);
    let out = dir.path().join("out-linked");
    let spec = || ImageSpec::new(BaseImage::Scratch).with_layer(app.clone());
    build_with(&caching, spec(), &out);
    for path in damage(&out, true) {
        build_with(&caching, spec(), &out);
        let digest = sha256(&path);
        assert_eq!(path.file_name().unwrap().to_str(), Some(digest.hex()));
    }
}

fn sha256(path: &Path) -> Digest {
    Digest::sha256(&fs::read(path).unwrap())
}

#[test]
fn nothing_is_copied_through_a_link_of_the_same_layer() {
    let dir = tempdir().unwrap();
    tree(&dir.path().join("links"), &["a -> /etc", "file"]);
    tree(&dir.path().join("files"), &["passwd"]);
    let source = |name: &str| dir.path().join(name);
    let below = |folder: &str| CopySpec::new(source("files"), folder);
    let links = || CopySpec::new(source("links"), "/");
    let base = dir.path().join("base");
    let folder = LayerSpec::copy(source("files"), "/a");
    let folder = ImageSpec::new(BaseImage::Scratch).with_layer(folder);
    build_with(&DaemonlessBuilder::new(), folder, &base);
    for base in [BaseImage::Scratch, BaseImage::from_path(&base)] {
        for parent in ["a", "file"] {
            let dest = format!("/{parent}/b");
            let layer = LayerSpec::default()
                .with_copy(links())
                .with_copy(CopySpec::new(source("files").join("passwd"), dest));
            let spec = ImageSpec::new(base.clone()).with_layer(layer);
            let error = refusal(spec, &dir.path().join("out"));
            assert!(
                matches!(&error, BuildError::BelowNoFolder { parent: found, .. } if found == parent),
                "{error}"
            );
            let text = error.to_string();
            assert!(text.contains("put it into a later layer"), "{text}");
        }
        // In the other order, too.
        let layer = LayerSpec::default()
            .with_copy(below("/a"))
            .with_copy(links());
        refusal(
            ImageSpec::new(base).with_layer(layer),
            &dir.path().join("out"),
        );
    }
    // In a later layer the link is followed, as an instruction COPY does it.
    let spec = ImageSpec::new(BaseImage::Scratch)
        .with_layer(LayerSpec::default().with_copy(links()))
        .with_layer(LayerSpec::default().with_copy(below("/a")));
    let out = dir.path().join("out");
    let built = build_with(&DaemonlessBuilder::new(), spec, &out);
    let layer = &open(&built, &out).manifest.layers[1];
    assert_eq!(
        listing(&out, layer),
        ["d 0755 0:0 etc/", "- 0644 0:0 etc/passwd"]
    );
}
