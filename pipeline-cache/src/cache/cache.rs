use std::fmt;
use std::sync::Arc;

use crate::store::CacheStore;

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
}

impl Cache {
    /// A cache over a store.
    #[must_use]
    pub fn new(store: impl CacheStore + 'static) -> Self {
        Self::shared(Arc::new(store))
    }

    /// A cache over a store that others use too.
    #[must_use]
    pub fn shared(store: Arc<dyn CacheStore>) -> Self {
        Self { store }
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
