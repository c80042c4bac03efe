use std::any::Any;
use std::fmt;
use std::sync::Arc;

use crate::archive::StatCache;
use crate::store::{CacheStore, FilesystemStore};

/// A cache over a store.
///
/// ```
/// use pipeline_cache::cache::{Cache, Restored, RestoreOptions, SaveOptions, Saved};
/// use pipeline_cache::key::CacheKey;
/// use pipeline_cache::store::MemoryStore;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let folder = tempfile::tempdir()?;
/// std::fs::create_dir(folder.path().join("venv"))?;
/// std::fs::write(folder.path().join("venv/installed"), "Django 3.0")?;
///
/// let cache = Cache::new(MemoryStore::new());
/// let key = CacheKey::new("deps1-main")?;
/// let saved = cache
///     .save(key.clone(), ["venv"], SaveOptions::in_folder(folder.path()))
///     .await?;
/// assert!(matches!(saved, Saved::Stored(_)));
///
/// std::fs::remove_dir_all(folder.path().join("venv"))?;
/// let restored = cache
///     .restore([key], RestoreOptions::in_folder(folder.path()))
///     .await?;
/// assert!(matches!(restored, Restored::Exact(_)));
/// assert_eq!(std::fs::read(folder.path().join("venv/installed"))?, b"Django 3.0");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Cache {
    pub(super) store: Arc<dyn CacheStore>,
    pub(super) stat_cache: Option<StatCache>,
}

impl Cache {
    /// A cache over a store. When that is a [`FilesystemStore`], a [`StatCache`] is kept in its
    /// folder; for other stores see [`with_stat_cache`](Self::with_stat_cache).
    #[must_use]
    pub fn new(store: impl CacheStore + 'static) -> Self {
        let stat_cache = (&store as &dyn Any)
            .downcast_ref::<FilesystemStore>()
            .map(|store| StatCache::in_folder(store.folder().join("trees")));
        Self {
            store: Arc::new(store),
            stat_cache,
        }
    }

    /// A cache over a store that others use too.
    #[must_use]
    pub fn shared(store: Arc<dyn CacheStore>) -> Self {
        Self {
            store,
            stat_cache: None,
        }
    }

    /// Sets where this machine remembers what its trees were, so that what was not touched since
    /// is neither read nor written. It must be on a local disk, and may serve several caches.
    #[must_use]
    pub fn with_stat_cache(mut self, stat_cache: StatCache) -> Self {
        self.stat_cache = Some(stat_cache);
        self
    }

    /// Remembers nothing about trees: what is there is compared byte by byte.
    #[must_use]
    pub fn without_stat_cache(mut self) -> Self {
        self.stat_cache = None;
        self
    }

    /// Where trees are remembered.
    #[cfg(feature = "chunked")]
    pub(crate) fn stat_cache(&self) -> Option<&StatCache> {
        self.stat_cache.as_ref()
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn CacheStore> {
        &self.store
    }
}

/// `cache over STORE`.
impl fmt::Display for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cache over {}", self.store)
    }
}
