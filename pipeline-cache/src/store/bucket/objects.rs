use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use object_store::path::Path;
use object_store::{
    Error, GetOptions, MultipartUpload, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions,
    PutPayload, UpdateVersion,
};

use super::{BucketError, BucketOptions};
use crate::store::{StoreError, StoreErrorKind};

/// The objects of one store in a bucket, by name; errors of the service become ours here.
pub(super) struct Objects {
    inner: Arc<dyn ObjectStore>,
    /// Empty, or with a slash at its end.
    prefix: String,
    pause: Duration,
    /// When the service was last found unavailable.
    gave_up: Mutex<Option<Instant>>,
}

/// A small object.
pub(super) struct Object {
    pub(super) bytes: Bytes,
    pub(super) version: Version,
}

/// Which state of an object this is. Two unknown versions are never equal.
#[derive(Clone, Debug)]
pub(super) struct Version {
    pub(super) e_tag: Option<String>,
    version: Option<String>,
}

impl Version {
    pub(super) fn is(&self, e_tag: &str) -> bool {
        self.e_tag.as_deref() == Some(e_tag)
    }
}

/// An object as a listing shows it.
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) modified: SystemTime,
    pub(super) version: Version,
}

/// What became of a conditional write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    Done,
    /// There is an object already, or another one than expected.
    Taken,
}

/// What the service said, on one line. The client's own type stays inside.
#[derive(Debug)]
struct Said(String);

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Said {}

const MAX_SAID: usize = 400;

fn said(text: &str) -> Said {
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = line.char_indices().nth(MAX_SAID) {
        line.truncate(end);
        line.push('…');
    }
    Said(line)
}

pub(super) fn unavailable(what: &str, why: &str) -> StoreError {
    StoreError::Unavailable {
        key: what.to_owned(),
        source: Box::new(said(why)),
    }
}

impl Objects {
    pub(super) fn new(
        inner: Arc<dyn ObjectStore>,
        options: &BucketOptions,
    ) -> Result<Self, BucketError> {
        let prefix = options.prefix.trim_matches('/');
        let parsed = Path::parse(prefix).map_err(|_| BucketError::Prefix {
            prefix: options.prefix.clone(),
        })?;
        let mut prefix = parsed.to_string();
        if !prefix.is_empty() {
            prefix.push('/');
        }
        Ok(Self {
            inner,
            prefix,
            pause: options.pause,
            gave_up: Mutex::new(None),
        })
    }

    pub(super) fn prefix(&self) -> &str {
        self.prefix.trim_end_matches('/')
    }

    fn path(&self, name: &str) -> Path {
        Path::from(format!("{}{name}", self.prefix))
    }

    /// Does some work within a time. A service that was found unavailable is left alone for a
    /// while: waiting for it once is enough.
    pub(super) async fn within<T>(
        &self,
        what: &str,
        budget: Duration,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let gave_up = *self.gave_up.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(since) = gave_up.map(|at| at.elapsed())
            && since < self.pause
        {
            let why = format!("it was unavailable {} s ago", since.as_secs());
            return Err(unavailable(what, &why));
        }
        let result = match tokio::time::timeout(budget, work).await {
            Ok(result) => result,
            Err(_) => Err(unavailable(what, &format!("not done within {budget:?}"))),
        };
        let now = match &result {
            Err(error) if error.kind() == StoreErrorKind::Unavailable => Some(Instant::now()),
            _ => None,
        };
        *self.gave_up.lock().unwrap_or_else(PoisonError::into_inner) = now;
        result
    }

    fn judge(&self, action: &'static str, name: &str, error: &Error) -> StoreError {
        let denied = match error {
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => true,
            // The status of a refused listing is in a type of the client that has no public name:
            // only the text is left.
            Error::Generic { source, .. } => {
                let text = source.to_string();
                text.contains("403 Forbidden") || text.contains("401 Unauthorized")
            }
            _ => false,
        };
        match denied {
            true => {
                let source =
                    io::Error::new(io::ErrorKind::PermissionDenied, said(&error.to_string()));
                StoreError::io(action, format!("{}{name}", self.prefix), None, source)
            }
            false => unavailable(&format!("{}{name}", self.prefix), &error.to_string()),
        }
    }

