use std::fmt;

use object_store::gcp::GoogleCloudStorageBuilder;
use pipeline_core::Secret;

use super::{BucketError, BucketOptions, BucketStore};

/// A bucket of Google Cloud Storage.
///
/// The client underneath speaks the service's XML protocol. Servers for tests speak its JSON
/// protocol and little of the other, conditional writes least of all, so this store is tested up
/// to the client only.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GcsBucket {
    /// Name of the bucket, which must exist.
    pub name: String,
    /// Who asks.
    pub credentials: GcsCredentials,
}

/// Who asks Google Cloud Storage.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum GcsCredentials {
    /// The JSON key of a service account.
    ServiceAccount(Secret),
    /// Whatever the process is given when the bucket is opened: `GOOGLE_SERVICE_ACCOUNT`, the
    /// application default credentials, or the instance's account.
    Environment,
}

impl GcsBucket {
    /// A bucket.
    pub fn new(name: impl Into<String>, credentials: GcsCredentials) -> Self {
        Self {
            name: name.into(),
            credentials,
        }
    }
}

/// `gs://NAME`.
impl fmt::Display for GcsBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gs://{}", self.name)
    }
}

impl BucketStore {
    /// Opens a bucket of Google Cloud Storage. Nothing is sent yet.
    ///
    /// # Errors
    /// A prefix that cannot be one, or settings that make no client.
    pub fn gcs(bucket: &GcsBucket, options: BucketOptions) -> Result<Self, BucketError> {
        let builder = match &bucket.credentials {
            GcsCredentials::Environment => GoogleCloudStorageBuilder::from_env(),
            GcsCredentials::ServiceAccount(key) => {
                GoogleCloudStorageBuilder::new().with_service_account_key(key.expose())
            }
        };
        let client = builder
            .with_bucket_name(&bucket.name)
            .with_client_options(options.client(false))
            .with_retry(options.retry())
            .build();
        Self::opened(client, bucket, options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_key_is_refused_and_not_shown() {
        let key = Secret::new(r#"{"private_key": "swordfish"}"#);
        let bucket = GcsBucket::new("builds", GcsCredentials::ServiceAccount(key));
        let error = BucketStore::gcs(&bucket, BucketOptions::default()).unwrap_err();
        assert_eq!(error.to_string(), "cannot open gs://builds");
        let shown = format!("{bucket:?} {error:?}");
        assert!(!shown.contains("swordfish"), "{shown}");
    }
}
