use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::FilesystemStore;
use super::filesystem_store::{open_no_follow, read_description, remove_if_there};
use super::layout::{FileKind, classify, is_at};
use crate::store::StoreError;

/// What a sweep removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SweepReport {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

#[derive(Default)]
struct Group {
    described: bool,
    quarantined: bool,
    payloads: Vec<String>,
}

impl FilesystemStore {
    /// Removes files that nobody is writing and no description names.
    pub(super) fn sweep_now(&self) -> Result<SweepReport, StoreError> {
        let mut report = SweepReport::default();
        let folder = self.layout.temporary();
        let fail = |error| Self::error("list", &folder, None, error);
        match std::fs::read_dir(&folder) {
            Ok(listing) => {
                for item in listing {
                    sweep_file(&item.map_err(fail)?.path(), &mut report)?;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(fail(error)),
        }

        let names = self.entry_names()?;
        let mut groups: BTreeMap<&str, Group> = BTreeMap::new();
        for name in &names {
            match classify(name) {
                FileKind::Description { stem } => groups.entry(stem).or_default().described = true,
                FileKind::Quarantine { stem } => groups.entry(stem).or_default().quarantined = true,
                FileKind::Payload { stem } => {
                    groups.entry(stem).or_default().payloads.push(name.clone());
                }
                FileKind::Foreign => {}
            }
        }
        for (stem, group) in groups {
            if group.described && group.payloads.len() <= 1 {
                continue;
            }
            self.sweep_group(stem, &group, &mut report)?;
        }
        Ok(report)
    }

    fn sweep_group(
        &self,
        stem: &str,
        group: &Group,
        report: &mut SweepReport,
    ) -> Result<(), StoreError> {
        let folder = self.layout.entries();
        let description = folder.join(format!("{stem}.json"));
        for name in &group.payloads {
            let path = folder.join(name);
            let Some(held) = lock_if_idle(&path)? else {
                continue;
            };
            // Asked only now: whoever published this payload held its lock until it was named.
            let named = match read_description(&description)? {
                Some(Ok(metadata)) => metadata.payload == *name,
                // A damaged description still owns whatever it named; saving replaces it.
                Some(Err(_)) => group.payloads.len() == 1,
                None => false,
            };
            if !named {
                remove(&path, &held, report)?;
            }
        }
        if group.quarantined && !group.described {
            sweep_file(&folder.join(format!("{stem}.quarantine")), report)?;
        }
        Ok(())
    }
}

/// The file under an exclusive lock, if nobody else has one.
fn lock_if_idle(path: &Path) -> Result<Option<std::fs::File>, StoreError> {
    let fail = |error| FilesystemStore::error("open", path, None, error);
    let file = match open_no_follow(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    if file.try_lock().is_err() || !is_at(&file, path).map_err(fail)? {
        return Ok(None);
    }
    Ok(Some(file))
}

fn sweep_file(path: &Path, report: &mut SweepReport) -> Result<(), StoreError> {
    match lock_if_idle(path)? {
        Some(held) => remove(path, &held, report),
        None => Ok(()),
    }
}

fn remove(path: &Path, held: &std::fs::File, report: &mut SweepReport) -> Result<(), StoreError> {
    let bytes = held.metadata().map_or(0, |meta| meta.len());
    if remove_if_there(path).map_err(|error| FilesystemStore::error("remove", path, None, error))? {
        report.files += 1;
        report.bytes += bytes;
    }
    Ok(())
}