    /// A small object as a whole. One that is larger than the limit is cut, which its reader
    /// finds out.
    pub(super) async fn read(&self, name: &str, limit: u64) -> Result<Option<Object>, StoreError> {
        let result = async {
            let answer = self
                .inner
                .get_opts(&self.path(name), GetOptions::new())
                .await?;
            let version = Version {
                e_tag: answer.meta.e_tag.clone(),
                version: answer.meta.version.clone(),
            };
            if answer.meta.size > limit {
                let bytes = Bytes::new();
                return Ok(Object { bytes, version });
            }
            let bytes = answer.bytes().await?;
            Ok(Object { bytes, version })
        };
        match result.await {
            Ok(object) => Ok(Some(object)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.judge("read", name, &error)),
        }
    }

    /// The size of an object.
    pub(super) async fn size(&self, name: &str) -> Result<Option<u64>, StoreError> {
        match self.inner.head(&self.path(name)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.judge("look at", name, &error)),
        }
    }

    /// Part of an object; fewer bytes when there are no more.
    pub(super) async fn range(
        &self,
        name: &str,
        range: Range<u64>,
    ) -> Result<Option<Bytes>, StoreError> {
        match self.inner.get_range(&self.path(name), range.clone()).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Error::NotFound { .. }) => Ok(None),
            // A service answers a range beyond the end in its own way. What the size says is
            // certain.
            Err(error) => match self.size(name).await? {
                Some(size) if size < range.end => Ok(Some(Bytes::new())),
                Some(_) => Err(self.judge("read", name, &error)),
                None => Ok(None),
            },
        }
    }

    pub(super) async fn write(&self, name: &str, bytes: Bytes) -> Result<(), StoreError> {
        self.put(name, bytes, PutMode::Overwrite).await.map(drop)
    }

    pub(super) async fn create(&self, name: &str, bytes: Bytes) -> Result<Written, StoreError> {
        self.put(name, bytes, PutMode::Create).await
    }

    /// Replaces an object that is still this one.
    pub(super) async fn replace(
        &self,
        name: &str,
        bytes: Bytes,
        version: Version,
    ) -> Result<Written, StoreError> {
        let expected = UpdateVersion {
            e_tag: version.e_tag,
            version: version.version,
        };
        self.put(name, bytes, PutMode::Update(expected)).await
    }

    async fn put(&self, name: &str, bytes: Bytes, mode: PutMode) -> Result<Written, StoreError> {
        let path = self.path(name);
        let payload = PutPayload::from_bytes(bytes);
        match self
            .inner
            .put_opts(&path, payload, PutOptions::from(mode))
            .await
        {
            Ok(_) => Ok(Written::Done),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(Written::Taken),
            Err(error) => Err(self.judge("write", name, &error)),
        }
    }

    pub(super) async fn upload(&self, name: &str) -> Result<Box<dyn MultipartUpload>, StoreError> {
        self.inner
            .put_multipart(&self.path(name))
            .await
            .map_err(|error| self.judge("write", name, &error))
    }

    pub(super) fn upload_failed(&self, name: &str, error: &Error) -> StoreError {
        self.judge("write", name, error)
    }

    /// Removes an object; one that is not there is fine.
    pub(super) async fn remove(&self, name: &str) -> Result<(), StoreError> {
        match self.inner.delete(&self.path(name)).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.judge("remove", name, &error)),
        }
    }

    /// The objects below `folder`, names without it.
    pub(super) async fn list(&self, folder: &str) -> Result<Vec<Listed>, StoreError> {
        let path = self.path(folder);
        let start = format!("{path}/");
        let found: Result<Vec<_>, _> = self.inner.list(Some(&path)).try_collect().await;
        let found = found.map_err(|error| self.judge("list", folder, &error))?;
        Ok(found
            .into_iter()
            .filter_map(|meta| {
                Some(Listed {
                    name: meta.location.as_ref().strip_prefix(&start)?.to_owned(),
                    size: meta.size,
                    modified: meta.last_modified.into(),
                    version: Version {
                        e_tag: meta.e_tag,
                        version: meta.version,
                    },
                })
            })
            .collect())
    }
}
