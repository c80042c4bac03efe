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
        self.change_index(descriptor, |index| {
            place(index, tag, descriptor);
            Ok(())
        })
    }

    /// Puts a manifest into the index under all of `tags`, or under none where one of them names
    /// another image already. The manifest's blob must be there already.
    ///
    /// # Errors
    /// [`LayoutError::TagExists`], the blob is missing, or the disk refuses.
    pub fn claim_tags(&self, tags: &[String], descriptor: &Descriptor) -> Result<(), LayoutError> {
        self.change_index(descriptor, |index| {
            for tag in tags {
                let taken = index.manifests.iter().find(|old| is_tagged(old, tag));
                if let Some(old) = taken.filter(|old| old.digest != descriptor.digest) {
                    return Err(LayoutError::TagExists {
                        tag: tag.clone(),
                        path: self.root.clone(),
                        existing: old.digest.clone(),
                        wanted: descriptor.digest.clone(),
                    });
                }
            }
            for tag in tags {
                place(index, Some(tag), descriptor);
            }
            Ok(())
        })
    }

    fn change_index(
        &self,
        descriptor: &Descriptor,
        change: impl FnOnce(&mut ImageIndex) -> Result<(), LayoutError>,
    ) -> Result<(), LayoutError> {
        if self.blob_size(&descriptor.digest).is_none() {
            return Err(LayoutError::MissingBlob {
                digest: descriptor.digest.clone(),
                path: self.root.clone(),
            });
        }
        let lock = self.lock()?;
        let mut index = self.index()?;
        let before = index.clone();
        change(&mut index)?;
        if index != before {
            self.replace(INDEX, &json(&index))?;
        }
        drop(lock);
        Ok(())
    }
}

fn is_tagged(entry: &Descriptor, tag: &str) -> bool {
    entry
        .annotations
        .get(REF_NAME)
        .is_some_and(|name| name == tag)
}

fn place(index: &mut ImageIndex, tag: Option<&str>, descriptor: &Descriptor) {
    let mut entry = descriptor.clone();
    entry.annotations.remove(REF_NAME);
    let entries = &mut index.manifests;
    let Some(tag) = tag else {
        if !entries.iter().any(|old| old.digest == entry.digest) {
            entries.push(entry);
        }
        return;
    };
    entry
        .annotations
        .insert(REF_NAME.to_owned(), tag.to_owned());
    // A tag is news about an image that had no name so far.
    let unnamed =
        |old: &Descriptor| old.digest == entry.digest && !old.annotations.contains_key(REF_NAME);
    let same = entries.iter().position(|old| is_tagged(old, tag));
    match same.or_else(|| entries.iter().position(unnamed)) {
        Some(found) => entries[found] = entry,
        None => entries.push(entry),
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
