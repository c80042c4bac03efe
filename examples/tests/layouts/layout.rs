//! One project, with what must come of it.

use std::path::Path;

/// What must come of a project when it is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    /// Tests pass and the site answers.
    Live,
    /// The tests fail, so nothing is deployed.
    TestsFail,
    /// The project cannot be planned; the message holds this text.
    PlanError(&'static str),
    /// The release never becomes healthy; the explanation holds this text.
    Unhealthy(&'static str),
}

/// A project to write to disk, and how to deliver it.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    /// A short name, good for a folder.
    pub(crate) name: &'static str,
    /// What it is for.
    pub(crate) about: &'static str,
    /// Arguments that `django_delivery` needs besides `--source`.
    pub(crate) args: Vec<&'static str>,
    /// What must come of it.
    pub(crate) expect: Expect,
    /// Text on its front page.
    pub(crate) page: &'static str,
    /// The path of a static file that the site itself serves, if it does.
    pub(crate) static_path: Option<&'static str>,
    /// How many tests it has.
    pub(crate) tests: u32,
    pub(super) files: Vec<(String, Vec<u8>)>,
}

impl Layout {
    /// Adds a file, or replaces it.
    #[must_use]
    pub(super) fn with(mut self, path: &str, content: impl Into<Vec<u8>>) -> Self {
        self = self.without(path);
        self.files.push((path.to_owned(), content.into()));
        self
    }

    #[must_use]
    pub(super) fn without(mut self, path: &str) -> Self {
        self.files.retain(|(name, _)| name != path);
        self
    }

    /// Changes a text file in place; the text to replace must be there.
    #[must_use]
    pub(super) fn edit(mut self, path: &str, from: &str, to: &str) -> Self {
        let (_, content) = self
            .files
            .iter_mut()
            .find(|(name, _)| name == path)
            .unwrap_or_else(|| panic!("no file {path}"));
        let text = String::from_utf8(content.clone()).expect("a text file");
        assert!(text.contains(from), "{path} does not hold {from:?}");
        *content = text.replace(from, to).into_bytes();
        self
    }

    /// Moves everything into a folder.
    #[must_use]
    pub(super) fn moved_to(mut self, folder: &str) -> Self {
        for (path, _) in &mut self.files {
            *path = format!("{folder}/{path}");
        }
        self
    }

    /// Writes the project into a folder, which is made if it is missing.
    ///
    /// # Panics
    /// When a file cannot be written.
    pub(crate) fn write(&self, dir: &Path) {
        for (path, content) in &self.files {
            let path = dir.join(path);
            std::fs::create_dir_all(path.parent().expect("a file has a folder"))
                .expect("make a folder");
            std::fs::write(path, content).expect("write a file");
        }
    }
}
