//! [`ImageManifest`], [`ImageIndex`] and the reading of either.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Descriptor, Digest, Platform, media_type};

/// One image: its configuration and its layers, lowest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ImageManifest {
    /// Always 2.
    pub schema_version: u32,
    /// The manifest's own media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What kind of artifact this is, when it is no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The configuration blob.
    pub config: Descriptor,
    /// The layer blobs, lowest first.
    #[serde(default)]
    pub layers: Vec<Descriptor>,
    /// The manifest that this one says something about (a signature, a bill of materials).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free remarks.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl ImageManifest {
    /// An OCI manifest without annotations.
    #[must_use]
    pub fn new(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media_type::IMAGE_MANIFEST.to_owned()),
            artifact_type: None,
            config,
            layers,
            subject: None,
            annotations: BTreeMap::new(),
        }
    }

    /// Configuration and layers in the order in which they should be moved.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        self.layers.iter().chain(std::iter::once(&self.config))
    }
}

/// A list of manifests: one image for several platforms, or the contents of a layout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ImageIndex {
    /// Always 2.
    pub schema_version: u32,
    /// The index's own media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What kind of artifact this is, when it is no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The manifests.
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
    /// The manifest that this one says something about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free remarks.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl ImageIndex {
    /// An OCI index of `manifests`.
    #[must_use]
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media_type::IMAGE_INDEX.to_owned()),
            artifact_type: None,
            manifests,
            subject: None,
            annotations: BTreeMap::new(),
        }
    }

    /// The first manifest that serves `wanted`; attestations (`unknown/unknown`) never do.
    #[must_use]
    pub fn for_platform(&self, wanted: &Platform) -> Option<&Descriptor> {
        self.manifests.iter().find(|manifest| {
            manifest
                .platform
                .as_ref()
                .is_some_and(|platform| platform.serves(wanted))
        })
    }
}

/// What a manifest's bytes turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "one is read per image; a box would only be in the way"
)]
#[non_exhaustive]
pub enum Manifest {
    /// One image or artifact.
    Image(ImageManifest),
    /// A list of manifests.
    Index(ImageIndex),
}

/// Why bytes could not be read as a manifest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The bytes are not the JSON of a manifest.
    #[error("manifest is not valid JSON of its type {media_type:?}")]
    Malformed {
        /// The type that was expected.
        media_type: String,
        /// What the reader says.
        #[source]
        source: serde_json::Error,
    },
    /// It is neither an image manifest nor an index of a known version.
    #[error(
        "manifest type {media_type:?} is not supported; only OCI and Docker schema 2 manifests are"
    )]
    Unsupported {
        /// The type found.
        media_type: String,
    },
    /// The type in the document contradicts the type it was served with.
    #[error("manifest was served as {served:?} but calls itself {declared:?}")]
    TypeMismatch {
        /// What the server or descriptor said.
        served: String,
        /// What the document says.
        declared: String,
    },
}

