//! The index of an [`OciLayout`]: which images it holds, by tag and by digest.

use std::fs;

use super::layout::{INDEX, json};
use super::{
    Descriptor, Digest, ImageIndex, LayoutError, LayoutImage, Manifest, ManifestError, OciLayout,
    Platform, REF_NAME, media_type,
};

impl OciLayout {
    /// The layout's index.
    ///
    /// # Errors
    /// The file is missing or is no index.
    pub fn index(&self) -> Result<ImageIndex, LayoutError> {
        let path = self.root.join(INDEX);
        let bytes = fs::read(&path).map_err(|source| LayoutError::io("read", &path, source))?;
        serde_json::from_slice(&bytes).map_err(|source| LayoutError::Json { path, source })
    }

    /// The tags in the index, in its order.
    ///
    /// # Errors
    /// As for [`index`](Self::index).
    pub fn tags(&self) -> Result<Vec<String>, LayoutError> {
        Ok(tags_of(&self.index()?))
    }

    /// Finds the manifest or index that goes by `name`: a tag or a digest. Without a name the
    /// layout must hold exactly one image.
    ///
    /// # Errors
    /// Nothing or too much goes by that name, or the index cannot be read.
    pub fn resolve(&self, name: Option<&str>) -> Result<Descriptor, LayoutError> {
        let index = self.index()?;
        let Some(name) = name else {
            let mut digests: Vec<&Digest> =
                index.manifests.iter().map(|entry| &entry.digest).collect();
            digests.sort();
            digests.dedup();
            return match (digests.len(), index.manifests.first()) {
                (1, Some(only)) => Ok(only.clone()),
                (0, _) => Err(LayoutError::UnknownTag {
                    wanted: "any".to_owned(),
                    path: self.root.clone(),
                    available: Vec::new(),
                }),
                _ => Err(LayoutError::Ambiguous {
                    path: self.root.clone(),
                    available: tags_of(&index),
                }),
            };
        };
        let by_digest = name.parse::<Digest>().ok();
        index
            .manifests
            .iter()
            .find(|entry| match &by_digest {
                Some(digest) => entry.digest == *digest,
                None => entry
                    .annotations
                    .get(REF_NAME)
                    .is_some_and(|tag| tag == name),
            })
            .cloned()
            .ok_or_else(|| LayoutError::UnknownTag {
                wanted: name.to_owned(),
                path: self.root.clone(),
                available: tags_of(&index),
            })
    }

    /// Reads the image behind a descriptor, choosing `platform` where it is an index.
    ///
    /// # Errors
    /// A missing or damaged document, a manifest of an unknown kind, or no image for the platform.
    pub fn image(
        &self,
        descriptor: &Descriptor,
        platform: &Platform,
    ) -> Result<LayoutImage, LayoutError> {
        let mut descriptor = descriptor.clone();
        // An index inside an index is allowed; a longer chain is nothing people make.
        for _ in 0..4 {
            let bytes = self.read_blob(&descriptor)?;
            let parsed =
                Manifest::parse(Some(&descriptor.media_type), &bytes).map_err(|source| {
                    LayoutError::Manifest {
                        digest: descriptor.digest.clone(),
                        source,
                    }
                })?;
            match parsed {
                Manifest::Image(manifest) => {
                    let config = self.read_blob(&manifest.config)?;
                    let config =
                        serde_json::from_slice(&config).map_err(|source| LayoutError::Json {
                            path: self.blob_path(&manifest.config.digest),
                            source,
                        })?;
                    return Ok(LayoutImage {
                        descriptor,
                        manifest,
                        manifest_bytes: bytes,
                        config,
                    });
                }
                Manifest::Index(index) => {
                    descriptor = index.for_platform(platform).cloned().ok_or_else(|| {
                        LayoutError::NoPlatform {
                            digest: descriptor.digest.clone(),
                            wanted: platform.to_string(),
                            available: index
                                .manifests
                                .iter()
                                .filter_map(|entry| entry.platform.as_ref())
                                .map(Platform::to_string)
                                .collect(),
                        }
                    })?;
                }
            }
        }
        Err(LayoutError::Manifest {
            digest: descriptor.digest,
            source: ManifestError::Unsupported {
                media_type: media_type::IMAGE_INDEX.to_owned(),
            },
        })
    }

    /// Puts a manifest into the index under `tag`; whatever had the tag before loses it.
    ///
    /// Without a tag the manifest is added once. The manifest's blob must be there already.
    ///
    /// # Errors
    /// The blob is missing, or the disk refuses.
    pub fn set_tag(&self, tag: Option<&str>, descriptor: &Descriptor) -> Result<(), LayoutError> {
        if self.blob_size(&descriptor.digest).is_none() {
            return Err(LayoutError::MissingBlob {
                digest: descriptor.digest.clone(),
                path: self.root.clone(),
            });
        }
        let mut entry = descriptor.clone();
        entry.annotations.remove(REF_NAME);
        if let Some(tag) = tag {
            entry
                .annotations
                .insert(REF_NAME.to_owned(), tag.to_owned());
        }
        let lock = self.lock()?;
        let mut index = self.index()?;
        let before = index.clone();
        match tag {
            Some(tag) => {
                let same = |old: &Descriptor| {
                    old.annotations
                        .get(REF_NAME)
                        .is_some_and(|name| name == tag)
                };
                // A tag is news about an image that had no name so far.
                let unnamed = |old: &Descriptor| {
                    old.digest == entry.digest && !old.annotations.contains_key(REF_NAME)
                };
                let entries = &index.manifests;
                let place = entries.iter().position(same);
                match place.or_else(|| entries.iter().position(unnamed)) {
                    Some(place) => index.manifests[place] = entry,
                    None => index.manifests.push(entry),
                }
            }
            None if index.manifests.iter().any(|old| old.digest == entry.digest) => {}
            None => index.manifests.push(entry),
        }
        if index != before {
            self.replace(INDEX, &json(&index))?;
        }
        drop(lock);
        Ok(())
    }
}

fn tags_of(index: &ImageIndex) -> Vec<String> {
    index
        .manifests
        .iter()
        .filter_map(|entry| entry.annotations.get(REF_NAME))
        .cloned()
        .collect()
}
