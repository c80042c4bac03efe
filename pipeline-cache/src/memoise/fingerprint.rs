//! Everything that decides what a step makes, under names that people understand.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use pipeline_core::executor::EnvValue;
use pipeline_core::{InputRef, StepContext, StepError};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::Inputs;
use crate::files::{FileSet, Kind, digest_of};
use crate::key::{CacheKey, KeyInput, RenderedKey};
use crate::steps::host;
use crate::store::Sha256Digest;

/// Version of the form of fingerprints and records.
const FORMAT: &str = "1";
/// With more files than this their folders are named instead of them: an explanation that long
/// explains nothing.
const NAMED_FILES: usize = 1000;
/// A value longer than this is replaced by its digest.
const LONG: usize = 500;

/// Name and value of everything that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint {
    inputs: BTreeMap<String, String>,
}

impl Fingerprint {
    /// Everything but the files.
    pub(super) fn of_step(
        cx: &StepContext,
        recipe: &Value,
        reads: &[InputRef],
        inputs: &Inputs,
        outputs: &[String],
    ) -> Result<Self, StepError> {
        let mut all = BTreeMap::new();
        let mut add = |name: String, value: String| {
            all.insert(name, shortened(value));
        };
        add("format".into(), FORMAT.into());
        add("platform".into(), host(cx).platform());
        match recipe {
            Value::Object(fields) => {
                for (field, value) in fields {
                    add(format!("step {field}"), value.to_string());
                }
            }
            other => add("step".into(), other.to_string()),
        }
        for output in outputs {
            add(format!("output {output}"), "declared".into());
        }
        for read in reads {
            let value = cx.recorded(read).map_or_else(String::new, Value::to_string);
            add(format!("value {read}"), value);
        }
        let variables = cx
            .declared_env()
            .keys()
            .filter(|name| !inputs.ignored.contains(*name))
            .chain(&inputs.variables);
        for name in variables {
            match cx.env().get(name) {
                Some(EnvValue::Plain(value)) => add(format!("variable {name}"), value.clone()),
                // Not for a description that everybody can read, nor for the result.
                Some(_) => {}
                None => add(format!("variable {name}"), "(not set)".into()),
            }
        }
        for (name, version) in &inputs.tools {
            add(
                format!("tool {name}"),
                cx.resolve(version)?.trim().to_owned(),
            );
        }
        let image = match &inputs.image {
            Some(image) => Some(cx.resolve(image)?),
            None => cx.environment().facts().image.clone(),
        };
        if let Some(image) = image {
            add("image".into(), image);
        }
        Ok(Self { inputs: all })
    }

    /// Adds the files. Blocks.
    pub(super) fn with_files(mut self, root: &Path, files: &FileSet) -> Result<Self, StepError> {
        let failed = |what: String, error: std::io::Error| StepError::errored(what, error);
        let listing = files
            .list(root)
            .map_err(|error| StepError::errored("could not list the input files", error))?;
        let mut found: Vec<(String, String, Vec<u8>)> = Vec::new();
        for file in listing.found {
            let value = match file.kind {
                Kind::Folder => continue,
                Kind::Link(target) => [b"link ", target.as_os_str().as_bytes()].concat(),
                Kind::File => {
                    let path = root.join(&file.path);
                    let (_, digest) = digest_of(&path).map_err(|error| {
                        failed(
                            format!("could not read the input {}", path.display()),
                            error,
                        )
                    })?;
                    let executable = if file.mode & 0o100 == 0 { "" } else { " x" };
                    format!("{digest}{executable}").into_bytes()
                }
            };
            let folder = file.path.parent().map_or_else(String::new, escaped);
            found.push((folder, escaped(&file.path), value));
        }
        let folders: std::collections::BTreeSet<&str> =
            found.iter().map(|(folder, ..)| folder.as_str()).collect();
        let by_file = found.len() <= NAMED_FILES;
        let by_folder = folders.len() <= NAMED_FILES;
        let mut groups: BTreeMap<String, Sha256> = BTreeMap::new();
        for (folder, path, value) in &found {
            let name = if by_file {
                format!("file {path}")
            } else if by_folder {
                format!("files in {folder}/")
            } else {
                "files".to_owned()
            };
            let group = groups.entry(name).or_default();
            for part in [path.as_bytes(), value] {
                group.update((part.len() as u64).to_be_bytes());
                group.update(part);
            }
        }
        for (name, group) in groups {
            let digest = Sha256Digest::from_bytes(group.finalize().into());
            self.inputs.insert(name, digest.to_string());
        }
        // That a pattern matches nothing counts as well, once it does.
        self.inputs.insert("patterns".into(), files.to_string());
        Ok(self)
    }

    /// Names of what differs from another fingerprint.
    pub(super) fn differences(&self, other: &Self) -> Vec<String> {
        self.inputs
            .iter()
            .filter(|(name, value)| other.inputs.get(*name) != Some(value))
            .map(|(name, _)| name.clone())
            .chain(
                other
                    .inputs
                    .keys()
                    .filter(|name| !self.inputs.contains_key(*name))
                    .cloned(),
            )
            .collect()
    }

    pub(super) fn digest(&self) -> Sha256Digest {
        let mut hasher = Sha256::new();
        for part in self.inputs.iter().flat_map(|(name, value)| [name, value]) {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part.as_bytes());
        }
        Sha256Digest::from_bytes(hasher.finalize().into())
    }

    /// The key of the record, with everything that a miss is explained by.
    pub(super) fn key(&self, prefix: &str) -> Result<RenderedKey, StepError> {
        let key = CacheKey::new(format!("{prefix}{}", self.digest()))
            .map_err(|error| StepError::errored("could not name the memoised step", error))?;
        let inputs = self
            .inputs
            .iter()
            .map(|(name, value)| KeyInput::new(name, value))
            .collect();
        Ok(RenderedKey::from_parts(key, prefix.to_owned(), inputs))
    }
}

fn shortened(value: String) -> String {
    if value.len() <= LONG {
        return value;
    }
    format!("sha256 {}", Sha256Digest::of(value.as_bytes()))
}

/// Without loss, and in one line.
fn escaped(path: &Path) -> String {
    path.as_os_str().as_bytes().escape_ascii().to_string()
}