impl Manifest {
    /// Reads a manifest's bytes.
    ///
    /// `served_as` is the media type from the `Content-Type` header or the descriptor. A document
    /// that names another type in itself is refused, as the image specification advises, because
    /// one digest must not be readable as two things.
    ///
    /// # Errors
    /// Bytes that are no manifest, a type other than OCI's or Docker schema 2's, or a contradiction.
    pub fn parse(served_as: Option<&str>, bytes: &[u8]) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Probe {
            schema_version: Option<u32>,
            media_type: Option<String>,
            config: Option<serde::de::IgnoredAny>,
            manifests: Option<serde::de::IgnoredAny>,
        }
        // Parameters such as a character set say nothing about the document.
        let served = served_as
            .map(|text| text.split(';').next().unwrap_or(text).trim())
            .filter(|text| !text.is_empty() && *text != "application/json");
        let probe: Probe =
            serde_json::from_slice(bytes).map_err(|source| ManifestError::Malformed {
                media_type: served.unwrap_or("unknown").to_owned(),
                source,
            })?;
        if let (Some(served), Some(declared)) = (served, &probe.media_type)
            && served != declared
        {
            return Err(ManifestError::TypeMismatch {
                served: served.to_owned(),
                declared: declared.clone(),
            });
        }
        let guessed = match (&probe.config, &probe.manifests) {
            (Some(_), None) => media_type::IMAGE_MANIFEST,
            (None, Some(_)) => media_type::IMAGE_INDEX,
            _ => "ambiguous",
        };
        let name = served.or(probe.media_type.as_deref()).unwrap_or(guessed);
        let malformed = |source| ManifestError::Malformed {
            media_type: name.to_owned(),
            source,
        };
        if probe.schema_version != Some(2) {
            return Err(ManifestError::Unsupported {
                media_type: name.to_owned(),
            });
        }
        // Both lists in one document would be readable as two things.
        if probe.config.is_some() && probe.manifests.is_some() {
            return Err(ManifestError::Unsupported {
                media_type: "ambiguous".to_owned(),
            });
        }
        if media_type::is_image_manifest(name) {
            serde_json::from_slice(bytes)
                .map(Self::Image)
                .map_err(malformed)
        } else if media_type::is_image_index(name) {
            serde_json::from_slice(bytes)
                .map(Self::Index)
                .map_err(malformed)
        } else {
            Err(ManifestError::Unsupported {
                media_type: name.to_owned(),
            })
        }
    }

    /// The digests of every blob or manifest named directly in this one.
    #[must_use]
    pub fn children(&self) -> Vec<&Digest> {
        match self {
            Self::Image(image) => image.blobs().map(|blob| &blob.digest).collect(),
            Self::Index(index) => index.manifests.iter().map(|entry| &entry.digest).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> ImageManifest {
        ImageManifest::new(
            Descriptor::of(media_type::IMAGE_CONFIG, b"{}"),
            vec![Descriptor::of(media_type::LAYER_TAR_GZIP, b"layer")],
        )
    }

    #[test]
    fn reads_what_it_writes() {
        let bytes = serde_json::to_vec(&image()).unwrap();
        assert_eq!(
            Manifest::parse(None, &bytes).unwrap(),
            Manifest::Image(image())
        );
        let served = format!("{}; charset=utf-8", media_type::IMAGE_MANIFEST);
        assert_eq!(
            Manifest::parse(Some(&served), &bytes).unwrap(),
            Manifest::Image(image())
        );
    }

    #[test]
    fn type_may_be_left_out_but_not_contradicted() {
        let bytes = serde_json::to_vec(&ImageManifest {
            media_type: None,
            ..image()
        })
        .unwrap();
        assert!(matches!(
            Manifest::parse(None, &bytes).unwrap(),
            Manifest::Image(_)
        ));
        let bytes = serde_json::to_vec(&image()).unwrap();
        assert!(matches!(
            Manifest::parse(Some(media_type::IMAGE_INDEX), &bytes),
            Err(ManifestError::TypeMismatch { .. })
        ));
    }

    #[test]
    fn a_document_that_is_both_is_neither() {
        let mut value = serde_json::to_value(image()).unwrap();
        value["manifests"] = serde_json::json!([]);
        let bytes = serde_json::to_vec(&value).unwrap();
        assert!(matches!(
            Manifest::parse(None, &bytes),
            Err(ManifestError::Unsupported { .. })
        ));
    }

    #[test]
    fn old_schemas_are_named() {
        let error = Manifest::parse(None, br#"{"schemaVersion":1,"name":"x"}"#).unwrap_err();
        assert!(error.to_string().contains("not supported"), "{error}");
    }

    #[test]
    fn attestations_are_never_chosen() {
        let mut index = ImageIndex::new(vec![
            Descriptor::of(media_type::IMAGE_MANIFEST, b"attestation")
                .with_platform(Platform::new("unknown", "unknown")),
            Descriptor::of(media_type::IMAGE_MANIFEST, b"image")
                .with_platform(Platform::new("linux", "amd64")),
        ]);
        let wanted = Platform::new("linux", "amd64");
        assert_eq!(
            index.for_platform(&wanted).unwrap().digest,
            Digest::sha256(b"image")
        );
        index.manifests.pop();
        assert!(index.for_platform(&wanted).is_none());
    }
}
