use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest as _, Sha256};

use crate::key::CacheKey;
use crate::store::Codec;

/// Where things are in a store folder.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) root: PathBuf,
}

/// What a file of `entries/` is, by its name.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::store) enum FileKind<'a> {
    Description { stem: &'a str },
    Payload { stem: &'a str },
    Quarantine { stem: &'a str },
    Foreign,
}

const STEM: usize = 40;

impl Layout {
    pub(super) fn entries(&self) -> PathBuf {
        self.root.join("entries")
    }

    pub(super) fn temporary(&self) -> PathBuf {
        self.root.join("tmp")
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(super) fn description(&self, key: &CacheKey) -> PathBuf {
        self.entries().join(format!("{}.json", stem(key)))
    }

    pub(super) fn quarantine(&self, key: &CacheKey) -> PathBuf {
        self.entries().join(format!("{}.quarantine", stem(key)))
    }

    /// `None` when the name is not one that a payload of this key can have: a description is not
    /// trusted to point elsewhere.
    pub(super) fn payload(&self, key: &CacheKey, name: &str) -> Option<PathBuf> {
        match classify(name) {
            FileKind::Payload { stem: found } if found == stem(key) => {
                Some(self.entries().join(name))
            }
            _ => None,
        }
    }
}

/// A key's name on disk: keys hold slashes, dots and anything else.
pub(in crate::store) fn stem(key: &CacheKey) -> String {
    use std::fmt::Write as _;
    let digest = Sha256::digest(key.as_str().as_bytes());
    digest[..STEM / 2]
        .iter()
        .fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

pub(in crate::store) fn payload_name(key: &CacheKey, codec: Codec) -> String {
    format!("{}-{}.{}", stem(key), unique(), codec.extension())
}

pub(in crate::store) fn classify(name: &str) -> FileKind<'_> {
    let is_stem = |text: &str| {
        text.len() == STEM && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    if let Some((stem, "json")) = name.split_once('.')
        && is_stem(stem)
    {
        return FileKind::Description { stem };
    }
    if let Some((stem, "quarantine")) = name.split_once('.')
        && is_stem(stem)
    {
        return FileKind::Quarantine { stem };
    }
    if let Some((stem, rest)) = name.split_once('-')
        && is_stem(stem)
        && let Some((unique, extension)) = rest.split_once('.')
        && unique.bytes().all(|b| b.is_ascii_alphanumeric())
        && matches!(extension, "tar" | "tar.gz" | "tar.zst" | "chunks")
    {
        return FileKind::Payload { stem };
    }
    FileKind::Foreign
}

/// A name part that no other process or thread uses.
pub(in crate::store) fn unique() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u64(COUNTER.fetch_add(1, Ordering::Relaxed));
    hasher.write_u32(std::process::id());
    format!("{:016x}", hasher.finish())
}

/// Whether the open file is still the one at this path.
pub(crate) fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let open = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(named) => Ok(named.dev() == open.dev() && named.ino() == open.ino()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_recognised_and_nothing_else_is() {
        let key = CacheKey::new("../../etc/passwd").unwrap();
        let stem = stem(&key);
        let payload = payload_name(&key, Codec::Zstd);
        assert_eq!(classify(&payload), FileKind::Payload { stem: &stem });
        assert_eq!(
            classify(&format!("{stem}.json")),
            FileKind::Description { stem: &stem }
        );
        for name in ["notes.txt", "..", "a-b.tar", &format!("{stem}-x/../y.tar")] {
            assert_eq!(classify(name), FileKind::Foreign, "{name}");
        }
    }

    #[test]
    fn a_payload_of_another_key_is_not_reachable() {
        let layout = Layout { root: "/s".into() };
        let (one, two) = (CacheKey::new("1").unwrap(), CacheKey::new("2").unwrap());
        let name = payload_name(&one, Codec::Gzip);
        assert!(layout.payload(&one, &name).is_some());
        assert!(layout.payload(&two, &name).is_none());
        assert!(layout.payload(&one, "../../etc/passwd").is_none());
    }
}
