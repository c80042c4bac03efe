//! Images and clients that the tests share.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use pipeline_core::Secret;
use pipeline_docker::ImageReference;
use pipeline_docker::oci::{
    Descriptor, DigestWriter, ImageConfig, ImageManifest, OciLayout, Platform, media_type,
};
use pipeline_docker::registry::{
    Credentials, Registry, RegistryOptions, RetryPolicy, StaticCredentials,
};

/// A layout with one image of these layers (name and size of the one file in each), tagged `app`.
pub(crate) fn image(folder: &Path, layers: &[(&str, usize)]) -> (OciLayout, Descriptor) {
    let layout = OciLayout::create(folder).unwrap();
    let image = add_image(&layout, layers);
    layout.set_tag(Some("app"), &image).unwrap();
    (layout, image)
}

/// The digests of the layers of the image that is tagged `app`.
pub(crate) fn layers(layout: &OciLayout) -> Vec<String> {
    let app = layout.resolve(Some("app")).unwrap();
    let app = layout.image(&app, &Platform::host()).unwrap();
    let layers = app.manifest.layers.iter();
    layers.map(|layer| layer.digest.to_string()).collect()
}

/// Adds an image without a name.
pub(crate) fn add_image(layout: &OciLayout, layers: &[(&str, usize)]) -> Descriptor {
    let mut config = ImageConfig::new(Platform::host());
    let mut descriptors = Vec::new();
    for (name, size) in layers {
        let encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut tar = tar::Builder::new(DigestWriter::new(encoder));
        let mut header = tar::Header::new_gnu();
        header.set_size(*size as u64);
        header.set_mode(0o644);
        let bytes = noise(*size, name.len() as u64);
        tar.append_data(&mut header, name, bytes.as_slice())
            .unwrap();
        let (encoder, diff_id, _) = tar.into_inner().unwrap().finish();
        let blob = encoder.finish().unwrap();
        descriptors.push(
            layout
                .write_blob(media_type::LAYER_TAR_GZIP, &blob)
                .unwrap(),
        );
        config.rootfs.diff_ids.push(diff_id);
    }
    let config = serde_json::to_vec(&config).unwrap();
    let config = layout
        .write_blob(media_type::IMAGE_CONFIG, &config)
        .unwrap();
    let manifest = serde_json::to_vec(&ImageManifest::new(config, descriptors)).unwrap();
    layout
        .write_blob(media_type::IMAGE_MANIFEST, &manifest)
        .unwrap()
}

/// Bytes that do not compress.
pub(crate) fn noise(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.write_all(&state.to_le_bytes()).unwrap();
    }
    bytes.truncate(size);
    bytes
}

pub(crate) fn reference(text: impl AsRef<str>) -> ImageReference {
    text.as_ref().parse().unwrap()
}

/// Options that retry without making a test wait.
pub(crate) fn options() -> RegistryOptions {
    let retry = RetryPolicy::default()
        .with_attempts(4)
        .with_first_delay(Duration::from_millis(1))
        .with_max_delay(Duration::from_millis(5));
    RegistryOptions::default().with_retry(retry)
}

pub(crate) fn client() -> Registry {
    Registry::new(options()).unwrap()
}

pub(crate) fn password(registry: &str, user: &str, password: &str) -> StaticCredentials {
    StaticCredentials::new(registry, Credentials::password(user, Secret::new(password)))
}
