use std::path::Path;

use super::HostileArchive;
use super::hostile_archive::List;

/// Archives that must be refused or do no harm. `outside` is a folder beside the destination
/// that absolute names and links point to; `../outside` from the destination must be the same.
/// It should hold a file `canary`, and so should the destination.
#[must_use]
pub fn hostile_archives(outside: &Path) -> Vec<HostileArchive> {
    let out = outside.to_string_lossy().into_owned();
    let mut list = List::default();
    super::names::add(&mut list, &out);
    super::links::add(&mut list, &out);
    super::types::add(&mut list);
    super::framing::add(&mut list);
    super::extensions::add(&mut list);
    super::sparse::add(&mut list);
    #[cfg(feature = "gzip")]
    list.gzip();
    #[cfg(feature = "zstd")]
    list.zstd();
    list.0
}
