//! Makes an ordinary archive of a chunked entry.

use std::fs::File;
use std::path::Path;

use crate::archive::{ArchiveError, PackOptions, UnpackOptions, pack};
use crate::cache::{Cache, CacheError};
use crate::files::StagingFolder;
use crate::store::{StoreError, StoredEntry, run_blocking};

/// Restores into a folder beside the file, packs that, and removes it; `false` when the entry was
/// removed, replaced or taken back meanwhile.
pub(crate) async fn export(
    cache: &Cache,
    entry: StoredEntry,
    file: &Path,
) -> Result<bool, CacheError> {
    let fail = |action, path: &Path| {
        let path = path.to_path_buf();
        move |source| CacheError::File {
            action,
            path,
            source,
        }
    };
    let scratch = StagingFolder::beside_file(file).map_err(fail("create", file))?;
    let unpack = UnpackOptions::default().with_into(scratch.path().join("tree"));
    let paths = entry.metadata.paths.clone();
    // Not a place to be remembered.
    let forgetful = cache.clone().without_stat_cache();
    if super::restore(&forgetful, entry, &unpack).await?.is_none() {
        return Ok(false);
    }
    let file = file.to_path_buf();
    run_blocking(move |abandoned| {
        let part = scratch.path().join("archive");
        let mut out = File::create_new(&part).map_err(fail("create", &part))?;
        let paths = crate::archive::DeclaredPaths::new(
            paths.iter().map(|path| path.trim_start_matches('/')),
        )?;
        let options = PackOptions::default().with_working_folder(scratch.path().join("tree"));
        pack(&paths, &options, &mut out).map_err(|error| match error {
            ArchiveError::Write(source) => fail("write", &part)(source),
            other => CacheError::Archive(other),
        })?;
        out.sync_all().map_err(fail("sync", &part))?;
        if abandoned.is_set() {
            return Err(StoreError::Cancelled.into());
        }
        std::fs::rename(&part, &file).map_err(fail("write", &file))?;
        Ok(true)
    })
    .await
}
