//! [`LayerCacheLimits`]: what of a [`LayerCache`] stays and what goes.

use std::collections::{HashMap, HashSet};
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::LayerCache;
use super::layer_cache::Record;

/// A blob that nothing names may be one whose record is just being written.
const SETTLED: Duration = Duration::from_secs(3600);

/// How much a [`LayerCache`] may keep. Without a figure there is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayerCacheLimits {
    /// Bytes on disk; what was used last stays.
    pub bytes: Option<u64>,
    /// What no build has used for so long goes.
    pub unused_for: Option<Duration>,
}

impl LayerCacheLimits {
    /// Sets how many bytes may stay.
    #[must_use]
    pub const fn with_bytes(mut self, bytes: u64) -> Self {
        self.bytes = Some(bytes);
        self
    }

    /// Sets after which time without use something goes.
    #[must_use]
    pub const fn with_unused_for(mut self, age: Duration) -> Self {
        self.unused_for = Some(age);
        self
    }
}

/// What [`LayerCache::evict`] has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Evicted {
    /// Layers and lists of layers that went.
    pub removed: usize,
    /// Their bytes. Layouts that share a blob keep it.
    pub removed_bytes: u64,
    /// Bytes that stayed.
    pub kept_bytes: u64,
}

/// Something that stays or goes as a whole: a compressed layer with its records, or a list of
/// what a base layer holds.
#[derive(Debug, PartialEq, Eq)]
struct Item {
    used: SystemTime,
    bytes: u64,
    /// Records come before the blob that they name.
    files: Vec<PathBuf>,
}

impl LayerCache {
    /// Removes what is beyond the limits, least recently used first; `now` is the time of day.
    ///
    /// Safe while other programs build: what they lose they compress again.
    ///
    /// # Errors
    /// The folder cannot be read, or a file cannot be removed.
    pub fn evict(&self, limits: &LayerCacheLimits, now: SystemTime) -> io::Result<Evicted> {
        let mut done = Evicted::default();
        let (keep, go) = plan(self.items(now)?, limits, now);
        done.kept_bytes = keep.iter().map(|item| item.bytes).sum();
        for item in go {
            for file in &item.files {
                match fs::remove_file(file) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    // Somebody else removed it.
                    _ => {}
                }
            }
            done.removed += 1;
            done.removed_bytes += item.bytes;
        }
        Ok(done)
    }

    fn items(&self, now: SystemTime) -> io::Result<Vec<Item>> {
        let mut layers: HashMap<PathBuf, Item> = HashMap::new();
        for (scheme, found) in entries(&self.path().join("layers"))? {
            if !found.is_dir() {
                continue;
            }
            for (path, found) in entries(&scheme)? {
                let record = fs::read(&path).ok();
                let record: Option<Record> =
                    record.and_then(|bytes| serde_json::from_slice(&bytes).ok());
                let Some(record) = record else {
                    continue;
                };
                let blob = self.blob_path(&record.digest);
                let item = layers.entry(blob).or_insert(Item {
                    used: SystemTime::UNIX_EPOCH,
                    bytes: record.size,
                    files: Vec::new(),
                });
                item.used = item.used.max(found.modified()?);
                item.bytes += found.len();
                item.files.push(path);
            }
        }
        let known: HashSet<PathBuf> = layers.keys().cloned().collect();
        let mut items: Vec<Item> = layers
            .into_iter()
            .map(|(blob, mut item)| {
                item.files.push(blob);
                item
            })
            .collect();
        for (path, found) in entries(&self.path().join("listings"))? {
            items.push(Item::single(path, &found)?);
        }
        for (path, found) in entries(&self.path().join("blobs/blobs/sha256"))? {
            let item = Item::single(path.clone(), &found)?;
            if !known.contains(&path) && age(item.used, now) > SETTLED {
                items.push(Item {
                    // Nobody can find it, so nobody can use it again.
                    used: SystemTime::UNIX_EPOCH,
                    ..item
                });
            }
        }
        Ok(items)
    }
}

impl Item {
    fn single(path: PathBuf, found: &Metadata) -> io::Result<Self> {
        Ok(Self {
            used: found.modified()?,
            bytes: found.len(),
            files: vec![path],
        })
    }
}

/// A time to come counts as now: clocks are set back.
fn age(used: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(used).unwrap_or_default()
}

/// What stays and what goes.
fn plan(
    mut items: Vec<Item>,
    limits: &LayerCacheLimits,
    now: SystemTime,
) -> (Vec<Item>, Vec<Item>) {
    items.sort_by(|one, other| (other.used, &other.files).cmp(&(one.used, &one.files)));
    let mut total = 0_u64;
    items.into_iter().partition(|item| {
        let fresh = limits
            .unused_for
            .is_none_or(|limit| age(item.used, now) <= limit);
        let fits = limits
            .bytes
            .is_none_or(|limit| total.saturating_add(item.bytes) <= limit);
        if fresh && fits {
            total += item.bytes;
        } else if !fits {
            // What was used before this must not stay in its place.
            total = u64::MAX;
        }
        fresh && fits
    })
}

/// What is in a folder; nothing if there is none, or if it vanishes meanwhile.
fn entries(folder: &Path) -> io::Result<Vec<(PathBuf, Metadata)>> {
    let listed = match fs::read_dir(folder) {
        Ok(listed) => listed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in listed {
        let entry = entry?;
        match entry.metadata() {
            Ok(metadata) => found.push((entry.path(), metadata)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first_and_nothing_smaller_takes_their_place() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let item = |ago: u64, bytes| Item {
            used: now - Duration::from_secs(ago),
            bytes,
            files: vec![PathBuf::from(ago.to_string())],
        };
        let items = || vec![item(30, 5), item(10, 40), item(20, 100), item(0, 1)];
        let names = |items: &[Item]| -> Vec<String> {
            items
                .iter()
                .map(|item| item.files[0].display().to_string())
                .collect()
        };
        let kept = |limits: LayerCacheLimits| names(&plan(items(), &limits, now).0);
        let none = LayerCacheLimits::default();
        assert_eq!(kept(none), ["0", "10", "20", "30"]);
        assert_eq!(kept(none.with_bytes(100)), ["0", "10"]);
        assert_eq!(kept(none.with_bytes(0)), [""; 0]);
        let aged = none.with_unused_for(Duration::from_secs(20));
        assert_eq!(kept(aged), ["0", "10", "20"]);
        assert_eq!(kept(aged.with_bytes(41)), ["0", "10"]);
        // A clock that was set back makes nothing old.
        let early = SystemTime::UNIX_EPOCH;
        assert_eq!(plan(items(), &aged, early).0.len(), 4);
    }
}
