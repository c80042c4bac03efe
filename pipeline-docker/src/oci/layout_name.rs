//! Names of images in layouts as people write them.

use std::path::{Path, PathBuf};

/// Splits `folder:tag` and `folder@sha256:…` into folder and name.
///
/// `None` when there is no name. A colon inside a folder's name is taken for the separator; give the
/// name explicitly then.
#[must_use]
pub fn split_layout_name(path: &Path) -> Option<(PathBuf, String)> {
    let text = path.to_str()?;
    let (folder, name) = match text.rsplit_once('@') {
        Some((folder, name)) if name.contains(':') => (folder, name),
        _ => text.rsplit_once(':')?,
    };
    (!folder.is_empty() && !name.is_empty() && !name.contains('/'))
        .then(|| (PathBuf::from(folder), name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let split = |text: &str| {
            split_layout_name(Path::new(text))
                .map(|(path, name)| (path.display().to_string(), name))
        };
        assert_eq!(split("out:v1"), Some(("out".into(), "v1".into())));
        assert_eq!(
            split("/a/b@sha256:00"),
            Some(("/a/b".into(), "sha256:00".into()))
        );
        assert_eq!(split("/a/b"), None);
        assert_eq!(split("a:b/c"), None);
        assert_eq!(split("out:"), None);
    }
}
